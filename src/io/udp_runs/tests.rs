use proptest::prelude::*;

use super::*;

fn peer(number: usize) -> SocketAddr {
    ([127, 0, 0, 1 + number as u8], 5060).into()
}

fn waiting(peer_number: usize, len: usize, is_paddable: bool, call: &'static str) -> Waiting<'static> {
    Waiting {
        peer: peer(peer_number),
        len,
        is_paddable,
        call: call.as_bytes(),
    }
}

/// The shipments as lists of datagrams, with their length if they are runs.
fn planned(all: &[Waiting<'_>], refusals: &Refusals) -> Vec<(Vec<usize>, Option<usize>)> {
    let mut plan = Plan::new();
    plan.make(all.len(), |index| all[index], refusals);
    plan.shipments
        .iter()
        .map(|&shipment| {
            let len = (shipment.count > 1).then_some(usize::from(shipment.len));
            (plan.datagrams(shipment).collect(), len)
        })
        .collect()
}

fn plan_of(all: &[Waiting<'_>]) -> Vec<(Vec<usize>, Option<usize>)> {
    planned(all, &Refusals::default())
}

#[test]
fn what_waits_for_one_peer_with_one_length_is_a_run() {
    let all = [
        waiting(0, 400, false, "a"),
        waiting(1, 400, false, "b"),
        waiting(0, 900, false, "c"),
        waiting(0, 400, false, "d"),
        waiting(2, 400, false, "e"),
        waiting(0, 900, false, "f"),
    ];
    assert_eq!(
        plan_of(&all),
        [
            (vec![0, 3], Some(400)),
            (vec![2, 5], Some(900)),
            (vec![1], None),
            (vec![4], None),
        ]
    );
}

#[test]
fn lengths_are_made_equal_only_where_white_space_may_stand_and_not_by_much() {
    let all = [
        waiting(0, 400, true, "a"),
        waiting(0, 410, false, "b"),
        waiting(0, 400 + PADDING_MAX, true, "c"),
        waiting(0, 405, true, "d"),
        waiting(0, 411, false, "e"),
        waiting(0, 411, true, "f"),
    ];
    // "b" fixes the first run to 410; "c" and what goes with it make another; "e" is fixed to a length of its own.
    assert_eq!(
        plan_of(&all),
        [
            (vec![0, 1, 3], Some(410)),
            (vec![2, 5], Some(400 + PADDING_MAX)),
            (vec![4], None),
        ]
    );
    let all = [
        waiting(0, 400, true, "a"),
        waiting(0, 401 + PADDING_MAX, true, "b"),
    ];
    assert_eq!(plan_of(&all), [(vec![0], None), (vec![1], None)]);
}

#[test]
fn two_messages_of_one_call_never_change_places() {
    let all = [
        waiting(0, 400, true, "other"),
        waiting(0, 900, true, "call"),
        waiting(0, 400, true, "call"),
        waiting(0, 400, true, "third"),
    ];
    // The second message of "call" must not join the run that is before its first one.
    assert_eq!(
        plan_of(&all),
        [(vec![0, 3], Some(400)), (vec![1], None), (vec![2], None)]
    );
}

#[test]
fn a_run_keeps_within_what_the_kernel_and_the_way_take() {
    let many = vec![waiting(0, 300, false, ""); PLAN_MAX];
    let counts: Vec<_> = plan_of(&many).iter().map(|(run, _)| run.len()).collect();
    assert_eq!(counts, [RUN_DATAGRAMS_MAX; PLAN_MAX / RUN_DATAGRAMS_MAX]);
    let large = vec![waiting(0, 30_000, false, ""); 5];
    let counts: Vec<_> = plan_of(&large).iter().map(|(run, _)| run.len()).collect();
    assert_eq!(counts, [2, 2, 1]);
    let nothing = vec![waiting(0, 0, false, ""); 2];
    assert_eq!(plan_of(&nothing).len(), 2, "a length of 0 means no run");
    for (ip, longest) in [
        ("192.0.2.1", PAYLOAD_MAX_V4),
        ("2001:db8::1", PAYLOAD_MAX_V6),
        ("::ffff:192.0.2.1", PAYLOAD_MAX_V4),
    ] {
        let to = |len| Waiting {
            peer: SocketAddr::new(ip.parse().expect("an address"), 5060),
            ..waiting(0, len, true, "")
        };
        assert_eq!(plan_of(&[to(longest), to(longest)]).len(), 1, "{ip}");
        assert_eq!(plan_of(&[to(longest), to(longest + 1)]).len(), 2, "{ip}");
    }
}

#[test]
fn a_peer_that_refused_a_run_is_sent_none_and_too_many_of_them_end_it_for_all() {
    let error = io::Error::from_raw_os_error;
    let all = [0, 0, 1, 1].map(|number| waiting(number, 400, false, ""));
    let mut refusals = Refusals::default();
    assert!(
        !refusals.note(peer(0), &error(libc::ENOBUFS)),
        "that is no word about runs"
    );
    assert_eq!(planned(&all, &refusals).len(), 2);
    assert!(refusals.note(peer(0), &error(libc::EIO)));
    assert!(!refusals.note(peer(0), &error(libc::EIO)), "that is known");
    assert_eq!(
        planned(&all, &refusals),
        [(vec![0], None), (vec![1], None), (vec![2, 3], Some(400))]
    );
    for port in 0..2 * REFUSED_PEERS_MAX as u16 {
        refusals.note(([192, 0, 2, 1], port).into(), &error(libc::EINVAL));
    }
    assert_eq!(refusals.peers.len(), REFUSED_PEERS_MAX);
    assert_eq!(planned(&all, &refusals).len(), 4);
}

proptest! {
    #[test]
    fn everything_leaves_once_and_a_call_keeps_its_order(
        all in prop::collection::vec((0..4usize, 300..600usize, any::<bool>(), 0..6usize), 0..PLAN_MAX)
    ) {
        const CALLS: [&str; 6] = ["", "a", "b", "c", "d", "e"];
        let all: Vec<_> = all
            .into_iter()
            .map(|(peer, len, is_paddable, call)| waiting(peer, len, is_paddable, CALLS[call]))
            .collect();
        let shipments = plan_of(&all);
        let order: Vec<usize> = shipments.iter().flat_map(|(run, _)| run.clone()).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..all.len()));
        for (place, &index) in order.iter().enumerate() {
            for &later in &order[place + 1..] {
                let same = all[index].peer == all[later].peer && all[index].call == all[later].call;
                prop_assert!(!same || index < later);
            }
        }
        for (run, len) in &shipments {
            for &index in run {
                let this = &all[index];
                prop_assert_eq!(this.peer, all[run[0]].peer);
                if let Some(len) = *len {
                    prop_assert!(this.len == len || (this.is_paddable && this.len < len && len - this.len <= PADDING_MAX));
                }
            }
        }
    }
}

#[test]
fn who_is_nowhere_does_not_keep_others_from_being_sent_runs() {
    let mut refusals = Refusals::default();
    let error = io::Error::from_raw_os_error(libc::EINVAL);
    for index in 0..REFUSED_PEERS_MAX as u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + index);
        assert!(!refusals.note((ip, 0).into(), &error));
    }
    assert!(refusals.allow(&([192, 0, 2, 1], 5060).into()));
    let narrow = ([192, 0, 2, 2], 5060).into();
    assert!(refusals.note(narrow, &error) && !refusals.allow(&narrow));
}
