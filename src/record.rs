//! What a shard tells of a call that is over: plain values, and the texts that go with them as bytes. The control thread makes
//! a line of the call records of it.

use std::net::SocketAddr;

use crate::time::Instant;
use crate::wire::Transport;

/// Why a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EndReason {
    CallerHungUp,
    CalleeHungUp,
    /// The caller gave up before there was an answer.
    Cancelled,
    /// A phone said no.
    Rejected,
    /// The server said no: nobody of that name, nobody there, a loop.
    Refused,
    /// No phone said anything to the INVITE: timer B (RFC 3261 §17.1.1.2).
    NoAnswer,
    /// A phone rang for too long (RFC 3261 §16.8).
    TimerC,
    /// No phone could be sent the INVITE.
    Unreachable,
    /// The caller never acknowledged the answer (RFC 3261 §13.3.1.4).
    NoAck,
    /// `limits.call_duration_max_s`.
    DurationLimit,
    /// No phone refreshed its session in time (RFC 4028 §10).
    NotRefreshed,
    /// There was no room for the call, or for what it needed.
    Limit,
    /// The two sides were of two minds: one accepted what the other had taken back.
    Crossed,
    Shutdown,
    /// Somebody who runs the server hung up.
    Operator,
    /// It was answered, and goes on: nothing of it passes here any more.
    Answered,
    /// No BYE has come by for as long as a call may last.
    NotSeen,
}

impl EndReason {
    /// As it stands in a call record.
    pub const fn text(self) -> &'static str {
        match self {
            EndReason::CallerHungUp => "caller_hung_up",
            EndReason::CalleeHungUp => "callee_hung_up",
            EndReason::Cancelled => "cancelled",
            EndReason::Rejected => "rejected",
            EndReason::Refused => "refused",
            EndReason::NoAnswer => "no_answer",
            EndReason::TimerC => "timer_c",
            EndReason::Unreachable => "unreachable",
            EndReason::NoAck => "no_ack",
            EndReason::DurationLimit => "duration_limit",
            EndReason::NotRefreshed => "not_refreshed",
            EndReason::Limit => "limit",
            EndReason::Crossed => "crossed",
            EndReason::Shutdown => "shutdown",
            EndReason::Operator => "operator",
            EndReason::Answered => "answered",
            EndReason::NotSeen => "end_not_seen",
        }
    }
}

/// How much of a call can be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    WholeCall,
    /// It was forwarded without Record-Route: after its answer nothing of it passes here.
    UntilAnswer,
}

impl Extent {
    /// As it stands in a call record.
    pub const fn text(self) -> &'static str {
        match self {
            Extent::WholeCall => "whole_call",
            Extent::UntilAnswer => "until_answer",
        }
    }
}

/// Where a phone was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub transport: Transport,
    pub peer: SocketAddr,
}

/// One call that is over, beside its texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallRecord {
    /// When the INVITE was received.
    pub began: Instant,
    /// From then until a phone rang (the first 180 to 189) and until the call was answered: milliseconds.
    pub rang_after_ms: Option<u32>,
    pub answered_after_ms: Option<u32>,
    pub ended: Instant,
    pub reason: EndReason,
    /// What the caller's INVITE was answered with.
    pub status: u16,
    /// Q.850 cause that whoever ended the call has given.
    pub q850: Option<u8>,
    /// Phones that were rung.
    pub rung: u16,
    pub extent: Extent,
    /// The proxy forwarded it, and the phone service had no part in it.
    pub is_proxied: bool,
    pub caller: Place,
    /// The phone that answered, else one of those that were rung.
    pub callee: Option<Place>,
    pub caller_media: Option<SocketAddr>,
    pub callee_media: Option<SocketAddr>,
    /// Where each of the texts ends.
    pub ends: Ends,
}

