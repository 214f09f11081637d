//! An app's key and secrets, and constant-time checks against them.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

use super::ids::Millis;

/// An app's key at its provider, and its live secrets. A callback may be signed with any of them, so a secret can
/// be replaced without rejecting callbacks.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The application's key or id, which is not secret.
    pub app_key: String,
    /// The secrets, newest first.
    pub secrets: Vec<SecretString>,
}

impl Credentials {
    /// Whether the key that was sent is this app's, in constant time for keys of equal length.
    pub fn has_app_key(&self, sent: &str) -> bool {
        sent.as_bytes().ct_eq(self.app_key.as_bytes()).into()
    }

    /// The secret to sign with; empty if there is none.
    pub fn newest(&self) -> &str {
        self.secrets.first().map_or("", ExposeSecret::expose_secret)
    }

    /// Whether a check succeeds with any secret. All are tried, so that timing reveals nothing.
    pub fn any(&self, mut is_right: impl FnMut(&str) -> Choice) -> bool {
        let mut found = Choice::from(0);
        for secret in &self.secrets {
            found |= is_right(secret.expose_secret());
        }
        found.into()
    }
}

/// Whether the time of signing is within the window around now. Without a window, any time is.
pub fn is_fresh(window: Option<Duration>, signed_at: Option<i64>, now: Millis) -> bool {
    window.is_none_or(|window| {
        signed_at.is_some_and(|at| u128::from(at.abs_diff(now.get())) <= window.as_millis())
    })
}

/// A time in milliseconds. Some senders use seconds: a value that would be before 1973 in milliseconds is taken as
/// seconds.
pub fn in_millis(time: i64) -> i64 {
    const SINCE_1973: i64 = 100_000_000_000;
    if (0..SINCE_1973).contains(&time) {
        time * 1000
    } else {
        time
    }
}
