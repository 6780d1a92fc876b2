//! The torture messages of RFC 4475 and RFC 5118 against the running server, as the phone service with its registrar and as a proxy: it
//! must do with each what the table says, and be alive after.
//!
//! The messages are those of the RFCs' texts, bit-exact (`tests/fuzz/corpus/scan`), but for the Content-Length of three in RFC
//! 5118, which is not that of the body printed there. `tests/msg_torture.rs` asks the parser alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Server, Setup};
use bench_harness::sip::Message;

/// How long an answer may take. Only a broken server needs as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long silence lasts until it is taken for one.
const SILENCE: Duration = Duration::from_millis(100);

/// Who sends, to the one and the other: the answer to a request without `rport` goes to this address and the port of its Via (RFC 3261
/// §18.2.2).
const SENDER: &str = "127.77.0.1";
const SENDER_TO_PROXY: &str = "127.77.0.3";

/// Where the proxy sends what no Route leads elsewhere.
const NEXT_HOP: &str = "127.77.0.2";

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The final response.
    Answer(u16),
    /// A response, or something that can't be told from one: nobody is to hear of it (RFC 3261 §18.1.2).
    Silence,
    /// The next hop gets it.
    Forwarded,
}

use Verdict::{Answer, Forwarded, Silence};

/// What the phone service does, with an empty registrar for the domains that the messages are about; and what a proxy does that sends
/// everything on.
const TABLE: &[(&str, Verdict, Verdict)] = &[
    // RFC 4475 §3.1.1: valid, and each gets as far as its meaning takes it.
    ("rfc4475-wsinv", Answer(481), Forwarded), // A To tag, and no such dialog.
    ("rfc4475-intmeth", Answer(501), Forwarded),
    ("rfc4475-esc01", Answer(404), Forwarded),
    ("rfc4475-escnull", Answer(200), Forwarded), // Two contacts are registered, %00 and all.
    ("rfc4475-esc02", Answer(501), Forwarded),   // RE%47IST%45R is not REGISTER.
    ("rfc4475-lwsdisp", Answer(404), Forwarded),
    ("rfc4475-longreq", Answer(404), Forwarded),
    ("rfc4475-dblreq", Answer(200), Forwarded), // The REGISTER; what follows it in the datagram is left.
    ("rfc4475-semiuri", Answer(404), Forwarded),
    ("rfc4475-transports", Answer(404), Forwarded),
    ("rfc4475-mpart01", Answer(404), Answer(500)),
    ("rfc4475-unreason", Silence, Silence),
    ("rfc4475-noreason", Silence, Silence),
    // §3.1.2: invalid, and told so.
    ("rfc4475-badinv01", Silence, Silence), // The Via itself is broken: nobody knows where an answer would go.
    ("rfc4475-clerr", Answer(400), Answer(400)),
    ("rfc4475-ncl", Answer(400), Answer(400)),
    ("rfc4475-scalar02", Answer(400), Answer(400)),
    ("rfc4475-scalarlg", Silence, Silence), // A response.
    ("rfc4475-quotbal", Answer(400), Answer(400)),
    ("rfc4475-ltgtruri", Answer(400), Answer(400)),
    ("rfc4475-lwsruri", Answer(400), Answer(400)),
    ("rfc4475-lwsstart", Answer(400), Answer(400)),
    ("rfc4475-trws", Answer(400), Answer(400)),
    ("rfc4475-escruri", Answer(400), Answer(400)),
    ("rfc4475-baddate", Answer(404), Forwarded), // A Date that nobody here reads.
    ("rfc4475-regbadct", Answer(400), Forwarded),
    ("rfc4475-badaspec", Answer(400), Answer(400)),
    ("rfc4475-baddn", Answer(400), Answer(400)),
    ("rfc4475-badvers", Answer(505), Answer(505)),
    ("rfc4475-mismatch01", Answer(400), Answer(400)),
    ("rfc4475-mismatch02", Answer(400), Answer(400)), // 501 would do as well: the method is unknown too.
    ("rfc4475-bigcode", Silence, Silence),            // A response.
    // §3.2 to §3.4: the layers above the parser.
    ("rfc4475-badbranch", Answer(404), Forwarded),
    ("rfc4475-insuf", Answer(400), Answer(400)),
    ("rfc4475-unkscm", Answer(416), Forwarded),
    ("rfc4475-novelsc", Answer(416), Forwarded),
    ("rfc4475-unksm2", Answer(400), Forwarded), // A To that no registrar can have (RFC 3261 §10.3 item 5).
    ("rfc4475-bext01", Answer(420), Answer(420)),
    ("rfc4475-invut", Answer(404), Forwarded),
    ("rfc4475-regaut01", Answer(200), Forwarded), // Credentials of a scheme that is not asked for.
    ("rfc4475-multi01", Answer(400), Answer(400)),
    ("rfc4475-mcl01", Answer(400), Answer(400)),
    ("rfc4475-bcast", Silence, Silence), // A response whose Via is not ours, addressed to a broadcast address.
    ("rfc4475-zeromf", Answer(483), Answer(483)),
    ("rfc4475-cparam01", Answer(200), Forwarded),
    ("rfc4475-cparam02", Answer(200), Forwarded),
    ("rfc4475-regescrt", Answer(200), Forwarded),
    ("rfc4475-sdp01", Answer(404), Forwarded),
    ("rfc4475-inv2543", Answer(400), Forwarded), // Without tags: RFC 2543 is not spoken.
    // RFC 5118.
    ("rfc5118-ipv6-good", Answer(200), Forwarded),
    ("rfc5118-ipv6-bad", Answer(400), Answer(400)),
    ("rfc5118-port-ambiguous", Answer(404), Forwarded), // The registrar of [2001:db8::10:5070] is not here.
    ("rfc5118-port-unambiguous", Answer(200), Forwarded),
    ("rfc5118-via-received-param-with-delim", Answer(481), Forwarded),
    ("rfc5118-via-received-param-no-delim", Answer(200), Forwarded),
    ("rfc5118-ipv6-in-sdp", Answer(404), Forwarded),
    ("rfc5118-mult-ip-in-header", Answer(481), Forwarded),
    ("rfc5118-mult-ip-in-sdp", Answer(404), Forwarded),
    ("rfc5118-ipv4-mapped-ipv6", Answer(404), Forwarded),
    ("rfc5118-ipv6-bug-abnf-3-colons", Answer(404), Forwarded),
    ("rfc5118-ipv6-correct-abnf-2-colons", Answer(404), Forwarded),
];

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/scan")
}

