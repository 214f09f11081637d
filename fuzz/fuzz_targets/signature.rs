//! See `tests/properties/signature.rs`.

#![no_main]
#![allow(dead_code, reason = "each target uses a part of the files they share")]

#[path = "../../tests/properties/choices.rs"]
mod choices;
#[path = "../../tests/properties/signature.rs"]
mod signature;

libfuzzer_sys::fuzz_target!(|data: &[u8]| signature::holds(data));
