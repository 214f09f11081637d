//! Logs callbacks that come to a path no app has, and says which to count. They are answered 404, which nobody at the
//! provider reads.
//!
//! The log must show what is wrong with the path, and the path may hold a secret: a segment of Wildfire IM's
//! addresses. So a segment is shown only if it cannot be one. The configuration refuses path secrets of fewer than 16
//! characters; and where an app has a secret path, a segment may also be a mistyped secret, so there only what is
//! spelled nearly as a configured path is shown.

use std::cell::LazyCell;
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

/// The most letters by which a path is still nearly another one. A short segment must have fewer: with two others it
/// is another word.
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
    // Not made for each request of a flood.
    let known = LazyCell::new(|| KnownPaths::of(current));
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
            known.any(|known| differences(segment, known).is_some())
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
        if asked.contains('%') {
            return Some("it has an escaped character, such as a space");
        }
        let segments = segments(asked);
        let known = self.paths.iter().map(KnownPath::of);
        let known: Vec<_> = known.collect();
        let begins = |known: &&KnownPath<'_>| known.all(&segments, |a, b| a == b);
        let begins_in_capitals =
            |known: &KnownPath<'_>| known.all(&segments, str::eq_ignore_ascii_case);
        let is_spelled_nearly_so = |known: &KnownPath<'_>| {
            let mut sum = 0;
            known.all(&segments, |known, segment| {
                differences(segment, known).is_some_and(|differences| {
                    sum += differences;
                    sum <= NEAR
                })
            })
        };
        // Of several, the one that leaves the least below it is meant.
        let longest = known.iter().filter(begins).max_by_key(|k| k.segments.len());
        if let Some(known) = longest {
            Some(known.mistake_below(asked))
        } else if known.iter().any(begins_in_capitals) {
            Some("capital or small letters")
        } else if known.iter().any(is_spelled_nearly_so) {
            Some("one or two letters differ")
        } else {
            None
        }
    }
}

/// A configured path, and what comes below it, as a pattern.
struct KnownPath<'k> {
    path: &'k str,
    below: &'k str,
    segments: Vec<&'k str>,
}

impl<'k> KnownPath<'k> {
    fn of((path, below): &'k (String, &'static str)) -> Self {
        Self {
            path,
            below,
            segments: segments(path),
        }
    }

    /// Whether each segment of this one is like that of another path, which may go on below.
    fn all(&self, others: &[&str], mut is_alike: impl FnMut(&str, &str) -> bool) -> bool {
        let mut pairs = self.segments.iter().zip(others);
        self.segments.len() <= others.len() && pairs.all(|(known, other)| is_alike(known, other))
    }

    /// What is wrong with a path that has all segments of this one, and is not the app's.
    fn mistake_below(&self, asked: &str) -> &'static str {
        let rest = asked.strip_prefix(self.path);
        let is_below = rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/')
        });
        if is_below && !self.below.is_empty() {
            // All else that goes on below is a callback, whatever it is called.
            "the event is missing at the end"
        } else if asked.contains("//") {
            "a double slash"
        } else if !is_below {
            "the slash at the end is missing"
        } else if asked.ends_with('/') {
            "a slash at the end"
        } else {
            "it goes on below the app's path"
        }
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .collect()
}

/// In how many letters a segment differs from a known one, whatever their case; `None` if it is another word. Letters
/// that changed places are one difference.
fn differences(segment: &str, known: &str) -> Option<usize> {
    let most = NEAR.min(known.len() / 3);
    if segment.len().abs_diff(known.len()) > most {
        return None;
    }
    let (one, other) = (segment.to_ascii_lowercase(), known.to_ascii_lowercase());
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // Levenshtein's distance with exchanges, row by row.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = above[j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            let is_exchange =
                i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            if is_exchange {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    Some(above[other.len()]).filter(|differences| *differences <= most)
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

    /// Below an app of Wildfire IM, nearly every path is a callback; here are those that are not.
    #[test]
    fn where_a_path_goes_on_below_the_app_its_event_is_missing() {
        let beside = "/callbacks/marketplace-production";
        let missing = Some("the event is missing at the end");
        for (path, mistake) in [
            (format!("{beside}/segment-of-today"), missing),
            (format!("{beside}/segment-of-today/"), missing),
            (format!("{beside}//segment-of-today//"), missing),
            (
                format!("/callbacks/{}/x/", "/marketplace-production"),
                Some("a double slash"),
            ),
            (
                "/callbacks/Marketplace-production/x/message".to_owned(),
                Some("capital or small letters"),
            ),
            ("/callbacks/otc/".to_owned(), Some("a slash at the end")),
        ] {
            assert_eq!(known(true).mistake(&path), mistake, "{path}");
        }
        let with_slash = KnownPaths {
            paths: vec![("/hooks/".to_owned(), "")],
            has_secret: false,
        };
        let mistake = with_slash.mistake("/hooks");
        assert_eq!(mistake, Some("the slash at the end is missing"));
    }

    #[test]
    fn a_short_name_is_another_one_if_two_letters_differ() {
        let short = KnownPaths {
            paths: vec![
                ("/callbacks/im".to_owned(), ""),
                ("/callbacks/chat".to_owned(), ""),
            ],
            has_secret: true,
        };
        let near = Some("one or two letters differ");
        for (path, mistake, shown) in [
            ("/callbacks/qa", None, "/callbacks/***"),
            ("/callbacks/i", None, "/callbacks/***"),
            ("/callbacks/mi", None, "/callbacks/***"),
            ("/callback/im", near, "/callback/im"),
            ("/calback/chta", None, "/calback/chta"),
            ("/callback/cha", near, "/callback/cha"),
            ("/callbacks/chip", None, "/callbacks/***"),
        ] {
            assert_eq!(short.mistake(path), mistake, "{path}");
            assert_eq!(short.shown(path), shown, "{path}");
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