fn message(name: &str) -> Vec<u8> {
    let mut bytes =
        fs::read(corpus().join(format!("{name}.sip"))).unwrap_or_else(|error| panic!("{name}: {error}"));
    if name == "rfc4475-baddn" {
        // The archive's file lacks the empty line that the text of the RFC has.
        bytes.extend(b"\r\n");
    }
    bytes
}

/// What of the topmost Via stands before its parameters.
fn sent_by(text: &str) -> &str {
    let line = text.lines().find(|line| {
        let name = line.split(':').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("via") || name.eq_ignore_ascii_case("v")
    });
    let line = line.unwrap_or_default();
    line.split([';', ',']).next().unwrap_or_default()
}

/// The port of the topmost Via: where the answer goes.
fn via_port(bytes: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(bytes);
    let sent_by = sent_by(&text);
    let port = sent_by.rsplit_once(':').map(|(_, port)| port.trim().parse());
    // In an IPv6 reference without a port the last colon is its own.
    match port {
        Some(Ok(port)) if !sent_by.trim_end().ends_with(']') => port,
        _ => 5060,
    }
}

/// What tells one transaction from another (RFC 3261 §17.2.3): method, sent-by, branch.
fn transaction(bytes: &[u8]) -> [String; 3] {
    let text = String::from_utf8_lossy(bytes);
    let method = text.split(' ').next().unwrap_or_default();
    let branch = text.split("branch").nth(1).unwrap_or_default();
    let branch = branch.split([';', ',', '\r']).next().unwrap_or_default();
    [method, sent_by(&text), branch].map(str::to_owned)
}

fn setup() -> Setup {
    let domains = [
        "example.com",
        "example.net",
        "example.org",
        "company.com",
        "chair-dnrc.example.com",
        "biloxi.example.com",
        "services.example.com",
        "[2001:db8::10]",
    ];
    let flags: Vec<&str> = domains.iter().flat_map(|domain| ["--domain", domain]).collect();
    Setup::new().flags(&flags)
}

/// A socket at an address that somebody who is bound to all addresses may have for a moment.
fn bound(at: (&str, u16)) -> UdpSocket {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(at) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(SILENCE);
            }
            bound => return bound.unwrap_or_else(|error| panic!("{at:?}: {error}")),
        }
    }
}

