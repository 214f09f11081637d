//! Validates the keys of users' tokens, and rates.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use super::validate::Validation;
use super::{ConfiguredApp, raw};
use crate::auth::{Rate, TokenKey, TokenKeys, TokenSecret};
use crate::callback::ids::AppName;

/// The shortest secret of HS256, in bytes: as many as its digest has (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

/// What stands before the key itself in the DER form of a public Ed25519 key (RFC 8410, 4).
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// Stands for a public key that was not read.
const NOT_READ: [u8; 32] = [0; 32];

/// The largest rate, a second or at once.
const LARGEST_RATE: u64 = 100_000;

impl Validation<'_> {
    pub(super) fn tokens(
        &mut self,
        keys: Vec<raw::RawTokenKey>,
        max_age: raw::Time,
        rate: raw::RawRate,
        apps: &[ConfiguredApp],
    ) -> TokenKeys {
        let (mut names, mut secrets, mut publics) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        let mut found = Vec::new();
        for (i, key) in keys.into_iter().enumerate() {
            let at = format!("auth.token_keys.{i}");
            if key.name.is_empty() || !names.insert(key.name.clone()) {
                self.problem(
                    &format!("{at}.name"),
                    "is empty or another token key's name",
                );
            }
            let allowed = key.apps.map(|allowed| {
                let at = format!("{at}.apps");
                self.key_apps(&at, allowed, apps)
            });
            let secret = match key.algorithm {
                raw::TokenAlgorithm::Hs256 => self.hs256(&at, key.secret, &key.public_key),
                raw::TokenAlgorithm::EdDsa => self.eddsa(&at, key.public_key, &key.secret),
            };
            let Some(secret) = secret else { continue };
            match &secret {
                TokenSecret::Hs256(secret) => {
                    if !secrets.insert(secret.expose_secret().to_owned()) {
                        self.problem(&format!("{at}.secret"), "is another token key's secret too");
                    }
                }
                TokenSecret::EdDsa(public) => {
                    // One that was not read has none yet.
                    if *public != NOT_READ && !publics.insert(*public) {
                        let message = "is another token key's public key too";
                        self.problem(&format!("{at}.public_key"), message);
                    }
                }
            }
            let only = only_app(allowed.as_deref(), apps);
            found.push(TokenKey::new(key.name, secret, allowed, only));
        }
        TokenKeys::new(
            found,
            self.max_token_age(max_age),
            self.rate("auth.token_rate", &rate),
        )
    }

    fn hs256(
        &mut self,
        at: &str,
        secret: Option<raw::Secret>,
        other: &Option<raw::Secret>,
    ) -> Option<TokenSecret> {
        if other.is_some() {
            let message = "is for EdDSA; with HS256 the site and this service share a `secret`";
            self.problem(&format!("{at}.public_key"), message);
        }
        let at = format!("{at}.secret");
        let Some(secret) = secret else {
            self.problem(&at, "is missing; HS256 needs it");
            return None;
        };
        let secret = self.secret(&at, secret);
        if self.is_read(&at) && (1..SHORTEST_SECRET).contains(&secret.expose_secret().len()) {
            let message = format!(
                "has fewer than {SHORTEST_SECRET} bytes, so it can be guessed; make one by \
                 `openssl rand -hex 32`"
            );
            self.problem(&at, message);
        }
        Some(TokenSecret::Hs256(secret))
    }

    fn eddsa(
        &mut self,
        at: &str,
        public: Option<raw::Secret>,
        other: &Option<raw::Secret>,
    ) -> Option<TokenSecret> {
        if other.is_some() {
            let message = "is for HS256; with EdDSA this service has a `public_key`, and the site \
                           alone the private one";
            self.problem(&format!("{at}.secret"), message);
        }
        let at = format!("{at}.public_key");
        let Some(public) = public else {
            self.problem(&at, "is missing; EdDSA needs it");
            return None;
        };
        let pem = self.secret(&at, public);
        if !self.is_read(&at) || pem.expose_secret().is_empty() {
            return Some(TokenSecret::EdDsa(NOT_READ));
        }
        let key = ed25519_public_key(&pem);
        if key.is_none() {
            let message = "is no public Ed25519 key in PEM (-----BEGIN PUBLIC KEY-----); get it by \
                           `openssl pkey -in private.pem -pubout`";
            self.problem(&at, message);
        }
        Some(TokenSecret::EdDsa(key?))
    }

    fn max_token_age(&mut self, raw: raw::Time) -> Duration {
        let some = Duration::from_secs(60)..=Duration::from_secs(86_400);
        if !some.contains(&raw.0) {
            self.problem("auth.max_token_age", "must be between 1m and 24h");
        }
        raw.0
    }

    pub(super) fn rate(&mut self, at: &str, raw: &raw::RawRate) -> Rate {
        let mut part = |name: &str, value: u64| {
            if !(1..=LARGEST_RATE).contains(&value) {
                let message = format!("must be between 1 and {LARGEST_RATE}");
                self.problem(&format!("{at}.{name}"), message);
            }
            let value = u32::try_from(value).ok().and_then(NonZeroU32::new);
            value.unwrap_or(NonZeroU32::MIN)
        };
        Rate {
            per_second: part("per_second", raw.per_second),
            burst: part("burst", raw.burst),
        }
    }
}

/// The one app that a token can mean, if it can mean no other.
fn only_app(allowed: Option<&[AppName]>, apps: &[ConfiguredApp]) -> Option<AppName> {
    match (allowed, apps) {
        (Some([only]), _) => Some(only.clone()),
        (None, [only]) => Some(only.app.name.clone()),
        _ => None,
    }
}

/// Reads a key as OpenSSL writes it.
fn ed25519_public_key(pem: &SecretString) -> Option<[u8; 32]> {
    let pem = pem.expose_secret().as_bytes();
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    der.as_ref().strip_prefix(ED25519)?.try_into().ok()
}
