//! The path of a binding: RFC 3327 §5.3.

use super::*;

const SUPPORTED: &str = "Supported: gruu, path";
const CONTACT: &str = "Contact: <sip:alice@192.0.2.1>;expires=600";

/// The path that each contact is reached by, in the order of ringing.
fn paths(rig: &Rig) -> Vec<String> {
    let mut set = ContactSet::new();
    rig.location.look_up(rig.key(ALICE), &rig.pool, rig.now, &mut set);
    set.iter()
        .map(|contact| String::from_utf8_lossy(contact.path).into_owned())
        .collect()
}

#[test]
fn a_path_is_kept_in_the_order_of_its_lines_and_goes_with_the_refresh_that_has_none() {
    let mut rig = Rig::new();
    let lines = [
        CONTACT,
        SUPPORTED,
        "Path: <sip:p3.example;lr>",
        "Path: \"edge, one\" <sip:p2.example:5080;lr>;x=y , <sip:192.0.2.9;lr;ob>",
    ];
    let kept = ["<sip:p3.example;lr>, \"edge, one\" <sip:p2.example:5080;lr>;x=y, <sip:192.0.2.9;lr;ob>"];
    rig.register(1, &lines).expect("registered");
    assert_eq!(paths(&rig), kept);
    // A refresh by the same way says the same, and is no change to those who watch.
    let done = rig.register(2, &lines).expect("refreshed");
    assert_eq!((done.added, done.changed), (0, false));
    assert_eq!(paths(&rig), kept);
    assert_eq!(rig.pool.in_use(), 1);
    rig.register(3, &[CONTACT]).expect("refreshed from nearby");
    assert_eq!(paths(&rig), [""]);
}

#[test]
fn each_contact_has_its_own_path() {
    let mut rig = Rig::new();
    rig.register(1, &[CONTACT, SUPPORTED, "Path: <sip:p1.example;lr>"])
        .expect("registered");
    let done = rig.register_as(ALICE, "c2", 1, &["Contact: <sip:alice@192.0.2.2>;expires=600"]);
    assert!(done.is_ok());
    let mut both = paths(&rig);
    both.sort();
    assert_eq!(both, ["", "<sip:p1.example;lr>"]);
}

#[test]
fn a_path_that_the_phone_knows_nothing_of_is_refused_unless_it_may_be() {
    let lines = [CONTACT, "Path: <sip:p1.example;lr>"];
    let mut rig = Rig::new();
    assert_eq!(rig.register(1, &lines), Err(Refusal::PathNotSupported));
    assert_eq!(rig.look_up(ALICE).0, Outcome::Unknown);
    let mut rig = Rig::with(|cfg| cfg.registrar.path_without_support = true);
    rig.register(1, &lines).expect("registered");
    assert_eq!(paths(&rig), ["<sip:p1.example;lr>"]);
}

#[test]
fn a_path_that_no_request_could_follow_is_refused() {
    let mut rig = Rig::new();
    let long = format!("Path: <sip:{}@p.example;lr>", "a".repeat(PATH_BYTES));
    let many = format!("Path: {}", ["<sip:p.example;lr>"; PATH_HOPS_MAX + 1].join(","));
    for (path, refusal) in [
        ("Path: <sip:p.example>", Refusal::MalformedPath),
        ("Path: <tel:+49;lr>", Refusal::MalformedPath),
        ("Path: <sips:p.example;lr>", Refusal::MalformedPath),
        ("Path: <sip:p.example;lr>, <sip:q", Refusal::MalformedPath),
        (&long, Refusal::PathTooLong),
        (&many, Refusal::PathTooLong),
    ] {
        assert_eq!(
            rig.register(1, &[CONTACT, SUPPORTED, path]),
            Err(refusal),
            "{path}"
        );
    }
    let most = format!("Path: {}", ["<sip:p.example;lr>"; PATH_HOPS_MAX].join(","));
    rig.register(1, &[CONTACT, SUPPORTED, &most]).expect("registered");
    assert_eq!((paths(&rig).len(), rig.pool.in_use()), (1, 1));
}

const PATH_BYTES: usize = crate::location::binding::PATH_BYTES_MAX;
