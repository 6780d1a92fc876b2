//! The grammar: messages that refer to what was sent and received before, right or wrong.

use super::server::{Heard, PEERS, Peer, SERVER, Server};
use super::{Input, Said};

/// A message as it is written.
pub struct Text(String);

impl Text {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("{name}: {value}\r\n"));
    }

    fn end(mut self, body: &str) -> Text {
        self.line("Content-Length", body.len());
        self.0.push_str("\r\n");
        self.0.push_str(body);
        self
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// The values of a header field, a line each.
fn values<'m>(message: &'m [u8], name: &str) -> Vec<&'m str> {
    let text = std::str::from_utf8(message).unwrap_or_default();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(own, _)| own.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

fn value<'m>(message: &'m [u8], name: &str) -> &'m str {
    values(message, name).first().copied().unwrap_or_default()
}

fn is_response(message: &[u8]) -> bool {
    message.starts_with(b"SIP/")
}

/// The method or the status of a message.
fn word(message: &[u8], nth: usize) -> &str {
    let text = std::str::from_utf8(message).unwrap_or_default();
    text.split([' ', '\r']).nth(nth).unwrap_or_default()
}

fn number(message: &[u8]) -> u32 {
    let cseq = value(message, "CSeq");
    cseq.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(1)
}

const METHODS: &[&str] = &[
    "INVITE",
    "REGISTER",
    "INVITE",
    "SUBSCRIBE",
    "MESSAGE",
    "OPTIONS",
    "INVITE",
    "BYE",
    "ACK",
    "CANCEL",
    "PRACK",
    "UPDATE",
    "INFO",
    "NOTIFY",
    "REFER",
    "PUBLISH",
    "WHATEVER",
];

/// Whom it is for: subscribers, each rule of the table, ourselves, nobody.
const TARGETS: &[&str] = &[
    "sip:1001@one.att.net",
    "sip:1002@one.att.net",
    "tel:1001;phone-context=one.att.net",
    "sip:2001@one.att.net",
    "sip:3001@one.att.net",
    "sip:4001@one.att.net",
    "sip:51001@one.att.net",
    "sip:6001@10.0.1.3:5060",
    "sip:6001@10.0.0.1:5060",
    "sip:7001@one.att.net",
    "sip:81001@one.att.net",
    "sip:one.att.net",
    "sip:1001@10.0.1.2:5060;transport=tcp",
    "sip:999@one.att.net",
    "sips:1001@one.att.net",
    "http://one.att.net/",
];

const STATUSES: &[(u16, &str)] = &[
    (200, "OK"),
    (180, "Ringing"),
    (100, "Trying"),
    (183, "Session Progress"),
    (486, "Busy Here"),
    (487, "Request Terminated"),
    (503, "Service Unavailable"),
    (302, "Moved Temporarily"),
    (603, "Decline"),
    (401, "Unauthorized"),
    (407, "Proxy Authentication Required"),
    (408, "Request Timeout"),
    (481, "Call Does Not Exist"),
    (491, "Request Pending"),
    (422, "Session Interval Too Small"),
    (202, "Accepted"),
];

/// A Via of a peer's own; mostly of a new branch.
fn via(input: &mut Input<'_>, said: &mut Said, peer: Peer) -> String {
    let over = input.pick(&["UDP", "UDP", "TCP", "TLS"]);
    let branch = match input.below(8) {
        0 => (said.messages.last()).map_or_else(String::new, |(_, last)| branch_of(last).to_owned()),
        1 => "1".to_owned(),
        _ => format!("z9hG4bKf{}", said.next()),
    };
    let rport = input.pick(&["", ";rport"]);
    format!("SIP/2.0/{over} {};branch={branch}{rport}", peer.addr())
}

fn branch_of(message: &[u8]) -> &str {
    value(message, "Via")
        .split(";branch=")
        .nth(1)
        .and_then(|rest| rest.split([';', ',']).next())
        .unwrap_or_default()
}

