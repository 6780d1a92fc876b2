//! Where a subscriber can be reached: what [`super::Location::look_up`] finds, in one flat run of bytes that can cross to
//! another shard as it is.
//!
//! Encoding, numbers big-endian: outcome (1), for a dialog the length (2) and text of its names, then for each contact q (2),
//! flags (1), flow ([`Flow::BYTES`]), length of URI (2), of parameters (2) and of path (2), device (1), URI, parameters, path.

use crate::msg::named_dialog::NamedDialog;
use crate::wire::Flow;

/// Capacity of a set, bytes. Contacts that no longer fit are left out, the least preferred first.
pub const SET_BYTES: usize = 16_384;

/// What is known of a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// Never registered, or so long ago that it is forgotten: 404.
    Unknown = 0,
    /// Registered before and without a contact now: 480.
    Offline = 1,
    /// At least one contact.
    Contacts = 2,
    /// The one phone on the other side of a dialog, with the names that the dialog has there.
    Dialog = 3,
    /// No such dialog.
    NoDialog = 4,
}

/// One contact of a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contact<'a> {
    /// As registered, without `<>`.
    pub uri: &'a [u8],
    /// Header parameters as registered, `expires` left out, each with its semicolon in front.
    pub params: &'a [u8],
    /// RFC 3327: the hops on the way there, comma-separated as in a Route; empty when there are none.
    pub path: &'a [u8],
    /// The same number for all contacts of one device (`+sip.instance`), 0 where it has no other.
    pub device: u8,
    /// RFC 5626: the phone is reached over `flow` and no other way.
    pub is_flow: bool,
    /// Preference in thousandths, 0 to 1000.
    pub q: u16,
    /// What the phone registered through.
    pub flow: Flow,
    /// Whether the contact asks for TCP: it is reached over `flow.conn` while that lives. Otherwise the URI says where.
    pub tcp: bool,
    /// Whether the URI leads, over UDP, to `flow.peer`, and has no headers.
    pub is_at_peer: bool,
}

/// The answer to a look-up. Allocated once and used again.
pub struct ContactSet {
    bytes: Box<[u8; SET_BYTES]>,
    len: usize,
}

/// Everything of a contact but its texts.
const HEAD_BYTES: usize = DEVICE_AT + 1;
const FLAGS_AT: usize = 2;
const FLOW_AT: usize = FLAGS_AT + 1;
const LENS_AT: usize = FLOW_AT + Flow::BYTES;
const DEVICE_AT: usize = LENS_AT + 6;
const FLAG_TCP_WANTED: u8 = 1;
const FLAG_AT_PEER: u8 = 2;
const FLAG_FLOW_ALONE: u8 = 4;

impl Default for ContactSet {
    fn default() -> ContactSet {
        ContactSet::new()
    }
}

impl ContactSet {
    /// A set that says [`Outcome::Unknown`].
    pub fn new() -> ContactSet {
        ContactSet {
            bytes: Box::new([0; SET_BYTES]),
            len: 1,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match self.bytes[0] {
            1 => Outcome::Offline,
            2 => Outcome::Contacts,
            3 => Outcome::Dialog,
            4 => Outcome::NoDialog,
            _ => Outcome::Unknown,
        }
    }

    /// The most preferred first; among equals the one that registered last.
    pub fn iter(&self) -> Contacts<'_> {
        let contacts = match self.outcome() {
            Outcome::Unknown | Outcome::Offline | Outcome::NoDialog => &[],
            Outcome::Contacts => &self.bytes[1..self.len],
            Outcome::Dialog => self.dialog_parts().map_or(&[][..], |(_, contact)| contact),
        };
        Contacts { rest: contacts }
    }

