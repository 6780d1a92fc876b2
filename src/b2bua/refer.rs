//! The subscriptions that REFERs make within a call. Their events are told apart by the number of the REFER (RFC 3515 §2.4.6), and that is another
//! one on each leg.

use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::params::{self, Params};
use crate::msg::request::Request;
use crate::msg::{lex, scan::Message};
use crate::pool::{BufId, Pool};
use crate::wire::Effects;

use super::{B2bua, LegId};

/// REFERs of a leg whose numbers are kept, the newest: a phone that is referred to more places than that at once is none.
const REFERS_MAX: usize = 8;

/// Its number on the leg that it came on (4) and on the one that it went out on (4), big-endian.
const REFER_BYTES: usize = 8;

/// The value of `id` in an Event of the package `refer`.
pub fn refer_id<'a>(msg: &Message<'a>) -> Option<&'a [u8]> {
    let (package, list) = params::split(msg.value(Name::Event)?);
    if !package.eq_ignore_ascii_case(b"refer") {
        return None;
    }
    Params::new(list).find(|param| param.is(b"id"))?.value
}

/// The number that stands beside `number`, from the place `from` to the place `to` of each pair.
fn beside(refers: &[u8], number: u32, [from, to]: [usize; 2]) -> Option<u32> {
    let (pairs, _) = refers.as_chunks::<REFER_BYTES>();
    let of = |pair: &[u8; REFER_BYTES]| {
        let (numbers, _) = pair.as_chunks::<4>();
        [0, 1].map(|place| u32::from_be_bytes(numbers[place]))
    };
    pairs
        .iter()
        .rev()
        .map(of)
        .find(|pair| pair[from] == number)
        .map(|pair| pair[to])
}

impl B2bua {
    /// A REFER that bears `came` on its own leg goes out with the number `went` on `to`. Without a buffer nothing is kept, and its events go as
    /// they come.
    pub(super) fn note_refer(&mut self, to: LegId, came: u32, went: u32, out: &mut Effects) {
        let Some(leg) = self.legs.get_mut(to) else { return };
        let mut bytes = [0; REFERS_MAX * REFER_BYTES];
        let mut len = 0;
        if let Some(refers) = leg.refers {
            let kept = out.pool.get(refers);
            let kept = &kept[kept.len().saturating_sub(bytes.len() - REFER_BYTES)..];
            len = kept.len();
            bytes[..len].copy_from_slice(kept);
        }
        for number in [came, went] {
            bytes[len..len + 4].copy_from_slice(&number.to_be_bytes());
            len += 4;
        }
        let new = out.pool.put(&bytes[..len]);
        let old: Option<BufId> = std::mem::replace(&mut leg.refers, new);
        if let Some(old) = old {
            out.pool.release(old);
        }
    }

    /// The number of the REFER that a request on leg `from` speaks of, as it is called on leg `to`. `None`: it speaks of none that is known.
    pub(super) fn refer_across(
        &self,
        request: &Request<'_>,
        from: LegId,
        to: LegId,
        pool: &Pool,
    ) -> Option<u32> {
        // Whoever was referred tells what becomes of it; who referred it asks for that for longer, or no longer.
        let (referred, places) = match request.method {
            Method::Notify => (from, [1, 0]),
            Method::Subscribe => (to, [0, 1]),
            _ => return None,
        };
        let refers = self.legs.get(referred)?.refers?;
        let number = lex::number(refer_id(&request.msg)?)?;
        beside(pool.get(refers), number, places)
    }
}
