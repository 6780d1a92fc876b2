//! Flows as the user part of our URIs in Path and Record-Route: RFC 5626 §5.2. Nothing is kept: the flow is in the text, sealed, so that
//! whoever has it learns no address and can make no other.

use crate::token::{Purpose, SEALED_LEN_MAX, TokenKey, sealed_len};
use crate::wire::{Flow, Transport};

/// A flow, and nothing (2).
const BYTES: usize = 32;
/// Length of a flow token.
pub const FLOW_TOKEN_LEN: usize = sealed_len(BYTES);

/// The text of a flow.
pub struct FlowToken {
    text: [u8; SEALED_LEN_MAX],
}

impl FlowToken {
    pub fn of(flow: Flow, key: &TokenKey) -> FlowToken {
        let mut plain = [0; BYTES];
        plain[..Flow::BYTES].copy_from_slice(&flow.to_bytes());
        let mut text = [0; SEALED_LEN_MAX];
        key.seal(Purpose::Flow, plain, &mut text);
        FlowToken { text }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..FLOW_TOKEN_LEN]
    }
}

/// The flow that a user part names; `None` where we did not write it.
pub fn parse(text: &[u8], key: &TokenKey) -> Option<Flow> {
    let plain: [u8; BYTES] = key.open(Purpose::Flow, text)?;
    plain.first_chunk().map(Flow::from_bytes)
}

/// Whether both are the same way between the same two: §5.3.
pub fn is_same(one: Flow, other: Flow) -> bool {
    let is_alike = one.transport == other.transport && one.listener == other.listener;
    is_alike
        && match one.transport {
            Transport::Udp => one.peer == other.peer,
            Transport::Tcp => one.conn == other.conn,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConnId, ListenerId, ShardId};

    fn flow(transport: Transport, peer: &str, slot: Option<u32>) -> Flow {
        Flow {
            transport,
            listener: ListenerId(300),
            peer: peer.parse().expect("an address"),
            conn: slot.map(|slot| ConnId {
                shard: ShardId(63),
                slot,
                generation: 4_000_000_000,
            }),
        }
    }

    #[test]
    fn a_flow_comes_back_whole_and_from_its_own_key_alone() {
        let key = TokenKey::new([3; 16]);
        for flow in [
            flow(Transport::Udp, "192.0.2.1:5060", None),
            flow(Transport::Udp, "[2001:db8::1]:65535", None),
            flow(Transport::Tcp, "192.0.2.1:40000", Some(70_000)),
        ] {
            let token = FlowToken::of(flow, &key);
            assert_eq!(parse(token.as_bytes(), &key), Some(flow));
            assert_eq!(parse(token.as_bytes(), &TokenKey::new([4; 16])), None);
            assert_eq!(parse(&token.as_bytes()[2..], &key), None);
            assert!(is_same(flow, flow));
        }
        let tcp = |peer, slot| flow(Transport::Tcp, peer, Some(slot));
        assert!(
            is_same(tcp("192.0.2.1:1", 7), tcp("192.0.2.1:2", 7)),
            "a connection is itself"
        );
        assert!(!is_same(tcp("192.0.2.1:1", 7), tcp("192.0.2.1:1", 8)));
        let udp = |peer| flow(Transport::Udp, peer, None);
        assert!(!is_same(udp("192.0.2.1:1"), udp("192.0.2.1:2")));
    }
}