impl CallRecord {
    /// A call whose INVITE was received at `began`: all that is known of one that there was no room for.
    pub fn begun(began: Instant, caller: Place, caller_media: Option<SocketAddr>) -> CallRecord {
        CallRecord {
            began,
            rang_after_ms: None,
            answered_after_ms: None,
            ended: began,
            reason: EndReason::Limit,
            status: 0,
            q850: None,
            rung: 0,
            extent: Extent::WholeCall,
            is_proxied: false,
            caller,
            callee: None,
            caller_media,
            callee_media: None,
            ends: Ends::default(),
        }
    }

    /// A provisional response or a 2xx went back to the caller at `now`; `media` is where its body wants the audio.
    pub fn note_response(&mut self, status: u16, media: Option<SocketAddr>, now: Instant) {
        self.callee_media = media.or(self.callee_media);
        let after_ms = now.since(self.began).as_millis() as u32;
        match status {
            180..=189 => _ = self.rang_after_ms.get_or_insert(after_ms),
            200..=299 => {
                self.answered_after_ms = Some(after_ms);
                self.status = status;
            }
            _ => {}
        }
    }
}

/// The texts of a call, each raw as it stood in a message; those that are not known are empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Texts<'a> {
    /// The caller's From.
    pub from: &'a [u8],
    /// The caller's To, as in the INVITE.
    pub to: &'a [u8],
    pub request_uri: &'a [u8],
    pub asserted_identity: &'a [u8],
    pub preferred_identity: &'a [u8],
    pub caller_call_id: &'a [u8],
    pub caller_contact: &'a [u8],
    pub callee_call_id: &'a [u8],
    pub callee_contact: &'a [u8],
    /// The trunk that it went to.
    pub trunk: &'a [u8],
}

const TEXTS: usize = 10;

/// Where each of [`Texts`] ends in the bytes that they were put into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends([u16; TEXTS]);

impl<'a> Texts<'a> {
    fn array(&self) -> [&'a [u8]; TEXTS] {
        [
            self.from,
            self.to,
            self.request_uri,
            self.asserted_identity,
            self.preferred_identity,
            self.caller_call_id,
            self.caller_contact,
            self.callee_call_id,
            self.callee_contact,
            self.trunk,
        ]
    }

    /// Puts the texts one behind the other. One that there is no room for is left empty.
    pub fn put(&self, into: &mut [u8]) -> Ends {
        let mut ends = Ends::default();
        let mut at = 0;
        for (text, end) in self.array().iter().zip(&mut ends.0) {
            if let Some(place) = into.get_mut(at..at + text.len())
                && at + text.len() <= usize::from(u16::MAX)
            {
                place.copy_from_slice(text);
                at += text.len();
            }
            *end = at as u16;
        }
        ends
    }

    /// The texts that [`Texts::put`] has put into `bytes`.
    pub fn read(ends: Ends, bytes: &'a [u8]) -> Texts<'a> {
        let text = |i: usize| {
            let start = if i == 0 { 0 } else { ends.0[i - 1] };
            bytes
                .get(usize::from(start)..usize::from(ends.0[i]))
                .unwrap_or(b"")
        };
        Texts {
            from: text(0),
            to: text(1),
            request_uri: text(2),
            asserted_identity: text(3),
            preferred_identity: text(4),
            caller_call_id: text(5),
            caller_contact: text(6),
            callee_call_id: text(7),
            callee_contact: text(8),
            trunk: text(9),
        }
    }
}

impl Ends {
    /// Bytes of all texts.
    pub fn len(&self) -> usize {
        usize::from(self.0[TEXTS - 1])
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were_put_and_what_does_not_fit_is_empty() {
        let texts = Texts {
            from: b"<sip:a@one.att.net>;tag=1",
            request_uri: b"sip:b@one.att.net",
            callee_contact: b"sip:b@127.0.0.3",
            ..Texts::default()
        };
        let mut room = [0; 128];
        let ends = texts.put(&mut room);
        assert_eq!(Texts::read(ends, &room[..ends.len()]), texts);
        let mut room = [0; 30];
        let ends = texts.put(&mut room);
        let read = Texts::read(ends, &room[..ends.len()]);
        assert_eq!((read.from, read.request_uri), (texts.from, &b""[..]));
    }
}
