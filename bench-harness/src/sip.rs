//! One SIP message as text (RFC 3261 §7), and where messages begin and end in a stream (§18.3).
//!
//! Header lines are kept as they came, so that "byte for byte" can be checked; bytes that are not UTF-8 are replaced in the
//! text (whoever cares looks at the raw bytes that [`crate::links::Received`] carries). The reader is strict: what ringway
//! sends has no excuse for bare line feeds or a wrong Content-Length.

use std::fmt;

/// One header: its line as it stood in the message, without the line end. Folded lines hold their inner CRLFs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    line: String,
    /// Where the name ends, and where the colon is.
    name_len: usize,
    colon: usize,
}

impl Header {
    pub fn new(name: &str, value: impl fmt::Display) -> Header {
        Header {
            line: format!("{name}: {value}"),
            name_len: name.trim_end().len(),
            colon: name.len(),
        }
    }

    fn read(line: String) -> Result<Header, String> {
        let colon = line
            .find(':')
            .ok_or_else(|| format!("header line without a colon: {line:?}"))?;
        let name_len = line[..colon].trim_end().len();
        if name_len == 0 || line.starts_with([' ', '\t']) {
            return Err(format!("header line without a name: {line:?}"));
        }
        Ok(Header {
            line,
            name_len,
            colon,
        })
    }

    /// The whole line as received.
    pub fn line(&self) -> &str {
        &self.line
    }

    pub fn name(&self) -> &str {
        &self.line[..self.name_len]
    }

    /// What follows the colon, without white space around it.
    pub fn value(&self) -> &str {
        self.line[self.colon + 1..].trim()
    }

    pub fn is(&self, name: &str) -> bool {
        let own = self.name();
        if own.len() == name.len() && own.len() > 1 {
            return own.eq_ignore_ascii_case(name);
        }
        // Names of different lengths are the same where one is the compact form.
        (own.len() == 1 || name.len() == 1) && full_name(own).eq_ignore_ascii_case(full_name(name))
    }
}

/// RFC 3261 §7.3.3 and the registry of compact forms: the long name of a one-letter name, anything else as it is.
fn full_name(name: &str) -> &str {
    let [letter] = name.as_bytes() else { return name };
    match letter.to_ascii_lowercase() {
        b'a' => "Accept-Contact",
        b'b' => "Referred-By",
        b'c' => "Content-Type",
        b'e' => "Content-Encoding",
        b'f' => "From",
        b'i' => "Call-ID",
        b'j' => "Reject-Contact",
        b'k' => "Supported",
        b'l' => "Content-Length",
        b'm' => "Contact",
        b'o' => "Event",
        b'r' => "Refer-To",
        b's' => "Subject",
        b't' => "To",
        b'u' => "Allow-Events",
        b'v' => "Via",
        b'x' => "Session-Expires",
        _ => name,
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    Request { method: String, uri: String },
    Response { status: u16, reason: String },
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::Request { method, uri } => write!(f, "{method} {uri} SIP/2.0"),
            Start::Response { status, reason } => write!(f, "SIP/2.0 {status} {reason}"),
        }
    }
}

