//! The captured flows between two phones, shown as they happen, then some thousand calls more.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::call::{self, Call};
use crate::captured;
use crate::contract;
use crate::failure::{Failure, Outcome};
use crate::ladder::{Ladder, Trace};
use crate::links::Transport;
use crate::phone::{Account, Phone};

/// Pairs of phones that call each other at the same time.
const PAIRS: usize = 8;
/// RFC 3261 T1: the demo's phones repeat on UDP what is not answered.
const T1: Duration = Duration::from_millis(500);
/// So many faults are told; the rest is only counted.
const FAULTS_SHOWN: usize = 10;

#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Calls after the one that is shown.
    pub calls: usize,
    /// No progress bar, and a ladder in ASCII.
    pub plain: bool,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct DemoReport {
    /// Calls that went through, the one that was shown included.
    pub calls: usize,
    /// Time that the calls after the first took.
    pub elapsed: Duration,
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{} calls, none failed, {seconds:.1} s", self.calls)
    }
}

/// What was wrong.
#[derive(Debug)]
pub struct DemoFailure {
    pub calls_done: usize,
    pub calls_failed: usize,
    /// Sentences; at most ten.
    pub faults: Vec<String>,
}

impl fmt::Display for DemoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls went through, {} failed",
            self.calls_done, self.calls_failed
        )?;
        for fault in &self.faults {
            write!(f, "\n- {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DemoFailure {}

/// Runs the demo against a server that serves `one.att.net` on UDP and TCP at `server`.
pub fn demo(
    server: SocketAddr,
    options: DemoOptions,
    out: &mut dyn Write,
) -> Result<DemoReport, DemoFailure> {
    let broken = |faults: Vec<String>| DemoFailure {
        calls_done: 0,
        calls_failed: 1,
        faults,
    };
    let mut show = Show::new(options.plain, out);
    match show.run(server) {
        Ok(faults) if faults.is_empty() => {}
        Ok(faults) => return Err(broken(faults)),
        Err(failure) => return Err(broken(vec![failure.to_string()])),
    }
    load(server, options, out)
}

/// The first call, drawn.
struct Show<'o> {
    out: &'o mut dyn Write,
    trace: Trace,
    ladder: Ladder,
    faults: Vec<String>,
}

impl<'o> Show<'o> {
    fn new(plain: bool, out: &'o mut dyn Write) -> Show<'o> {
        Show {
            out,
            trace: Trace::default(),
            ladder: Ladder::new(&["UE1", "UE2"], plain),
            faults: Vec::new(),
        }
    }

    /// Draws what has happened since the last call.
    fn draw(&mut self) -> io::Result<()> {
        for line in self.ladder.news(&self.trace) {
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()
    }

    fn chapter(&mut self, text: &str) -> io::Result<()> {
        self.draw()?;
        let line = self.ladder.chapter(text);
        writeln!(self.out, "{line}")
    }

    fn run(&mut self, server: SocketAddr) -> Outcome<Vec<String>> {
        let mut ue1 = phone("UE1", captured::CALLER, server, 1, Some((self.trace.clone(), 0)))?;
        let mut ue2 = phone("UE2", captured::CALLEE, server, 2, Some((self.trace.clone(), 1)))?;
        writeln!(self.out, "UE1 {} at {}", ue1.aor(), ue1.addr())?;
        writeln!(self.out, "UE2 {} at {}", ue2.aor(), ue2.addr())?;
        writeln!(self.out, "\n{}", self.ladder.heading())?;
        let outcome = self.flows(&mut ue1, &mut ue2, server);
        // What led to a failure is what one wants to see.
        self.draw()?;
        writeln!(self.out)?;
        outcome.map(|()| std::mem::take(&mut self.faults))
    }

    fn flows(&mut self, ue1: &mut Phone, ue2: &mut Phone, server: SocketAddr) -> Outcome {
        self.chapter("both register")?;
        for phone in [&mut *ue1, &mut *ue2] {
            let register = captured::register(phone, Transport::Tcp);
            let response = phone.ask(&register, Transport::Tcp)?;
            self.faults
                .extend(contract::register_ok(&register, &response, captured::EXPIRES_S));
            self.draw()?;
        }
        self.chapter("and watch their registration")?;
        for phone in [&mut *ue1, &mut *ue2] {
            let subscribe = captured::subscribe(phone, Transport::Udp);
            let accepted = phone.ask_for(&subscribe, Transport::Udp, 200)?;
            self.faults.extend(contract::subscribe_ok(&subscribe, &accepted));
            let notify = phone.expect("NOTIFY")?;
            if notify.at < accepted.at {
                self.faults
                    .push("NOTIFY: it overtook the 200 to the SUBSCRIBE".to_owned());
            }
            let granted = captured::EXPIRES_S;
            self.faults.extend(contract::notify(
                &subscribe, &accepted, &notify, 1, granted, server,
            ));
            phone.answers(&notify, 200, "OK")?;
            self.draw()?;
        }
        self.chapter("UE1 calls UE2")?;
        let mut call = call::place(ue1, ue2, Transport::Tcp)?;
        self.check_call(&call, ue2, server);
        self.chapter("and hangs up")?;
        let bye = call::hang_up(ue1, ue2, &mut call.caller)?;
        let faults = contract::passed_request(&bye.request, &bye.passed, &call.at_callee(Some(2)), server);
        self.faults.extend(faults);
        let faults = contract::passed_response(&bye.request, &bye.answer, &bye.response, server);
        self.faults.extend(faults);
        for phone in [ue1, ue2] {
            for extra in phone.leftovers() {
                let fault = format!("{} got what nothing asked for: {}", phone.name(), extra.title());
                self.faults.push(fault);
            }
        }
        Ok(())
    }

    fn check_call(&mut self, call: &Call, callee: &Phone, server: SocketAddr) {
        self.faults
            .extend(contract::trying(&call.invite, &call.trying, server));
        let contact = callee.contact();
        self.faults.extend(contract::leg_b_invite(
            &call.invite,
            &call.leg_b,
            &contact,
            server,
        ));
        if call.leg_b.transport != Transport::Udp {
            self.faults
                .push("INVITE on leg B: the contact has no transport, so it goes over UDP".to_owned());
        }
        for (answer, got) in [&call.ringing, &call.accepted] {
            self.faults
                .extend(contract::passed_response(&call.invite, answer, got, server));
            if got.transport != Transport::Tcp {
                self.faults
                    .push(format!("{}: the INVITE came over TCP", got.title()));
            }
        }
        let (sent, got) = &call.ack;
        self.faults.extend(contract::passed_request(
            sent,
            got,
            &call.at_callee(Some(1)),
            server,
        ));
    }
}

/// A phone at an address of its own where loopback has several.
fn phone(
    name: &str,
    user: &str,
    server: SocketAddr,
    number: u8,
    trace: Option<(Trace, usize)>,
) -> Outcome<Phone> {
    let ip = match server.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + number)),
        other => other,
    };
    let account = Account::new(name, user, captured::DOMAIN, ip, server, u64::from(number));
    let mut phone = Phone::start(account, trace)?;
    phone.retransmit = Some(T1);
    // A few more than 64*T1: then every transaction has said what became of it.
    phone.patience = T1 * 70;
    Ok(phone)
}

