//! Environment variables that look like configuration keys and are not read, such as `IM_CALLBACK_HTTP_LISTEN`.

use std::collections::BTreeSet;

/// A variable that is not read, and the name that would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookAlike {
    /// The variable's name.
    pub found: String,
    /// The name that is read.
    pub right: String,
}

/// Variables that commands read, with one underscore.
const OTHER_VARIABLES: [&str; 3] = [
    "IM_CALLBACK_CONFIG",
    "IM_CALLBACK_APP_SECRET",
    "IM_CALLBACK_KEY",
];

/// Keys without a default.
const WITHOUT_DEFAULT: [&str; 7] = [
    "retention.messages",
    "retention.events",
    "retention.dead_letters",
    "retention.presence",
    "apps",
    "auth.keys",
    "auth.token_keys",
];

/// Finds the look-alikes among variables' names. `known` are the keys that have a default, and `used` the variables that
/// secrets are read from.
pub(super) fn among(
    names: impl Iterator<Item = String>,
    known: impl Iterator<Item = String>,
    used: &[String],
) -> Vec<LookAlike> {
    let mut keys: BTreeSet<String> = known.collect();
    keys.extend(WITHOUT_DEFAULT.map(str::to_owned));
    let is_used = |name: &String| OTHER_VARIABLES.contains(&name.as_str()) || used.contains(name);
    let mut found: Vec<_> = names
        .filter(|name| !is_used(name))
        .filter_map(|name| {
            let right = variable(key_like(&name, &keys)?);
            // figment takes no notice of case.
            let is_read = name.eq_ignore_ascii_case(&right);
            (!is_read).then_some(LookAlike { found: name, right })
        })
        .collect();
    found.sort_by(|a, b| a.found.cmp(&b.found));
    found
}

/// The variable that sets a key.
fn variable(key: &str) -> String {
    format!(
        "{}{}",
        super::ENV_PREFIX,
        key.to_uppercase().replace('.', "__")
    )
}

/// The key that a variable's name is meant to set: the same letters, however they are joined; or only its last part, if
/// that is one key's alone.
fn key_like<'k>(name: &str, keys: &'k BTreeSet<String>) -> Option<&'k String> {
    let squeezed = squeeze(name);
    let meant = squeezed.strip_prefix("imcallback")?;
    let is_whole = |key: &&String| squeeze(key) == meant;
    if let Some(key) = keys.iter().find(is_whole) {
        return Some(key);
    }
    let last = |key: &&String| key.rsplit('.').next().is_some_and(|l| squeeze(l) == meant);
    let mut ends = keys.iter().filter(last);
    match (ends.next(), ends.next()) {
        (Some(key), None) => Some(key),
        _ => None,
    }
}

fn squeeze(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_the_same_letters_are_told_and_others_are_not() {
        let keys = ["http.listen", "http.max_body", "mongodb.uri", "spool.path"];
        let right = |name: &str| {
            let names = std::iter::once(name.to_owned());
            let used = ["IM_CALLBACK_MONGODB_DATABASE".to_owned()];
            let found = among(names, keys.iter().map(|&k| k.to_owned()), &used);
            found.into_iter().next().map(|one| one.right)
        };
        for (name, expected) in [
            ("IM_CALLBACK_HTTP_LISTEN", "IM_CALLBACK__HTTP__LISTEN"),
            ("IM_CALLBACK_HTTP__LISTEN", "IM_CALLBACK__HTTP__LISTEN"),
            ("IM_CALLBACK__HTTP_LISTEN", "IM_CALLBACK__HTTP__LISTEN"),
            ("IMCALLBACK__HTTP__LISTEN", "IM_CALLBACK__HTTP__LISTEN"),
            ("im_callback_http_max_body", "IM_CALLBACK__HTTP__MAX_BODY"),
            (
                "IM_CALLBACK__HTTP__MAX__BODY",
                "IM_CALLBACK__HTTP__MAX_BODY",
            ),
            ("IM_CALLBACK_MONGODB_URI", "IM_CALLBACK__MONGODB__URI"),
            ("IM_CALLBACK_URI", "IM_CALLBACK__MONGODB__URI"),
            ("IM_CALLBACK_APPS", "IM_CALLBACK__APPS"),
            ("IM_CALLBACK_AUTH_KEYS", "IM_CALLBACK__AUTH__KEYS"),
            (
                "IM_CALLBACK_RETENTION_EVENTS",
                "IM_CALLBACK__RETENTION__EVENTS",
            ),
        ] {
            assert_eq!(right(name).as_deref(), Some(expected), "{name}");
        }
        for name in [
            "IM_CALLBACK__HTTP__LISTEN",
            "im_callback__http__listen",
            "IM_CALLBACK_CONFIG",
            "IM_CALLBACK_APP_SECRET",
            "IM_CALLBACK_KEY",
            // A secret is read from it.
            "IM_CALLBACK_MONGODB_DATABASE",
            // Kubernetes sets these for a service of this name.
            "IM_CALLBACK_SERVICE_HOST",
            "IM_CALLBACK_PORT_8080_TCP",
            "HTTP_LISTEN",
        ] {
            assert_eq!(right(name), None, "{name}");
        }
    }
}
