//! What a worker stores in `bytea` columns: damaged bytes are an error, never a panic or a huge allocation, and what is
//! accepted is stable: it reads the same once written again.
//!
//! Input: one byte that picks the format, then the stored bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tercet_worker::store::fuzzing::{rewrite_advances, rewrite_clock};

fuzz_target!(|input: &[u8]| {
    let [kind, bytes @ ..] = input else { return };
    if kind % 2 == 0 {
        // There is one way to store a clock.
        if let Some(again) = rewrite_clock(bytes) {
            assert_eq!(again, bytes);
        }
    } else if let Some(once) = rewrite_advances(bytes) {
        assert_eq!(rewrite_advances(&once).as_deref(), Some(&once[..]));
    }
});
