//! Checks the apps and the query keys.

use std::collections::HashSet;

use secrecy::ExposeSecret;

use super::ConfiguredApp;
use super::raw;
use super::validate::Validation;
use crate::auth::Key;
use crate::callback::netease::{OrderIdAt, Rules, Verifier};
use crate::ingest::App;

/// Paths that apps cannot have as their `callback_path`, because they are or will be the service's own.
const OWN_PATHS: &[&str] = &[
    "callbacks",
    "v1",
    "livez",
    "readyz",
    "metrics",
    "openapi.json",
    "docs",
    "console",
];

impl Validation<'_> {
    pub(super) fn apps(&mut self, raw: Vec<raw::App>) -> Vec<ConfiguredApp> {
        if raw.is_empty() {
            self.problem(
                "apps",
                "is empty; add an [[apps]] section for each application at the provider",
            );
        }
        let mut names = HashSet::new();
        let mut paths = HashSet::new();
        let mut apps = Vec::new();
        for (i, app) in raw.into_iter().enumerate() {
            let key = |field: &str| format!("apps.{i}.{field}");
            if !names.insert(app.name.clone()) {
                self.problem(
                    &key("name"),
                    format!("another app is named `{}` too", app.name),
                );
            }
            if let Some(path) = &app.callback_path {
                self.callback_path(&key("callback_path"), path);
                if !paths.insert(path.clone()) {
                    self.problem(&key("callback_path"), "another app has the same path");
                }
            }
            apps.push(self.app(i, app));
        }
        apps
    }

    fn callback_path(&mut self, key: &str, path: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~".contains(c);
        let first = path.split('/').nth(1).unwrap_or_default();
        if !path.starts_with('/') || first.is_empty() || !path.chars().all(plain) {
            self.problem(key, "must be a path such as /receiveMsg.action");
        } else if OWN_PATHS.contains(&first) {
            self.problem(key, format!("/{first} is the service's own path"));
        }
    }

    fn app(&mut self, i: usize, app: raw::App) -> ConfiguredApp {
        let raw::Provider::Netease = app.provider;
        let key = |field: &str| format!("apps.{i}.{field}");
        if app.app_key.is_empty() {
            self.problem(&key("app_key"), "is empty");
        }
        if app.app_secrets.is_empty() {
            self.problem(&key("app_secrets"), "is empty; list every live secret");
        }
        let secrets = app
            .app_secrets
            .into_iter()
            .enumerate()
            .map(|(n, secret)| self.secret(&format!("apps.{i}.app_secrets.{n}"), secret));
        let verifier = Verifier {
            app_key: app.app_key.clone(),
            secrets: secrets.collect(),
            freshness: app.freshness.map(|t| t.0),
        };
        let order_id = app.order_id.map(|at| {
            if !at.pointer.is_empty() && !at.pointer.starts_with('/') {
                self.problem(
                    &key("order_id.pointer"),
                    "is no JSON pointer; write /orderId",
                );
            }
            OrderIdAt {
                field: at.field.as_str(),
                pointer: at.pointer,
            }
        });
        ConfiguredApp {
            app: App {
                name: app.name,
                verifier,
                rules: Rules {
                    count_tips: app.count_tips,
                    order_id,
                },
            },
            app_key: app.app_key,
            callback_path: app.callback_path,
        }
    }

    pub(super) fn keys(&mut self, raw: Vec<raw::Key>) -> Vec<Key> {
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
            let known = !secret.expose_secret().is_empty();
            if known && !secrets.insert(secret.expose_secret().to_owned()) {
                self.problem(&at, "is another key's secret too");
            }
            keys.push(Key::new(key.name, secret, key.scopes));
        }
        keys
    }
}
