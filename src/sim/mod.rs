//! The simulator: the production loop over a seeded network and clock.
//!
//! [`run`] is one run of one seed. Several shards, each with the very [`ShardLoop`](crate::run) that production turns, stand
//! in one thread over a [`reactor`] whose clock is a number and whose network loses, repeats, delays and damages what its
//! seed says; the server crashes and comes back. Phones place calls, well-behaved ones and others. Three judges look at it:
//! - the [`book`]: whether each party saw only what follows from what the others said;
//! - the [`audit`]: whether what the server sent obeys the rules of its RFCs, each a function of its own;
//! - the end: whether anything is left over in a table, a wheel or a pool.
//!
//! Everything follows from the seed: the same seed gives the same trace, byte for byte.

pub mod audit;
pub mod book;
mod edge;
mod exchange;
mod mirror;
mod names;
mod net;
mod packet;
mod passage;
mod phone;
mod plan;
mod reactor;
mod rng;
mod streams;
mod tally;
pub mod trace;
mod world;

use std::time::Duration;

pub use book::{Finding, Totals};
pub use exchange::Service;
pub use net::Counts;
pub use plan::{Mix, Weather};
use trace::Trace;

/// What came of one seed.
pub struct Outcome {
    pub seed: u64,
    pub weather: Weather,
    pub findings: Vec<Finding>,
    pub totals: Totals,
    pub counts: Counts,
    pub trace: Trace,
    /// The routing table, where the server is a proxy.
    exchange: Option<exchange::Exchange>,
    /// How long it was for those in it.
    pub simulated: Duration,
}

impl Outcome {
    /// What was found, and the ladder of the call that the first of it is about.
    pub fn report(&self) -> String {
        let mut text = format!("seed {}: {:?}\n", self.seed, self.weather);
        let start = self
            .trace
            .lines
            .first()
            .map_or(Default::default(), trace::Line::at);
        for finding in &self.findings {
            let ms = finding.at.since(start).as_secs_f64() * 1e3;
            text.push_str(&format!("{ms:12.1} FOUND {}\n", finding.text));
        }
        if let Some(exchange) = &self.exchange {
            text.push_str(&exchange.table());
        }
        // The ladder of what the first is about.
        if let Some(finding) = self.findings.iter().find(|finding| !finding.tags.is_empty()) {
            let is_in = |tag: &String| finding.tags.contains(tag);
            let ladder = self
                .trace
                .ladder(|step| is_in(&step.packet.from_tag) || is_in(&step.packet.to_tag));
            text.push_str(&ladder);
        }
        text
    }
}

/// Runs one seed to its end.
pub fn run(seed: u64, mix: &Mix) -> Outcome {
    world::World::new(seed, mix).run()
}
