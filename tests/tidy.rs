//! Rules that the compiler does not check.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// What a callback means is decided without I/O, clock, HTTP or MongoDB.
#[test]
fn the_callback_module_is_pure() {
    const IMPURE: &[&str] = &[
        "actix",
        "mongodb",
        "tokio",
        "reqwest",
        "tracing",
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
        "SystemTime",
        "Instant",
        "async fn",
        "crate::store",
        "crate::http",
        "crate::ingest",
        "crate::config",
        "println!",
        "eprintln!",
    ];
    let files = sources("src/callback");
    assert!(files.len() >= 7, "{} files", files.len());
    for (path, text) in files {
        for (line, number) in text.lines().zip(1..) {
            let is_comment = line.trim_start().starts_with("//");
            for impure in IMPURE {
                assert!(
                    is_comment || !line.contains(impure),
                    "{}:{number}: {impure}",
                    path.display()
                );
            }
        }
    }
}

/// What the parts that know no provider do not name.
const PROVIDERS: &[&str] = &["netease::", "rongcloud", "wildfire", "yuntongxun"];

/// What a file or folder of `src` does not name, so that parts can be changed and tested apart.
const INDEPENDENT: &[(&str, &[&str])] = &[
    ("auth", &["actix", "crate::http", "SystemTime::now"]),
    ("config", &["crate::http"]),
    ("live.rs", &["crate::http"]),
    ("metrics.rs", &["crate::", "actix", "mongodb"]),
    ("spool", &["crate::store", "crate::ingest"]),
    ("ingest/drain.rs", &["crate::live"]),
    ("ingest", PROVIDERS),
    ("http", PROVIDERS),
    ("store", PROVIDERS),
    ("store/write.rs", &["super::commit"]),
    ("store/statements.rs", &["super::documents"]),
];

#[test]
fn dependencies_point_one_way() {
    let files = sources("src");
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (part, forbidden) in INDEPENDENT {
        let part = src.join(part);
        let files = files.iter().filter(|(path, _)| path.starts_with(&part));
        let mut lines = 0;
        for (path, text) in files {
            for (line, number) in text.lines().zip(1..) {
                lines += 1;
                let is_comment = line.trim_start().starts_with("//");
                let named = forbidden.iter().find(|name| line.contains(**name));
                assert!(
                    is_comment || named.is_none(),
                    "{}:{number}: {}",
                    path.display(),
                    named.unwrap_or(&"")
                );
            }
        }
        assert!(lines > 0, "{} is not there", part.display());
    }
}

/// Nothing of a body is read from its socket before `http::body` says so, so a handler that took it in another
/// way would wait for ever.
#[test]
fn bodies_are_read_in_one_file() {
    const OTHER_WAYS: &[&str] = &[
        "web::Bytes",
        "web::Json",
        "web::Form",
        "web::Either",
        "Multipart",
        "to_bytes",
        "payload.",
    ];
    for (path, text) in sources("src/http") {
        for way in OTHER_WAYS {
            let found = text.contains(way) && !path.ends_with("http/body.rs");
            assert!(!found, "{}: {way}", path.display());
        }
    }
}

/// Only one file turns an error into a status.
#[test]
fn statuses_are_decided_in_one_file() {
    for (path, text) in sources("src") {
        if !path.ends_with("http/error.rs") {
            assert!(!text.contains("StatusCode"), "{}", path.display());
        }
    }
}

/// A verified callback is made in one place, so that nothing unsigned is ever decoded.
#[test]
fn verified_callbacks_are_made_by_verification_alone() {
    for (path, text) in sources("src") {
        let makes = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .filter(|line| line.contains("VerifiedCallback {"))
            .filter(|line| !line.contains("struct") && !line.contains("impl"))
            .count();
        let allowed = usize::from(path.ends_with("callback/provider.rs"));
        assert_eq!(makes, allowed, "{}", path.display());
        let restores = text.matches("VerifiedCallback::kept(").count();
        let allowed = usize::from(path.ends_with("ingest/mod.rs"));
        assert_eq!(restores, allowed, "{}", path.display());
    }
}

/// A type's name says which it is without its path.
#[test]
fn no_two_types_share_a_name() {
    let mut seen: Vec<(String, PathBuf)> = Vec::new();
    for (path, text) in sources("src") {
        for line in text.lines() {
            // Only what stands at the start of a line: an associated type has its name from its trait.
            let line = ["pub(crate) ", "pub(super) ", "pub "]
                .iter()
                .find_map(|visibility| line.strip_prefix(visibility))
                .unwrap_or(line);
            let Some(rest) = ["struct ", "enum ", "trait ", "type "]
                .iter()
                .find_map(|word| line.strip_prefix(word))
            else {
                continue;
            };
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            seen.push((rest[..end.unwrap_or(rest.len())].to_owned(), path.clone()));
        }
    }
    assert!(seen.len() > 150, "{} types", seen.len());
    seen.sort();
    for pair in seen.windows(2) {
        let [(name, one), (other_name, other)] = pair else {
            continue;
        };
        let (one, other) = (one.display(), other.display());
        assert!(name != other_name, "{name} is in {one} and in {other}");
    }
}
