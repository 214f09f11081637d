//! What holds for any input, tried with inputs that proptest chooses. `fuzz/` tries the same for longer.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod choices;
mod decode;
mod json;
mod rongcloud;
mod segment;
mod signature;
mod spool;
mod wildfire;

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

fn rongcloud_samples() -> &'static [&'static [u8]] {
    static SAMPLES: LazyLock<Vec<&[u8]>> = LazyLock::new(|| {
        json::samples(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/samples/rongcloud"
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
    fn a_body_of_rongclouds_is_kept(data in vec(any::<u8>(), 0..200)) {
        rongcloud::decodes(&data, rongcloud_samples());
    }

    #[test]
    fn a_body_that_is_nearly_rongclouds_is_kept(choices in vec(any::<u8>(), 0..200)) {
        rongcloud::decodes(&[&[1], &choices[..]].concat(), rongcloud_samples());
    }

    #[test]
    fn a_signature_of_rongclouds_is_accepted_when_it_is_right_and_only_then(
        data in vec(any::<u8>(), 0..200),
    ) {
        rongcloud::verifies(&data);
    }

    #[test]
    fn any_damage_is_told_apart_from_what_is_whole(data in vec(any::<u8>(), 0..600)) {
        spool::holds(&data);
    }

    #[test]
    fn a_wildfire_body_of_any_bytes_is_kept(
        head in any::<[u8; 4]>(), body in vec(any::<u8>(), 0..200),
    ) {
        wildfire::holds(&[&[0], &head[..], &body[..]].concat(), wildfire_samples());
    }

    #[test]
    fn a_body_that_is_nearly_a_wildfire_sample_is_kept(choices in vec(any::<u8>(), 0..200)) {
        wildfire::holds(&[&[1], &choices[..]].concat(), wildfire_samples());
    }

    #[test]
    fn a_wildfire_path_is_taken_by_its_secret_alone(choices in vec(any::<u8>(), 0..60)) {
        wildfire::path_holds(&choices);
    }

    #[test]
    fn a_yuntongxun_body_of_any_bytes_is_kept_whole(body in vec(any::<u8>(), 0..200)) {
        wildfire::raw_holds(&body);
    }
}

fn wildfire_samples() -> &'static [&'static [u8]] {
    static SAMPLES: LazyLock<Vec<&[u8]>> = LazyLock::new(|| {
        json::samples(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/samples/wildfire"
        ))
    });
    &SAMPLES
}

#[test]
fn samples_as_they_are_keep_the_properties() {
    for body in wildfire_samples() {
        for route in 0..wildfire::ROUTES.len() as u8 {
            wildfire::holds(&[&[0, route, 0, 0, 0], *body].concat(), wildfire_samples());
        }
    }
    for body in samples() {
        decode::holds(&[&[0; 6], *body].concat(), samples());
    }
    for body in rongcloud_samples() {
        rongcloud::decodes(&[&[0; 6], *body].concat(), rongcloud_samples());
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
            Some("rongcloud") => {
                rongcloud::decodes(&data, rongcloud_samples());
                rongcloud::verifies(&data);
            }
            Some("spool") => spool::holds(&data),
            Some("wildfire") => {
                wildfire::holds(&data, wildfire_samples());
                wildfire::path_holds(&data);
                wildfire::raw_holds(&data);
            }
            _ => assert_eq!(name, "README.md"),
        }
    }
}