/// What the pairs have in common.
struct Progress {
    wanted: usize,
    begun: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicUsize,
    faults: Mutex<Vec<String>>,
    running: AtomicUsize,
}

impl Progress {
    fn failed(&self, failure: &Failure) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut faults = lock(&self.faults);
        if faults.len() < FAULTS_SHOWN {
            faults.push(failure.to_string());
        }
    }
}

fn load(server: SocketAddr, options: DemoOptions, out: &mut dyn Write) -> Result<DemoReport, DemoFailure> {
    let begin = Instant::now();
    let progress = Progress {
        wanted: options.calls,
        begun: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        faults: Mutex::default(),
        running: AtomicUsize::new(PAIRS),
    };
    let mut bar = Bar::new(options, out);
    std::thread::scope(|scope| {
        for pair in 0..PAIRS {
            let progress = &progress;
            scope.spawn(move || {
                if let Err(failure) = call_on(pair, server, progress) {
                    progress.failed(&failure);
                }
                progress.running.fetch_sub(1, Ordering::Release);
            });
        }
        while progress.running.load(Ordering::Acquire) > 0 {
            bar.show(progress.done.load(Ordering::Relaxed), begin.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let done = progress.done.load(Ordering::Relaxed);
    bar.finish(done, begin.elapsed());
    let failed = progress.failed.load(Ordering::Relaxed);
    let mut faults = std::mem::take(&mut *lock(&progress.faults));
    if failed == 0 && done != options.calls {
        faults.push(format!("{} calls were asked for", options.calls));
    }
    if failed > 0 || !faults.is_empty() {
        return Err(DemoFailure {
            // The one that was shown went through.
            calls_done: done + 1,
            calls_failed: failed,
            faults,
        });
    }
    Ok(DemoReport {
        calls: done + 1,
        elapsed: begin.elapsed(),
    })
}

/// One pair: registers, then calls until enough calls are begun. A failed call is the pair's last, since its phones may
/// be in the middle of something.
fn call_on(pair: usize, server: SocketAddr, progress: &Progress) -> Outcome {
    let number = 10 + 2 * pair as u8;
    let mut phones = Vec::new();
    for (role, name) in ["caller", "callee"].into_iter().enumerate() {
        let user = format!("1380002{role}{pair:03}");
        let name = format!("{name} {pair}");
        let mut phone = phone(&name, &user, server, number + role as u8, None)?;
        let register = captured::register(&mut phone, Transport::Tcp);
        phone.ask_for(&register, Transport::Tcp, 200)?;
        phones.push(phone);
    }
    let [caller, callee] = &mut phones[..] else {
        unreachable!("two phones were just made");
    };
    while progress.begun.fetch_add(1, Ordering::Relaxed) < progress.wanted {
        let mut call = call::place(caller, callee, Transport::Tcp)?;
        call::hang_up(caller, callee, &mut call.caller)?;
        for phone in [&mut *caller, &mut *callee] {
            if let Some(extra) = phone.leftovers().first() {
                return Err(phone.failure(&format!("got what nothing asked for: {}", extra.message)));
            }
        }
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A progress bar on a terminal, a line now and then elsewhere.
struct Bar<'o> {
    bar: ProgressBar,
    out: Option<&'o mut dyn Write>,
    wanted: usize,
    told: usize,
}

impl<'o> Bar<'o> {
    fn new(options: DemoOptions, out: &'o mut dyn Write) -> Bar<'o> {
        let plain = options.plain || !io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(options.calls as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:50} {pos}/{len} calls, {per_sec}, {elapsed}") {
            bar.set_style(style);
        }
        Bar {
            bar,
            out: plain.then_some(out),
            wanted: options.calls,
            told: 0,
        }
    }

    fn show(&mut self, done: usize, elapsed: Duration) {
        self.bar.set_position(done as u64);
        // Tenths are enough where every line stays.
        let tenth = (done * 10).checked_div(self.wanted).unwrap_or_default();
        if tenth > self.told {
            self.told = tenth;
            self.tell(done, elapsed);
        }
    }

    fn finish(&mut self, done: usize, elapsed: Duration) {
        self.bar.finish_and_clear();
        if self.told < 10 {
            self.tell(done, elapsed);
        }
    }

    fn tell(&mut self, done: usize, elapsed: Duration) {
        let (wanted, seconds) = (self.wanted, elapsed.as_secs_f64());
        if let Some(out) = &mut self.out {
            // The report says it all again; a reader that went away stops nothing.
            let _ = writeln!(out, "{done} of {wanted} calls, {seconds:.1} s");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
