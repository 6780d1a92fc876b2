//! How a table grows: never by moving much.
//!
//! A `Vec` that is full copies all its elements to a place twice as large, within one push: with a million transactions that keeps a
//! shard from its messages for some 300 ms. So a table that outgrows [`SMALL`] asks at once for room for all that its limit allows.
//! The system provides that memory page by page as it is used; until then it is but a number (VIRT in `top`).

/// Elements up to which a table doubles.
pub const SMALL: usize = 1_024;

/// For how many elements more a full table of `len` elements of `T` is to make room, if `limit` is how many it may have. It is
/// the whole rest unless the system does not promise that much (`vm.overcommit_memory`, `RLIMIT_AS`), then what it does promise, and
/// at least as much as there is.
#[cold]
pub fn more<T>(len: usize, limit: usize) -> usize {
    let doubled = len.max(4);
    if len < SMALL {
        return doubled;
    }
    let mut more = limit.saturating_sub(len);
    while more > doubled && !is_promised::<T>(len + more) {
        more /= 2;
    }
    more.max(doubled)
}

fn is_promised<T>(elements: usize) -> bool {
    let mut trial = Vec::<T>::new();
    let is_promised = trial.try_reserve_exact(elements).is_ok();
    // An allocation that nobody looks at may be left out.
    std::hint::black_box(&mut trial);
    is_promised
}

/// [`Vec::push`] for a table of at most `limit` elements.
pub fn push<T>(table: &mut Vec<T>, limit: usize, element: T) {
    if table.len() == table.capacity() {
        table.reserve_exact(more::<T>(table.len(), limit));
    }
    table.push(element);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_outgrows_the_small_moves_once() {
        let mut table = Vec::new();
        let mut places = Vec::new();
        for i in 0..100 * SMALL {
            push(&mut table, 100 * SMALL, i);
            places.push(table.as_ptr());
        }
        places.dedup();
        assert!(
            places.len() <= 10,
            "4, 8 to {SMALL}, and the last: {}",
            places.len()
        );
        assert!(places[places.len() - 1] == table.as_ptr() && table.capacity() == 100 * SMALL);
        assert!(table.iter().copied().eq(0..100 * SMALL));
        // Beyond its limit it still grows.
        push(&mut table, 100 * SMALL, 0);
        assert!(table.capacity() >= 200 * SMALL);
    }

    #[test]
    fn what_the_system_does_not_promise_is_not_asked_for() {
        assert_eq!(more::<u64>(0, usize::MAX), 4);
        assert_eq!(more::<u64>(512, usize::MAX), 512);
        let room = more::<[u64; 128]>(SMALL, usize::MAX / 2_048);
        assert!(room >= SMALL && is_promised::<[u64; 128]>(SMALL + room), "{room}");
        // 2^60 bytes are more than an address space has.
        assert!(room < 1 << 50);
        assert_eq!(more::<u64>(5_000, 5_000), 5_000);
    }
}
