//! Connections whose peers take nothing of what waits for them, the one that has waited longest first. Each is in the list at most
//! once, and comes and goes without a search.

use crate::time::Instant;

/// Slots of connections, in the order in which they were put in.
#[derive(Default)]
pub(super) struct Stalled {
    /// By slot; grows to the highest that ever stalled.
    links: Vec<Link>,
    first: Option<u32>,
    last: Option<u32>,
}

#[derive(Clone, Copy, Default)]
struct Link {
    /// `None`: the slot is not in the list.
    since: Option<Instant>,
    before: Option<u32>,
    behind: Option<u32>,
}

impl Stalled {
    /// Puts `slot` at the end of the list, unless it is there already.
    pub(super) fn put(&mut self, slot: u32, now: Instant) {
        let index = slot as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, Link::default());
        }
        if self.links[index].since.is_some() {
            return;
        }
        self.links[index] = Link {
            since: Some(now),
            before: self.last,
            behind: None,
        };
        match self.last {
            Some(last) => self.links[last as usize].behind = Some(slot),
            None => self.first = Some(slot),
        }
        self.last = Some(slot);
    }

    /// Takes `slot` out of the list, if it is there.
    pub(super) fn take_out(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        if link.since.take().is_none() {
            return;
        }
        let (before, behind) = (link.before, link.behind);
        match before {
            Some(before) => self.links[before as usize].behind = behind,
            None => self.first = behind,
        }
        match behind {
            Some(behind) => self.links[behind as usize].before = before,
            None => self.last = before,
        }
    }

    /// The slot that has been in the list for longest, and since when.
    pub(super) fn longest(&self) -> Option<(u32, Instant)> {
        let slot = self.first?;
        Some((slot, self.links.get(slot as usize)?.since?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(stalled: &mut Stalled) -> Vec<u32> {
        std::iter::from_fn(|| {
            let (slot, _) = stalled.longest()?;
            stalled.take_out(slot);
            Some(slot)
        })
        .collect()
    }

    #[test]
    fn the_one_that_has_waited_longest_comes_first() {
        let mut stalled = Stalled::default();
        for (slot, at) in [(5, 1), (0, 2), (9, 3), (3, 4)] {
            stalled.put(slot, Instant::from_millis(at));
        }
        assert_eq!(stalled.longest(), Some((5, Instant::from_millis(1))));
        stalled.put(5, Instant::from_millis(5));
        assert_eq!(
            stalled.longest(),
            Some((5, Instant::from_millis(1))),
            "it keeps its place"
        );
        // Its peer took something, so that its time begins anew.
        stalled.take_out(5);
        stalled.put(5, Instant::from_millis(6));
        stalled.take_out(9);
        stalled.take_out(9);
        stalled.take_out(1_000);
        assert_eq!(drain(&mut stalled), [0, 3, 5]);
        assert_eq!(stalled.longest(), None);
    }

    #[test]
    fn a_slot_that_left_comes_again_at_the_end() {
        let mut stalled = Stalled::default();
        for round in 0..3 {
            for slot in [2, 1, 0] {
                stalled.put(slot, Instant::from_millis(round));
            }
            assert_eq!(drain(&mut stalled), [2, 1, 0]);
        }
        assert_eq!(stalled.links.len(), 3, "it grows with slots, not with time");
    }
}
