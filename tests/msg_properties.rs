//! Properties of the message layer over messages that are made up, mutated and cut: what the fuzz targets check, and that an
//! edited message reads as what was asked for.

#[path = "fuzz/src/lib.rs"]
mod checks;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use checks::Checks;
use ringway::msg::edit::Edits;
use ringway::msg::name::Name;
use ringway::msg::name_addr::NameAddr;
use ringway::msg::scan::{Message, Table, scan};
use ringway::msg::stream::{Frame, FrameLimits, frame};
use ringway::msg::via::Via;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(directory)
        .expect("the corpus is there")
        .map(|entry| entry.expect("a directory that can be read").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file that can be read"))
        .collect()
}

/// Pieces that mean something to a parser of SIP.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n\t",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"=",
    b"\"",
    b"\\",
    b"\\\"",
    b"<",
    b">",
    b"@",
    b"%",
    b"%41",
    b"[",
    b"]",
    b"/",
    b"?",
    b"&",
    b"*",
    b"\0",
    b"\xC3\xB6",
    b"0",
    b"4294967296",
    b"l: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Via: SIP/2.0/UDP a;rport\r\n",
    b";branch=z9hG4bK",
    b";rport",
    b";received=1.2.3.4",
    b";tag=x",
    b"SIP/2.0",
    b"sip/3.0",
    b"INVITE sip:a SIP/2.0\r\n",
    b"sip:",
    b"tel:+1",
    b"To: <sip:a@b>\r\n",
    b"m: *\r\n",
    b"CSeq: 1 INVITE\r\n",
];

/// The same cases at each run, so that a test that passes keeps passing. With `PROPTEST_CASES` set, that many others.
fn config(cases: u32) -> ProptestConfig {
    let explored = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return explored;
    }
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(3_261),
        ..explored
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Insert(Index, &'static [u8]),
    Replace(Index, u8),
    Delete(Index, u8),
    Repeat(Index, u8),
    Cut(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), select(PIECES)).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        2 => (any::<Index>(), 1..40_u8).prop_map(|(at, len)| Mutation::Delete(at, len)),
        1 => (any::<Index>(), 1..80_u8).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        1 => any::<Index>().prop_map(Mutation::Cut),
    ]
}

fn mutated(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let len = bytes.len();
        let range = |at: &Index, piece: u8| {
            let start = at.index(len + 1);
            start..(start + usize::from(piece)).min(len)
        };
        match mutation {
            Mutation::Insert(at, piece) => {
                let at = at.index(len + 1);
                bytes.splice(at..at, piece.iter().copied());
            }
            Mutation::Replace(at, byte) if len > 0 => bytes[at.index(len)] = *byte,
            Mutation::Replace(_, byte) => bytes.push(*byte),
            Mutation::Delete(at, piece) => {
                bytes.drain(range(at, *piece));
            }
            Mutation::Repeat(at, piece) => {
                let range = range(at, *piece);
                let copy = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, copy);
            }
            Mutation::Cut(at) => bytes.truncate(at.index(len + 1)),
        }
    }
    bytes
}

fn mutated_message() -> impl Strategy<Value = Vec<u8>> {
    (select(corpus("scan")), vec(mutation(), 0..12)).prop_map(|(bytes, mutations)| mutated(bytes, &mutations))
}

fn made_of_pieces() -> impl Strategy<Value = Vec<u8>> {
    vec(select(PIECES), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(config(1_500))]

    #[test]
    fn scan_agrees_with_its_twin(one in mutated_message(), two in made_of_pieces(), three in vec(any::<u8>(), 0..200)) {
        let mut checks = Checks::new();
        checks.scan(&one);
        checks.scan(&two);
        checks.scan(&three);
        // What the others left in the table changes nothing.
        checks.scan(&one);
    }

    #[test]
    fn views_hold_for_whatever_comes(one in mutated_message(), two in made_of_pieces()) {
        let mut checks = Checks::new();
        checks.views(&one);
        checks.views(&two);
    }

    #[test]
    fn frames_do_not_depend_on_how_bytes_arrive(
        messages in vec(mutated_message(), 1..4), between in vec(select(PIECES), 0..4), seed: u8,
    ) {
        let mut stream = vec![seed];
        for message in messages {
            stream.extend(message);
            stream.extend(between.concat());
        }
        Checks::new().frame(&stream);
    }

    #[test]
    fn edits_agree_with_their_model(count in 0..24_u8, codes in vec(any::<[u8; 4]>(), 24), source in vec(any::<u8>(), 0..300)) {
        let mut data = vec![count];
        data.extend(codes[..usize::from(count)].iter().flatten());
        data.extend(source);
        Checks::new().edit(&data);
    }

    #[test]
    fn keepalives_are_answered_as_they_should(kind in 0..0x112_u16, attributes in vec(any::<u8>(), 0..48), flipped in any::<Option<(u8, u8)>>()) {
        let len = attributes.len() as u16;
        let mut data = [&kind.to_be_bytes()[..], &len.to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], b"transaction!", &attributes].concat();
        if let Some((at, to)) = flipped {
            let at = usize::from(at) % data.len();
            data[at] = to;
        }
        Checks::new().stun(&data);
    }

    #[test]
    fn no_name_of_ours_is_forged(data in vec(any::<u8>(), 0..64), text in "(z9hG4bK|sip:tgruu\\.)?[0-9a-fA-F]{32,104}(@one\\.att\\.net;gr)?") {
        let mut checks = Checks::new();
        checks.token(&data);
        checks.token(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(config(60))]

    /// Any program of operations on shards: the words that it does not have are zero.
    #[test]
    fn shards_keep_their_promises_in_any_program(program in vec(any::<u8>(), 0..500)) {
        Checks::new().shard(&program);
    }
}

fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9.!%*_+`'~-]{1,12}"
}

/// A value that stands for itself: visible at both ends, blanks within.
fn value() -> impl Strategy<Value = String> {
    "([!-~]([ -~]{0,30}[!-~])?)?"
}

/// Names that a proxy changes, and some that it never heard of.
fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "Via",
            "v",
            "Route",
            "Max-Forwards",
            "Record-Route",
            "Subject",
            "s",
            "User-Agent",
            "X-Unknown"
        ])
        .prop_map(str::to_owned),
        token().prop_filter("its value would be read", |name| Name::lookup(name.as_bytes())
            == Name::Other),
    ]
}

proptest! {
    #![proptest_config(config(500))]

    /// What a proxy does to a request (RFC 3261 §16.6): a Via on top, one header field gone, another with a new value, one
    /// more at the end. All the rest is as it was, in its order, byte for byte.
    #[test]
    fn an_edited_message_reads_as_what_was_asked(
        fields in vec((field_name(), value()), 1..30),
        body in vec(any::<u8>(), 0..50),
        lead in select(vec!["", "\r\n", "\r\n\r\n"]),
        gone in select(vec![Name::Route, Name::Subject, Name::UserAgent]),
        changed: Index,
        new_value in value(),
    ) {
        let mut text = format!("{lead}INVITE sip:a@b SIP/2.0\r\n").into_bytes();
        for (name, value) in &fields {
            text.extend(format!("{name}: {value}\r\n").bytes());
        }
        text.extend(format!("l: {}\r\n\r\n", body.len()).bytes());
        text.extend(&body);
        text.extend(b"behind the datagram's message");
        let mut table = Table::new();
        scan(&text, &mut table).expect("well-formed");
        let msg = Message::new(&text, &table);
        let changed = &msg.lines()[changed.index(fields.len())];
        let mut expected: Vec<Vec<u8>> = vec![b"Via: SIP/2.0/UDP proxy;branch=z9hG4bK1".to_vec()];
        for line in msg.lines() {
            if line == changed && line.name != gone {
                expected.push([msg.name_bytes(line), b": ", new_value.as_bytes()].concat());
            } else if line.name != gone {
                expected.push(msg.line_bytes(line).trim_ascii_end().to_vec());
            }
        }
        expected.push(b"Server: ringway".to_vec());

        let mut edits = Box::new(Edits::new());
        edits.insert(msg.lines_end()).header(Name::Server, b"ringway");
        if changed.name != gone {
            edits.replace(changed.value).put(new_value.as_bytes());
        }
        edits.delete_lines(msg, gone);
        edits.insert(msg.first_line_start()).header(Name::Via, b"SIP/2.0/UDP proxy;branch=z9hG4bK1");
        let mut out = vec![0; text.len() + 200];
        let len = edits.write_message(msg, &mut out).expect("room").len;

        let mut table = Table::new();
        scan(&out[..len], &mut table).expect("well-formed still");
        let edited = Message::new(&out[..len], &table);
        let lines: Vec<Vec<u8>> =
            edited.lines().iter().map(|line| edited.line_bytes(line).trim_ascii_end().to_vec()).collect();
        // An empty value leaves a blank behind the colon, or none where there was none: neither means anything.
        let plain = |lines: &[Vec<u8>]| lines.iter().map(|line| line.trim_ascii_end().to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(plain(&lines), plain(&expected));
        prop_assert_eq!(edited.body(), &body[..]);
        prop_assert_eq!(edited.len(), len);
        prop_assert_eq!(edited.start_line(), msg.start_line());
    }

    /// A From made of parts comes apart into the same.
    #[test]
    fn an_address_comes_apart_as_it_was_put_together(
        display in prop_oneof![Just(String::new()), token(), "[^\"\\\\]{0,20}".prop_map(|text| format!("\"{text}\""))],
        user in token().prop_filter("an escape", |user| !user.contains(['%', '`'])),
        blank in select(vec!["", " ", "\t", "\r\n ", " \r\n\t"]),
        params in vec((token(), prop::option::of(prop_oneof![token(), "\"[a-z;,=<> ]{0,8}\""])), 0..5),
    ) {
        let uri = format!("sip:{user}@host;x=y");
        let list: Vec<String> = params
            .iter()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}{blank}={blank}{value}"),
                None => name.clone(),
            })
            .collect();
        let list = list.join(&format!("{blank};{blank}"));
        let semicolon = if params.is_empty() { "" } else { ";" };
        let text = format!("{display}{blank}<{uri}>{blank}{semicolon}{list}");
        let address = NameAddr::parse(text.as_bytes()).expect("well-formed");
        prop_assert_eq!(address.display, display.as_bytes());
        prop_assert_eq!(address.uri, uri.as_bytes());
        let found: Vec<_> = address.params_iter().map(|param| (param.name, param.value)).collect();
        let given: Vec<_> = params
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_ref().map(String::as_bytes)))
            .collect();
        prop_assert_eq!(found, given);
        prop_assert_eq!(address.uri().expect("well-formed").user, Some(user.as_bytes()));
    }

    #[test]
    fn a_via_comes_apart_as_it_was_put_together(
        transport in token(), host in "[a-z0-9.-]{1,15}|\\[[0-9a-f:]{2,15}\\]", port: Option<u16>,
        blank in select(vec!["", " ", "\r\n "]), branch in token(), rport: Option<Option<u16>>,
    ) {
        let port_text = port.map_or(String::new(), |port| format!("{blank}:{blank}{port}"));
        let rport_text = match rport {
            None => String::new(),
            Some(None) => format!("{blank};{blank}rport"),
            Some(Some(port)) => format!("{blank};{blank}RPORT{blank}={blank}{port}"),
        };
        let text = format!(
            "SIP{blank}/{blank}2.0{blank}/{blank}{transport} {blank}{host}{port_text}{rport_text}{blank};branch={branch}"
        );
        let via = Via::parse(text.as_bytes()).expect("well-formed");
        prop_assert_eq!(via.transport, transport.as_bytes());
        prop_assert_eq!((via.host, via.port), (host.as_bytes(), port));
        prop_assert_eq!((via.rport, via.branch), (rport, Some(branch.as_bytes())));
    }
}