/// What many messages have beside: header fields that mean something to somebody.
fn extras(input: &mut Input<'_>, server: &Server, text: &mut Text) {
    for _ in 0..input.below(4) {
        match input.below(16) {
            0 => text.line("Require", "100rel"),
            1 => text.line("Supported", "100rel, timer, path, outbound, gruu"),
            2 => text.line(
                "Session-Expires",
                format!("{};refresher=uac", input.pick(&[90, 20, 1_800])),
            ),
            3 => text.line("Min-SE", "90"),
            4 => text.line("Proxy-Require", "sec-agree"),
            5 => text.line("Max-Breadth", input.below(3)),
            6 => text.line("Record-Route", format!("<sip:{};lr>", Peer(1).addr())),
            7 => {
                let heard = input.recent(&server.heard);
                let routes = heard.map(|heard| values(&heard.bytes, "Record-Route").join(", "));
                if let Some(routes) = routes.filter(|routes| !routes.is_empty()) {
                    text.line("Route", routes);
                }
            }
            8 => text.line("Route", format!("<sip:{SERVER};lr>")),
            9 => text.line("Route", format!("<sip:{}>", Peer(2).addr())),
            10 => text.line("Event", input.pick(&["reg", "presence", "reg;id=1"])),
            11 => text.line("RSeq", input.byte()),
            12 => text.line("RAck", format!("{} 1 INVITE", input.byte())),
            13 => text.line("Retry-After", input.pick(&["1", "100 (later)", "x"])),
            14 => text.line("Path", format!("<sip:{};lr>", Peer(3).addr())),
            _ => text.line("Reason", "Q.850;cause=16"),
        }
    }
}

fn contact(input: &mut Input<'_>, peer: Peer) -> String {
    let params = input.pick(&[
        "",
        ";q=0.5",
        ";expires=60",
        ";expires=0",
        ";+sip.instance=\"<urn:uuid:1>\";reg-id=1",
    ]);
    match input.below(6) {
        0 => "*".to_owned(),
        1 => format!("<sip:u@{};transport=tcp>{params}", peer.addr()),
        2 => format!("<sip:u@{}>, <sip:v@{}>{params}", peer.addr(), Peer(3).addr()),
        3 => format!("<sip:u@{SERVER}>{params}"),
        _ => format!("<sip:u@{}>{params}", peer.addr()),
    }
}

fn tag_of(value: &str) -> &str {
    value.split(";tag=").nth(1).unwrap_or_default()
}

/// A tag that somebody has given, or one that nobody has.
fn some_tag(input: &mut Input<'_>, server: &Server) -> String {
    let name = input.pick(&["From", "To"]);
    match input.recent(&server.heard) {
        Some(heard) if !input.is_one_in(6) => tag_of(value(&heard.bytes, name)).to_owned(),
        _ => "nobody".to_owned(),
    }
}

/// A request outside any dialog, or in what may be one.
pub fn request(input: &mut Input<'_>, server: &Server, said: &mut Said) -> (Peer, Text) {
    let peer = Peer(input.below(PEERS));
    let method = input.pick(METHODS);
    let target = match method {
        "REGISTER" if !input.is_one_in(8) => "sip:one.att.net",
        _ => input.pick(TARGETS),
    };
    let mut text = Text(format!("{method} {target} SIP/2.0\r\n"));
    let own = via(input, said, peer);
    text.line("Via", own);
    let hops = input.pick(&["70", "70", "70", "1", "0", "x"]);
    text.line("Max-Forwards", hops);
    let call = match input.below(4) {
        0 => input.below(4),
        _ => 10 + said.next() as usize,
    };
    // For REGISTER and SUBSCRIBE to `reg` To is the subscriber.
    let user = input.pick(&["1001", "1002", "1003"]);
    let to = match method {
        "REGISTER" | "SUBSCRIBE" => format!("<sip:{user}@one.att.net>"),
        _ => format!("<{target}>"),
    };
    let to = if input.is_one_in(8) {
        format!("{to};tag={}", some_tag(input, server))
    } else {
        to
    };
    text.line("From", format!("<sip:{user}@one.att.net>;tag=f{call}"));
    text.line("To", to);
    text.line("Call-ID", format!("c{call}"));
    text.line("CSeq", format!("{} {method}", 1 + input.below(3)));
    if !input.is_one_in(8) {
        let contact = contact(input, peer);
        text.line("Contact", contact);
    }
    if method == "SUBSCRIBE" {
        text.line("Event", "reg");
    }
    if input.is_one_in(3) {
        let expires = input.pick(&["60", "0", "300", "4294967295", "-1"]);
        text.line("Expires", expires);
    }
    extras(input, server, &mut text);
    let body = input.pick(&["", "", "v=0\r\n"]);
    (peer, text.end(body))
}

