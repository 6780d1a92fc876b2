//! Micro benches of the parts of the core: `cargo bench --bench micro`.

mod rig;

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use ringway::config::{Config, Listener};
use ringway::location::{Aor, AorHasher};
use ringway::msg::edit::Edits;
use ringway::msg::name_addr::NameAddr;
use ringway::msg::request::Request;
use ringway::msg::scan::{Message, Table, scan};
use ringway::msg::uri::Uri;
use ringway::msg::via::Via;
use ringway::time::Instant;
use ringway::timer::Wheel;
use ringway::token::{Token, TokenKey, TokenKind};
use ringway::transaction::ict;
use ringway::wire::{ShardId, Transport};

const INVITE: &[u8] = include_bytes!("../tests/fuzz/corpus/scan/seed-invite.sip");
const CONTACT: &[u8] = b"<sip:13800011101@182.0.123.56:5060>;+g.3gpp.srvcc-alerting;+g.3gpp.mid-call;\
    +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video";

fn main() {
    divan::main();
}

#[divan::bench]
fn scan_an_invite(bencher: Bencher) {
    let mut table = Box::new(Table::new());
    bencher.bench_local(|| scan(black_box(INVITE), &mut table));
}

#[divan::bench]
fn check_an_invite(bencher: Bencher) {
    let mut table = Box::new(Table::new());
    scan(INVITE, &mut table).expect("well-formed");
    bencher.bench_local(|| Request::check(black_box(Message::new(INVITE, &table))).is_ok());
}

#[divan::bench]
fn apply_six_edits_to_an_invite(bencher: Bencher) {
    let mut table = Box::new(Table::new());
    scan(INVITE, &mut table).expect("well-formed");
    let msg = Message::new(INVITE, &table);
    let mut edits = Box::new(Edits::new());
    let mut dst = vec![0; 4_096];
    bencher.bench_local(|| {
        edits.clear();
        for line in msg.lines().iter().take(6) {
            edits.replace(line.value).put(b"another value of some length");
        }
        edits.apply(INVITE, &mut dst)
    });
}

#[divan::bench]
fn view_a_contact() -> bool {
    NameAddr::parse(black_box(CONTACT)).is_ok()
}

#[divan::bench]
fn view_a_uri() -> bool {
    Uri::parse(black_box(b"sip:13800011101@182.0.123.56:5060;transport=UDP")).is_ok()
}

#[divan::bench]
fn view_a_via() -> bool {
    Via::parse(black_box(
        b"SIP/2.0/UDP 182.0.123.56:5060;branch=z9hG4bKb4MiHkghekvemEcWZotV2Pm9uu.",
    ))
    .is_ok()
}

#[divan::bench]
fn step_an_invite_transaction() -> ict::State {
    ict::step(black_box(ict::State::Calling), black_box(ict::Input::Provisional)).next
}

#[divan::bench]
fn write_a_token_and_read_it(bencher: Bencher) {
    let key = TokenKey::new([7; 16]);
    let token = Token {
        kind: TokenKind::Leg,
        shard: ShardId(1),
        slot: 12_345,
        generation: 678,
    };
    bencher.bench_local(|| key.parse(&key.text(black_box(token))));
}

#[divan::bench]
fn insert_a_timer_and_cancel_it(bencher: Bencher) {
    let now = Instant::from_millis(1_000_000);
    let mut wheel = Wheel::new(now, 100_000);
    for i in 0..10_000 {
        wheel.insert(now + Duration::from_millis(i), i);
    }
    bencher.bench_local(|| {
        let id = wheel.insert(now + Duration::from_millis(black_box(32_000)), 7);
        wheel.cancel(id)
    });
}

#[divan::bench]
fn insert_a_timer_and_pop_it(bencher: Bencher) {
    let mut now = Instant::from_millis(1_000_000);
    let mut wheel = Wheel::new(now, 100_000);
    bencher.bench_local(|| {
        wheel.insert(now + Duration::from_millis(500), 7);
        now = now + Duration::from_millis(500);
        wheel.pop(now)
    });
}

#[divan::bench]
fn key_of_a_subscriber(bencher: Bencher) {
    let addr = rig::addr(rig::SERVER);
    let cfg = Config {
        listeners: vec![Listener {
            transport: Transport::Udp,
            addr,
            advertised: rig::SERVER.to_owned(),
            state: ringway::config::ListenerState::Open,
        }],
        domains: vec!["one.att.net".to_owned()],
        ..Config::default()
    };
    let hasher = AorHasher::new([5; 8]);
    bencher.bench_local(|| {
        let uri = Uri::parse(black_box(b"tel:13800011103;phone-context=one.att.net")).ok()?;
        Some(hasher.key(&Aor::from_uri(&uri, &cfg).ok()?))
    });
}

/// From the datagram to the 200, the look-up in the location table among it.
#[divan::bench]
fn refresh_a_registration(bencher: Bencher) {
    let (mut rig, mut phones) = (rig::Rig::new(1, |_| {}), rig::Phones::new());
    bencher.bench_local(|| {
        phones.register(&mut rig, &mut rig::Blind);
        rig.advance(&mut rig::Blind, 1);
    });
}
