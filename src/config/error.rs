//! Configuration errors: the key, the source and what to do, never the value.

use std::fmt;
use std::path::Path;

use figment::error::{Actual, Kind};
use figment::{Figment, Metadata, Source};

use super::hints::{example, is_number, nearest};
use super::{ENV_PREFIX, ENVIRONMENT};
use crate::words::without_os_codes;

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
        Self {
            key: key.to_owned(),
            source: source(metadata(layers, key), layers, key),
            message,
        }
    }
}

/// The layer that a key comes from. figment knows the sources of keys, and of lists only as a whole.
fn metadata<'l>(layers: &'l Figment, key: &str) -> Option<&'l Metadata> {
    let mut at = key;
    loop {
        if let Some(metadata) = layers.find_metadata(at) {
            return Some(metadata);
        }
        (at, _) = at.rsplit_once('.')?;
    }
}

impl ConfigError {
    /// An error of a whole file.
    pub(super) fn of_file(path: &Path, message: String) -> Self {
        Self {
            problems: vec![ConfigProblem {
                key: String::new(),
                source: path.display().to_string(),
                message,
            }],
        }
    }

    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let message = without_os_codes(&format!("the file cannot be read: {error}"));
        Self::of_file(path, message)
    }

    pub(super) fn from_figment(error: figment::Error, layers: &Figment) -> Self {
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
            let metadata = e.metadata.as_ref().or_else(|| metadata(layers, &key));
            let message = match &e.kind {
                Kind::UnknownField(_, known) => {
                    unknown_key(&key, known, metadata.is_some_and(is_environment))
                }
                kind => message(kind, &key),
            };
            ConfigProblem {
                source: source(metadata, layers, &key),
                message,
                key,
            }
        };
        Self {
            problems: error.into_iter().map(problem).collect(),
        }
    }
}

fn is_environment(metadata: &Metadata) -> bool {
    metadata.name == ENVIRONMENT
}

fn source(metadata: Option<&Metadata>, layers: &Figment, key: &str) -> String {
    let file = |metadata: &Metadata| match &metadata.source {
        Some(Source::File(path)) => Some(path.display().to_string()),
        _ => None,
    };
    match metadata {
        Some(metadata) if is_environment(metadata) => variable_set(key),
        Some(metadata) => file(metadata).unwrap_or_else(|| metadata.name.to_string()),
        // In no layer, so where it should be.
        None => {
            let given = layers.metadata().find_map(file);
            given.unwrap_or_else(|| "no file: give one with --config".to_owned())
        }
    }
}

/// The environment variable that sets a key, or something in an unknown section.
fn variable_set(key: &str) -> String {
    let variable = variable(key);
    let mut names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let section = format!("{variable}__");
    let of_section = names.find(|name| name.to_uppercase().starts_with(&section));
    match std::env::var_os(&variable) {
        Some(_) => variable,
        None => of_section.unwrap_or(variable),
    }
}

/// The environment variable of a key. A list can only come whole, as one variable.
fn variable(key: &str) -> String {
    let parts = key.split('.').take_while(|part| !is_number(part));
    let parts: Vec<_> = parts.map(str::to_uppercase).collect();
    format!("{ENV_PREFIX}{}", parts.join("__"))
}

fn unknown_key(key: &str, known: &[&str], is_variable: bool) -> String {
    let section = key.rsplit_once('.').map(|(section, _)| section);
    let what = if section.is_some() { "key" } else { "section" };
    let Some(near) = nearest(key, known) else {
        return format!("is no known {what}; known are {}", quoted(known));
    };
    if is_variable {
        return format!("is no known {what}; did you mean {}?", variable(&near));
    }
    match near.rsplit_once('.') {
        Some((beside, name)) if section == Some(beside) => {
            format!("is no known key; did you mean `{name}`?")
        }
        Some(_) => format!("is no known key; did you mean `{near}`?"),
        None => format!("is no known {what}; did you mean `{near}`?"),
    }
}

/// A message without the value, which may be a secret under a wrong key.
fn message(kind: &Kind, key: &str) -> String {
    match kind {
        Kind::Message(text) => text.clone(),
        Kind::InvalidType(found, expected) => {
            format!(
                "is {}; expected {}",
                type_of(found),
                in_words(expected, key)
            )
        }
        Kind::InvalidValue(_, expected) => {
            format!("has a wrong value; expected {}", in_words(expected, key))
        }
        Kind::InvalidLength(length, expected) => {
            format!("has {length} elements; expected {expected}")
        }
        Kind::UnknownVariant(_, expected) => {
            format!("has an unknown value; expected one of {}", quoted(expected))
        }
        Kind::UnknownField(_, known) => unknown_key(key, known, false),
        Kind::MissingField(_) => "is missing".to_owned(),
        Kind::DuplicateField(_) => "is set twice".to_owned(),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "is out of range".to_owned(),
        Kind::Unsupported(found) => format!("is {}, which is not supported", type_of(found)),
        Kind::UnsupportedKey(_, expected) => {
            format!("has a key of a wrong type; expected {expected}")
        }
    }
}

/// What serde expected, in a user's words, with an example of the right form.
fn in_words(expected: &str, key: &str) -> String {
    let words = match expected {
        "u64" => "a whole number above zero",
        "i64" => "a whole number",
        "a string" | "string" | "path string" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a section",
        struct_name if struct_name.starts_with("struct ") => "a section",
        enum_name if enum_name.starts_with("enum ") => "a text",
        words => words,
    };
    match example(key) {
        Some(example) => format!("{words}, such as {example}"),
        None => words.to_owned(),
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
