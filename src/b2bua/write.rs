//! How a message changes when it crosses from one leg to the other. What is not named here goes through byte for byte and
//! in order.

use crate::dialog::Parts;
use crate::msg::Span;
use crate::msg::build::{self, Writer};
use crate::msg::edit::Rewrite;
use crate::msg::lex::Elements;
use crate::msg::message::{Message, VERSION};
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::named_dialog::NamedDialog;
use crate::msg::request::{Request, Response};
use crate::msg::scan::{LINES_MAX, Line};
use crate::pool::Written;
use crate::token::Token;
use crate::transaction::Stack;
use crate::wire::Flow;

use super::asked::Lines;
use super::refer::refer_id;
use super::session::{Granted, Onward};

/// Room that a forwarded message needs beyond the received one, besides the text of the dialog.
pub const FORWARD_SLACK: usize = 1_024;
/// By how much nearly all grow, if at all: the names of one leg are about as long as those of the other.
pub const FORWARD_SLACK_USUAL: usize = 96;
/// Lines that a request may gain: Route, Max-Forwards, Content-Length, Session-Expires, Min-SE.
const LINES_ADDED_MAX: usize = 5;
/// RFC 3261 §8.1.1.6.
const MAX_FORWARDS: u8 = 70;

/// The other side of a request that goes out on a leg.
pub struct Outgoing<'a> {
    /// The dialog that it goes out in.
    pub dialog: &'a Parts<'a>,
    /// A tag to add to our From, or empty where it has one.
    pub from_tag: &'a [u8],
    pub cseq: u32,
    pub flow: Flow,
    pub branch: Token,
    pub mentions: &'a Mentions<'a>,
}

/// Where the first address of a Contact line stands in its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContactPlace {
    uri: Span,
    /// One past its parameters.
    end: u32,
}

impl ContactPlace {
    /// That of an address of `msg`.
    pub fn of(contact: &NameAddr<'_>, msg: Message<'_>) -> ContactPlace {
        ContactPlace {
            uri: msg.span_of(contact.uri),
            end: msg.span_of(contact.raw).end,
        }
    }

    fn in_line(line: &Line, msg: Message<'_>) -> Option<ContactPlace> {
        let first = Elements::new(msg.value_of(line)).next()?;
        Some(ContactPlace {
            uri: msg.span_of(NameAddr::uri_of(first)?),
            end: msg.span_of(first).end,
        })
    }
}

/// What a request says of others than itself, as that is called on the leg that it goes out on; and what is known of it.
#[derive(Clone, Copy, Default)]
pub struct Mentions<'a> {
    /// The CSeq number for a PRACK's RAck (RFC 3262 §7.2).
    pub rack_cseq: Option<u32>,
    /// The number of the REFER for the `id` of an Event (RFC 3515 §2.4.6).
    pub refer_id: Option<u32>,
    /// The dialog for Replaces, Join and Target-Dialog.
    pub dialog: Option<NamedDialog<'a>>,
    /// Where its Contact stands, if that has been read.
    pub contact: Option<ContactPlace>,
}

