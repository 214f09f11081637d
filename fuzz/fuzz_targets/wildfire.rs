//! See `tests/properties/wildfire.rs`.

#![no_main]
#![allow(dead_code, reason = "each target uses a part of the files they share")]

#[path = "../../tests/properties/choices.rs"]
mod choices;
#[path = "../../tests/properties/decode.rs"]
mod decode;
#[path = "../../tests/properties/json.rs"]
mod json;
#[path = "../../tests/properties/wildfire.rs"]
mod wildfire;

use std::sync::LazyLock;

static SAMPLES: LazyLock<Vec<&[u8]>> = LazyLock::new(|| {
    json::samples(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/samples/wildfire"
    ))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wildfire::holds(data, &SAMPLES);
    wildfire::path_holds(data);
    wildfire::raw_holds(data);
});
