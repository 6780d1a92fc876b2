//! How the screen is drawn, in whatever room there is.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};

use super::figures::Figures;
use super::panels::{Panel, headline, panel, server};
use super::view::{Part, View};

/// From this width on tables stand in two columns.
const TWO_COLUMNS: u16 = 112;
const LEFT: [Part; 2] = [Part::Times, Part::Drops];
const RIGHT: [Part; 4] = [Part::Peers, Part::Shards, Part::Trunks, Part::Messages];

/// A figure of the headline with its name.
const FIGURE_WIDTH: u16 = 24;
/// Title, heading and one row: a table that has no room for them is left out.
const PANEL_HEIGHT_MIN: u16 = 3;
/// Rows of a table beside its cells: title and heading.
const PANEL_FRAME: u16 = 2;
/// Of a long table no more is printed as text than this: the busiest twenty peers.
const TEXT_PANEL_HEIGHT_MAX: u16 = 20 + PANEL_FRAME + 1;
/// The curve of the rate stands where the screen is as high as this.
const CURVE_FROM_HEIGHT: u16 = 24;
const CURVE_HEIGHT: u16 = 3;

const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Draws `view` into all of `frame`.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let figures = view.figures.as_ref();
    let curve = if area.height >= CURVE_FROM_HEIGHT {
        curve_height(view)
    } else {
        0
    };
    let headline_height = if figures.is_some() {
        headline_height(area.width)
    } else {
        0
    };
    let [title, head, curve, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(headline_height),
        Constraint::Length(curve),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title_line(view)), title);
    frame.render_widget(Paragraph::new(keys(view)), foot);
    let Some(figures) = figures else { return };
    frame.render_widget(Paragraph::new(headline_lines(figures, area.width)), head);
    draw_curve(frame, curve, view);
    if let Some(part) = view.part {
        draw_column(frame, body, &[part], figures, view);
    } else if area.width >= TWO_COLUMNS {
        let [left, right] = Layout::horizontal([Constraint::Fill(10), Constraint::Fill(11)])
            .spacing(2)
            .areas(body);
        draw_column(frame, left, &LEFT, figures, view);
        draw_column(frame, right, &RIGHT, figures, view);
    } else {
        draw_column(frame, body, &Part::ALL, figures, view);
    }
}

/// `view` as lines of text, `width` wide and about as many as it takes.
pub fn text(view: &View, width: u16) -> String {
    let height_of = |parts: &[Part]| {
        let panels = (view.figures.iter()).flat_map(|figures| panels(parts, figures, view));
        let heights = panels.map(|panel| wanted(&panel).min(TEXT_PANEL_HEIGHT_MAX));
        heights.fold(0, u16::saturating_add)
    };
    let body = if width >= TWO_COLUMNS {
        height_of(&LEFT).max(height_of(&RIGHT))
    } else {
        height_of(&Part::ALL)
    };
    let height = (2 + headline_height(width) + curve_height(view)).saturating_add(body);
    let mut terminal = match Terminal::new(TestBackend::new(width, height)) {
        Ok(terminal) => terminal,
        Err(never) => match never {},
    };
    match terminal.draw(|frame| draw(frame, view)) {
        Ok(_) => {}
        Err(never) => match never {},
    }
    lines(terminal.backend())
}

