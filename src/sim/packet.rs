//! One SIP message on the simulated wire, read once.

use bench_harness::sip::Message;

/// What names a message that a phone made, through every element that passes it on: `X-Id: <number>`.
pub const ID_HEADER: &str = "X-Id";

/// A message with what is asked of it again and again. It is read by the load generator's parser, not by ringway's.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub message: Message,
    /// The topmost branch.
    pub branch: String,
    /// Number and method of the CSeq.
    pub cseq: u32,
    pub method: String,
    pub status: Option<u16>,
    pub call_id: String,
    pub from_tag: String,
    pub to_tag: String,
    /// The number that the phone which made it gave it.
    pub id: Option<u64>,
}

impl Packet {
    pub fn new(message: Message) -> Packet {
        Packet::of(message.to_bytes(), message)
    }

    /// # Errors
    /// What a strict reader objects to.
    pub fn parse(bytes: &[u8]) -> Result<Packet, String> {
        Ok(Packet::of(bytes.to_vec(), Message::parse(bytes)?))
    }

    fn of(bytes: Vec<u8>, message: Message) -> Packet {
        let (cseq, method) = message.cseq();
        let method = method.to_owned();
        Packet {
            bytes,
            branch: message.branch().to_owned(),
            cseq,
            method,
            status: message.status(),
            call_id: message.text("Call-ID").to_owned(),
            from_tag: message.from_tag().unwrap_or_default().to_owned(),
            to_tag: message.to_tag().unwrap_or_default().to_owned(),
            id: message.get(ID_HEADER).and_then(|id| id.parse().ok()),
            message,
        }
    }

    /// The method of a request; `None` for a response.
    pub fn request(&self) -> Option<&str> {
        self.message.method()
    }

    pub fn is_request(&self, method: &str) -> bool {
        self.request() == Some(method)
    }

    pub fn is_final(&self) -> bool {
        self.status.is_some_and(|status| status >= 200)
    }

    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    pub fn is_failure(&self) -> bool {
        self.status.is_some_and(|status| status >= 300)
    }
}
