//! Bytes of user-space memory for each thing that the core holds: `cargo run --release --example memory`.
//!
//! Each row is a process of its own, so that none lies on pages that another gave back: what it grew by in resident pages, with all
//! that tables and pools keep, and how much of that is message buffers. What is asked of the system says nothing: a table takes
//! room for its limit at once, which becomes memory as it is used.

mod rig;

use std::process::Command;

use rig::{ALICE, Blind, Crowd, Phones, Rig, addr};
use ringway::wire::{ConnId, Event, Flow, ListenerId, ShardId, Transport};

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4_096
}

/// What one row fills a shard with.
struct Row {
    what: &'static str,
    count: u64,
    fill: fn(&mut Rig, &mut Phones, u64),
}

const ROWS: [Row; 4] = [
    Row {
        what: "registered binding",
        count: 1_000_000,
        fill: bindings,
    },
    Row {
        what: "call in progress",
        count: 100_000,
        fill: calls,
    },
    Row {
        what: "transaction (an OPTIONS with its 200)",
        count: 100_000,
        fill: transactions,
    },
    Row {
        what: "idle stream",
        count: 100_000,
        fill: streams,
    },
];

/// Transactions end 32 s after their answer: at so many a second only a few are there at any time.
const A_SECOND: u64 = 200;

fn bindings(rig: &mut Rig, _: &mut Phones, count: u64) {
    let mut crowd = Crowd::new();
    for number in 0..count {
        crowd.register(rig, number);
        if number % A_SECOND == 0 {
            rig.advance(&mut Blind, 1_000);
        }
    }
    rig.advance(&mut Blind, 60_000);
}

fn calls(rig: &mut Rig, phones: &mut Phones, count: u64) {
    for number in 0..count {
        phones.call(rig, &mut Blind);
        if number % A_SECOND == 0 {
            rig.advance(&mut Blind, 1_000);
        }
    }
    rig.advance(&mut Blind, 60_000);
}

fn transactions(rig: &mut Rig, phones: &mut Phones, count: u64) {
    for _ in 0..count {
        phones.options(rig, &mut Blind);
    }
}

fn streams(rig: &mut Rig, _: &mut Phones, count: u64) {
    for slot in 0..count as u32 {
        let flow = Flow {
            transport: Transport::Tcp,
            listener: ListenerId(1),
            peer: addr(ALICE),
            conn: Some(ConnId {
                shard: ShardId(0),
                slot,
                generation: 1,
            }),
        };
        rig.shards.handle(0, Event::Opened { flow });
    }
}

fn measure(row: &Row) {
    let mut rig = Rig::new(1, |cfg| {
        cfg.limits.buffer_bytes_max = 8 << 30;
        cfg.limits.connections_max = 200_000;
    });
    let mut phones = Phones::new();
    phones.register(&mut rig, &mut Blind);
    let before = (resident_bytes(), rig.pool_bytes());
    (row.fill)(&mut rig, &mut phones, row.count);
    let each = |now: usize, before: usize| now.saturating_sub(before) as u64 / row.count;
    println!(
        "| {} | {} | {} | {} |",
        row.what,
        row.count,
        each(resident_bytes(), before.0),
        each(rig.pool_bytes(), before.1)
    );
}

fn main() {
    if let Some(number) = std::env::args().nth(1) {
        let number: usize = number.parse().expect("the number of a row");
        return measure(&ROWS[number]);
    }
    println!("| what | how many | resident bytes each | of that in buffers |");
    println!("| --- | ---: | ---: | ---: |");
    for number in 0..ROWS.len() {
        let program = std::env::current_exe().expect("a program knows its path");
        let status = Command::new(program).arg(number.to_string()).status();
        assert!(status.expect("it is started").success());
    }
}