/// What stands on a screen, without the keys and without white space that ends lines.
fn lines(backend: &TestBackend) -> String {
    let buffer = backend.buffer();
    let width = usize::from(buffer.area.width.max(1));
    let rows = buffer.content.chunks(width);
    let rows: Vec<String> = rows
        .map(|row| {
            row.iter()
                .map(|cell| cell.symbol())
                .collect::<String>()
                .trim_end()
                .to_owned()
        })
        .collect();
    let mut text = String::new();
    for row in &rows[..rows.len().saturating_sub(1)] {
        text.push_str(row);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn title_line(view: &View) -> Line<'static> {
    let mut spans = vec![Span::styled("ringway ", STRONG)];
    if let Some(trouble) = &view.trouble {
        spans.push(Span::styled(format!("{trouble}; asking again "), ALARM));
    }
    if view.is_paused {
        spans.push(Span::styled(
            "paused ",
            Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
        ));
    }
    match &view.figures {
        Some(figures) => {
            let style = if figures.state == "serving" {
                STRONG.fg(Color::Green)
            } else {
                STRONG.fg(Color::Yellow)
            };
            if view.trouble.is_none() {
                spans.push(Span::styled(format!("{} ", figures.state), style));
            }
            spans.push(Span::styled(server(figures), QUIET));
        }
        None => spans.push(Span::styled("measuring ...", QUIET)),
    }
    Line::from(spans)
}

fn keys(view: &View) -> Line<'static> {
    let go_on = if view.is_paused { "go on" } else { "pause" };
    let keys = [
        ("q", "quit"),
        ("p", go_on),
        ("s", "sort peers"),
        ("t", "times: last second or since the start"),
        ("Tab", "one table alone"),
    ];
    let spans = keys.iter().flat_map(|&(key, meaning)| {
        [
            Span::styled(key, STRONG),
            Span::styled(format!(" {meaning}   "), QUIET),
        ]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn figures_per_line(width: u16) -> usize {
    usize::from((width / FIGURE_WIDTH).max(1))
}

fn headline_height(width: u16) -> u16 {
    // As many as `headline` gives.
    const FIGURES: usize = 12;
    FIGURES.div_ceil(figures_per_line(width)) as u16
}

fn headline_lines(figures: &Figures, width: u16) -> Vec<Line<'static>> {
    let line = |chunk: &[(&'static str, String)]| {
        let spans = chunk.iter().flat_map(|(name, value)| {
            let room = usize::from(FIGURE_WIDTH).saturating_sub(name.len() + 2);
            let is_alarm = *name == "Drops/s" && value != "0";
            [
                Span::styled(format!("{name} "), QUIET),
                Span::styled(format!("{value:<room$} "), if is_alarm { ALARM } else { STRONG }),
            ]
        });
        Line::from(spans.collect::<Vec<_>>())
    };
    headline(figures)
        .chunks(figures_per_line(width))
        .map(line)
        .collect()
}

/// One rate alone is no curve.
fn curve_height(view: &View) -> u16 {
    if view.rates.len() > 1 { CURVE_HEIGHT } else { 0 }
}

fn draw_curve(frame: &mut Frame<'_>, area: Rect, view: &View) {
    if area.is_empty() {
        return;
    }
    let shown = usize::from(area.width).min(view.rates.len());
    let rates: Vec<u64> = view.rates.range(view.rates.len() - shown..).copied().collect();
    let most = rates.iter().max().copied().unwrap_or_default();
    let block = titled(format!("Messages/s, in and out, up to {most}"));
    frame.render_widget(Sparkline::default().block(block).data(rates), area);
}

fn titled(title: String) -> Block<'static> {
    Block::new()
        .borders(Borders::TOP)
        .border_style(QUIET)
        .title(Span::styled(format!("{title} "), STRONG))
}

/// Rows of the screen that all of `panel` takes, with an empty one below.
fn wanted(panel: &Panel) -> u16 {
    let rows = u16::try_from(panel.rows.len()).unwrap_or(u16::MAX).max(1);
    rows.saturating_add(PANEL_FRAME + 1)
}

/// The tables of `parts`. Where there are no trunks nothing is said of them, unless it is asked for.
fn panels(parts: &[Part], figures: &Figures, view: &View) -> Vec<Panel> {
    let is_shown =
        |part: Part| part != Part::Trunks || view.part == Some(part) || !figures.destinations.is_empty();
    let parts = parts.iter().filter(|&&part| is_shown(part));
    parts.map(|&part| panel(part, figures, view)).collect()
}

/// Tables one below the other.
fn draw_column(frame: &mut Frame<'_>, area: Rect, parts: &[Part], figures: &Figures, view: &View) {
    let panels = panels(parts, figures, view);
    let heights: Vec<u16> = panels.iter().map(wanted).collect();
    let mut top = area.y;
    for (panel, height) in panels.iter().zip(shared_out(area.height, &heights)) {
        draw_panel(
            frame,
            Rect {
                y: top,
                height,
                ..area
            },
            panel,
        );
        top += height;
    }
}

/// How `room` is shared out to those who want so much: everybody has what it wants, or as much as any other. Those at the end have none,
/// if there is not enough for all to be of use.
fn shared_out(room: u16, wanted: &[u16]) -> Vec<u16> {
    let served = wanted.len().min(usize::from(room / PANEL_HEIGHT_MIN));
    let mut shares = vec![0; wanted.len()];
    let mut left = room;
    loop {
        let hungry: Vec<usize> = (0..served)
            .filter(|&index| shares[index] < wanted[index])
            .collect();
        if hungry.is_empty() || left == 0 {
            return shares;
        }
        let each = (left / hungry.len() as u16).max(1);
        for index in hungry {
            let more = each.min(wanted[index] - shares[index]).min(left);
            shares[index] += more;
            left -= more;
        }
    }
}

/// Cells between two columns.
const SPACING: u16 = 1;

fn draw_panel(frame: &mut Frame<'_>, area: Rect, panel: &Panel) {
    if area.height < PANEL_HEIGHT_MIN {
        return;
    }
    let mut left = area.width;
    let columns = panel.columns.iter().take_while(|column| {
        let fits = left >= column.width;
        left = left.saturating_sub(column.width + SPACING);
        fits
    });
    // The first stands in any case, cut where the screen ends.
    let shown = columns.count().max(1);
    let columns = &panel.columns[..shown];
    let aligned = |text: &str, index: usize| {
        let line = Line::from(text.to_owned());
        if columns[index].is_number {
            line.right_aligned()
        } else {
            line
        }
    };
    let room = usize::from(area.height - PANEL_FRAME);
    let title = if panel.rows.len() > room {
        format!("{} ({room} of {})", panel.title, panel.rows.len())
    } else {
        panel.title.clone()
    };
    let rows = panel.rows.iter().take(room).map(|row| {
        let cells = row.cells[..shown].iter().enumerate();
        let cells = cells.map(|(index, cell)| aligned(cell, index));
        Row::new(cells).style(if row.is_alarm { ALARM } else { Style::new() })
    });
    let heading = columns
        .iter()
        .enumerate()
        .map(|(index, column)| aligned(column.name, index));
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let table = Table::new(rows, widths)
        .header(Row::new(heading).style(QUIET))
        .column_spacing(SPACING)
        .block(titled(title));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::top::figures::tests::answers;
    use crate::ask::top::view;

    fn viewed() -> View {
        let mut view = View::new(answers(1));
        (2..60).for_each(|seconds| view.take(answers(seconds)));
        view
    }

    fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("never fails");
        terminal.draw(|frame| draw(frame, view)).expect("never fails");
        let buffer = terminal.backend().buffer();
        let rows = buffer.content.chunks(usize::from(width));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect())
            .collect()
    }

    /// The line that begins with `start`, words set apart by one space.
    #[track_caller]
    fn line(lines: &[String], start: &str) -> String {
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut found = lines.iter().map(words).filter(|line| line.starts_with(start));
        found
            .next()
            .unwrap_or_else(|| panic!("{start} in\n{}", lines.join("\n")))
    }

    #[test]
    fn a_wide_screen_has_everything_side_by_side() {
        let lines = drawn(&viewed(), 140, 50);
        assert!(
            lines[0].starts_with("ringway serving 0.1.0 · up 59 s · udp:192.0.2.1:5060, tcp"),
            "{}",
            lines[0]
        );
        assert_eq!(
            line(&lines, "Calls 1,234"),
            "Calls 1,234 Calls/s 500 In/s 2,000 Out/s 2,000 Drops/s 3.0"
        );
        let times = line(&lines, "INVITE 500 24 µs 38 µs 101 µs 413 µs 1.9 ms");
        assert!(times.contains("192.0.2.1"), "peers beside the times: {times}");
        let text = lines.join("\n");
        for wanted in [
            "Times in the last second",
            "carrier    sip:10.0.0.2           down",
            "Busiest peers in 10 s",
            "75 %",
            "stray response",
            "Messages by kind",
            "q quit",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        let low = drawn(&viewed(), 140, 30).join("\n");
        assert!(
            low.contains(" of 20)"),
            "more peers than there is room for\n{low}"
        );
    }

    #[test]
    fn a_narrow_screen_has_it_one_below_the_other_and_a_tiny_one_does_no_harm() {
        let mut view = viewed();
        let lines = drawn(&view, 80, 70);
        let at = |title: &str| lines.iter().position(|line| line.starts_with(title));
        let order = [
            "Times in",
            "Busiest peers",
            "Shards",
            "Trunks",
            "Messages by",
            "Drops by",
        ]
        .map(at);
        assert!(
            order.iter().all(Option::is_some) && order.is_sorted(),
            "{}",
            lines.join("\n")
        );
        view.part = Some(Part::Shards);
        assert_eq!(
            line(&drawn(&view, 50, 12), "0 75 %"),
            "0 75 % ▇▇▇▇▇▇▇▇ 1,500 1,500 617"
        );
        for part in [None, Some(Part::Peers), Some(Part::Drops)] {
            view.part = part;
            for width in (1..130).step_by(4) {
                for height in [1, 2, 3, 5, 8, 13, 24, 50] {
                    drawn(&view, width, height);
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_at_the_top() {
        let mut view = viewed();
        view.trouble = Some("no server answers".to_owned());
        view.is_paused = true;
        let top = &drawn(&view, 120, 30)[0];
        assert!(
            top.starts_with("ringway no server answers; asking again paused 0.1.0"),
            "{top}"
        );
        let fresh = View::new(answers(1));
        assert!(drawn(&fresh, 80, 24)[0].starts_with("ringway measuring"));
    }

    #[test]
    fn as_text_it_has_every_row_and_no_keys() {
        let mut view = viewed();
        view.span = view::Span::SinceStart;
        for width in [60, 120] {
            let text = text(&view, width);
            assert!(text.contains("192.0.2.29") && text.contains("answer"), "{text}");
            assert!(!text.contains("quit") && !text.contains(" of 20)"), "{text}");
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"));
            assert!(
                text.lines()
                    .all(|line| line.chars().count() <= usize::from(width))
            );
        }
    }

    #[test]
    fn room_is_shared_out_fairly() {
        assert_eq!(shared_out(30, &[5, 5]), [5, 5]);
        assert_eq!(shared_out(12, &[5, 20]), [5, 7]);
        assert_eq!(shared_out(9, &[20, 20, 20]), [3, 3, 3]);
        assert_eq!(
            shared_out(8, &[20, 20, 20]),
            [4, 4, 0],
            "a table without a row is of no use"
        );
        assert_eq!(shared_out(2, &[20]), [0]);
    }
}
