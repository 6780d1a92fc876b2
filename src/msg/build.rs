//! Writing messages: a writer over borrowed bytes, and the head of an answer (RFC 3261 §8.2.6, §18.2.1; RFC 3581 §4).

use core::fmt;
use core::fmt::Write as _;
use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

use super::lex;
use super::name::Name;
use super::params::Params;
use super::request::{Request, Salvage};
use super::scan::{Line, Message};
use super::via::Via;
use crate::pool::{Marks, Written};
use crate::time::civil;

/// Writes into borrowed bytes. What does not fit is dropped and remembered: [`Writer::finish`] then says `None`.
pub struct Writer<'b> {
    /// What is still to be written to; empty after an overflow, so that what is there is a prefix of what was meant.
    rest: &'b mut [u8],
    /// Bytes there were at first.
    room: usize,
    overflow: bool,
    marks: Marks,
}

impl<'b> Writer<'b> {
    pub fn new(buf: &'b mut [u8]) -> Writer<'b> {
        Writer {
            room: buf.len(),
            rest: buf,
            overflow: false,
            marks: Marks::default(),
        }
    }

    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        match core::mem::take(&mut self.rest).split_at_mut_checked(bytes.len()) {
            Some((place, rest)) => {
                self.rest = rest;
                place.copy_from_slice(bytes);
            }
            None => self.overflow = true,
        }
        self
    }

    /// A number in decimal.
    pub fn num(&mut self, mut value: u64) -> &mut Self {
        if value < 10 {
            return self.put(&[b'0' + value as u8]);
        }
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.put(&digits[at..])
    }

    /// A whole header line.
    pub fn header(&mut self, name: Name, value: &[u8]) -> &mut Self {
        self.put(name.text().as_bytes()).put(b": ").put(value).crlf()
    }

    /// A whole header line with a number as its value.
    pub fn header_num(&mut self, name: Name, value: u64) -> &mut Self {
        self.put(name.text().as_bytes()).put(b": ").num(value).crlf()
    }

    pub fn crlf(&mut self) -> &mut Self {
        self.put(b"\r\n")
    }

    /// What is written next may have white space before it: RFC 3261 §25.1 lets any amount stand behind the colon of a header
    /// field (HCOLON). Only for lines of our own: what others wrote is passed on as they wrote it.
    pub fn padding(&mut self) -> &mut Self {
        self.marks.mark_padding(self.len());
        self
    }

    /// The value of a Call-ID line, marked as what the message belongs to.
    pub fn call_id(&mut self, value: &[u8]) -> &mut Self {
        let start = self.len();
        self.marks.mark_call(start, start + value.len());
        self.put(value)
    }

    /// A Call-ID line as it stands elsewhere, with its line end or without, marked in the same way. `value`: where in it that is.
    pub fn call_id_line(&mut self, line: &[u8], value: Range<usize>) -> &mut Self {
        let start = self.len();
        self.marks.mark_call(start + value.start, start + value.end);
        self.put(line)
    }

    /// How many bytes were written; all there was room for once some did not fit.
    pub const fn len(&self) -> usize {
        self.room - self.rest.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes were written, `None` when some did not fit.
    pub const fn finish(&self) -> Option<usize> {
        if self.overflow { None } else { Some(self.len()) }
    }

    /// The same with what was marked.
    pub fn written(&self) -> Option<Written> {
        self.finish().map(|len| Written {
            len,
            marks: self.marks,
        })
    }
}

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        if self.overflow { Err(fmt::Error) } else { Ok(()) }
    }
}

/// `SIP/2.0 status reason`
pub fn status_line(w: &mut Writer<'_>, status: u16, reason: &str) {
    w.put(b"SIP/2.0 ")
        .num(u64::from(status))
        .put(b" ")
        .put(reason.as_bytes())
        .crlf();
}

/// The load of a server, as it tells those who obey: RFC 7339 §4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Percent of the requests that are not to be sent.
    pub loss: u8,
    /// How long that holds; 0 where nothing is asked for (§5.7).
    pub validity_ms: u32,
    /// Grows with each new value: milliseconds.
    pub seq_ms: u64,
}

