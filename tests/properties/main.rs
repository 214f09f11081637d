//! What holds for any input, tried with inputs that proptest chooses. `fuzz/` tries the same for longer.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod choices;
mod decode;
mod json;
mod segment;
mod signature;
mod spool;

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn samples() -> &'static [&'static [u8]] {
    static SAMPLES: LazyLock<Vec<&[u8]>> = LazyLock::new(|| {
        json::samples(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/samples/netease"
        ))
    });
    &SAMPLES
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/properties/proptest-regressions.txt",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_signature_is_accepted_when_it_is_right_and_only_then(data in vec(any::<u8>(), 0..400)) {
        signature::holds(&data);
    }

    #[test]
    fn a_body_of_any_bytes_is_kept(body in vec(any::<u8>(), 0..200)) {
        decode::holds(&[&[0; 6], &body[..]].concat(), samples());
    }

    #[test]
    fn a_body_that_is_nearly_a_sample_is_kept(choices in vec(any::<u8>(), 0..200)) {
        decode::holds(&[&[1], &choices[..]].concat(), samples());
    }

    #[test]
    fn any_damage_is_told_apart_from_what_is_whole(data in vec(any::<u8>(), 0..600)) {
        spool::holds(&data);
    }
}

#[test]
fn samples_as_they_are_keep_the_properties() {
    for body in samples() {
        decode::holds(&[&[0; 6], *body].concat(), samples());
    }
}

/// Inputs by which the fuzzer once found something: `tests/properties/found/{target}-{what}`.
#[test]
fn what_was_found_before_stays_mended() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/properties/found");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.split('-').next() {
            Some("signature") => signature::holds(&data),
            Some("decode") => decode::holds(&data, samples()),
            Some("spool") => spool::holds(&data),
            _ => assert_eq!(name, "README.md"),
        }
    }
}
