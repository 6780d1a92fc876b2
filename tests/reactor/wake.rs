//! Wake-ups, deadlines, and the probe.

use std::sync::Arc;
use std::time::Duration;

use ringway::config::KernelLevel;
use ringway::io::clock::Clock;
use ringway::io::connections::Connections;
use ringway::io::probe::{Feature, Features};
use ringway::io::reactor::Reactor;
use ringway::io::socket::bind_all;
use ringway::io::uring::Uring;
use ringway::io::waker::Wakers;
use ringway::metrics::Metrics;
use ringway::pool::Pool;
use ringway::time::Instant;
use ringway::wire::{Effect, Effects, Event, ShardId};

use crate::at_every_level;
use crate::harness::*;

at_every_level!(
    another_thread_wakes_a_shard_as_often_as_it_likes,
    a_shard_wakes_another_through_its_ring,
    a_shard_that_wakes_itself_does_not_wait_once,
    a_turn_ends_at_its_deadline_in_whatever_order_deadlines_come,
    a_deadline_that_has_passed_does_not_wait,
    a_shard_that_is_gone_can_still_be_woken,
    addresses_are_free_when_the_reactor_is_dropped,
);

fn nothing(seen: &Seen) -> Option<()> {
    (*seen == Seen::Nothing).then_some(())
}

fn another_thread_wakes_a_shard_as_often_as_it_likes(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    // The first turn looks for datagrams and comes back by itself.
    server.wait_for(0, nothing);
    for _ in 0..100 {
        server.wakers.wake(ShardId(0));
        server.wait_for(0, nothing);
    }
    server.stop();
}

fn a_shard_wakes_another_through_its_ring(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.shards = 3;
    let server = Server::start(level, &cfg, listen);
    for shard in 0..3 {
        server.wait_for(shard, nothing);
    }
    for round in 0..100 {
        let (from, to) = (round % 3, (round + 1) % 3);
        // Twice in one turn is one wake-up.
        server.order(
            from,
            vec![Order::Wake(ShardId(to as u8)), Order::Wake(ShardId(to as u8))],
        );
        server.wait_for(to, nothing);
    }
    server.stop();
}

fn reactor(level: Level) -> (Uring, Arc<Wakers>) {
    let mut features = Features::probe().expect("io_uring");
    if let Some((major, minor)) = level {
        features = features.limited_to(KernelLevel { major, minor });
    }
    let cfg = config(LOOPBACK);
    let (_, mut sockets) = bind_all(&cfg).expect("sockets");
    let wakers = Arc::new(Wakers::new(1).expect("an eventfd"));
    let reactor = Uring::new(
        &cfg,
        ShardId(0),
        sockets.remove(0),
        features,
        Arc::new(Connections::new(&cfg.limits)),
        Arc::clone(&wakers),
        Arc::new(Metrics::default()),
        Clock::start(),
    )
    .expect("a reactor");
    (reactor, wakers)
}

fn a_shard_that_wakes_itself_does_not_wait_once(level: Level) {
    let (mut reactor, _wakers) = reactor(level);
    let mut nobody = |event: Event<'_>, _: Instant| panic!("{event:?}");
    // The first turn looks for datagrams and doesn't wait anyhow.
    reactor.turn(None, &mut nobody).expect("a turn");
    let mut effects = Effects::new(Pool::new(1 << 20));
    effects.push(Effect::Wake { shard: ShardId(0) });
    reactor.flush(&mut effects);
    // Did it wait, it would be for ever.
    reactor.turn(None, &mut nobody).expect("a turn");
    let deadline = reactor.now() + Duration::from_millis(20);
    while reactor.turn(Some(deadline), &mut nobody).expect("a turn") < deadline {
        // A turn may come back early, but not without end.
        assert!(reactor.now() < deadline + PATIENCE);
    }
}

fn a_turn_ends_at_its_deadline_in_whatever_order_deadlines_come(level: Level) {
    let (mut reactor, wakers) = reactor(level);
    // Falling deadlines, more than may be on the ring at once, then the first of all, then a later one again.
    let start = reactor.now();
    let deadlines = (1..=20u64)
        .rev()
        .map(|tens| start + Duration::from_secs(100 * tens))
        .chain([
            start + Duration::from_millis(20),
            start + Duration::from_millis(40),
        ]);
    for deadline in deadlines {
        let near = deadline.since(start) < Duration::from_secs(1);
        if !near {
            wakers.wake(ShardId(0));
        }
        loop {
            // A wake-up ends the far ones.
            let now = reactor
                .turn(Some(deadline), &mut |event, _| panic!("{event:?}"))
                .expect("a turn");
            if !near || now >= deadline {
                break;
            }
            assert!(reactor.now() <= deadline + PATIENCE);
        }
        if near {
            assert!(reactor.now() >= deadline);
        }
    }
}

fn a_deadline_that_has_passed_does_not_wait(level: Level) {
    let (mut reactor, _) = reactor(level);
    for _ in 0..100 {
        let now = reactor.now();
        // It would hang, did it wait for something to happen.
        reactor
            .turn(Some(now), &mut |event, _| panic!("{event:?}"))
            .expect("a turn");
    }
}

fn a_shard_that_is_gone_can_still_be_woken(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.shards = 2;
    let mut server = Server::start(level, &cfg, listen);
    server.wait_for(0, nothing);
    server.stop_shard(1);
    server.order(0, vec![Order::Wake(ShardId(1))]);
    server.wait_for(0, nothing);
    server.wakers.wake(ShardId(1));
    server.stop();
}

fn addresses_are_free_when_the_reactor_is_dropped(level: Level) {
    let mut cfg = config(LOOPBACK);
    let mut held = Vec::new();
    for _ in 0..20 {
        let server = Server::start(level, &cfg, echo);
        // The same port each time, with a connection that is open and one that is not accepted yet, perhaps.
        cfg.listeners.clone_from(&server.listeners);
        held.push(tcp_client(&server));
        server.opened(0);
        held.push(tcp_client(&server));
        server.stop();
    }
}

#[test]
fn the_probe_finds_what_this_kernel_must_have() {
    let features = Features::probe().expect("io_uring");
    let kernel = features.kernel();
    assert!(kernel >= ringway::io::probe::OLDEST);
    // What needs no privilege and no option of the kernel's build.
    for feature in [
        Feature::CqeSkip,
        Feature::MsgRing,
        Feature::CoopTaskrun,
        Feature::BufferRing,
        Feature::MultishotAccept,
        Feature::SingleIssuer,
        Feature::MultishotRecv,
        Feature::DeferTaskrun,
        Feature::UdpSegment,
        Feature::UdpGro,
    ] {
        if kernel >= feature.kernel() {
            assert!(features.has(feature), "{}:\n{features}", feature.name());
        }
    }
    println!("{features}");
}
