//! See `tests/properties/spool.rs`.

#![no_main]
#![allow(dead_code, reason = "each target uses a part of the files they share")]

#[path = "../../tests/properties/choices.rs"]
mod choices;
#[path = "../../tests/properties/segment.rs"]
mod segment;
#[path = "../../tests/properties/spool.rs"]
mod spool;

libfuzzer_sys::fuzz_target!(|data: &[u8]| spool::holds(data));
