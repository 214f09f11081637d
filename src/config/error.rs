//! Configuration errors: the key, the source and what to do, never the value.

use std::fmt;
use std::path::Path;

use figment::error::{Actual, Kind};
use figment::{Figment, Metadata, Source};

use super::{ENV_PREFIX, ENVIRONMENT};

/// Every problem found.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Never empty.
    pub problems: Vec<ConfigProblem>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key, such as `apps.0.app_key`; empty for an error of the whole file.
    pub key: String,
    /// The source of the value: a file, an environment variable, the command line or the defaults.
    pub source: String,
    /// What is wrong with it.
    pub message: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let ConfigProblem {
                key,
                source,
                message,
            } = problem;
            if key.is_empty() {
                write!(f, "configuration: {message} (in {source})")?;
            } else {
                write!(f, "configuration: `{key}` {message} (in {source})")?;
            }
        }
        Ok(())
    }
}

impl ConfigProblem {
    pub(super) fn new(layers: &Figment, key: &str, message: String) -> Self {
        // figment knows the sources of keys, and of lists only as a whole.
        let mut at = key;
        let metadata = loop {
            if let Some(metadata) = layers.find_metadata(at) {
                break Some(metadata);
            }
            match at.rsplit_once('.') {
                Some((parent, _)) => at = parent,
                None => break None,
            }
        };
        Self {
            key: key.to_owned(),
            source: source(metadata, key),
            message,
        }
    }
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self {
            problems: vec![ConfigProblem {
                key: String::new(),
                source: path.display().to_string(),
                message: format!("the file cannot be read: {error}"),
            }],
        }
    }

    pub(super) fn from_figment(error: figment::Error) -> Self {
        let problem = |e: figment::Error| {
            let mut path = e.path.clone();
            if let Kind::UnknownField(name, _) = &e.kind
                && path.last() != Some(name)
            {
                path.push(name.clone());
            }
            if let Kind::MissingField(name) = &e.kind {
                path.push(name.to_string());
            }
            let key = path.join(".");
            ConfigProblem {
                source: source(e.metadata.as_ref(), &key),
                message: message(&e.kind),
                key,
            }
        };
        Self {
            problems: error.into_iter().map(problem).collect(),
        }
    }
}

fn source(metadata: Option<&Metadata>, key: &str) -> String {
    let Some(metadata) = metadata else {
        return "the defaults, a file or the environment".to_owned();
    };
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        _ if metadata.name == ENVIRONMENT => {
            // A list can only come whole, as one variable or file.
            let variable = key
                .split('.')
                .take_while(|part| part.parse::<usize>().is_err());
            let parts: Vec<_> = variable.map(str::to_uppercase).collect();
            format!("{ENV_PREFIX}{}", parts.join("__"))
        }
        _ => metadata.name.to_string(),
    }
}

/// A message without the value, which may be a secret under a wrong key.
fn message(kind: &Kind) -> String {
    match kind {
        Kind::Message(text) => text.clone(),
        Kind::InvalidType(found, expected) => {
            format!("is {}; expected {expected}", type_of(found))
        }
        Kind::InvalidValue(_, expected) => format!("has a wrong value; expected {expected}"),
        Kind::InvalidLength(length, expected) => {
            format!("has {length} elements; expected {expected}")
        }
        Kind::UnknownVariant(_, expected) => {
            format!("has an unknown value; expected one of {}", quoted(expected))
        }
        Kind::UnknownField(_, expected) => {
            format!("is no known key; expected one of {}", quoted(expected))
        }
        Kind::MissingField(_) => "is missing".to_owned(),
        Kind::DuplicateField(_) => "is set twice".to_owned(),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "is out of range".to_owned(),
        Kind::Unsupported(found) => format!("is {}, which is not supported", type_of(found)),
        Kind::UnsupportedKey(_, expected) => {
            format!("has a key of a wrong type; expected {expected}")
        }
    }
}

fn type_of(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a section",
        Actual::Unit | Actual::Option => "empty",
        Actual::NewtypeStruct
        | Actual::Enum
        | Actual::UnitVariant
        | Actual::NewtypeVariant
        | Actual::TupleVariant
        | Actual::StructVariant
        | Actual::Other(_) => "of another type",
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
