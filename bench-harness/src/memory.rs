//! What a phone remembers, so that retransmissions are told from news (RFC 3261 §17).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::sip::Message;

/// How a response finds its transaction and a retransmission its original (§17.2.3).
pub(crate) type Key = (String, String);

/// A message that is repeated until it is answered.
pub(crate) struct Unanswered {
    pub(crate) until: Until,
    pub(crate) bytes: Vec<u8>,
    pub(crate) to: SocketAddr,
    pub(crate) due: Instant,
    pub(crate) interval: Duration,
    pub(crate) stops: Instant,
}

#[derive(PartialEq, Eq)]
pub(crate) enum Until {
    Response(Key),
    Ack { call_id: String, cseq: u32 },
}

/// What a phone remembers of finished exchanges; old entries make room for new ones.
pub(crate) struct Memory<V> {
    entries: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Memory<V> {
    const MAX: usize = 4_096;

    pub(crate) fn new() -> Memory<V> {
        Memory {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn put(&mut self, key: String, value: V) {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

/// §17.1.3: top branch and the CSeq's method.
pub(crate) fn transaction_key(message: &Message) -> Key {
    (message.branch().to_owned(), message.cseq().1.to_owned())
}

/// §17.2.3: top branch, sent-by and method.
pub(crate) fn request_key(request: &Message) -> String {
    let sent_by = request.top_via().split(';').next().unwrap_or_default();
    format!(
        "{sent_by} {} {}",
        request.branch(),
        request.method().unwrap_or_default()
    )
}

/// What an ACK and the response that it is for have in common.
pub(crate) fn ack_key(message: &Message) -> String {
    format!(
        "{} {} {}",
        message.text("Call-ID"),
        message.cseq().0,
        message.to_tag().unwrap_or_default()
    )
}