    /// The names that the dialog has on the side of the contact found, for [`Outcome::Dialog`].
    pub fn dialog(&self) -> Option<NamedDialog<'_>> {
        match self.outcome() {
            Outcome::Unknown | Outcome::Offline | Outcome::Contacts | Outcome::NoDialog => None,
            Outcome::Dialog => NamedDialog::from_text(self.dialog_parts()?.0),
        }
    }

    fn dialog_parts(&self) -> Option<(&[u8], &[u8])> {
        let (len, rest) = self.bytes[1..self.len].split_first_chunk()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
    }

    /// The answer to [`super::Whom::Dialog`]: the phone on the other side and the names that the dialog has there.
    pub fn set_dialog(&mut self, found: Option<(&NamedDialog<'_>, &Contact<'_>)>) {
        self.reset(Outcome::NoDialog);
        let Some((names, contact)) = found else { return };
        let text_len = names.text_len();
        let Some((len, text)) = self.bytes[1..].split_first_chunk_mut() else {
            return;
        };
        let (Ok(len_16), Some(text)) = (u16::try_from(text_len), text.get_mut(..text_len)) else {
            return;
        };
        *len = len_16.to_be_bytes();
        names.put_text(text);
        self.len = 3 + text_len;
        if self.push(contact) {
            self.bytes[0] = Outcome::Dialog as u8;
        } else {
            self.reset(Outcome::NoDialog);
        }
    }

    /// Whether each contact is reached where it registered from, or over its flow: no host name in any of them matters.
    pub fn needs_no_names(&self) -> bool {
        let mut contacts = self.iter();
        while let Some((head, [_, _, path])) = contacts.step() {
            if head[FLAGS_AT] & (FLAG_AT_PEER | FLAG_FLOW_ALONE) == 0 || !path.is_empty() {
                return false;
            }
        }
        true
    }

    /// Whether `contact`, which stands at `place`, is the first of its device: RFC 5626 §7 has one of each tried at a time.
    pub fn is_first_of_device(&self, place: usize, contact: &Contact<'_>) -> bool {
        contact.device == 0
            || !self
                .iter()
                .take(place)
                .any(|before| before.device == contact.device)
    }

    /// The other contacts of a device, in the order in which they are tried when the one before has failed.
    pub fn others_of(&self, device: u8) -> impl Iterator<Item = Contact<'_>> {
        let is_of_device = move |contact: &Contact<'_>| device > 0 && contact.device == device;
        self.iter().filter(is_of_device).skip(1)
    }

    /// What crosses to another shard.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Takes over what [`ContactSet::as_bytes`] gave elsewhere. Bytes that are none make an unknown subscriber.
    pub fn set_from_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || bytes.len() > SET_BYTES {
            self.reset(Outcome::Unknown);
            return;
        }
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }

    pub(super) fn reset(&mut self, outcome: Outcome) {
        self.bytes[0] = outcome as u8;
        self.len = 1;
    }

    /// `false` when the contact doesn't fit any more.
    pub(super) fn push(&mut self, contact: &Contact<'_>) -> bool {
        let texts = [contact.uri, contact.params, contact.path];
        let end = self.len + HEAD_BYTES + texts.iter().map(|text| text.len()).sum::<usize>();
        // What fits the set is shorter than 2^16.
        if end > SET_BYTES {
            return false;
        }
        let [uri_len, params_len, path_len] = texts.map(|text| text.len() as u16);
        let mut flags = 0;
        if contact.tcp {
            flags |= FLAG_TCP_WANTED;
        }
        if contact.is_at_peer {
            flags |= FLAG_AT_PEER;
        }
        if contact.is_flow {
            flags |= FLAG_FLOW_ALONE;
        }
        let mut head = [0; HEAD_BYTES];
        head[0..2].copy_from_slice(&contact.q.to_be_bytes());
        head[FLAGS_AT] = flags;
        head[FLOW_AT..LENS_AT].copy_from_slice(&contact.flow.to_bytes());
        let lens = head[LENS_AT..].as_chunks_mut().0;
        for (place, len) in lens.iter_mut().zip([uri_len, params_len, path_len]) {
            *place = len.to_be_bytes();
        }
        head[DEVICE_AT] = contact.device;
        let parts: [&[u8]; 4] = [&head, contact.uri, contact.params, contact.path];
        for part in parts {
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        debug_assert_eq!(self.len, end);
        self.bytes[0] = Outcome::Contacts as u8;
        true
    }
}

