//! Listeners that come and go while the server runs.
//!
//! Everything that holds a flow names its listener by the place in the list, so a place is kept for good: a listener that goes is marked
//! ([`ListenerState`]), and one that comes gets a place behind all others. TCP goes at once, but for the connections that there are. UDP
//! goes in two steps: for `drain_s` what comes is served and nothing new begins from it; then its socket is closed, and what is still to
//! leave through it leaves through another UDP listener of its family.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::resolve::LISTENERS_MAX;
use crate::config::{Config, Listener, ListenerState};
use crate::io::interfaces::local_addresses;
use crate::io::relisten::Changes;
use crate::io::socket::{ShardSockets, bind_all};
use crate::time::Instant;
use crate::wire::{ListenerId, Transport};

/// What is listened on, and how the shards are told.
pub struct Listeners {
    entries: Vec<Entry>,
    /// What reaches those that are bound to all addresses: [`Config::local_addresses`].
    local_addresses: Vec<IpAddr>,
    /// They could be looked at the last time.
    are_known: bool,
    /// One for each shard.
    changes: Vec<Arc<Changes>>,
}

struct Entry {
    /// As the file asks for it: a port 0 is one that the system has chosen.
    asked: Listener,
    bound: Listener,
    /// When its socket is closed.
    closes_at: Option<Instant>,
}

impl Listeners {
    /// What was bound at the start, and what had been asked for.
    pub fn new(asked: &[Listener], bound: &[Listener], shards: usize) -> Listeners {
        let entries = asked.iter().zip(bound).map(|(asked, bound)| Entry {
            asked: asked.clone(),
            bound: bound.clone(),
            closes_at: None,
        });
        let mut listeners = Listeners {
            entries: entries.collect(),
            local_addresses: Vec::new(),
            are_known: true,
            changes: (0..shards).map(|_| Arc::default()).collect(),
        };
        listeners.look_at_addresses();
        listeners
    }

    /// What reaches those that are bound to all addresses, as it was when it was looked at last.
    pub fn local_addresses(&self) -> &[IpAddr] {
        &self.local_addresses
    }

    /// Looks which addresses this machine has now. `true`: it has changed, and some listener is bound to all of them.
    pub fn look_at_addresses(&mut self) -> bool {
        let of_all = |ipv4: bool| {
            let open = self.entries.iter().filter(|entry| entry.bound.is_ours());
            open.map(|entry| entry.bound.addr)
                .any(|addr| addr.ip().is_unspecified() && addr.is_ipv4() == ipv4)
        };
        let (v4, v6) = (of_all(true), of_all(false));
        let mut now = Vec::new();
        if v4 || v6 {
            match local_addresses() {
                Ok(all) => (now, self.are_known) = (all, true),
                Err(error) => {
                    // Once, not each time that it is tried again.
                    if std::mem::replace(&mut self.are_known, false) {
                        let lost = "a Route or URI with an address of this machine is not taken for ours";
                        tracing::warn!(%error, lost, "the addresses of this machine can't be looked at");
                    }
                    return false;
                }
            }
        }
        now.retain(|ip| if ip.is_ipv4() { v4 } else { v6 });
        let has_changed = now != self.local_addresses;
        self.local_addresses = now;
        has_changed
    }

    /// Where the reactor of a shard finds what has changed.
    pub fn changes(&self, shard: usize) -> Arc<Changes> {
        self.changes[shard].clone()
    }

    /// All places, as a shard has them.
    pub fn bound(&self) -> Vec<Listener> {
        self.entries.iter().map(|entry| entry.bound.clone()).collect()
    }