/// What the server says to `bytes`, and that it answers an OPTIONS sent behind them. An answer that is `expected` is waited for;
/// where none is, one that has not come with that of the OPTIONS, and a moment later, is taken not to.
fn verdict(server: &Server, sender: &str, bytes: &[u8], expected: Verdict) -> Verdict {
    let socket = bound((sender, via_port(bytes)));
    socket.set_read_timeout(Some(SILENCE)).expect("a time-out");
    socket.send_to(bytes, server.udp).expect("sent");
    socket
        .send_to(&alive(&socket, server.udp), server.udp)
        .expect("sent");
    let deadline = Instant::now() + PATIENCE;
    let (mut found, mut is_alive) = (Silence, false);
    let mut datagram = [0; 65_536];
    loop {
        let Ok((len, _)) = socket.recv_from(&mut datagram) else {
            let is_patient = !is_alive || matches!(expected, Answer(_)) && found == Silence;
            if is_patient && Instant::now() < deadline {
                continue;
            }
            assert!(is_alive, "no answer to OPTIONS: the server is gone, or hangs");
            return found;
        };
        let response = Message::parse(&datagram[..len]).expect("what the server says is SIP");
        let status = response.status().expect("a response");
        if response.get("Call-ID") == Some("alive") {
            assert_eq!(status, 200, "OPTIONS for the server itself");
            is_alive = true;
        } else if status >= 200 && found == Silence {
            found = Answer(status);
        }
        if is_alive && found != Silence {
            return found;
        }
    }
}

fn alive(socket: &UdpSocket, server: SocketAddr) -> Vec<u8> {
    let own = socket.local_addr().expect("bound");
    Message::request("OPTIONS", &format!("sip:{server}"))
        .with("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bK-alive;rport"))
        .with("Max-Forwards", 70)
        .with("From", "<sip:tester@example.com>;tag=1")
        .with("To", format!("<sip:{server}>"))
        .with("Call-ID", "alive")
        .with("CSeq", "1 OPTIONS")
        .with("Content-Length", 0)
        .to_bytes()
}

#[test]
fn every_torture_message_gets_the_answer_of_the_table_and_the_server_lives() {
    let mut wrong = Vec::new();
    for &(name, expected, _) in TABLE {
        let mut server = Server::start(&setup());
        let found = verdict(&server, SENDER, &message(name), expected);
        if found != expected {
            wrong.push(format!("{name}: {found:?}, not {expected:?}"));
        }
        server.terminate();
        server.wait();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A proxy that sends everything to `next`, once.
fn proxy_setup(next: SocketAddr) -> Setup {
    let setup = Setup::new()
        .key("", "drain_s", "0")
        .key("timers", "t1_ms", "60_000")
        .key("timers", "t2_ms", "60_000");
    setup.tables(&format!(
        "\n[hosts]\n\"services.example.com\" = [\"{NEXT_HOP}\"]\n\
         [[route]]\nheader = [\"Call-ID: alive\"]\naction = \"ims\"\n\
         [[route]]\naction = \"proxy\"\nto = [\"sip:{next}\"]\n"
    ))
}

#[test]
fn every_torture_message_is_proxied_or_refused_as_the_table_says_and_the_server_lives() {
    // A Route without a port leads there too.
    let next = bound((NEXT_HOP, 5060));
    next.set_nonblocking(true).expect("non-blocking");
    let setup = proxy_setup(next.local_addr().expect("an address"));
    // To one server the second of one transaction would be the first that comes again.
    let (mut servers, mut met) = (Vec::new(), BTreeMap::new());
    let mut wrong = Vec::new();
    for &(name, _, expected) in TABLE {
        let bytes = message(name);
        let times = met.entry(transaction(&bytes)).or_insert(0);
        if servers.len() == *times {
            servers.push(Server::start(&setup));
        }
        let answered = verdict(&servers[*times], SENDER_TO_PROXY, &bytes, expected);
        *times += 1;
        let mut is_forwarded = false;
        // It was forwarded before what came behind it was answered.
        while next.recv(&mut [0; 65_536]).is_ok() {
            is_forwarded = true;
        }
        let found = match (is_forwarded, answered) {
            (true, Silence) => Forwarded,
            (true, answered) => panic!("{name}: forwarded, and {answered:?}"),
            (false, answered) => answered,
        };
        if found != expected {
            wrong.push(format!("{name}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for mut server in servers {
        server.stop();
    }
}

#[test]
fn the_table_holds_every_torture_message_that_there_is() {
    let mut files: Vec<String> = fs::read_dir(corpus())
        .expect("the corpus is there")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter_map(|name| name.strip_suffix(".sip").map(str::to_owned))
        .filter(|name| name.starts_with("rfc"))
        .collect();
    let mut named: Vec<&str> = TABLE.iter().map(|&(name, _, _)| name).collect();
    files.sort();
    named.sort();
    assert_eq!(files, named);
}