/// Writes the received `request` as it goes out to `dst`; returns its length. `None`: it is longer, or has more lines, than
/// there is room for.
#[must_use]
pub fn write_request(
    stack: &Stack,
    request: &Request<'_>,
    outgoing: &Outgoing<'_>,
    dst: &mut [u8],
) -> Option<Written> {
    let msg = &request.msg;
    // The ACK and the CANCEL of an INVITE are made from what was sent, so that must be readable too.
    if msg.lines().len() + LINES_ADDED_MAX > LINES_MAX {
        return None;
    }
    let mut out = Rewrite::of_message(*msg, dst);
    out.replace(msg.span_of(request.uri))
        .put(outgoing.dialog.request_uri());
    if let Some(version) = msg.unusual_version() {
        out.replace(version).put(VERSION);
    }
    let onward = Onward::of(&stack.cfg.session_timers, request);
    let mut has_length = false;
    let mut has_max_forwards = false;
    let mut has_via = false;
    for line in msg.lines() {
        match line.name {
            Name::Via if has_via => out.delete(line.span()),
            Name::Via => {
                has_via = true;
                let w = out.replace(line.span());
                stack.put_via_line(outgoing.flow, outgoing.branch, w);
                outgoing.dialog.put_routes(w);
            }
            Name::Route | Name::RecordRoute => out.delete(line.span()),
            Name::From => {
                let w = out.replace(line.value).put(outgoing.dialog.local);
                if !outgoing.from_tag.is_empty() {
                    w.put(b";tag=").put(outgoing.from_tag);
                }
            }
            Name::To => _ = out.replace(line.value).put(outgoing.dialog.remote),
            Name::CallId => _ = out.replace(line.value).call_id(outgoing.dialog.call_id),
            Name::CSeq => {
                out.replace(line.value)
                    .num(u64::from(outgoing.cseq))
                    .put(b" ")
                    .put(request.method_text);
            }
            // A B2BUA may start anew; one less than what came, as a proxy has it (RFC 3261 §16.6 step 3), ends loops through others.
            Name::MaxForwards => {
                has_max_forwards = true;
                let left = request.max_forwards.unwrap_or(MAX_FORWARDS).saturating_sub(1);
                out.replace(line.value).num(u64::from(left));
            }
            Name::Contact => {
                let known = outgoing
                    .mentions
                    .contact
                    .filter(|place| (line.value.start..line.value.end).contains(&place.uri.start));
                write_contact(&mut out, stack, line, *msg, known, outgoing.flow);
            }
            Name::RAck => {
                if let Some(cseq) = outgoing.mentions.rack_cseq {
                    write_rack(&mut out, line.value, msg.bytes, cseq);
                }
            }
            Name::Event => {
                // The first of them counts.
                let id = refer_id(msg).map(|id| msg.span_of(id));
                if let (Some(number), Some(id)) = (outgoing.mentions.refer_id, id)
                    && (line.value.start..line.value.end).contains(&id.start)
                {
                    out.replace(id).num(u64::from(number));
                }
            }
            Name::Replaces | Name::Join | Name::TargetDialog => {
                if let Some(dialog) = &outgoing.mentions.dialog {
                    write_named_dialog(&mut out, line, msg.bytes, dialog);
                }
            }
            Name::SessionExpires | Name::MinSE => onward.rewrite(line, msg, &mut out),
            Name::ContentLength => has_length = true,
            _ => {}
        }
    }
    let w = out.insert(msg.lines_end());
    onward.put_lines(msg, w);
    if !has_max_forwards {
        w.header_num(Name::MaxForwards, u64::from(MAX_FORWARDS - 1));
    }
    if !has_length {
        // RFC 3261 §18.3: a stream needs it, and a datagram may have come without.
        w.header_num(Name::ContentLength, msg.body().len() as u64);
    }
    out.finish().ok()
}

/// Writes a request of ours as it goes out once more, over another flow. RFC 3263 §4.3 has it differ by its Via alone; our Contact says
/// where we are on that flow.
#[must_use]
pub fn write_again(
    stack: &Stack,
    sent: Message<'_>,
    flow: Flow,
    branch: Token,
    dst: &mut [u8],
) -> Option<Written> {
    let mut out = Rewrite::of_message(sent, dst);
    for line in sent.lines() {
        match line.name {
            // It has no other.
            Name::Via => stack.put_via_line(flow, branch, out.replace(line.span())),
            Name::CallId => _ = out.replace(line.value).call_id(sent.value_of(line)),
            Name::Contact => write_contact(&mut out, stack, line, sent, None, flow),
            _ => {}
        }
    }
    out.finish().ok()
}

/// Writes a response that came on one leg as the answer to the request with the lines `asked`, which came on the other over
/// `flow`, to `dst`, with what was `granted` to its session; returns its length, or `None` where there is no room.
#[must_use]
pub fn write_response(
    stack: &Stack,
    response: &Response<'_>,
    asked: &Lines<'_>,
    flow: Flow,
    granted: Granted,
    dst: &mut [u8],
) -> Option<Written> {
    let msg = &response.msg;
    let mut out = Rewrite::of_message(*msg, dst);
    if let Some(version) = msg.unusual_version() {
        out.replace(version).put(VERSION);
    }
    let mut has_via = false;
    let mut has_length = false;
    let mut has_contact = false;
    // RFC 3261 §12.1.1: the 2xx (and the 1xx that make an early dialog) repeat the request's Record-Route.
    let is_dialog_forming = response.status > 100 && response.status < 300 && !asked.has_to_tag;
    // §21.3, §21.4.22: the Contact of a 3xx or 485 names other places: it is not ours to change.
    let is_our_contact = response.status < 300;
    for line in msg.lines() {
        match line.name {
            Name::Via if has_via => out.delete(line.span()),
            Name::Via => {
                has_via = true;
                let w = out.replace(line.span()).put(asked.vias);
                if is_dialog_forming {
                    w.put(asked.record_routes);
                }
            }
            Name::RecordRoute => out.delete(line.span()),
            Name::From => _ = out.replace(line.span()).put(asked.from),
            Name::CallId => {
                out.replace(line.span())
                    .call_id_line(asked.call_id, asked.call_id_value.clone());
            }
            Name::CSeq => _ = out.replace(line.span()).put(asked.cseq),
            Name::To => {
                let w = out.replace(line.span()).put(asked.to);
                if let (false, Some(tag)) = (asked.has_to_tag, response.to_tag) {
                    w.put(b";tag=").put(tag);
                }
                w.crlf();
            }
            Name::Contact if is_our_contact => {
                has_contact = true;
                // The only line of a response that is the B2BUA's own: here the white space of `HCOLON` may grow.
                out.insert(line.value.start).padding();
                write_contact(&mut out, stack, line, *msg, None, flow);
            }
            Name::ContentLength => has_length = true,
            _ => {}
        }
    }
    let w = out.insert(msg.lines_end());
    // §12.1.1: a 2xx that makes a dialog says where it is reached, also for a phone that forgot to.
    let is_accepted = response.cseq.method == Method::Invite && (200..300).contains(&response.status);
    if is_accepted && !has_contact {
        put_contact(stack, flow, w);
    }
    granted.complete(msg, w);
    if !has_length {
        w.put(b"Content-Length: ")
            .padding()
            .num(msg.body().len() as u64)
            .crlf();
    }
    out.finish().ok()
}