/// A response to what the server has asked.
pub fn response(input: &mut Input<'_>, server: &Server, said: &mut Said) -> Option<(Peer, Text)> {
    let asked: Vec<&Heard> = (server.heard.iter())
        .filter(|heard| !is_response(&heard.bytes) && word(&heard.bytes, 0) != "ACK")
        .collect();
    let Heard { by, bytes } = *input.recent(&asked)?;
    let (status, reason) = input.pick(STATUSES);
    let mut text = Text(format!("SIP/2.0 {status} {reason}\r\n"));
    for (nth, via) in values(bytes, "Via").into_iter().enumerate() {
        // Now and then one that is not complete.
        if nth == 0 || !input.is_one_in(16) {
            text.line("Via", via);
        }
    }
    for route in values(bytes, "Record-Route") {
        text.line("Record-Route", route);
    }
    text.line("From", value(bytes, "From"));
    let to = value(bytes, "To");
    let to = match (tag_of(to), input.below(8)) {
        (_, 0) => format!("{to};tag=t{}", said.next()),
        ("", _) if status > 100 => format!("{to};tag=t{}", by.0),
        (_, _) => to.to_owned(),
    };
    text.line("To", to);
    text.line("Call-ID", value(bytes, "Call-ID"));
    text.line("CSeq", value(bytes, "CSeq"));
    if !input.is_one_in(8) {
        let contact = contact(input, *by);
        text.line("Contact", contact);
    }
    if input.is_one_in(8) {
        text.line("Proxy-Authenticate", "Digest realm=\"x\", nonce=\"y\"");
    }
    extras(input, server, &mut text);
    let body = input.pick(&["", "v=0\r\n"]);
    let from = if input.is_one_in(16) {
        Peer(input.below(PEERS))
    } else {
        *by
    };
    Some((from, text.end(body)))
}

/// A request in a dialog: of whoever got a response with both tags, or was asked.
pub fn within(input: &mut Input<'_>, server: &Server, said: &mut Said) -> Option<(Peer, Text)> {
    let Heard { by, bytes } = input.recent(&server.heard)?.clone();
    let method = input.pick(&[
        "BYE", "ACK", "INVITE", "PRACK", "UPDATE", "INFO", "MESSAGE", "NOTIFY", "REFER",
    ]);
    let is_caller = is_response(&bytes);
    let contact_uri = value(&bytes, "Contact")
        .split(['<', '>'])
        .nth(1)
        .unwrap_or("sip:1001@one.att.net")
        .to_owned();
    let mut text = Text(format!("{method} {contact_uri} SIP/2.0\r\n"));
    let own = via(input, said, by);
    text.line("Via", own);
    text.line("Max-Forwards", 70);
    let mut routes = values(&bytes, "Record-Route");
    if is_caller {
        routes.reverse();
    }
    for route in routes {
        text.line("Route", route);
    }
    let (from, to) = if is_caller { ("From", "To") } else { ("To", "From") };
    let local = value(&bytes, from);
    let local = if tag_of(local).is_empty() {
        format!("{local};tag=t{}", by.0)
    } else {
        local.to_owned()
    };
    text.line("From", local);
    text.line("To", value(&bytes, to));
    text.line("Call-ID", value(&bytes, "Call-ID"));
    let number = match method {
        "ACK" => number(&bytes),
        _ => number(&bytes) + input.below(3) as u32,
    };
    text.line("CSeq", format!("{number} {method}"));
    if method == "INVITE" || method == "UPDATE" {
        let contact = contact(input, by);
        text.line("Contact", contact);
    }
    if method == "PRACK" {
        text.line(
            "RAck",
            format!(
                "{} {number} INVITE",
                value(&bytes, "RSeq").parse::<u32>().unwrap_or(1)
            ),
        );
    }
    extras(input, server, &mut text);
    Some((by, text.end("")))
}

/// The CANCEL of a request of ours, or the ACK of a failure of one.
pub fn cancel_or_ack(input: &mut Input<'_>, server: &Server, said: &mut Said) -> Option<(Peer, Text)> {
    let method = input.pick(&["CANCEL", "ACK"]);
    let (peer, bytes) = input.recent(&said.messages)?.clone();
    if is_response(&bytes) {
        return None;
    }
    let mut text = Text(format!("{method} {} SIP/2.0\r\n", word(&bytes, 1)));
    text.line("Via", value(&bytes, "Via"));
    text.line("Max-Forwards", 70);
    text.line("From", value(&bytes, "From"));
    let answer = (server.heard.iter().rev())
        .find(|heard| is_response(&heard.bytes) && branch_of(&heard.bytes) == branch_of(&bytes));
    let to = match (method, answer) {
        ("ACK", Some(heard)) => value(&heard.bytes, "To"),
        _ => value(&bytes, "To"),
    };
    text.line("To", to);
    text.line("Call-ID", value(&bytes, "Call-ID"));
    text.line("CSeq", format!("{} {method}", number(&bytes)));
    Some((peer, text.end("")))
}
