//! Time, room and cost.

use std::mem::size_of;

use crate::location::{Binding, Subscriber};
use crate::slots::Id;

use super::*;

#[test]
fn bindings_expire_in_their_time_and_the_subscriber_is_remembered_for_a_while() {
    let mut rig = Rig::with(|cfg| cfg.registrar.offline_memory = Duration::from_secs(1_000));
    assert_eq!(rig.look_up(ALICE).0, Outcome::Unknown);
    rig.register(
        1,
        &["Contact: <sip:a@192.0.2.1>;expires=100, <sip:b@192.0.2.1>;expires=200"],
    )
    .expect("registered");
    assert_eq!(rig.advance(99), 0);
    assert_eq!(rig.contacts()[0], "<sip:a@192.0.2.1>;expires=1");
    assert_eq!(rig.advance(1), 1);
    assert_eq!(rig.contacts(), ["<sip:b@192.0.2.1>;expires=100"]);
    rig.register(2, &["Contact: <sip:b@192.0.2.1>;expires=300"])
        .expect("refreshed");
    assert_eq!(
        rig.advance(299),
        0,
        "the timer that was left where it was only looked again"
    );
    assert_eq!(rig.advance(1), 1);
    assert_eq!(rig.look_up(ALICE), (Outcome::Offline, vec![]));
    assert_eq!(rig.advance(999), 0);
    assert_eq!(rig.look_up(ALICE).0, Outcome::Offline);
    rig.advance(1);
    assert_eq!(rig.look_up(ALICE).0, Outcome::Unknown);
    assert_eq!(
        (rig.location.subscribers(), rig.wheel.len(), rig.pool.in_use()),
        (0, 0, 0)
    );
}

#[test]
fn a_shortened_binding_expires_early_and_a_late_timer_does_not_ring_the_dead() {
    let mut rig = Rig::new();
    rig.register(1, &["Contact: <sip:a@192.0.2.1>;expires=1000"])
        .expect("registered");
    rig.register(2, &["Contact: <sip:a@192.0.2.1>;expires=60"])
        .expect("shortened");
    // Timers have not run yet, but the time is over.
    rig.now = rig.now + Duration::from_secs(60);
    assert_eq!(rig.look_up(ALICE), (Outcome::Offline, vec![]));
    assert!(rig.contacts().is_empty());
    assert_eq!(rig.advance(0), 1);
    assert_eq!(rig.wheel.len(), 1, "the memory of one who is offline");
    rig.register(3, &["Contact: <sip:a@192.0.2.1>"])
        .expect("back again");
    assert_eq!(rig.wheel.len(), 1);
}

