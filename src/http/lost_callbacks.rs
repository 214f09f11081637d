//! Logs callbacks that come to a path no app has, and says which to count. They are answered 404, which nobody at the provider reads.
//!
//! The log must show what is wrong with the path, and the path may hold a secret: a segment of Wildfire IM's
//! addresses. So a segment is shown only if it cannot be one. The configuration refuses path secrets of fewer than 16
//! characters; and where an app has a secret path, a segment may also be a mistyped secret, so there only what is
//! spelled nearly as a configured path is shown.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::CONTENT_TYPE;

use super::Service;
use super::client_address::client_address;
use super::request::request_id;
use super::route::Route;
use crate::callback::{Head, looks_signed};
use crate::live::ReloadableConfig;
use crate::throttle::Throttle;

/// Shown in place of a segment that may be a secret.
const HIDDEN: &str = "***";

/// Fewer characters than any path secret has.
const SHORT: usize = 15;

/// The most segments of a path, and the most configured paths, that a line shows.
const SEGMENTS: usize = 4;
const PATHS: usize = 20;

/// The longest path that a line shows.
const LONGEST: usize = 100;

/// The most letters by which a path is still nearly another one.
const NEAR: usize = 2;

/// Rate limits. Scans of the whole internet post forms to any path, and must not hide a provider.
#[derive(Debug, Default)]
pub struct LostLog {
    below_an_address: Throttle,
    signed: Throttle,
    posted: Throttle,
}

/// Logs a request without a route if it may be a callback: it is below an address of callbacks, or is posted with a
/// signature, or posts JSON or a form. Returns whether to count it as a callback, too: not what is only posted, unless
/// its path is nearly an app's, since scans would be counted.
pub(super) fn log(request: &HttpRequest, service: &Service, current: &ReloadableConfig) -> bool {
    let asked = request.path();
    let limits = &service.rejection_log.lost;
    let is_posted = request.method() == Method::POST;
    let is_below = Route::at(asked) == Some(Route::Callbacks) || current.app_at(asked).is_some();
    let is_signed = is_posted && has_signature(request);
    let limit = if is_below {
        &limits.below_an_address
    } else if is_signed {
        &limits.signed
    } else if is_posted && has_callback_type(request) {
        &limits.posted
    } else {
        return false;
    };
    let known = KnownPaths::of(current);
    let counts = is_signed || is_posted && (is_below || known.is_nearly_one(asked));
    let Some(kept_back) = limit.pass(Instant::now()) else {
        return counts;
    };
    let client = client_address(request, &service.limits);
    tracing::warn!(
        path = known.shown(asked),
        mistake = known.mistake(asked),
        configured = known.addresses(),
        client = client.map(tracing::field::display),
        request_id = %request_id(request),
        kept_back,
        "what may be a callback came to a path that no app has"
    );
    counts
}

fn has_signature(request: &HttpRequest) -> bool {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        value.to_str().ok()
    };
    looks_signed(&Head {
        method: request.method().as_str(),
        path: "",
        query: request.query_string(),
        header: &header,
    })
}

fn has_callback_type(request: &HttpRequest) -> bool {
    let sent = request.headers().get(CONTENT_TYPE);
    let sent = sent.and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.split(';').next());
    let types = ["application/json", "application/x-www-form-urlencoded"];
    sent.is_some_and(|sent| types.iter().any(|t| sent.trim().eq_ignore_ascii_case(t)))
}

/// The paths of callbacks that are configured.
struct KnownPaths {
    /// Each path, and what comes below it, as a pattern for people.
    paths: Vec<(String, &'static str)>,
    has_secret: bool,
}

impl KnownPaths {
    fn of(current: &ReloadableConfig) -> Self {
        let mut paths = Vec::new();
        for (i, app) in current.apps.iter().enumerate() {
            let below = app.provider.route_pattern();
            paths.push((
                format!("{}/{}", Route::Callbacks.pattern(), app.name),
                below,
            ));
            let second = current.callback_paths.iter().filter(|(_, app)| *app == i);
            paths.extend(second.map(|(path, _)| (path.clone(), below)));
        }
        Self {
            paths,
            has_secret: current
                .apps
                .iter()
                .any(|app| app.provider.has_secret_path()),
        }
    }

    /// All of them, for people.
    fn addresses(&self) -> String {
        let addresses = self.paths.iter().take(PATHS);
        let mut addresses: Vec<_> = addresses
            .map(|(path, below)| format!("{path}{below}"))
            .collect();
        if self.paths.len() > PATHS {
            addresses.push("…".to_owned());
        }
        addresses.join(", ")
    }

    /// A path without what may be a secret.
    fn shown(&self, path: &str) -> String {
        let segments: Vec<_> = path.split('/').skip(1).collect();
        let mut shown = String::new();
        for segment in segments.iter().take(SEGMENTS) {
            shown.push('/');
            shown.push_str(if self.is_harmless(segment) {
                segment
            } else {
                HIDDEN
            });
        }
        if segments.len() > SEGMENTS || shown.len() > LONGEST {
            // All that is shown is ASCII.
            shown.truncate(LONGEST);
            shown.push('…');
        }
        shown
    }