/// Puts our own URI in the place of the Contact's; its feature parameters stay. Further elements of the line go: a dialog
/// has one remote target (RFC 3261 §8.1.1.8). `known`: where it stands, if that has been read.
fn write_contact(
    out: &mut Rewrite<'_, '_>,
    stack: &Stack,
    line: &Line,
    msg: Message<'_>,
    known: Option<ContactPlace>,
    flow: Flow,
) {
    let Some(ContactPlace { uri, end }) = known.or_else(|| ContactPlace::in_line(line, msg)) else {
        return;
    };
    let is_bracketed = msg.bytes.get(uri.end as usize) == Some(&b'>');
    let w = out.replace(uri);
    if !is_bracketed {
        w.put(b"<");
    }
    w.put(stack.contact_uri(flow));
    if !is_bracketed {
        w.put(b">");
    }
    if end < line.value.end {
        out.delete(Span::new(end, line.value.end));
    }
}

/// Our Contact line on a leg.
fn put_contact(stack: &Stack, flow: Flow, w: &mut Writer<'_>) {
    w.put(b"Contact: ")
        .padding()
        .put(b"<")
        .put(stack.contact_uri(flow))
        .put(b">\r\n");
}

/// RFC 3262 §7.2: `RAck: response-number CSeq-number method`.
fn write_rack(out: &mut Rewrite<'_, '_>, value: Span, bytes: &[u8], cseq: u32) {
    let text = value.of(bytes);
    let mut words = text
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    if let (Some(_), Some(number)) = (words.next(), words.next()) {
        let start = value.start + (number.as_ptr() as usize - text.as_ptr() as usize) as u32;
        out.replace(Span {
            start,
            end: start + number.len() as u32,
        })
        .num(u64::from(cseq));
    }
}

/// Puts other names in the place of those that a header has for a dialog; what else it says, as `early-only`, stays.
fn write_named_dialog(out: &mut Rewrite<'_, '_>, line: &Line, bytes: &[u8], names: &NamedDialog<'_>) {
    let value = line.value.of(bytes);
    let Some(named) = NamedDialog::parse(line.name, value) else {
        return;
    };
    let place = |part: &[u8]| {
        let start = line.value.start + (part.as_ptr() as usize - value.as_ptr() as usize) as u32;
        let end = start + part.len() as u32;
        Span { start, end }
    };
    let mut tags = [
        (named.local_tag, names.local_tag),
        (named.remote_tag, names.remote_tag),
    ];
    tags.sort_by_key(|(old, _)| old.as_ptr());
    // Not the call that this message belongs to.
    out.replace(place(named.call_id)).put(names.call_id);
    for (old, new) in tags {
        out.replace(place(old)).put(new);
    }
}

/// The CSeq number in a PRACK's RAck.
pub fn rack_cseq(request: &Request<'_>) -> Option<u32> {
    let text = std::str::from_utf8(request.msg.value(Name::RAck)?).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A request of our own within a dialog: ACK or BYE without a body.
#[allow(clippy::too_many_arguments)]
pub fn put_own_request(
    w: &mut Writer<'_>,
    stack: &Stack,
    method: Method,
    parts: &Parts<'_>,
    from_tag: &[u8],
    cseq: u32,
    flow: Flow,
    branch: Token,
) {
    w.put(method.text().as_bytes())
        .put(b" ")
        .put(parts.request_uri())
        .put(b" SIP/2.0\r\n");
    stack.put_via_line(flow, branch, w);
    w.put(b"Max-Forwards: ").num(u64::from(MAX_FORWARDS)).crlf();
    parts.put_routes(w);
    w.put(b"From: ").put(parts.local);
    if !from_tag.is_empty() {
        w.put(b";tag=").put(from_tag);
    }
    w.crlf();
    w.put(b"To: ").put(parts.remote).crlf();
    w.put(b"Call-ID: ").call_id(parts.call_id).crlf();
    w.put(b"CSeq: ")
        .num(u64::from(cseq))
        .put(b" ")
        .put(method.text().as_bytes())
        .crlf();
    build::end(w);
}