    /// Listens on what `cfg` asks for. `steer` is given what was bound anew.
    ///
    /// # Errors
    /// One that can't be had; the text says which and why. Nothing has changed then.
    pub fn change(
        &mut self,
        cfg: &Config,
        now: Instant,
        steer: impl FnOnce(&Config, &mut [ShardSockets]),
    ) -> Result<(), String> {
        let mut stays = vec![false; self.entries.len()];
        let mut added = Vec::new();
        for wanted in &cfg.listeners {
            let place =
                self.entries.iter().enumerate().position(|(place, entry)| {
                    !stays[place] && entry.asked == *wanted && entry.can_be_open()
                });
            match place {
                Some(place) => stays[place] = true,
                None => added.push(wanted.clone()),
            }
        }
        if self.entries.len() + added.len() > LISTENERS_MAX {
            return Err(format!(
                "listen: no further listener can come before the next start: there were {LISTENERS_MAX}"
            ));
        }
        self.add(cfg, added, steer)?;
        for (place, entry) in self.entries.iter_mut().enumerate().take(stays.len()) {
            if stays[place] {
                entry.stay();
            } else if entry.bound.state == ListenerState::Open {
                entry.leave(place, now + cfg.drain, &self.changes);
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        cfg: &Config,
        added: Vec<Listener>,
        steer: impl FnOnce(&Config, &mut [ShardSockets]),
    ) -> Result<(), String> {
        if added.is_empty() {
            return Ok(());
        }
        let new = Config {
            listeners: added,
            shards: self.changes.len(),
            ..cfg.clone()
        };
        let (bound, mut sockets) = bind_all(&new).map_err(|error| error.to_string())?;
        steer(&new, &mut sockets);
        for (asked, bound) in new.listeners.iter().zip(bound) {
            let id = ListenerId(self.entries.len() as u16);
            for (changes, sockets) in self.changes.iter().zip(&mut sockets) {
                changes.open(id, sockets);
            }
            log("listening", &bound);
            self.entries.push(Entry {
                asked: asked.clone(),
                bound,
                closes_at: None,
            });
        }
        Ok(())
    }

    /// Closes those whose time has come. `false`: there are none.
    pub fn close_due(&mut self, now: Instant) -> bool {
        let mut is_any = false;
        for place in 0..self.entries.len() {
            if self.entries[place].closes_at.is_none_or(|at| now < at) {
                continue;
            }
            is_any = true;
            let leaving = self.entries[place].bound.clone();
            let successor = self.entries.iter().position(|entry| {
                entry.bound.state == ListenerState::Open
                    && entry.bound.transport == Transport::Udp
                    && entry.bound.addr.is_ipv4() == leaving.addr.is_ipv4()
            });
            for changes in &self.changes {
                changes.close(
                    ListenerId(place as u16),
                    successor.map(|at| ListenerId(at as u16)),
                );
            }
            log("no longer listening", &leaving);
            let by = Listener {
                state: ListenerState::Closed,
                ..successor.map_or(leaving.clone(), |at| self.entries[at].bound.clone())
            };
            self.entries[place].closes_at = None;
            // What it sent for others it sends no more.
            for (at, entry) in self.entries.iter_mut().enumerate() {
                let is_meant = entry.bound.state == ListenerState::Closed
                    && (entry.bound.transport, entry.bound.addr) == (leaving.transport, leaving.addr);
                if at == place || is_meant {
                    entry.bound = by.clone();
                }
            }
        }
        is_any
    }

    /// The bits of a rule that speak of the listeners that were asked for, as bits that speak of places.
    pub fn bits_of_places(&self, bits: u64, asked: &[Listener]) -> u64 {
        let mut taken = vec![false; self.entries.len()];
        let mut of_places = 0;
        for (index, wanted) in asked.iter().enumerate() {
            let place = self.entries.iter().enumerate().position(|(place, entry)| {
                !taken[place] && entry.bound.state == ListenerState::Open && entry.asked == *wanted
            });
            if let Some(place) = place {
                taken[place] = true;
                of_places |= (bits >> index & 1) << place;
            }
        }
        of_places
    }
}

impl Entry {
    /// It has its socket still. One of TCP that goes has given it up.
    fn can_be_open(&self) -> bool {
        match (self.bound.state, self.bound.transport) {
            (ListenerState::Open, _) | (ListenerState::Leaving, Transport::Udp) => true,
            (ListenerState::Leaving, Transport::Tcp) | (ListenerState::Closed, _) => false,
        }
    }

    fn stay(&mut self) {
        self.bound.state = ListenerState::Open;
        self.closes_at = None;
    }

    fn leave(&mut self, place: usize, closes_at: Instant, changes: &[Arc<Changes>]) {
        self.bound.state = ListenerState::Leaving;
        match self.bound.transport {
            Transport::Udp => {
                self.closes_at = Some(closes_at);
                log(
                    "a listener leaves: what comes is served until it is closed",
                    &self.bound,
                );
            }
            Transport::Tcp => {
                for changes in changes {
                    changes.stop_accepting(ListenerId(place as u16));
                }
                log("a listener leaves: its connections go on", &self.bound);
            }
        }
    }
}

fn log(what: &str, listener: &Listener) {
    let transport = listener.transport.name().to_ascii_lowercase();
    tracing::info!(transport, addr = %listener.addr, advertised = %listener.advertised, "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load};

    fn config(text: &str) -> Config {
        load(Some(("r.toml".as_ref(), text)), &[], &Machine::read())
            .expect("a good file")
            .config
    }

    #[test]
    fn places_are_kept_and_rules_mean_those_that_are_open() {
        let first = config("shards = 1\ndrain_s = 5\nlisten = [\"127.0.0.1:0\", \"udp:127.0.0.2:0\"]");
        let (bound, _sockets) = bind_all(&first).expect("sockets");
        let mut listeners = Listeners::new(&first.listeners, &bound, 1);
        let at = Instant::from_millis;
        let states = |listeners: &Listeners| -> Vec<ListenerState> {
            listeners.bound().iter().map(|listener| listener.state).collect()
        };
        let other = config("shards = 1\ndrain_s = 5\nlisten = [\"udp:127.0.0.3:0\", \"udp:127.0.0.1:0\"]");
        let mut steered = 0;
        listeners
            .change(&other, at(1_000), |new, _| steered = new.listeners.len())
            .expect("they can be had");
        use ListenerState::{Closed, Leaving, Open};
        assert_eq!(states(&listeners), [Open, Leaving, Leaving, Open]);
        assert_eq!(steered, 1);
        assert_ne!(listeners.bound()[3].addr.port(), 0);
        assert_eq!(listeners.bits_of_places(0b01, &other.listeners), 0b1000);
        assert_eq!(listeners.bits_of_places(0b10, &other.listeners), 0b0001);
        assert!(!listeners.close_due(at(5_999)));
        assert!(listeners.close_due(at(6_000)) && !listeners.close_due(at(7_000)));
        assert_eq!(
            states(&listeners),
            [Open, Leaving, Closed, Open],
            "TCP has its connections"
        );
        assert_eq!(
            listeners.bound()[2].addr,
            listeners.bound()[0].addr,
            "who sends in its place"
        );
        // What went comes back in a place of its own; one that has not gone yet stays.
        listeners
            .change(&first, at(8_000), |_, _| {})
            .expect("they can be had");
        assert_eq!(states(&listeners), [Open, Leaving, Closed, Leaving, Open, Open]);
        listeners
            .change(&other, at(9_000), |_, _| {})
            .expect("they can be had");
        assert_eq!(
            states(&listeners),
            [Open, Leaving, Closed, Open, Leaving, Leaving]
        );
    }

    #[test]
    fn who_stands_for_one_that_has_gone_may_go_too() {
        let of = |hosts: &[&str]| {
            let listen: Vec<String> = hosts
                .iter()
                .map(|host| format!("\"udp:127.0.0.{host}:0\""))
                .collect();
            config(&format!(
                "shards = 1\ndrain_s = 5\nlisten = [{}]",
                listen.join(", ")
            ))
        };
        let first = of(&["1", "2", "3"]);
        let (bound, _sockets) = bind_all(&first).expect("sockets");
        let mut listeners = Listeners::new(&first.listeners, &bound, 1);
        let mut addrs_after = |hosts: &[&str], now: u64| {
            listeners
                .change(&of(hosts), Instant::from_millis(now), |_, _| {})
                .expect("they are there");
            assert!(listeners.close_due(Instant::from_millis(now + 5_000)));
            listeners
                .bound()
                .iter()
                .map(|listener| listener.addr)
                .collect::<Vec<_>>()
        };
        let [one, two, three] = [0, 1, 2].map(|place: usize| bound[place].addr);
        assert_eq!(addrs_after(&["1", "2"], 1_000), [one, two, one]);
        assert_eq!(addrs_after(&["2"], 10_000), [two, two, two]);
        assert_ne!(three, two);
    }

    #[test]
    fn one_that_can_not_be_had_changes_nothing() {
        let first = config("shards = 1\nlisten = [\"127.0.0.1:0\"]");
        let (bound, _sockets) = bind_all(&first).expect("sockets");
        let mut listeners = Listeners::new(&first.listeners, &bound, 1);
        let taken = config(&format!("shards = 1\nlisten = [\"udp:{}\"]", bound[0].addr));
        let error = listeners
            .change(&taken, Instant::from_millis(1), |_, _| {})
            .expect_err("it is taken");
        assert!(error.contains("address in use"), "{error}");
        assert_eq!(listeners.bound(), bound);
        let places = listeners.entries.len();
        let mut now = 1;
        let mut change =
            |text: String, now| listeners.change(&config(&text), Instant::from_millis(now), |_, _| {});
        let error = loop {
            now += 1;
            let text = format!("shards = 1\nlisten = [\"tcp:127.0.0.{}:0\"]", 1 + now % 2);
            if let Err(error) = change(text, now) {
                break error;
            }
        };
        assert!(error.contains("before the next start"), "{error}");
        assert!(now as usize > LISTENERS_MAX - places - 2);
    }
}
