//! What the screen shows, and what keys change in it.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::control::busiest::Peer;

use super::figures::{Answers, Figures};

/// Rates that the curve goes back over.
const RATES_MAX: usize = 512;

/// What the busiest peers are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    Sum,
    Received,
    Sent,
    Address,
}

/// What the percentiles are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    LastSecond,
    SinceStart,
}

/// A part of the screen that can have it to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Times,
    Messages,
    Peers,
    Shards,
    Drops,
    Trunks,
}

impl Part {
    pub const ALL: [Part; 6] = [
        Part::Times,
        Part::Peers,
        Part::Shards,
        Part::Trunks,
        Part::Messages,
        Part::Drops,
    ];
}

pub struct View {
    /// Since the last two answers are of one server.
    pub figures: Option<Figures>,
    /// Messages a second, in and out, the last at the end.
    pub rates: VecDeque<u64>,
    /// Why there are no new figures.
    pub trouble: Option<String>,
    pub is_paused: bool,
    pub sort: Sort,
    pub span: Span,
    /// The one that has the screen to itself.
    pub part: Option<Part>,
    last: Answers,
}

impl View {
    pub fn new(first: Answers) -> View {
        View {
            figures: None,
            rates: VecDeque::new(),
            trouble: None,
            is_paused: false,
            sort: Sort::Sum,
            span: Span::LastSecond,
            part: None,
            last: first,
        }
    }

    /// The server has answered. While the screen is paused, what it shows stays.
    pub fn take(&mut self, answers: Answers) {
        self.trouble = None;
        let figures = Figures::between(&self.last, &answers);
        self.last = answers;
        match &figures {
            Some(figures) => {
                if self.rates.len() == RATES_MAX {
                    self.rates.pop_front();
                }
                let rates = &figures.rates;
                self.rates.push_back((rates.received + rates.sent).round() as u64);
            }
            // Another server has taken its place: what was before is of no use.
            None => self.rates.clear(),
        }
        if !self.is_paused {
            self.figures = figures;
        }
    }

    /// `true`: somebody has seen enough.
    pub fn is_ended_by(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => return true,
            KeyCode::Char('q') => return true,
            KeyCode::Esc if self.part.is_none() => return true,
            KeyCode::Esc => self.part = None,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Sum => Sort::Received,
                    Sort::Received => Sort::Sent,
                    Sort::Sent => Sort::Address,
                    Sort::Address => Sort::Sum,
                }
            }
            KeyCode::Char('t') => {
                self.span = match self.span {
                    Span::LastSecond => Span::SinceStart,
                    Span::SinceStart => Span::LastSecond,
                }
            }
            KeyCode::Tab => {
                let next = self.part.map_or(0, |part| part_index(part) + 1);
                self.part = Part::ALL.get(next).copied();
            }
            // Any other key means nothing here.
            _ => {}
        }
        false
    }

    /// The busiest peers in the order that is wanted.
    pub fn peers(&self) -> Vec<&Peer> {
        let mut peers: Vec<&Peer> = self.figures.iter().flat_map(|figures| &figures.peers).collect();
        match self.sort {
            Sort::Sum => peers.sort_by_key(|peer| Reverse(peer.received + peer.sent)),
            Sort::Received => peers.sort_by_key(|peer| Reverse(peer.received)),
            Sort::Sent => peers.sort_by_key(|peer| Reverse(peer.sent)),
            Sort::Address => peers.sort_by_key(|peer| peer.peer),
        }
        peers
    }
}

fn part_index(part: Part) -> usize {
    Part::ALL.iter().position(|&one| one == part).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::top::figures::tests::answers;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut view = View::new(answers(1));
        view.take(answers(2));
        assert_eq!(view.peers()[0].peer.to_string(), "192.0.2.10");
        assert!(!view.is_ended_by(key(KeyCode::Char('s'))));
        assert_eq!(view.peers()[0].peer.to_string(), "192.0.2.29", "most received");
        view.is_ended_by(key(KeyCode::Char('s')));
        assert_eq!(view.peers()[0].peer.to_string(), "192.0.2.10", "most sent");
        view.is_ended_by(key(KeyCode::Char('t')));
        assert_eq!(view.span, Span::SinceStart);
        for part in Part::ALL {
            view.is_ended_by(key(KeyCode::Tab));
            assert_eq!(view.part, Some(part));
        }
        assert!(!view.is_ended_by(key(KeyCode::Esc)), "all parts again");
        assert_eq!(view.part, None);
        for end in [
            key(KeyCode::Esc),
            key(KeyCode::Char('q')),
            KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert!(view.is_ended_by(end), "{end:?}");
        }
        assert!(!view.is_ended_by(key(KeyCode::Char('c'))));
    }

    #[test]
    fn a_pause_holds_the_figures_and_a_restart_takes_them_away() {
        let mut view = View::new(answers(1));
        view.take(answers(2));
        view.is_ended_by(key(KeyCode::Char('p')));
        view.trouble = Some("no server answers".to_owned());
        view.take(answers(3));
        let at = |view: &View| view.figures.as_ref().map(|figures| figures.uptime_s);
        assert_eq!((at(&view), view.trouble.as_deref()), (Some(2), None));
        view.is_ended_by(key(KeyCode::Char('p')));
        view.take(answers(4));
        assert_eq!((at(&view), view.rates.len()), (Some(4), 3));
        view.take(answers(1));
        assert_eq!((at(&view), view.rates.len()), (None, 0), "of another server");
        view.take(answers(2));
        assert_eq!(at(&view), Some(2));
    }
}
