//! Bytes of user-space memory for each thing that the core holds: `cargo run --release --example memory`.
//!
//! Live bytes are those asked of the allocator and not given back, which the pools' free buffers and the tables' free slots
//! are part of; beside them stands what the process grew by in pages.

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rig::{ALICE, Blind, Crowd, Phones, Rig, addr};
use ringway::wire::{ConnId, Event, Flow, ListenerId, ShardId, Transport};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LIVE.fetch_add(new_size, Relaxed);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4_096
}

/// What `fill` takes, for each of `count`.
fn row(what: &str, count: u64, rig: &mut Rig, fill: impl FnOnce(&mut Rig)) {
    let before = (LIVE.load(Relaxed), rig.pool_bytes(), resident_bytes());
    fill(rig);
    let per = |now: usize, before: usize| now.saturating_sub(before) as u64 / count;
    println!(
        "| {what} | {count} | {} | {} | {} |",
        per(LIVE.load(Relaxed), before.0),
        per(rig.pool_bytes(), before.1),
        per(resident_bytes(), before.2)
    );
}

fn roomy() -> Rig {
    Rig::new(1, |cfg| {
        cfg.limits.buffer_bytes_max = 8 << 30;
        cfg.limits.connections_max = 200_000;
        cfg.limits.calls_max = 200_000;
        cfg.limits.aors_max = 1_100_000;
    })
}

/// Transactions end 32 s after their answer: at so many a second only a few are there at any time.
const A_SECOND: u64 = 200;

fn main() {
    println!("| what | how many | live bytes each | of that in buffers | resident bytes each |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut rig = roomy();
    row("registered binding", 1_000_000, &mut rig, |rig| {
        let mut crowd = Crowd::new();
        for number in 0..1_000_000 {
            crowd.register(rig, number);
            if number % A_SECOND == 0 {
                rig.advance(&mut Blind, 1_000);
            }
        }
        rig.advance(&mut Blind, 60_000);
    });
    drop(rig);
    let mut rig = roomy();
    let mut phones = Phones::new();
    phones.register(&mut rig, &mut Blind);
    row("call in progress", 100_000, &mut rig, |rig| {
        for number in 0..100_000 {
            phones.call(rig, &mut Blind);
            if number % A_SECOND == 0 {
                rig.advance(&mut Blind, 1_000);
            }
        }
        rig.advance(&mut Blind, 60_000);
    });
    drop(rig);
    let mut rig = roomy();
    row(
        "transaction (an OPTIONS with its 200)",
        100_000,
        &mut rig,
        |rig| {
            for _ in 0..100_000 {
                phones.options(rig, &mut Blind);
            }
        },
    );
    drop(rig);
    let mut rig = roomy();
    row("idle stream", 100_000, &mut rig, |rig| {
        for slot in 0..100_000 {
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
            let (now, out) = (rig.now, &mut rig.effects[0]);
            rig.shards[0].handle(Event::Opened { flow }, now, out);
        }
    });
}