/// What the topmost Via of an answer says beyond that of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WayBack {
    /// Where the request really came from.
    pub peer: SocketAddr,
    /// Whether the Via names the peer's address, where somebody has looked.
    pub is_named: Option<bool>,
    /// `None`: nobody is told.
    pub load: Option<Load>,
}

impl From<SocketAddr> for WayBack {
    fn from(peer: SocketAddr) -> WayBack {
        WayBack {
            peer,
            is_named: None,
            load: None,
        }
    }
}

/// Begins an answer to `req`: status line, Via lines, From, To, Call-ID and CSeq (RFC 3261 §8.2.6.2), and a 100's Timestamp.
///
/// Header lines keep the spelling they came with. To gets `to_tag` when that is given and To has none. The caller adds what
/// else there is and ends with [`end`] or [`body`].
pub fn response_head(
    w: &mut Writer<'_>,
    req: &Request<'_>,
    status: u16,
    reason: &str,
    to_tag: Option<&[u8]>,
    back: impl Into<WayBack>,
) {
    status_line(w, status, reason);
    let to_tag = to_tag.filter(|_| req.to_tag.is_none());
    answer_lines(w, req.msg, &req.via, status, to_tag, back.into());
}

/// The same for a request that is malformed. `reason` writes the reason phrase.
pub fn response_head_salvaged(
    w: &mut Writer<'_>,
    salvage: &Salvage<'_>,
    status: u16,
    reason: impl FnOnce(&mut Writer<'_>),
    to_tag: Option<&[u8]>,
    back: impl Into<WayBack>,
) {
    w.put(b"SIP/2.0 ").num(u64::from(status)).put(b" ");
    reason(w);
    w.crlf();
    let to_tag = to_tag.filter(|_| salvage.to_takes_tag);
    answer_lines(w, salvage.msg, &salvage.via, status, to_tag, back.into());
}

/// The Via lines of an answer to `req`, the topmost completed for the way back.
pub fn put_via_lines(w: &mut Writer<'_>, req: &Request<'_>, back: impl Into<WayBack>) {
    via_lines(w, req.msg, &req.via, back.into());
}

/// Ends a message that has no body.
pub fn end(w: &mut Writer<'_>) {
    w.put(b"Content-Length: ").padding().put(b"0\r\n\r\n");
}

/// Ends a message with a body of the media type `content_type`.
pub fn body(w: &mut Writer<'_>, content_type: &[u8], bytes: &[u8]) {
    w.header(Name::ContentType, content_type)
        .put(b"Content-Length: ")
        .padding()
        .num(bytes.len() as u64)
        .put(b"\r\n\r\n")
        .put(bytes);
}

fn answer_lines(
    w: &mut Writer<'_>,
    msg: Message<'_>,
    top: &Via<'_>,
    status: u16,
    to_tag: Option<&[u8]>,
    back: WayBack,
) {
    via_lines(w, msg, top, back);
    if let Some(from) = msg.line(Name::From) {
        line_with(w, msg, from, b"", b"");
    }
    if let Some(to) = msg.line(Name::To) {
        match to_tag {
            Some(tag) => line_with(w, msg, to, b";tag=", tag),
            None => line_with(w, msg, to, b"", b""),
        }
    }
    if let Some(line) = msg.line(Name::CallId) {
        w.call_id_line(msg.text_of(line), line.value_in_text()).crlf();
    }
    if let Some(line) = msg.line(Name::CSeq) {
        line_with(w, msg, line, b"", b"");
    }
    // RFC 3261 §8.2.6.1: a 100 carries the Timestamp of its request. A delay need not be added: there is none to speak of.
    if status == 100
        && let Some(line) = msg.line(Name::Timestamp)
    {
        line_with(w, msg, line, b"", b"");
    }
}

/// A line as received, with `name` and `value` appended to what it says, and a CRLF however it ended.
fn line_with(w: &mut Writer<'_>, msg: Message<'_>, line: &Line, name: &[u8], value: &[u8]) {
    w.put(msg.text_of(line)).put(name).put(value).crlf();
}

fn via_lines(w: &mut Writer<'_>, msg: Message<'_>, top: &Via<'_>, back: WayBack) {
    let mut lines = msg.lines_of(Name::Via);
    if let Some(first) = lines.next() {
        let element = msg.span_of(top.raw);
        w.put(&msg.bytes[first.start as usize..element.start as usize]);
        match back.load.filter(|_| top.obeys_loss()) {
            Some(load) => put_told_via(w, top, back.peer, load),
            None => {
                let is_named = back.is_named.unwrap_or_else(|| top.is_of(back.peer.ip()));
                put_via(w, top, back.peer, is_named);
            }
        }
        w.put(&msg.bytes[element.end as usize..first.value.end as usize])
            .crlf();
    }
    for line in lines {
        line_with(w, msg, line, b"", b"");
    }
}

/// Whether [`put_top_via`] writes anything but what came.
pub fn needs_completion(via: &Via<'_>, peer: SocketAddr) -> bool {
    via.rport.is_some() || via.has_received || !via.is_of(peer.ip())
}

/// Longest Via that the load can be told in.
pub const VIA_BYTES_MAX: usize = 2_048;

/// The topmost Via with what the server that received it adds.
///
/// RFC 3261 §18.2.1: `received` when the sent-by host is not the address that the packet came from. RFC 3581 §4: when
/// `rport` is there, it gets the source port, and `received` the address even if it is the same. A value that the client
/// wrote into either is not believed.
pub fn put_top_via(w: &mut Writer<'_>, via: &Via<'_>, peer: SocketAddr) {
    put_via(w, via, peer, via.is_of(peer.ip()));
}

fn put_via(w: &mut Writer<'_>, via: &Via<'_>, peer: SocketAddr, is_named: bool) {
    let wants_received = via.rport.is_some() || !is_named;
    // What lies between what changes is copied as it is.
    let raw = via.raw;
    let mut copied = 0;
    let mut rport_written = false;
    let changes = via.rport.is_some() || via.has_received;
    for param in Params::new(if changes { via.params } else { b"" }) {
        let start = param.raw.as_ptr() as usize - raw.as_ptr() as usize;
        let kept = &raw[copied..start];
        if param.is(b"rport") && !rport_written {
            w.put(kept).put(param.name).put(b"=").num(u64::from(peer.port()));
            rport_written = true;
        } else if param.is(b"rport") || param.is(b"received") {
            // It goes with the semicolon before it.
            let kept = lex::trim_end(kept);
            w.put(kept.strip_suffix(b";").unwrap_or(kept));
        } else {
            continue;
        }
        copied = start + param.raw.len();
    }
    w.put(&raw[copied..]);
    if wants_received {
        w.put(b";received=");
        put_address(w, peer.ip().to_canonical());
    }
}

/// The same for an answer to who asked for the load of this server: RFC 7339 §5.2.
#[cold]
#[inline(never)]
fn put_told_via(w: &mut Writer<'_>, via: &Via<'_>, peer: SocketAddr, load: Load) {
    let mut room = [0; VIA_BYTES_MAX];
    let mut completed = Writer::new(&mut room);
    put_top_via(&mut completed, via, peer);
    let completed = completed.finish().map(|len| Via::parse(&room[..len]));
    match completed {
        Some(Ok(via)) => put_load(w, &via, load),
        // Too long to be told in one piece: then without.
        Some(Err(_)) | None => put_top_via(w, via, peer),
    }
}

/// A Via with the load of this server in the place of what its client wrote.
pub fn put_load(w: &mut Writer<'_>, via: &Via<'_>, load: Load) {
    const OURS: [&[u8]; 4] = [b"oc", b"oc-algo", b"oc-validity", b"oc-seq"];
    let params_at = via.raw.len() - via.params.len();
    w.put(lex::trim_end(&via.raw[..params_at.saturating_sub(1)]));
    for param in Params::new(via.params) {
        if !OURS.iter().any(|name| param.is(name)) {
            w.put(b";").put(param.raw);
        }
    }
    w.put(b";oc=").num(u64::from(load.loss)).put(b";oc-algo=\"loss\"");
    w.put(b";oc-validity=").num(u64::from(load.validity_ms));
    // §9: seconds with a fraction, which has three digits here.
    w.put(b";oc-seq=").num(load.seq_ms / 1_000).put(b".");
    let fraction = load.seq_ms % 1_000;
    w.num(fraction / 100).num(fraction / 10 % 10).num(fraction % 10);
}

/// An address as `received` has it (RFC 3261 §25.1): IPv6 without brackets.
pub fn put_address(w: &mut Writer<'_>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets().map(u64::from);
            w.num(a).put(b".").num(b).put(b".").num(c).put(b".").num(d);
        }
        IpAddr::V6(address) => {
            // A writer that is full remembers it by itself.
            let _ = write!(w, "{address}");
        }
    }
}