    fn is_harmless(&self, segment: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-~".contains(&b);
        let is_known = || {
            let known = self.paths.iter().flat_map(|(path, _)| path.split('/'));
            let mut known = known.filter(|known| !known.is_empty());
            known.any(|known| is_near(segment, known))
        };
        let is_short = segment.len() <= SHORT && !self.has_secret;
        segment.bytes().all(plain) && (segment.is_empty() || is_short || is_known())
    }

    /// Whether a path is an app's but for a usual mistake. One with an escaped character may be anything.
    fn is_nearly_one(&self, asked: &str) -> bool {
        !asked.contains('%') && self.mistake(asked).is_some()
    }

    /// What is wrong with a path, if that is one of the usual mistakes.
    fn mistake(&self, asked: &str) -> Option<&'static str> {
        let segments = |path: &str| {
            let segments = path.split('/').filter(|segment| !segment.is_empty());
            segments.map(str::to_owned).collect::<Vec<_>>()
        };
        let asked_segments = segments(asked);
        let known: Vec<_> = self.paths.iter().map(|(path, _)| segments(path)).collect();
        let begins = |known: &Vec<String>| asked_segments.starts_with(known);
        let begins_in_capitals = |known: &Vec<String>| {
            let mut pairs = known.iter().zip(&asked_segments);
            asked_segments.len() >= known.len() && pairs.all(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        let is_spelled_nearly_so = |known: &Vec<String>| {
            asked_segments.len() >= known.len()
                && is_near(&asked_segments[..known.len()].join("/"), &known.join("/"))
        };
        if asked.contains('%') {
            Some("it has an escaped character, such as a space")
        } else if known.iter().any(begins) {
            Some(if asked.contains("//") {
                "a double slash"
            } else if asked.ends_with('/') {
                "a slash at the end"
            } else {
                "it goes on below the app's path"
            })
        } else if known.iter().any(begins_in_capitals) {
            Some("capital or small letters")
        } else if known.iter().any(is_spelled_nearly_so) {
            Some("one or two letters differ")
        } else {
            None
        }
    }
}

/// Whether two texts differ in at most [`NEAR`] letters, whatever their case.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > NEAR {
        return false;
    }
    // Levenshtein's distance, row by row.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()] <= NEAR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(has_secret: bool) -> KnownPaths {
        let pattern = if has_secret { "/{secret}/{event}" } else { "" };
        KnownPaths {
            paths: vec![
                ("/callbacks/otc".to_owned(), ""),
                ("/receiveMsg.action".to_owned(), ""),
                ("/callbacks/marketplace-production".to_owned(), pattern),
            ],
            has_secret,
        }
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        for (path, mistake) in [
            ("/callbacks/otc/", Some("a slash at the end")),
            ("/callbacks//otc", Some("a double slash")),
            ("//callbacks/otc", Some("a double slash")),
            ("/Callbacks/otc", Some("capital or small letters")),
            ("/callbacks/OTC/", Some("capital or small letters")),
            ("/receivemsg.action", Some("capital or small letters")),
            ("/callback/otc", Some("one or two letters differ")),
            ("/callbacks/oct", Some("one or two letters differ")),
            ("/callbacks/otc/x", Some("it goes on below the app's path")),
            ("/receiveMsg.action/", Some("a slash at the end")),
            (
                "/callbacks/otc%20",
                Some("it has an escaped character, such as a space"),
            ),
            ("/wp-login.php", None),
            ("/", None),
            ("/callbacks", None),
        ] {
            assert_eq!(known(false).mistake(path), mistake, "{path}");
        }
    }

    #[test]
    fn no_segment_that_may_be_a_secret_is_shown() {
        // The last two are too long for a name and too short for a secret by one character, as a typing error makes
        // them.
        for (path, shown, beside_secrets) in [
            ("/callbacks/otc/", "/callbacks/otc/", "/callbacks/otc/"),
            ("//Callbacks/oct", "//Callbacks/oct", "//Callbacks/oct"),
            ("/callbacks/shop", "/callbacks/shop", "/callbacks/***"),
            ("/", "/", "/"),
            (
                "/callbacks/segment-of-today/message",
                "/callbacks/***/message",
                "/callbacks/***/***",
            ),
            (
                "/callbacks/marketplace-prodution",
                "/callbacks/marketplace-prodution",
                "/callbacks/marketplace-prodution",
            ),
            ("/1/2/3/4/5", "/1/2/3/4…", "/***/***/***/***…"),
            ("/callbacks/o%20c\u{1b}", "/callbacks/***", "/callbacks/***"),
            ("/segment-of-toda/x", "/segment-of-toda/x", "/***/***"),
        ] {
            assert_eq!(known(false).shown(path), shown);
            assert_eq!(known(true).shown(path), beside_secrets);
        }
        let long = format!(
            "/{0}/{0}/{0}",
            "marketplace-production-of-all-regions-and-brands"
        );
        let paths = vec![(long.clone(), "")];
        let known = KnownPaths {
            paths,
            has_secret: true,
        };
        assert_eq!(known.shown(&long), format!("{}…", &long[..LONGEST]));
    }

    #[test]
    fn many_apps_fill_no_line() {
        let paths = (0..1000)
            .map(|n| (format!("/callbacks/app{n}"), ""))
            .collect();
        let known = KnownPaths {
            paths,
            has_secret: false,
        };
        let addresses = known.addresses();
        assert!(addresses.starts_with("/callbacks/app0, /callbacks/app1, "));
        assert!(addresses.ends_with("/callbacks/app19, …"), "{addresses}");
    }
}
