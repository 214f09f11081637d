//! Validates the query keys.

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretString};

use super::validate::Validation;
use super::{ConfiguredApp, raw};
use crate::auth::{Key, looks_like_token};
use crate::callback::ids::AppName;

/// The shortest secret of a key. Unlike an app's secret, which its provider gives, it is chosen by a person.
const SHORTEST_KEY: usize = 16;

impl Validation<'_> {
    pub(super) fn keys(
        &mut self,
        raw: Vec<raw::RawKey>,
        takes_tokens: bool,
        apps: &[ConfiguredApp],
    ) -> Vec<Key> {
        let mut names = HashSet::new();
        let mut secrets = HashSet::new();
        let mut keys = Vec::new();
        for (i, key) in raw.into_iter().enumerate() {
            if key.name.is_empty() || !names.insert(key.name.clone()) {
                self.problem(
                    &format!("auth.keys.{i}.name"),
                    "is empty or another key's name",
                );
            }
            if key.scopes.is_empty() {
                self.problem(
                    &format!("auth.keys.{i}.scopes"),
                    "is empty; list read, write or admin",
                );
            }
            let at = format!("auth.keys.{i}.secret");
            let secret = self.secret(&at, key.secret);
            self.key_secret(&at, &secret, takes_tokens);
            let known = !secret.expose_secret().is_empty();
            if known && !secrets.insert(secret.expose_secret().to_owned()) {
                self.problem(&at, "is another key's secret too");
            }
            let at = format!("auth.keys.{i}.apps");
            let allowed = key.apps.map(|allowed| self.key_apps(&at, allowed, apps));
            let at = format!("auth.keys.{i}.rate");
            let rate = key.rate.map(|rate| self.rate(&at, &rate));
            keys.push(Key::new(key.name, secret, key.scopes, allowed).limited_to(rate));
        }
        keys
    }

    /// An empty secret has been reported already.
    fn key_secret(&mut self, at: &str, secret: &SecretString, takes_tokens: bool) {
        let secret = secret.expose_secret();
        if (1..SHORTEST_KEY).contains(&secret.chars().count()) {
            let message = format!(
                "has fewer than {SHORTEST_KEY} characters, so it can be guessed; make one by \
                 `openssl rand -hex 24`"
            );
            self.problem(at, message);
        } else if !secret.bytes().all(|b| b.is_ascii_graphic()) {
            let message = "has characters other than printable ASCII, or blanks, so it cannot be sent \
                           as a bearer token; make one by `openssl rand -hex 24`";
            self.problem(at, message);
        } else if takes_tokens && looks_like_token(secret) {
            let message = "has the form of a user's token, three parts with dots between them, so it \
                           would be taken for one; make one by `openssl rand -hex 24`";
            self.problem(at, message);
        }
    }

    /// The apps of a key's list. A name that no app has would be a limit that nobody meant.
    pub(super) fn key_apps(
        &mut self,
        at: &str,
        allowed: Vec<String>,
        apps: &[ConfiguredApp],
    ) -> Vec<AppName> {
        if allowed.is_empty() {
            self.problem(at, "is empty; leave it out to allow every app");
        }
        let mut found = Vec::new();
        for (n, name) in allowed.into_iter().enumerate() {
            let mut known = apps.iter().map(|configured| &configured.app.name);
            match known.find(|app| app.as_str() == name) {
                Some(app) if found.contains(app) => {
                    self.problem(&format!("{at}.{n}"), format!("`{name}` is listed twice"));
                }
                Some(app) => found.push(app.clone()),
                None => {
                    self.problem(&format!("{at}.{n}"), format!("no app is named `{name}`"));
                }
            }
        }
        found
    }
}
