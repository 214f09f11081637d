//! See `tests/properties/rongcloud.rs`.

#![no_main]
#![allow(dead_code, reason = "each target uses a part of the files they share")]

#[path = "../../tests/properties/choices.rs"]
mod choices;
#[path = "../../tests/properties/decode.rs"]
mod decode;
#[path = "../../tests/properties/json.rs"]
mod json;
#[path = "../../tests/properties/rongcloud.rs"]
mod rongcloud;
#[path = "../../tests/properties/signature.rs"]
mod signature;

use std::sync::LazyLock;

static SAMPLES: LazyLock<Vec<&[u8]>> = LazyLock::new(|| {
    json::samples(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/samples/rongcloud"
    ))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rongcloud::decodes(data, &SAMPLES);
    rongcloud::verifies(data);
});