/// It is the request that is at fault, and no table that is full.
#[test]
fn what_a_binding_can_not_hold_is_too_long() {
    let mut rig = Rig::new();
    let contact = "Contact: <sip:a@192.0.2.1>";
    let long = "x".repeat(1_500);
    let long_contact = format!("{contact};{long}");
    for (aor, call_id, lines) in [
        (ALICE, "c1", [long_contact.as_str()]),
        (ALICE, long.as_str(), [contact]),
        (format!("{ALICE};x={long}").as_str(), "c1", [contact]),
    ] {
        let refused = rig.register_as(aor, call_id, 1, &lines);
        assert_eq!(refused, Err(Refusal::ContactTooLong));
    }
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn one_subscriber_has_so_many_contacts_and_no_more() {
    let mut rig = Rig::with(|cfg| cfg.limits.contacts_per_aor_max = 2);
    rig.register(1, &["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>"])
        .expect("registered");
    assert_eq!(
        rig.register(2, &["Contact: <sip:c@192.0.2.1>"]),
        Err(Refusal::TooManyContacts)
    );
    assert_eq!(rig.contacts().len(), 2);
    rig.register(2, &["Contact: <sip:c@192.0.2.1>, <sip:a@192.0.2.1>;expires=0"])
        .expect("one for another");
    assert_eq!(rig.look_up(ALICE).1.len(), 2);
    assert_eq!(rig.pool.in_use(), 2);
}

/// What is beyond the limit is not even read: each contact is compared with all before it.
#[test]
fn a_request_with_contacts_without_end_is_left_where_the_limit_is() {
    let mut rig = Rig::with(|cfg| cfg.limits.contacts_per_aor_max = 2);
    rig.register(1, &["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>"])
        .expect("registered");
    let many: Vec<String> = (0..2_000).map(|n| format!("<sip:{n}@192.0.2.1>")).collect();
    let before = rig.pool.in_use();
    let line = format!("Contact: {}, <", many.join(", "));
    assert_eq!(rig.register(2, &[&line]), Err(Refusal::TooManyContacts));
    assert_eq!(rig.pool.in_use(), before);
    // All of those that are there may go in the request that brings as many.
    let gone = ["a", "b"].map(|user| format!("<sip:{user}@192.0.2.1>;expires=0"));
    let line = format!(
        "Contact: <sip:c@192.0.2.1>, <sip:d@192.0.2.1>, {}",
        gone.join(", ")
    );
    rig.register(3, &[&line]).expect("two for two");
    assert_eq!(rig.look_up(ALICE).1.len(), 2);
}

#[test]
fn a_full_table_forgets_who_has_been_offline_longest_and_then_says_no() {
    let mut rig = Rig::with(|cfg| cfg.limits.aors_max = 3);
    let contact = ["Contact: <sip:a@192.0.2.1>"];
    let user = |n: u32| format!("sip:u{n}@one.att.net");
    for n in 1..=3 {
        rig.register_as(&user(n), "c", 1, &contact).expect("room");
    }
    assert_eq!(rig.register_as(&user(4), "c", 1, &contact), Err(Refusal::Full));
    assert_eq!(
        rig.register_as(&user(4), "c", 1, &[]),
        Ok(Committed::default()),
        "a query needs no room"
    );
    // 2 goes, then 1; 2 comes back and goes again: so 1 has been offline longest.
    for (n, cseq) in [(2, 2), (1, 2)] {
        rig.register_as(&user(n), "c", cseq, &["Contact: *", "Expires: 0"])
            .expect("gone");
    }
    rig.register_as(&user(2), "c", 3, &contact).expect("back");
    rig.register_as(&user(2), "c", 4, &["Contact: *", "Expires: 0"])
        .expect("gone");
    rig.location.release_removed(&mut rig.pool);
    rig.register_as(&user(4), "c", 1, &contact).expect("room made");
    let outcomes = [1, 2, 3, 4].map(|n| rig.look_up(&user(n)).0);
    assert_eq!(
        outcomes,
        [
            Outcome::Unknown,
            Outcome::Offline,
            Outcome::Contacts,
            Outcome::Contacts
        ]
    );
    assert_eq!(rig.wheel.len(), 3);
    rig.location.clear(&mut rig.wheel, &mut rig.pool);
    assert_eq!((rig.location.subscribers(), rig.location.bindings()), (0, 0));
    assert_eq!((rig.wheel.len(), rig.pool.in_use()), (0, 0));
}

#[test]
fn what_takes_the_place_of_a_contact_needs_no_room() {
    let mut rig = Rig::with(|cfg| {
        cfg.limits.aors_max = 2;
        cfg.limits.contacts_per_aor_max = 2;
    });
    let user = |n: u32| format!("sip:u{n}@one.att.net");
    let both = ["Contact: <sip:a@192.0.2.1>;+sip.instance=\"<urn:uuid:1>\", <sip:b@192.0.2.1>"];
    for n in 1..=2 {
        rig.register_as(&user(n), "c", 1, &both).expect("room");
    }
    let exchanges = [
        // The new one before the old one, and behind it.
        "Contact: <sip:c@192.0.2.1>, <sip:b@192.0.2.1>;expires=0",
        "Contact: <sip:c@192.0.2.1>;expires=0, <sip:b@192.0.2.1>",
        // Another contact of the same device, and both at once.
        "Contact: <sip:d@192.0.2.1>;+sip.instance=\"<urn:uuid:1>\"",
        "Contact: <sip:e@192.0.2.1>, <sip:a@192.0.2.1>;+sip.instance=\"<urn:uuid:1>\", <sip:b@192.0.2.1>;expires=0",
    ];
    for (cseq, line) in (2..).zip(exchanges) {
        rig.register_as(&user(1), "c", cseq, &[line]).expect(line);
        rig.location.release_removed(&mut rig.pool);
        assert_eq!(rig.look_up(&user(1)).1.len(), 2, "{line}");
    }
    assert_eq!(
        rig.register_as(&user(1), "c", 9, &["Contact: <sip:f@192.0.2.1>"]),
        Err(Refusal::TooManyContacts)
    );
    assert_eq!(rig.pool.in_use(), 4);
}

#[test]
fn under_lower_limits_those_who_are_there_stay_and_others_take_the_places_of_those_who_went() {
    let mut rig = Rig::with(|cfg| {
        cfg.limits.aors_max = 6;
        cfg.limits.contacts_per_aor_max = 4;
    });
    let user = |n: u32| format!("sip:u{n}@one.att.net");
    let many = ["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>, <sip:c@192.0.2.1>"];
    for n in 1..=6 {
        rig.register_as(&user(n), "c", 1, &many).expect("room");
    }
    rig.cfg.limits.aors_max = 2;
    rig.cfg.limits.contacts_per_aor_max = 1;
    rig.location.configure(&rig.cfg);
    let one = ["Contact: <sip:a@192.0.2.1>"];
    assert_eq!(rig.register_as(&user(7), "c", 1, &one), Err(Refusal::Full));
    rig.register_as(&user(1), "c", 2, &many).expect("refreshed");
    let other = ["Contact: <sip:d@192.0.2.1>, <sip:a@192.0.2.1>;expires=0"];
    rig.register_as(&user(1), "c", 3, &other)
        .expect("one for another");
    for n in 2..=6 {
        rig.register_as(&user(n), "c", 2, &["Contact: *", "Expires: 0"])
            .expect("gone");
    }
    // Two are forgotten for one that comes, as long as there are two.
    for (n, known) in [(7, 5), (8, 4), (9, 4)] {
        rig.register_as(&user(n), "c", 1, &one).expect("a place");
        assert_eq!(rig.location.subscribers(), known);
    }
    assert_eq!(rig.register_as(&user(10), "c", 1, &one), Err(Refusal::Full));
    rig.location.release_removed(&mut rig.pool);
    assert_eq!(rig.look_up(&user(1)).1.len(), 3);
    rig.location.clear(&mut rig.wheel, &mut rig.pool);
    assert_eq!((rig.wheel.len(), rig.pool.in_use()), (0, 0));
}

#[test]
fn new_subscribers_leave_room_for_the_refreshes_of_those_who_are_there() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(8 * crate::pool::CLASS_BYTES[0]);
    let contact = ["Contact: <sip:a@192.0.2.1>"];
    let user = |n: u32| format!("sip:u{n}@one.att.net");
    for n in 1..=5 {
        rig.register_as(&user(n), "c", 1, &contact).expect("room");
    }
    assert_eq!(rig.register_as(&user(6), "c", 1, &contact), Err(Refusal::Full));
    assert_eq!(
        rig.register_as(&user(6), "c", 2, &[]),
        Ok(Committed::default()),
        "a query"
    );
    for n in 1..=5 {
        rig.register_as(&user(n), "c", 2, &contact).expect("refreshed");
    }
    rig.register_as(&user(1), "c", 3, &["Contact: *", "Expires: 0"])
        .expect("gone");
    rig.location.release_removed(&mut rig.pool);
    rig.register_as(&user(6), "c", 3, &contact).expect("room again");
}

