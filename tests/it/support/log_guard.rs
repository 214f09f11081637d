//! Looks at every log line of the tests for secrets, messages' texts and `Debug` output.
//!
//! Secrets come from the configurations that tests start services with, and from the requests that they send; texts
//! from the callbacks. Lines come from the services in this process, through a subscriber, and from the logs of those
//! that are processes of their own. A service ends before its test does, and a line that says too much fails every test
//! whose service ends after it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock};

use im_callback::auth::TokenSecret;
use im_callback::config::Config;
use secrecy::ExposeSecret;
use serde_json::Value;

/// A shorter word may stand in a log by chance.
const SHORTEST: usize = 8;

/// Names of fields that hold what people write to each other, in any provider's callbacks.
const TEXT_FIELDS: &[&str] = &[
    "attach",
    "body",
    "content",
    "ext",
    "extra",
    "payload",
    "pushcontent",
    "pushContent",
    "searchableContent",
    "text",
];

/// Words that no line may have, by their first bytes, with what they are.
static FORBIDDEN: RwLock<Option<Words>> = RwLock::new(None);
/// The ids of this process' requests whose line of the access log was looked at.
static LOOKED_AT: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// What lines of this process said too much.
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[derive(Default)]
pub struct Words(HashMap<[u8; SHORTEST], HashSet<(String, &'static str)>>);

impl Words {
    pub fn forbid(&mut self, kind: &'static str, word: &str) {
        // A log escapes quotes and control characters.
        let escaped = format!("{word:?}");
        for word in [word, escaped.trim_matches('"')] {
            if let Some(first) = word.as_bytes().first_chunk() {
                self.0
                    .entry(*first)
                    .or_default()
                    .insert((word.to_owned(), kind));
            }
        }
    }

    /// Forbids the texts in a callback's body. A body that cannot be read is a text as a whole.
    pub fn forbid_texts(&mut self, body: &[u8]) {
        let Ok(body) = std::str::from_utf8(body) else {
            return;
        };
        if let Ok(json) = serde_json::from_str(body) {
            return self.forbid_texts_in(&json, false);
        }
        if !body.contains('=') {
            return self.forbid("a body", body);
        }
        for (name, value) in url::form_urlencoded::parse(body.as_bytes()) {
            self.forbid_texts_in(&serde_json::json!({ name: value }), false);
        }
    }

    fn forbid_texts_in(&mut self, json: &Value, is_text: bool) {
        match json {
            Value::String(text) if is_text => {
                self.forbid("a message's text", text);
                if text.starts_with(['{', '['])
                    && let Ok(json) = serde_json::from_str(text)
                {
                    self.forbid_texts_in(&json, true);
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    self.forbid_texts_in(value, is_text || TEXT_FIELDS.contains(&name.as_str()));
                }
            }
            Value::Array(values) => {
                for value in values {
                    self.forbid_texts_in(value, is_text);
                }
            }
            _ => {}
        }
    }

    /// What a line says too much, without saying it again.
    pub fn fault(&self, line: &str) -> Option<String> {
        let (mut told, mut kinds) = (line.to_owned(), Vec::new());
        for (at, first) in line.as_bytes().windows(SHORTEST).enumerate() {
            let first: [u8; SHORTEST] = first.try_into().unwrap();
            for (word, kind) in self.0.get(&first).into_iter().flatten() {
                if line.as_bytes()[at..].starts_with(word.as_bytes()) {
                    told = told.replace(word, "***");
                    kinds.push(*kind);
                }
            }
        }
        if has_debug_text(line) {
            kinds.push("`Debug` output");
        }
        let kind = kinds.first()?;
        Some(format!("{kind} is in a log: {told}"))
    }
}

/// Whether a field's value is `Debug` output of a type, such as `Some(1)`, `None` or `Point { x: 1 }`. Strings stand in
/// quotes.
fn has_debug_text(line: &str) -> bool {
    line.match_indices('=').any(|(at, _)| {
        let value = &line[at + 1..];
        let end = value
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(value.len());
        let (word, rest) = value.split_at(end);
        let is_type = word.starts_with(|c: char| c.is_ascii_uppercase());
        is_type && (rest.starts_with('(') || rest.starts_with(" {") || word == "None")
    })
}

fn words<T>(then: impl FnOnce(&mut Words) -> T) -> T {
    let mut words = FORBIDDEN.write().unwrap_or_else(PoisonError::into_inner);
    then(words.get_or_insert_default())
}

/// Forbids the texts in a callback's body.
pub fn forbid_texts(body: &[u8]) {
    words(|words| words.forbid_texts(body));
}

/// Forbids a secret that a test sends.
pub fn forbid_secret(secret: &str) {
    words(|words| words.forbid("a secret", secret));
}

/// Forbids the secrets of a configuration.
pub fn forbid_secrets_of(config: &Config) {
    let uri = url::Url::parse(config.mongodb_uri.expose_secret()).ok();
    let password = uri.as_ref().and_then(url::Url::password);
    words(|words| {
        for secret in config
            .apps
            .iter()
            .flat_map(|app| &app.app.provider.credentials().secrets)
        {
            words.forbid("an app's secret", secret.expose_secret());
        }
        for key in &config.keys {
            words.forbid("a key", key.secret().expose_secret());
        }
        for key in config.tokens.iter() {
            if let TokenSecret::Hs256(secret) = key.secret() {
                words.forbid("a token key", secret.expose_secret());
            }
        }
        words.forbid("MongoDB's password", password.unwrap_or_default());
    });
}

fn faults(log: &str) -> Vec<String> {
    let words = FORBIDDEN.read().unwrap_or_else(PoisonError::into_inner);
    let none = Words::default();
    let words = words.as_ref().unwrap_or(&none);
    log.lines().filter_map(|line| words.fault(line)).collect()
}

/// Fails if a log of another process says too much.
#[track_caller]
pub fn check(log: &str) {
    let faults = faults(log);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn found() -> MutexGuard<'static, Vec<String>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails if a line of this process said too much.
#[track_caller]
pub fn check_this_process() {
    let found = found().join("\n");
    assert!(found.is_empty(), "{found}");
}

fn looked_at() -> MutexGuard<'static, Vec<String>> {
    LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the line of the access log about this request of this process was looked at.
pub fn has_looked_at(request_id: &str) -> bool {
    looked_at().iter().any(|id| id == request_id)
}

/// Has every line of this process looked at, from the access log to errors.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let installed = tracing_subscriber::fmt()
            .with_env_filter("im_callback=trace,actix_web=debug,info")
            .with_ansi(false)
            .with_writer(|| Lines)
            .try_init();
        installed.expect("another subscriber would see the lines instead");
    });
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        found().extend(faults(&text));
        if text.contains("im_callback::access")
            && let Some((_, id)) = text.rsplit_once("request_id=")
        {
            looked_at().push(id.trim_end().to_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