/// A request or response. What is in it is what is sent: nothing is added on the way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub start: Start,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn request(method: &str, uri: &str) -> Message {
        Message {
            start: Start::Request {
                method: method.to_owned(),
                uri: uri.to_owned(),
            },
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn response(status: u16, reason: &str) -> Message {
        Message {
            start: Start::Response {
                status,
                reason: reason.to_owned(),
            },
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Reads exactly one message: `bytes` is a datagram, or what [`Framer`] cut out of a stream.
    pub fn parse(bytes: &[u8]) -> Result<Message, String> {
        let head_end = find(bytes, b"\r\n\r\n").ok_or("no empty line after the headers")?;
        let head = String::from_utf8_lossy(&bytes[..head_end]);
        let mut lines = head.split("\r\n");
        let start = parse_start(lines.next().unwrap_or_default())?;
        let mut texts: Vec<String> = Vec::new();
        for line in lines {
            match texts.last_mut() {
                Some(last) if line.starts_with([' ', '\t']) => {
                    last.push_str("\r\n");
                    last.push_str(line);
                }
                _ => texts.push(line.to_owned()),
            }
        }
        let headers = texts
            .into_iter()
            .map(Header::read)
            .collect::<Result<Vec<_>, _>>()?;
        let message = Message {
            start,
            headers,
            body: bytes[head_end + 4..].to_vec(),
        };
        if let Some(length) = message.get("Content-Length")
            && length.parse() != Ok(message.body.len())
        {
            let have = message.body.len();
            return Err(format!(
                "Content-Length says {length:?}, the body has {have} bytes"
            ));
        }
        Ok(message)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.start).into_bytes();
        for header in &self.headers {
            bytes.extend_from_slice(header.line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    // Reading ---------------------------------------------------------------------------------------------------------

    /// The first header of that name, in its long or compact form and in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.is(name)).map(Header::value)
    }

    /// The first header of that name, or nothing at all.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Every value of that name: one for each line, top to bottom.
    pub fn get_all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|h| h.is(name))
            .map(Header::value)
            .collect()
    }

    /// Every element of a header that is a comma list, over all its lines.
    pub fn elements(&self, name: &str) -> Vec<&str> {
        self.get_all(name).into_iter().flat_map(split_commas).collect()
    }

    /// The header lines of that name as received.
    pub fn lines(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|h| h.is(name))
            .map(Header::line)
            .collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn method(&self) -> Option<&str> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    pub fn uri(&self) -> Option<&str> {
        match &self.start {
            Start::Request { uri, .. } => Some(uri),
            Start::Response { .. } => None,
        }
    }

    pub fn status(&self) -> Option<u16> {
        match &self.start {
            Start::Request { .. } => None,
            Start::Response { status, .. } => Some(*status),
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match &self.start {
            Start::Request { .. } => None,
            Start::Response { reason, .. } => Some(reason),
        }
    }

    pub fn is_request(&self, method: &str) -> bool {
        self.method() == Some(method)
    }

    /// Number and method of the CSeq; `(0, "")` where there is none that can be read.
    pub fn cseq(&self) -> (u32, &str) {
        let mut parts = self.text("CSeq").split_ascii_whitespace();
        match (parts.next().and_then(|n| n.parse().ok()), parts.next()) {
            (Some(number), Some(method)) => (number, method),
            _ => (0, ""),
        }
    }

    /// The topmost Via value.
    pub fn top_via(&self) -> &str {
        self.elements("Via").first().copied().unwrap_or_default()
    }

    /// The topmost branch: with the method of the CSeq it names the transaction (§17.1.3).
    pub fn branch(&self) -> &str {
        param(self.top_via(), "branch").unwrap_or_default()
    }

    pub fn from_tag(&self) -> Option<&str> {
        param(self.text("From"), "tag")
    }

    pub fn to_tag(&self) -> Option<&str> {
        param(self.text("To"), "tag")
    }

    /// `INVITE` or `200 OK (INVITE)`: a message's name in a ladder or a failure.
    pub fn title(&self) -> String {
        match &self.start {
            Start::Request { method, .. } => method.clone(),
            Start::Response { status, reason } => format!("{status} {reason} ({})", self.cseq().1),
        }
    }

    // Building --------------------------------------------------------------------------------------------------------

    /// Adds a header at the end.
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Message {
        self.headers.push(Header::new(name, value));
        self
    }

    /// Gives the first header of that name a new value, or adds it before Content-Length.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        match self.headers.iter().position(|h| h.is(name)) {
            Some(at) => self.headers[at] = Header::new(name, value),
            None => self.insert(name, value),
        }
    }

    /// [`set`](Message::set) in a chain.
    pub fn setting(mut self, name: &str, value: impl fmt::Display) -> Message {
        self.set(name, value);
        self
    }

    /// Adds a header before Content-Length, or at the end where there is none.
    pub fn insert(&mut self, name: &str, value: impl fmt::Display) {
        let at = self.headers.iter().position(|h| h.is("Content-Length"));
        self.headers
            .insert(at.unwrap_or(self.headers.len()), Header::new(name, value));
    }

    /// [`insert`](Message::insert) in a chain.
    pub fn inserting(mut self, name: &str, value: impl fmt::Display) -> Message {
        self.insert(name, value);
        self
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|h| !h.is(name));
    }

    /// [`remove`](Message::remove) in a chain.
    pub fn removing(mut self, name: &str) -> Message {
        self.remove(name);
        self
    }

    /// Takes a body, with its type and its length.
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Message {
        self.body = body.into();
        self.remove("Content-Type");
        self.remove("Content-Length");
        let length = self.body.len();
        self.with("Content-Type", content_type)
            .with("Content-Length", length)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

fn parse_start(line: &str) -> Result<Start, String> {
    let unreadable = || format!("unreadable start line {line:?}");
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (status, reason) = rest.split_once(' ').ok_or_else(unreadable)?;
        let status = status.parse().map_err(|_| unreadable())?;
        if !(100..700).contains(&status) {
            return Err(unreadable());
        }
        return Ok(Start::Response {
            status,
            reason: reason.to_owned(),
        });
    }
    let mut parts = line.split(' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(uri), Some("SIP/2.0"), None) if !method.is_empty() && !uri.is_empty() => {
            Ok(Start::Request {
                method: method.to_owned(),
                uri: uri.to_owned(),
            })
        }
        _ => Err(unreadable()),
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Splits at commas that stand neither in quotes nor in angle brackets.
pub fn split_commas(value: &str) -> Vec<&str> {
    outside(value, b',').collect()
}

/// The value of a parameter of the header, not of the URI inside its angle brackets; `""` for a flag.
pub fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    each_param(value)
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

/// All parameters of the header in order, names as written.
pub fn params(value: &str) -> Vec<(&str, &str)> {
    each_param(value).collect()
}

fn each_param(value: &str) -> impl Iterator<Item = (&str, &str)> {
    outside(value, b';').skip(1).map(|p| match p.split_once('=') {
        Some((name, value)) => (name.trim(), value.trim()),
        None => (p, ""),
    })
}

/// The parts between separators that stand neither in quotes nor in angle brackets, without white space around them. The
/// separator, quotes and brackets are ASCII, so what is cut at them is whole text.
fn outside(value: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut left = Some(value);
    std::iter::from_fn(move || {
        let rest = left.take()?;
        let (mut quoted, mut angle, mut escaped) = (false, false, false);
        for (at, byte) in rest.bytes().enumerate() {
            if escaped {
                escaped = false;
                continue;
            }
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'<' if !quoted => angle = true,
                b'>' if !quoted => angle = false,
                byte if byte == separator && !quoted && !angle => {
                    left = Some(&rest[at + 1..]);
                    return Some(rest[..at].trim());
                }
                _ => {}
            }
        }
        Some(rest.trim())
    })
}

