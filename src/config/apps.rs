//! Validates the apps with their providers' settings.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::validate::Validation;
use super::{ConfiguredApp, raw};
use crate::callback::netease::{self, Netease};
use crate::callback::rongcloud::{self, Rongcloud, Weight};
use crate::callback::wildfire::{self, Wildfire};
use crate::callback::yuntongxun::Yuntongxun;
use crate::callback::{Credentials, OrderIdAt, Provider, ProviderName};
use crate::ingest::App;

/// Paths that `callback_path` must not have: they are, or will be, the service's own.
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

/// RongCloud's default freshness window: its signature does not cover the body, so a signature must not stay valid
/// forever.
const RONGCLOUD_FRESHNESS: Duration = Duration::from_secs(10 * 60);

/// The shortest secret path segment. Anyone who guesses it can send forged callbacks.
const SHORTEST_PATH_SECRET: usize = 16;

/// The name in `custom_types` for all types that are not listed.
const OTHER_TYPES: &str = "*";

impl Validation<'_> {
    pub(super) fn apps(&mut self, raw: Vec<raw::RawApp>) -> Vec<ConfiguredApp> {
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

    fn app(&mut self, i: usize, mut app: raw::RawApp) -> ConfiguredApp {
        let key = |field: &str| format!("apps.{i}.{field}");
        let provider = match app.provider {
            raw::RawProvider::Netease => ProviderName::Netease,
            raw::RawProvider::Rongcloud => ProviderName::Rongcloud,
            raw::RawProvider::Wildfire => ProviderName::Wildfire,
            raw::RawProvider::Yuntongxun => ProviderName::Yuntongxun,
        };
        self.only_known(i, provider, &app);
        let secrets = std::mem::take(&mut app.app_secrets)
            .into_iter()
            .enumerate()
            .map(|(n, secret)| self.secret(&format!("apps.{i}.app_secrets.{n}"), secret))
            .collect();
        let credentials = Credentials {
            app_key: app.app_key.take().unwrap_or_default(),
            secrets,
        };
        let allow = self.networks(&key("allow"), &app.allow);
        let is_limited = !allow.is_empty() && allow.iter().all(|net| net.prefix_len() > 0);
        self.credentials(i, provider, &credentials, is_limited);
        let order_id = app.order_id.take();
        let order_id = order_id.and_then(|at| self.order_id(i, provider, at));
        let freshness = app.freshness.map(|t| t.0);
        let types = app.custom_types.unwrap_or_default();
        let provider = match provider {
            ProviderName::Netease => Provider::Netease(Netease {
                credentials,
                freshness,
                rules: netease::NeteaseRules {
                    count_tips: app.count_tips.unwrap_or_default(),
                    order_id,
                },
            }),
            ProviderName::Rongcloud => Provider::Rongcloud(Rongcloud {
                credentials,
                freshness: Some(freshness.unwrap_or(RONGCLOUD_FRESHNESS)),
                rules: rongcloud_rules(types, order_id),
            }),
            ProviderName::Wildfire => Provider::Wildfire(Wildfire {
                credentials,
                rules: wildfire::WildfireRules {
                    line: app.line.unwrap_or_default(),
                    order_id,
                },
            }),
            ProviderName::Yuntongxun => Provider::Yuntongxun(Yuntongxun {
                credentials,
                freshness,
            }),
        };
        ConfiguredApp {
            app: App {
                name: app.name,
                provider,
                allow,
            },
            callback_path: app.callback_path,
        }
    }

    /// Rejects settings that the app's provider does not use, instead of ignoring them.
    fn only_known(&mut self, i: usize, provider: ProviderName, app: &raw::RawApp) {
        use ProviderName::{Netease, Rongcloud, Wildfire, Yuntongxun};
        let settings: [(&str, bool, &[ProviderName]); 5] = [
            (
                "app_key",
                app.app_key.is_some(),
                &[Netease, Rongcloud, Yuntongxun],
            ),
            (
                "freshness",
                app.freshness.is_some(),
                &[Netease, Rongcloud, Yuntongxun],
            ),
            ("count_tips", app.count_tips.is_some(), &[Netease]),
            ("custom_types", app.custom_types.is_some(), &[Rongcloud]),
            ("line", app.line.is_some(), &[Wildfire]),
        ];
        for (name, is_set, providers) in settings {
            if is_set && !providers.contains(&provider) {
                let message = format!("is no setting of an app whose provider is `{provider}`");
                self.problem(&format!("apps.{i}.{name}"), message);
            }
        }
    }

    fn credentials(
        &mut self,
        i: usize,
        provider: ProviderName,
        credentials: &Credentials,
        has_allow: bool,
    ) {
        let key = |field: &str| format!("apps.{i}.{field}");
        if provider == ProviderName::Wildfire {
            if credentials.secrets.is_empty() && !has_allow {
                self.problem(
                    &key("app_secrets"),
                    "is empty, and so is `allow`: the provider signs nothing, so anybody could send \
                     callbacks; give a secret path segment, the provider's addresses, or both",
                );
            }
            for (n, secret) in credentials.secrets.iter().enumerate() {
                if !is_path_secret(secret) {
                    let message = format!(
                        "must be at least {SHORTEST_PATH_SECRET} letters, digits, `-` or `_`: it is \
                         a segment of the callbacks' path"
                    );
                    self.problem(&key(&format!("app_secrets.{n}")), message);
                }
            }
            return;
        }
        if credentials.app_key.is_empty() {
            self.problem(&key("app_key"), "is missing or empty");
        }
        if credentials.secrets.is_empty() {
            self.problem(&key("app_secrets"), "is empty; list every live secret");
        }
    }

    fn order_id(
        &mut self,
        i: usize,
        provider: ProviderName,
        at: raw::OrderId,
    ) -> Option<OrderIdAt> {
        let key = |field: &str| format!("apps.{i}.order_id.{field}");
        if !at.pointer.is_empty() && !at.pointer.starts_with('/') {
            self.problem(&key("pointer"), "is not a JSON pointer; write /orderId");
        }
        let fields = provider.order_fields();
        let known = fields.iter().find(|field| **field == at.field);
        if known.is_none() {
            let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
            let message = match fields.as_slice() {
                [] => format!("has no meaning: bodies of `{provider}` are not decoded"),
                fields => format!("must be {} for `{provider}`", fields.join(" or ")),
            };
            self.problem(&key("field"), message);
        }
        Some(OrderIdAt {
            field: known?,
            pointer: at.pointer,
        })
    }
}

/// Whether a secret needs no escaping in a path and is too long to guess.
fn is_path_secret(secret: &SecretString) -> bool {
    let secret = secret.expose_secret();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    secret.len() >= SHORTEST_PATH_SECRET && secret.bytes().all(plain)
}

fn rongcloud_rules(
    types: BTreeMap<String, raw::RawWeight>,
    order_id: Option<OrderIdAt>,
) -> rongcloud::RongcloudRules {
    let weight = |raw| match raw {
        raw::RawWeight::Counted => Weight::Counted,
        raw::RawWeight::Stored => Weight::Stored,
        raw::RawWeight::Status => Weight::Status,
    };
    rongcloud::RongcloudRules {
        other_types: types
            .get(OTHER_TYPES)
            .map_or(Weight::Counted, |w| weight(*w)),
        types: types.into_iter().map(|(t, w)| (t, weight(w))).collect(),
        order_id,
    }
}
