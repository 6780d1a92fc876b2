//! `ringway top`: what a running server does, on a screen that is drawn anew as its numbers come; or one such screen as text, or a line of
//! JSON for each.

mod figures;
mod panels;
mod screen;
mod view;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossterm::cursor;
use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::control::client::{ClientError, runtime};

use figures::Answers;
use view::View;

/// How long the server may take to answer before that is said.
const PATIENCE: Duration = Duration::from_secs(5);

/// How wide a screen is that is printed as text, where COLUMNS does not say.
const TEXT_WIDTH: u16 = 120;
const TEXT_WIDTH_MAX: u16 = 500;

/// What `ringway top` may be told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Options {
    /// How often the server is asked.
    pub interval: Duration,
    /// One screen, as text, or one line.
    pub is_once: bool,
    /// JSON instead of a screen.
    pub is_json: bool,
}

/// Shows the server at `socket` until somebody has seen enough.
///
/// # Errors
/// The server does not answer at first, or, where no screen can say so, later; or there is no terminal.
pub fn top(socket: &Path, options: Options, out: &mut impl Write) -> Result<(), ClientError> {
    let is_printed = options.is_once || options.is_json;
    let has_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !is_printed && !has_terminal {
        let text = "top needs a terminal; --once prints one screen, --json a line for each interval";
        return Err(ClientError::Local(text.to_owned()));
    }
    runtime()?.block_on(async {
        // Before the screen is taken: that no server is there is told as everywhere else.
        let first = answers(socket).await?;
        if is_printed {
            print(socket, options, first, out).await
        } else {
            show(socket, options.interval, first).await
        }
    })
}

async fn answers(socket: &Path) -> Result<Answers, ClientError> {
    let Ok(answers) = tokio::time::timeout(PATIENCE, figures::ask(socket)).await else {
        let text = format!("nothing came within {} s", PATIENCE.as_secs());
        let error = io::Error::new(io::ErrorKind::TimedOut, text);
        return Err(ClientError::NoServer(error));
    };
    answers
}

/// Rates want two answers: each line is of the time since the one before.
async fn print(
    socket: &Path,
    options: Options,
    first: Answers,
    out: &mut impl Write,
) -> Result<(), ClientError> {
    let mut view = View::new(first);
    loop {
        tokio::time::sleep(options.interval).await;
        view.take(answers(socket).await?);
        // Another server has taken its place: it is asked once more.
        let Some(figures) = &view.figures else { continue };
        let text = if options.is_json {
            serde_json::to_string(figures).map_err(|error| ClientError::Local(error.to_string()))? + "\n"
        } else {
            let columns = std::env::var("COLUMNS").ok();
            let columns = columns.and_then(|columns| columns.parse().ok());
            screen::text(&view, columns.unwrap_or(TEXT_WIDTH).clamp(1, TEXT_WIDTH_MAX))
        };
        // A reader that went away early has what it wanted.
        let is_read = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok();
        if options.is_once || !is_read {
            return Ok(());
        }
    }
}

fn local(error: io::Error) -> ClientError {
    ClientError::Local(format!("the terminal: {error}"))
}

/// The terminal in the hands of the screen; it goes back whole, whatever ends it.
pub struct Screen(DefaultTerminal);

impl Screen {
    /// # Errors
    /// There is no terminal, or it can't be set.
    pub fn take() -> io::Result<Screen> {
        // Called by the hook that ratatui sets, which does all but this. A process that ends by a panic drops nothing.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            show_cursor();
            hook(panic);
        }));
        ratatui::try_init()
            .map(Screen)
            .inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
        show_cursor();
    }
}

fn show_cursor() {
    // With the terminal gone there is none to show.
    let _ = crossterm::execute!(io::stdout(), cursor::Show);
}

/// The screen, until somebody ends it. A server that goes away is waited for.
async fn show(socket: &Path, interval: Duration, first: Answers) -> Result<(), ClientError> {
    let mut ends = Ends::new().map_err(local)?;
    let (news_in, mut news) = mpsc::channel(1);
    let asker = tokio::spawn(keep_asking(socket.to_owned(), interval, news_in));
    let mut view = View::new(first);
    let mut screen = Screen::take().map_err(local)?;
    let mut events = EventStream::new();
    let outcome = loop {
        if let Err(error) = screen.0.draw(|frame| screen::draw(frame, &view)) {
            break Err(error);
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) if view.is_ended_by(key) => break Ok(()),
                // It is drawn anew whatever it was: a window may have another size.
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            Some(answer) = news.recv() => match answer {
                Ok(answers) => view.take(answers),
                Err(error) => view.trouble = Some(error.to_string()),
            },
            () = ends.told() => break Ok(()),
        }
    };
    asker.abort();
    drop(screen);
    outcome.map_err(local)
}

/// The signals that end it as a key does.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone.
    hang_up: Signal,
}

impl Ends {
    fn new() -> io::Result<Ends> {
        Ok(Ends {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Asks the server again and again.
async fn keep_asking(socket: PathBuf, interval: Duration, news: mpsc::Sender<Result<Answers, ClientError>>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once, and an answer is there already.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if news.send(answers(&socket).await).await.is_err() {
            return;
        }
    }
}