/// The contacts of a [`ContactSet`] in order.
#[derive(Clone, Debug)]
pub struct Contacts<'a> {
    rest: &'a [u8],
}

fn two(head: &[u8; HEAD_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

impl<'a> Contacts<'a> {
    /// The next contact as it stands there: URI, parameters and path behind its numbers.
    #[inline(always)]
    fn step(&mut self) -> Option<(&'a [u8; HEAD_BYTES], [&'a [u8]; 3])> {
        let (head, texts) = self.rest.split_first_chunk()?;
        let (uri, texts) = texts.split_at_checked(usize::from(two(head, LENS_AT)))?;
        let (params, texts) = texts.split_at_checked(usize::from(two(head, LENS_AT + 2)))?;
        let (path, rest) = texts.split_at_checked(usize::from(two(head, LENS_AT + 4)))?;
        self.rest = rest;
        Some((head, [uri, params, path]))
    }
}

impl<'a> Iterator for Contacts<'a> {
    type Item = Contact<'a>;

    fn next(&mut self) -> Option<Contact<'a>> {
        let (head, [uri, params, path]) = self.step()?;
        let (q, flags) = (two(head, 0), head[FLAGS_AT]);
        let flow = Flow::from_bytes(head[FLOW_AT..].first_chunk()?);
        Some(Contact {
            uri,
            params,
            path,
            device: head[DEVICE_AT],
            is_flow: flags & FLAG_FLOW_ALONE != 0,
            q,
            flow,
            tcp: flags & FLAG_TCP_WANTED != 0,
            is_at_peer: flags & FLAG_AT_PEER != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConnId, ListenerId, ShardId, Transport};

    fn contact<'a>(uri: &'a [u8], params: &'a [u8], peer: &str, conn: Option<ConnId>) -> Contact<'a> {
        Contact {
            uri,
            params,
            device: u8::from(conn.is_none()) * 7,
            is_flow: conn.is_none(),
            path: if conn.is_some() {
                b"<sip:p;lr>, <sip:q;lr>"
            } else {
                b""
            },
            q: 700,
            flow: Flow {
                transport: if conn.is_some() {
                    Transport::Tcp
                } else {
                    Transport::Udp
                },
                listener: ListenerId(513),
                peer: peer.parse().expect("an address"),
                conn,
            },
            tcp: conn.is_some(),
            is_at_peer: conn.is_none(),
        }
    }

    #[test]
    fn a_set_crosses_to_another_shard_unchanged() {
        let conn = ConnId {
            shard: ShardId(9),
            slot: 70_000,
            generation: 4_000_000_000,
        };
        let contacts = [
            contact(b"sip:a@192.0.2.1", b";audio", "192.0.2.1:5062", None),
            contact(b"sip:a@[2001:db8::1]", b"", "[2001:db8::1]:65535", Some(conn)),
        ];
        let mut set = ContactSet::new();
        for contact in &contacts {
            assert!(set.push(contact));
        }
        let mut other = ContactSet::new();
        other.set_from_bytes(set.as_bytes());
        assert_eq!(other.outcome(), Outcome::Contacts);
        assert_eq!(other.iter().collect::<Vec<_>>(), contacts);
    }

    #[test]
    fn a_set_is_bounded_and_bytes_that_are_none_are_harmless() {
        let mut set = ContactSet::new();
        let uri = [b'x'; 4_000];
        let large = contact(&uri, b"", "192.0.2.1:5062", None);
        let pushed = (0..10).filter(|_| set.push(&large)).count();
        assert_eq!((pushed, set.iter().count()), (4, 4));
        let whole = set.as_bytes().to_vec();
        let mut other = ContactSet::new();
        for cut in 0..whole.len() {
            other.set_from_bytes(&whole[..cut]);
            assert!(other.iter().count() < 4, "cut at {cut}");
        }
        other.set_from_bytes(&vec![2; SET_BYTES + 1]);
        assert_eq!((other.outcome(), other.iter().count()), (Outcome::Unknown, 0));
        set.reset(Outcome::Offline);
        assert_eq!((set.outcome(), set.iter().count()), (Outcome::Offline, 0));
    }
}
