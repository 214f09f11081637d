//! The configuration's layers. Each has a name of ours, by which an error finds its source.

use std::path::Path;

use figment::providers::Env;
use figment::value::{Dict, Map};
use figment::{Metadata, Profile, Provider};

use super::error::{ConfigError, ConfigProblem};
use super::{ENV_PREFIX, ENVIRONMENT};

/// The names of the layers. Files are known by their paths, and the environment by [`ENVIRONMENT`].
const DEFAULTS: &str = "the defaults";
const FLAGS: &str = "the command line";

/// A provider under a name of ours instead of its own.
pub(super) struct Layer<P> {
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
pub(super) struct Parsed(Dict);

impl Provider for Parsed {
    fn metadata(&self) -> Metadata {
        Metadata::named("TOML")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

/// The keys' defaults.
pub(super) fn defaults(text: &str) -> Result<Layer<Parsed>, ConfigError> {
    parse(text, Metadata::named(DEFAULTS), DEFAULTS.to_owned())
}

/// A file of the user's.
pub(super) fn file(path: &Path) -> Result<Layer<Parsed>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::unreadable(path, &e))?;
    let metadata = Metadata::from("a file", path);
    parse(&text, metadata, path.display().to_string())
}

/// The environment variables with our prefix.
pub(super) fn environment() -> Layer<Env> {
    Layer {
        metadata: Metadata::named(ENVIRONMENT),
        provider: Env::prefixed(ENV_PREFIX).split("__"),
    }
}

/// One flag of the command line.
pub(super) fn flag<'f>(key: &'f str, value: &'f str) -> Layer<(&'f str, &'f str)> {
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
    let what = error.message().trim().replace('\n', ", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else {
        return format!("is no TOML: {what}");
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("TOML parse error at line {line}, column {column}: {what}")
}
