//! The configuration's layers. Each has a name of ours, by which an error finds its source.

use std::path::Path;

use figment::providers::Env;
use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{ConfigError, ConfigProblem};
use super::{ENV_PREFIX, ENVIRONMENT};

/// The names of the layers. Files are known by their paths, and the environment by [`ENVIRONMENT`].
const DEFAULTS: &str = "the defaults";
const FLAGS: &str = "the command line";

/// A provider under a name of ours instead of its own.
struct Layer<P> {
    metadata: Metadata,
    provider: P,
}

impl<P: Provider> Provider for Layer<P> {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.provider.data()
    }
}

/// A parsed TOML text.
struct Parsed(Dict);

impl Provider for Parsed {
    fn metadata(&self) -> Metadata {
        Metadata::named("TOML")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

/// All layers. `flags` are keys and values given on the command line.
pub(super) fn all(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Figment, ConfigError> {
    let mut layers = Figment::from(defaults(super::DEFAULTS)?);
    if let Some(path) = file {
        layers = layers.merge(self::file(path)?);
    }
    layers = layers.merge(environment());
    for (key, value) in flags {
        layers = layers.merge(flag(key, value));
    }
    Ok(layers)
}

/// The keys' defaults.
fn defaults(text: &str) -> Result<Layer<Parsed>, ConfigError> {
    parse(text, Metadata::named(DEFAULTS), DEFAULTS.to_owned())
}

/// The keys that have a default, such as `http.listen`.
pub(super) fn keys() -> Vec<String> {
    let sections = defaults(super::DEFAULTS).map(|layer| layer.provider.0);
    let mut keys = Vec::new();
    for (section, value) in sections.unwrap_or_default() {
        let of_section = value.as_dict().into_iter().flat_map(Dict::keys);
        keys.extend(of_section.map(|key| format!("{section}.{key}")));
    }
    keys
}

/// A file of the user's.
fn file(path: &Path) -> Result<Layer<Parsed>, ConfigError> {
    let bytes = std::fs::read(path).map_err(|e| ConfigError::unreadable(path, &e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        ConfigError::of_file(path, format!("line {line} is not UTF-8"))
    })?;
    let metadata = Metadata::from("a file", path);
    parse(&text, metadata, path.display().to_string())
}

/// The environment variables with our prefix.
fn environment() -> Layer<Env> {
    Layer {
        metadata: Metadata::named(ENVIRONMENT),
        provider: Env::prefixed(ENV_PREFIX).split("__"),
    }
}

/// One flag of the command line.
fn flag<'f>(key: &'f str, value: &'f str) -> Layer<(&'f str, &'f str)> {
    Layer {
        metadata: Metadata::named(FLAGS),
        provider: (key, value),
    }
}

fn parse(text: &str, metadata: Metadata, source: String) -> Result<Layer<Parsed>, ConfigError> {
    let parsed = toml::from_str(text).map_err(|e| ConfigError {
        problems: vec![ConfigProblem {
            key: String::new(),
            source,
            message: syntax_error(text, &e),
        }],
    })?;
    Ok(Layer {
        metadata,
        provider: Parsed(parsed),
    })
}

/// The position and the message, without the line that the library's own text quotes: it may hold a secret.
fn syntax_error(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map(|span| span.start);
    let Some((before, after)) = at.and_then(|at| text.split_at_checked(at)) else {
        return format!("is no TOML: {}", error.message().trim());
    };
    let what = in_words(error.message().trim(), after);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("TOML parse error at line {line}, column {column}: {what}")
}

/// The library's message in a user's words, for the mistakes that are made most. Its own name a part of its grammar.
fn in_words(message: &str, after: &str) -> String {
    let is_end_of_line = after.is_empty() || after.starts_with(['\n', '\r']);
    let known = match message.split('\n').next().unwrap_or_default() {
        "invalid basic string" | "invalid literal string" if is_end_of_line => {
            "a text has no closing quote"
        }
        "invalid multiline basic string" | "invalid multiline literal string"
            if after.is_empty() =>
        {
            "a text of several lines has no closing quotes"
        }
        "invalid string" => "a text needs quotes around it",
        "invalid array" => "a list lacks a comma, or its closing `]`",
        "invalid inline table" => {
            "a comma or the closing `}` is missing; what is in { … } must be on one line"
        }
        "expected `.`, `=`" => "a key has no `=` after it",
        _ => return message.replace('\n', ", "),
    };
    known.to_owned()
}
