//! The doctor's look at values that are valid and probably not meant: secrets and apps.

use std::collections::HashMap;

use secrecy::ExposeSecret;

use crate::callback::ProviderName;
use crate::check::Check;
use crate::config::{Config, ConfiguredApp};

pub const SECRETS: &str = "secrets";
pub const APPS: &str = "apps";

/// Its secrets are public.
const DEMO: &str = include_str!("../../../config/demo.toml");

/// What people write until they have the real one.
const PLACEHOLDERS: [&str; 16] = [
    "app_key",
    "app_secret",
    "appkey",
    "appsecret",
    "current",
    "default",
    "demo",
    "example",
    "foobar",
    "key",
    "password",
    "previous",
    "secret",
    "todo",
    "token",
    "12345678",
];

/// How placeholders begin.
const BEGINNINGS: [&str; 7] = [
    "your",
    "my-",
    "my_",
    "test",
    "changeme",
    "change-me",
    "change_me",
];

fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    let lower = text.to_lowercase();
    let first = lower.chars().next();
    let is_one_letter = lower.chars().all(|c| Some(c) == first);
    let is_marked = lower.starts_with(['<', '{', '$']);
    is_one_letter
        || is_marked
        || PLACEHOLDERS.contains(&lower.as_str())
        || BEGINNINGS
            .iter()
            .any(|beginning| lower.starts_with(beginning))
        || DEMO.contains(&format!("\"{text}\""))
}

/// A configured text, and the key it is at.
struct Given<'c> {
    key: String,
    text: &'c str,
    is_secret: bool,
}

fn given(config: &Config) -> Vec<Given<'_>> {
    let mut all = Vec::new();
    for (i, ConfiguredApp { app, .. }) in config.apps.iter().enumerate() {
        let credentials = app.provider.credentials();
        let name = &app.name;
        if !credentials.app_key.is_empty() {
            all.push(Given {
                key: format!("apps.{i}.app_key ({name})"),
                text: &credentials.app_key,
                is_secret: false,
            });
        }
        for (n, secret) in credentials.secrets.iter().enumerate() {
            all.push(Given {
                key: format!("apps.{i}.app_secrets.{n} ({name})"),
                text: secret.expose_secret(),
                is_secret: true,
            });
        }
    }
    for (i, key) in config.keys.iter().enumerate() {
        all.push(Given {
            key: format!("auth.keys.{i}.secret ({})", key.name()),
            text: key.secret().expose_secret(),
            is_secret: true,
        });
    }
    all
}

/// Placeholders, blanks at the ends, and secrets that are used twice. Names keys, never values.
pub fn secrets(config: &Config) -> Vec<Check> {
    let given = given(config);
    let mut checks = Vec::new();
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for one in &given {
        if is_placeholder(one.text) {
            let way_out =
                "write the provider's own; for auth.keys make one with `openssl rand -hex 24`";
            let found = format!("{} looks like a placeholder", one.key);
            checks.push(Check::warning(SECRETS, found, way_out));
        }
        if one.text != one.text.trim() {
            checks.push(Check::warning(
                SECRETS,
                format!("{} begins or ends with a blank or a line break", one.key),
                "remove it, unless it is really a part of the value: no signature would match",
            ));
        }
        if one.is_secret
            && let Some(other) = seen.insert(one.text, &one.key)
        {
            checks.push(Check::warning(
                SECRETS,
                format!("{other} and {} are the same", one.key),
                "give each its own, so that one can be replaced without the other",
            ));
        }
    }
    if checks.is_empty() {
        let found = "no placeholders, blanks or repetitions";
        checks.push(Check::ok(SECRETS, found));
    }
    checks
}

/// What each app does that may not be meant.
pub fn apps(config: &Config) -> Vec<Check> {
    let is_local = config.http.listen.ip().is_loopback();
    let each = config.apps.iter().flat_map(|app| of_app(app, is_local));
    let mut checks: Vec<_> = each.collect();
    if config.keys.is_empty() {
        checks.push(Check::warning(
            APPS,
            "no [[auth.keys]] is configured, so queries are answered 403",
            "add one with name, secret and scopes = [\"read\"], if anybody asks for counts",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(APPS, "nothing unusual"));
    }
    checks
}

fn of_app(configured: &ConfiguredApp, is_local: bool) -> Vec<Check> {
    let app = &configured.app;
    let name = &app.name;
    let mut checks = Vec::new();
    let provider = app.provider.name();
    if !provider.order_fields().is_empty() && app.provider.order_id().is_none() {
        checks.push(Check::warning(
            APPS,
            format!("app {name} has no order_id, so it has no counts by order"),
            "set apps.order_id if anybody asks for them, then run `im-callback backfill`",
        ));
    }
    let path = configured.callback_path.as_deref().unwrap_or_default();
    if let Some(without) = path.strip_suffix('/') {
        checks.push(Check::warning(
            APPS,
            format!("app {name}: callback_path `{path}` ends with a slash, and {without} is another path, answered 404"),
            "write it exactly as it is configured at the provider",
        ));
    }
    if provider == ProviderName::Wildfire && app.allow.is_empty() {
        let found = format!(
            "app {name}: its provider signs nothing, so whoever learns the secret in the path can forge callbacks"
        );
        let way_out = if is_local {
            "list the provider's addresses in apps.allow, and take callbacks by https alone"
        } else {
            "list the provider's addresses in apps.allow; http.listen is open to other machines, and without https in front of it the path can be read on the way"
        };
        checks.push(Check::warning(APPS, found, way_out));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_told_from_secrets() {
        for text in [
            "your AppKey",
            "YOUR_APP_SECRET",
            "changeme",
            "secret",
            "…",
            "xxx",
            "XXXXXXXX",
            "current",
            "previous",
            "test-app-key",
            "test",
            "<secret>",
            "${SECRET}",
            "demo-app-secret",
            "...",
            " secret ",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in [
            "0123456789abcdef",
            "4f2c9d",
            "b1946ac92492d2347c6235b4d2611184",
            "contest-9f3a",
        ] {
            assert!(!is_placeholder(text), "{text}");
        }
    }

    /// `make run` and its demo must never be mistaken for a deployment.
    #[test]
    fn every_value_of_the_demo_is_a_placeholder() {
        let is_key = |line: &&str| line.starts_with("app_") || line.starts_with("secret");
        let lines: Vec<_> = DEMO.lines().filter(is_key).collect();
        assert!(lines.len() >= 3, "{lines:?}");
        for text in lines.iter().filter_map(|line| line.split('"').nth(1)) {
            assert!(is_placeholder(text), "{text}");
        }
    }
}