/// RFC 3261 §20.17: `Sun, 06 Nov 1994 08:49:37 GMT`, from seconds since 1970. Leap seconds don't exist.
pub fn http_date(w: &mut Writer<'_>, unix_secs: u64) {
    const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
    ];
    let days = unix_secs / 86_400;
    let second_of_day = unix_secs % 86_400;
    let (year, month, day) = civil(days);
    w.put(WEEKDAYS[(days % 7) as usize]).put(b", ");
    two_digits(w, day);
    w.put(b" ").put(MONTHS[month as usize - 1]).put(b" ");
    two_digits(w, year / 100 % 100);
    two_digits(w, year % 100);
    for (separator, value) in [
        (b" ", second_of_day / 3_600),
        (b":", second_of_day / 60 % 60),
        (b":", second_of_day % 60),
    ] {
        w.put(separator);
        two_digits(w, value);
    }
    w.put(b" GMT");
}

fn two_digits(w: &mut Writer<'_>, value: u64) {
    w.put(&[b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Table, scan};
    use super::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut buf = [0; 2_048];
        let mut w = Writer::new(&mut buf);
        write(&mut w);
        let len = w.finish().expect("room");
        String::from_utf8(buf[..len].to_vec()).expect("text")
    }

    #[test]
    fn a_full_writer_keeps_a_prefix_and_says_so() {
        let mut buf = [0; 4];
        let mut w = Writer::new(&mut buf);
        w.put(b"abc").put(b"de").put(b"f");
        assert_eq!(w.finish(), None);
        assert_eq!(&buf, b"abc\0");
        assert_eq!(
            written(|w| {
                w.num(0).put(b" ").num(u64::MAX);
            }),
            format!("0 {}", u64::MAX)
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(written(|w| http_date(w, secs)), text);
        }
    }

    fn via_of(via: &str, peer: &str) -> String {
        let text = format!(
            "OPTIONS sip:b SIP/2.0\r\n{via}\r\nf: <sip:a@a>;tag=1\r\nTO : <sip:b@b> \r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\
             Timestamp: 54\r\n\r\n"
        );
        let mut table = Table::new();
        scan(text.as_bytes(), &mut table).expect("well-formed");
        let req = Request::check(Message::new(text.as_bytes(), &table)).expect("whole");
        written(|w| put_via_lines(w, &req, peer.parse::<SocketAddr>().expect("an address")))
    }

    #[test]
    fn the_top_via_says_where_the_request_came_from() {
        for (via, peer, answered) in [
            // RFC 3261 §18.2.1.
            (
                "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z",
                "192.0.2.1:5060",
                "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z",
            ),
            (
                "Via: SIP/2.0/UDP a.example",
                "192.0.2.1:9",
                "Via: SIP/2.0/UDP a.example;received=192.0.2.1",
            ),
            // RFC 3581 §4: received stands there even if the address is the same.
            (
                "v:SIP/2.0/UDP 192.0.2.1;rport;branch=z",
                "192.0.2.1:9",
                "v:SIP/2.0/UDP 192.0.2.1;rport=9;branch=z;received=192.0.2.1",
            ),
            // What the client wrote is replaced.
            (
                "Via: SIP/2.0/UDP 192.0.2.1 ; received=1.2.3.4 ;branch=z;rport=7;RPORT",
                "192.0.2.1:9",
                "Via: SIP/2.0/UDP 192.0.2.1  ;branch=z;rport=9;received=192.0.2.1",
            ),
            (
                "Via: SIP/2.0/UDP 192.0.2.1;received=1.2.3.4",
                "192.0.2.1:9",
                "Via: SIP/2.0/UDP 192.0.2.1",
            ),
            // IPv6 without brackets; an IPv4 peer of a dual socket is IPv4.
            (
                "Via: SIP/2.0/UDP [2001:DB8::1]:5060;branch=z",
                "[2001:db8::1]:5060",
                "Via: SIP/2.0/UDP [2001:DB8::1]:5060;branch=z",
            ),
            (
                "Via: SIP/2.0/UDP a;branch=z",
                "[2001:db8::1]:5060",
                "Via: SIP/2.0/UDP a;branch=z;received=2001:db8::1",
            ),
            (
                "Via: SIP/2.0/UDP 192.0.2.1;branch=z",
                "[::ffff:192.0.2.1]:5060",
                "Via: SIP/2.0/UDP 192.0.2.1;branch=z",
            ),
            // The rest of the line, the fold and the other lines stay.
            (
                "Via: SIP/2.0/UDP a;rport\r\n ;b=\"x;y\" , SIP/2.0/TCP c;rport\r\nV: SIP/2.0/UDP d;rport",
                "192.0.2.1:9",
                "Via: SIP/2.0/UDP a;rport=9\r\n ;b=\"x;y\";received=192.0.2.1 , SIP/2.0/TCP c;rport\r\nV: SIP/2.0/UDP d;rport",
            ),
        ] {
            assert_eq!(via_of(via, peer), format!("{answered}\r\n"));
        }
    }

    #[test]
    fn an_answer_repeats_what_it_must() {
        let text = b"OPTIONS sip:b SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nCSeq: 1 OPTIONS\r\nf: <sip:a@a>;tag=1\r\n\
            TO : <sip:b@b> \r\nCall-ID: x\nTimestamp: 54\r\n\r\n";
        let mut table = Table::new();
        scan(text, &mut table).expect("well-formed");
        let req = Request::check(Message::new(text, &table)).expect("whole");
        let peer: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        assert_eq!(
            written(|w| {
                response_head(w, &req, 200, "OK", Some(b"t"), peer);
                end(w);
            }),
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nf: <sip:a@a>;tag=1\r\nTO : <sip:b@b>;tag=t\r\nCall-ID: x\r\n\
             CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(
            written(|w| response_head(w, &req, 100, "Trying", None, peer)),
            "SIP/2.0 100 Trying\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nf: <sip:a@a>;tag=1\r\nTO : <sip:b@b>\r\nCall-ID: x\r\n\
             CSeq: 1 OPTIONS\r\nTimestamp: 54\r\n"
        );
    }

    #[test]
    fn what_is_malformed_is_answered_with_what_can_be_saved_of_it() {
        let text = b"BYE sip:b SIP/3.0\r\nVia: SIP/2.0/UDP h;rport\r\nt: <sip:b\r\nCSeq: 1\r\n BYE\r\n\r\n";
        let mut table = Table::new();
        let error = scan(text, &mut table).expect_err("another version");
        let salvage = Salvage::of(Message::new(text, &table)).expect("a way back");
        let peer: SocketAddr = "192.0.2.1:9".parse().expect("an address");
        assert_eq!(
            written(|w| {
                response_head_salvaged(w, &salvage, error.status(), |w| error.reason(w), Some(b"t"), peer);
                body(w, b"text/plain", b"no");
            }),
            // To is not to be trusted with a tag.
            "SIP/2.0 505 SIP version not supported\r\nVia: SIP/2.0/UDP h;rport=9;received=192.0.2.1\r\nt: <sip:b\r\n\
             CSeq: 1\r\n BYE\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno"
        );
    }
}
