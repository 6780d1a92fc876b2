#![no_main]

use std::cell::RefCell;

use ringway_fuzz::Checks;

thread_local! {
    // One for all inputs: what one leaves behind must not change the next.
    static CHECKS: RefCell<Checks> = RefCell::new(Checks::new());
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| CHECKS.with_borrow_mut(|checks| checks.token(data)));
