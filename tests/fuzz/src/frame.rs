//! Framing: where a stream is cut must not depend on how it arrives.

use ringway::msg::scan::{Message, Table, scan};
use ringway::msg::stream::{Frame, FrameLimits, frame, is_idle};

const LIMITS: FrameLimits = FrameLimits {
    message_bytes_max: 4_096,
    body_bytes_max: 2_048,
};

/// Everything the stream was cut into, as places in it; pieces that are skipped side by side count as one.
#[derive(Clone, PartialEq, Debug)]
enum Cut {
    Message(usize, usize),
    Ping(usize, usize),
    Skip(usize, usize),
    TooLarge { body: bool },
    Bad,
}

/// Feeds `data` in pieces whose lengths `piece` gives, as a connection would.
fn cuts(data: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Cut>, usize) {
    let mut list: Vec<Cut> = Vec::new();
    let (mut taken, mut arrived, mut searched) = (0, 0, 0);
    while arrived < data.len() {
        arrived = (arrived + piece().max(1)).min(data.len());
        loop {
            let (cut, len) = match frame(&data[taken..arrived], &mut searched, LIMITS) {
                Frame::Incomplete => break,
                Frame::Message { len } => (Cut::Message(taken, taken + len), len),
                Frame::Ping { len } => (Cut::Ping(taken, taken + len), len),
                Frame::Skip { len } => (Cut::Skip(taken, taken + len), len),
                // Nothing behind it can be read: the connection is closed.
                Frame::TooLarge { body, .. } => {
                    list.push(Cut::TooLarge { body });
                    return (list, taken);
                }
                Frame::Bad(_) => {
                    list.push(Cut::Bad);
                    return (list, taken);
                }
            };
            assert!(len > 0 && taken + len <= arrived, "{cut:?}");
            match (list.last_mut(), &cut) {
                (Some(Cut::Skip(_, end)), Cut::Skip(from, to)) if end == from => *end = *to,
                (_, _) => list.push(cut),
            }
            taken += len;
            searched = 0;
        }
    }
    (list, taken)
}

/// The first byte chooses how the rest is cut into pieces.
pub fn check(data: &[u8], table: &mut Table) {
    let (seed, data) = data.split_first().unwrap_or((&0, data));
    let whole = cuts(data, || data.len());
    assert_eq!(cuts(data, || 1), whole, "a byte at a time");
    let mut state = u32::from(*seed) + 1;
    let random = cuts(data, || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (state >> 16) as usize % 40
    });
    assert_eq!(random, whole, "in pieces from seed {seed}");
    let (list, taken) = whole;
    if list.is_empty() && is_idle(data) {
        assert!(taken == 0 && data.len() < 4);
    }
    for cut in list {
        let Cut::Message(from, to) = cut else {
            continue;
        };
        // Whatever is wrong within it, `scan` finds its end in the same place.
        let bytes = &data[from..to];
        let _ = scan(bytes, table);
        let msg = Message::new(bytes, table);
        assert_eq!(msg.len(), bytes.len());
        assert_eq!(msg.head_start(), 0);
    }
}
