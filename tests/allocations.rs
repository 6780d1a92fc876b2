//! Once warm the core allocates nothing for what a registered phone does all day: proven with an allocator that counts.
//!
//! Not covered, because rare: a failure that is kept while other phones ring is copied when it is passed back after all.

#[path = "../perf/rig.rs"]
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rig::{Kind, Phones, Probe, Rig};

struct Counting;

thread_local! {
    /// Allocations of this thread while it is watched; `None` while it is not.
    static WATCHED: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    WATCHED.with(|watched| watched.set(watched.get().map(|count| count + 1)));
}

// SAFETY: every call goes on to the system's allocator as it came; counting allocates nothing, as the cell is const.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations by kind of message.
#[derive(Default)]
struct Counts {
    by_kind: [(u64, u64); Kind::ALL.len()],
}

impl Probe for Counts {
    fn around(&mut self, kind: Kind, work: impl FnOnce()) {
        WATCHED.set(Some(0));
        work();
        let count = WATCHED.replace(None).expect("it was being watched");
        let (messages, allocations) = &mut self.by_kind[kind as usize];
        *messages += 1;
        *allocations += count;
    }
}

/// Seconds of a warm-up: longer than any transaction lives (RFC 3261 §17: 64*T1), so that as many end as begin.
const WARM: usize = 60;

#[track_caller]
fn allocates_nothing(shards: usize, kinds: &[Kind], act: impl FnMut(&mut Phones, &mut Rig, &mut Counts)) {
    allocates_nothing_with(Rig::new(shards, |_| {}), shards, kinds, act);
}

#[track_caller]
fn allocates_nothing_with(
    mut rig: Rig,
    shards: usize,
    kinds: &[Kind],
    mut act: impl FnMut(&mut Phones, &mut Rig, &mut Counts),
) {
    let mut phones = Phones::new();
    phones.register(&mut rig, &mut rig::Blind);
    phones.subscribe(&mut rig);
    // The tables reach their size in the first minute; twice as much at once as later makes up for chance.
    let mut warming = Counts::default();
    for second in 0..2 * WARM {
        for _ in 0..if second < WARM { 2 } else { 1 } {
            act(&mut phones, &mut rig, &mut warming);
        }
        rig.advance(&mut warming, 1_000);
    }
    let mut counts = Counts::default();
    for _ in 0..500 {
        act(&mut phones, &mut rig, &mut counts);
        rig.advance(&mut counts, 1_000);
    }
    for kind in kinds.iter().chain(&[Kind::Timers]) {
        let (messages, allocations) = counts.by_kind[*kind as usize];
        assert!(messages >= 500, "{}: only {messages} were seen", kind.text());
        assert_eq!(
            allocations,
            0,
            "{} with {shards} shards, {messages} times",
            kind.text()
        );
    }
}

#[test]
fn the_probe_sees_an_allocation() {
    let mut counts = Counts::default();
    counts.around(Kind::Options, || drop(std::hint::black_box(Box::new(7))));
    assert_eq!(counts.by_kind[Kind::Options as usize], (1, 1));
}

#[test]
fn a_registration_that_is_refreshed_allocates_nothing() {
    for shards in [1, 2] {
        allocates_nothing(shards, &[Kind::Register], |phones, rig, counts| {
            phones.register(rig, counts);
        });
    }
}

#[test]
fn a_whole_call_allocates_nothing() {
    let kinds = [
        Kind::Invite,
        Kind::Trying,
        Kind::Ringing,
        Kind::Answer,
        Kind::Ack,
        Kind::Bye,
        Kind::ByeOk,
    ];
    for shards in [1, 2] {
        allocates_nothing(shards, &kinds, |phones, rig, counts| {
            let call = phones.call(rig, counts);
            phones.hang_up(rig, counts, call);
            assert_eq!(rig.calls(), 0);
        });
    }
}

#[test]
fn a_call_through_the_proxy_allocates_nothing() {
    let kinds = [
        Kind::Invite,
        Kind::Trying,
        Kind::Ringing,
        Kind::Answer,
        Kind::Ack,
        Kind::Bye,
        Kind::ByeOk,
    ];
    for shards in [1, 2] {
        let rig = Rig::new(shards, |cfg| cfg.routes = rig::routes());
        allocates_nothing_with(rig, shards, &kinds, |phones, rig, counts| {
            phones.proxied_call(rig, counts);
            assert_eq!(rig.calls(), 0, "no call of the phone service");
        });
    }
}

#[test]
fn an_options_allocates_nothing() {
    for shards in [1, 2] {
        allocates_nothing(shards, &[Kind::Options], |phones, rig, counts| {
            phones.options(rig, counts);
        });
    }
}

#[test]
fn a_message_to_a_phone_allocates_nothing() {
    for shards in [1, 2] {
        allocates_nothing(
            shards,
            &[Kind::Message, Kind::MessageOk],
            |phones, rig, counts| {
                phones.message(rig, counts);
            },
        );
    }
}

#[test]
fn a_subscription_that_is_refreshed_allocates_nothing() {
    for shards in [1, 2] {
        allocates_nothing(
            shards,
            &[Kind::Subscribe, Kind::NotifyOk],
            |phones, rig, counts| {
                phones.resubscribe(rig, counts);
            },
        );
    }
}