const LIMITS: FrameLimits = FrameLimits {
    message_bytes_max: 65_536,
    body_bytes_max: 65_536,
};

fn message_lens(mut stream: &[u8]) -> Vec<usize> {
    let mut lens = Vec::new();
    while let Frame::Message { len } = frame(stream, &mut 0, LIMITS) {
        lens.push(len);
        stream = &stream[len..];
    }
    lens
}

#[test]
fn every_message_is_framed_whole_at_every_split_point() {
    let messages: Vec<Vec<u8>> = corpus("scan")
        .into_iter()
        .filter(|bytes| {
            let mut table = Table::new();
            // Those that are well-formed and say how long they are, cut where they say.
            scan(bytes, &mut table).is_ok() && Message::new(bytes, &table).line(Name::ContentLength).is_some()
        })
        .map(|bytes| {
            let mut table = Table::new();
            scan(&bytes, &mut table).expect("well-formed");
            Message::new(&bytes, &table).whole().to_vec()
        })
        .collect();
    assert!(messages.len() > 40);
    for (index, message) in messages.iter().enumerate() {
        let next = &messages[(index + 1) % messages.len()];
        let stream = [&message[..], &next[..]].concat();
        assert_eq!(message_lens(&stream), [message.len(), next.len()], "pipelined");
        for split in 0..message.len() {
            let mut searched = 0;
            assert_eq!(
                frame(&message[..split], &mut searched, LIMITS),
                Frame::Incomplete,
                "{split}"
            );
            let whole = frame(&stream, &mut searched, LIMITS);
            assert_eq!(whole, Frame::Message { len: message.len() }, "{split}");
        }
        let mut searched = 0;
        for len in 1..message.len() {
            assert_eq!(
                frame(&message[..len], &mut searched, LIMITS),
                Frame::Incomplete,
                "{len}"
            );
        }
        let whole = frame(message, &mut searched, LIMITS);
        assert_eq!(whole, Frame::Message { len: message.len() }, "a byte at a time");
    }
}