/// The URI of a From, To, Contact, Route or Refer-To value, with or without angle brackets.
pub fn uri(value: &str) -> &str {
    let mut quoted = false;
    for (at, c) in value.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '<' if !quoted => {
                let inside = &value[at + 1..];
                return &inside[..inside.find('>').unwrap_or(inside.len())];
            }
            _ => {}
        }
    }
    value.split(';').next().unwrap_or_default().trim()
}

/// What [`Framer`] finds in a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unit {
    Message(Vec<u8>),
    /// A lone CRLF between messages: the answer to a keepalive (RFC 5626 §3.5.1).
    Crlf,
    /// The other side sent what can't be framed: the text says why.
    Broken(String),
}

/// Cuts a TCP stream into messages by their Content-Length.
#[derive(Default, Debug)]
pub struct Framer {
    pending: Vec<u8>,
}

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    pub fn next_unit(&mut self) -> Option<Unit> {
        if self.pending.starts_with(b"\r\n") {
            self.pending.drain(..2);
            return Some(Unit::Crlf);
        }
        let head_end = find(&self.pending, b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.pending[..head_end - 4]);
        let lengths: Vec<&str> = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| full_name(name.trim_end()).eq_ignore_ascii_case("Content-Length"))
            .map(|(_, value)| value.trim())
            .collect();
        // RFC 3261 §18.3 (and §20.14): on a stream the Content-Length is mandatory.
        let length = match lengths[..] {
            [one] => one
                .parse::<usize>()
                .map_err(|_| format!("Content-Length {one:?}")),
            _ => Err(format!("{} Content-Length headers on a stream", lengths.len())),
        };
        let length = match length {
            Ok(length) => length,
            Err(why) => {
                let why = format!("{why} in {head:?}");
                self.pending.clear();
                return Some(Unit::Broken(why));
            }
        };
        if self.pending.len() < head_end + length {
            return None;
        }
        Some(Unit::Message(self.pending.drain(..head_end + length).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &str = "INVITE tel:13800011103;phone-context=one.att.net SIP/2.0\r\n\
        v: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKa;rport, SIP/2.0/TCP h;branch=z9hG4bKb\r\n\
        Via : SIP/2.0/TCP 10.0.0.2\r\n\
        f: \"A; \\\"B\\\", <C>\" <sip:a@b;x=y>;tag=t1\r\n\
        To: sip:c@d;tag=t2\r\n\
        CSeq: 7 INVITE\r\n\
        Subject: one\r\n two\r\n\
        l: 3\r\n\r\nabc";

    #[test]
    fn a_message_is_read_as_it_stands_and_written_back_the_same() {
        let message = Message::parse(INVITE.as_bytes()).unwrap();
        assert_eq!(message.to_bytes(), INVITE.as_bytes());
        assert_eq!(message.uri(), Some("tel:13800011103;phone-context=one.att.net"));
        assert_eq!(message.elements("Via").len(), 3);
        assert_eq!(message.branch(), "z9hG4bKa");
        assert_eq!(message.from_tag(), Some("t1"));
        assert_eq!(message.to_tag(), Some("t2"));
        assert_eq!(uri(message.text("From")), "sip:a@b;x=y");
        assert_eq!(uri(message.text("To")), "sip:c@d");
        assert_eq!(message.cseq(), (7, "INVITE"));
        assert_eq!(message.get("subject"), Some("one\r\n two"));
        assert_eq!(message.lines("Via")[1], "Via : SIP/2.0/TCP 10.0.0.2");
    }

    #[test]
    fn what_is_not_sip_is_refused_with_a_reason() {
        for bad in [
            "INVITE sip:a@b SIP/2.0\r\nVia: x\r\n",
            "INVITE sip:a@b SIP/3.0\r\n\r\n",
            "INVITE  sip:a@b SIP/2.0\r\n\r\n",
            "SIP/2.0 99 No\r\n\r\n",
            "SIP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nabc",
            "SIP/2.0 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(Message::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_are_set_inserted_and_removed_before_the_length() {
        let mut message = Message::request("OPTIONS", "sip:a")
            .with("To", "<sip:a>")
            .with("Content-Length", 0);
        message.set("to", "<sip:b>");
        message.insert("Expires", 5);
        message.remove("l");
        assert_eq!(
            message.to_string(),
            "OPTIONS sip:a SIP/2.0\r\nto: <sip:b>\r\nExpires: 5\r\n\r\n"
        );
        let message = message.with_body("text/plain", "hi");
        assert!(
            message
                .to_string()
                .ends_with("Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi")
        );
    }

    #[test]
    fn a_stream_is_cut_at_every_split_the_same() {
        let stream = format!("\r\n{INVITE}SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n\r\n");
        let stream = stream.as_bytes();
        for split in 0..=stream.len() {
            let mut framer = Framer::default();
            let mut units = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                framer.push(part);
                units.extend(std::iter::from_fn(|| framer.next_unit()));
            }
            let messages: Vec<&Unit> = units.iter().filter(|u| **u != Unit::Crlf).collect();
            assert_eq!(messages[0], &Unit::Message(INVITE.into()), "split at {split}");
            assert_eq!(messages.len(), 2);
            assert_eq!(units.len(), 4);
        }
    }

    #[test]
    fn a_stream_without_a_length_is_broken() {
        let mut framer = Framer::default();
        framer.push(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n");
        assert!(matches!(framer.next_unit(), Some(Unit::Broken(_))));
    }
}