#[test]
fn without_a_buffer_nothing_is_registered_and_nothing_is_lost() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(3 * crate::pool::CLASS_BYTES[0]);
    assert_eq!(
        rig.register(
            1,
            &["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>, <sip:c@192.0.2.1>, <sip:d@192.0.2.1>"]
        ),
        Err(Refusal::Full)
    );
    assert_eq!((rig.pool.in_use(), rig.location.subscribers()), (0, 0));
    assert!(
        rig.register(1, &["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>"])
            .is_ok()
    );
}

#[test]
fn a_warm_registrar_refreshes_without_growing() {
    let mut rig = Rig::new();
    let contact = ["Contact: <sip:a@192.0.2.1>;+sip.instance=\"<urn:uuid:1>\""];
    rig.register(1, &contact).expect("registered");
    rig.register(2, &contact).expect("refreshed");
    let allocated = rig.pool.allocated_bytes();
    for cseq in 3..500 {
        rig.advance(1_000);
        rig.register(cseq, &contact).expect("refreshed");
    }
    assert_eq!(
        (rig.pool.allocated_bytes(), rig.pool.in_use(), rig.wheel.len()),
        (allocated, 1, 1)
    );
}

/// What one registered phone costs: its texts in the buffer that those of a mobile phone need, its slots, its timer, its place in the map.
#[test]
fn a_binding_costs_less_than_a_thousand_bytes() {
    let pool = crate::pool::CLASS_BYTES[1] + size_of::<Option<Box<[u8]>>>() + 4 + 2 + 4;
    let slots = size_of::<(usize, (u32, Binding))>() + size_of::<(usize, (u32, Subscriber))>();
    let timer = 48;
    // A map may be little more than half full.
    let map = 2 * (size_of::<(AorKey, Id<()>)>() + 1);
    let bytes = pool + slots + timer + map;
    assert!(bytes <= 1_000, "{bytes}");
}
