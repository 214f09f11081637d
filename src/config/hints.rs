//! What a wrong key or value should probably have been: the nearest key, and an example of a value.

use std::cmp::Reverse;

/// Examples for keys that have no default, or an empty one. Numbers in the path of a key are left out.
const EXAMPLES: &[(&str, &str)] = &[
    ("http.trusted_proxies", r#"["10.0.0.0/8"]"#),
    ("http.cors_origins", r#"["https://shop.example"]"#),
    ("retention.messages", r#""730d""#),
    ("retention.events", r#""90d""#),
    ("retention.dead_letters", r#""365d""#),
    ("retention.presence", r#""90d""#),
    ("apps", "[[apps]] sections"),
    ("apps.provider", r#""netease""#),
    ("apps.allow", r#"["203.0.113.0/24"]"#),
    ("apps.app_secrets", r#"["current", "previous"]"#),
    ("apps.freshness", r#""5m""#),
    (
        "apps.order_id",
        r#"{ field = "ext", pointer = "/orderId" }"#,
    ),
    (
        "apps.custom_types",
        r#"{ "app:order" = "counted", "*" = "stored" }"#,
    ),
    ("auth.keys", "[[auth.keys]] sections"),
    ("auth.keys.scopes", r#"["read"]"#),
    ("auth.keys.apps", r#"["otc"]"#),
    ("auth.keys.rate", "{ per_second = 200, burst = 400 }"),
    ("auth.token_keys", "[[auth.token_keys]] sections"),
    ("auth.token_keys.algorithm", r#""HS256""#),
    ("auth.token_keys.apps", r#"["otc"]"#),
    ("auth.token_rate", "{ per_second = 10, burst = 40 }"),
];

/// Keys without a default that people write in another section.
const UNSET: &[&str] = &[
    "retention.messages",
    "retention.events",
    "retention.dead_letters",
    "retention.presence",
    "auth.keys",
    "auth.token_keys",
];

/// A value of the right form for a key, as TOML: its default, if it has one.
pub(super) fn example(key: &str) -> Option<String> {
    let key: Vec<_> = key.split('.').filter(|part| !is_number(part)).collect();
    let key = key.join(".");
    if let Some((_, example)) = EXAMPLES.iter().find(|(known, _)| *known == key) {
        return Some((*example).to_owned());
    }
    let (section, name) = key.split_once('.')?;
    let defaults: toml::Table = toml::from_str(super::DEFAULTS).ok()?;
    match defaults.get(section)?.get(name)? {
        toml::Value::String(text) => Some(format!("{text:?}")),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The known key that an unknown one is nearest to, with its sections. `known` are the keys beside it.
pub(super) fn nearest(key: &str, known: &[&str]) -> Option<String> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    if let Some(near) = most_similar(name, known) {
        return Some(match section {
            "" => near.to_owned(),
            _ => format!("{section}.{near}"),
        });
    }
    // A key in a wrong section, or one whose section is not set off, such as `http_listen`.
    let elsewhere = all_keys();
    let is_meant = |full: &&String| {
        let leaf = full.rsplit('.').next().unwrap_or_default();
        leaf == name || plain(full) == plain(name) || plain(full) == plain(key)
    };
    elsewhere.iter().find(is_meant).cloned()
}

/// The most similar of some names, if one is similar enough to be meant: by a few letters, or as the only one that
/// begins like that.
pub(super) fn most_similar<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    let name = plain(name);
    let with_distance = names
        .iter()
        .map(|known| (distance(&name, &plain(known)), *known));
    let (distance, known) = with_distance.min_by_key(|(d, known)| (*d, Reverse(known.len())))?;
    if distance <= (name.len() / 3).clamp(1, 3) {
        return Some(known);
    }
    let mut begin_so = names
        .iter()
        .filter(|known| name.len() > 2 && plain(known).starts_with(&name));
    match (begin_so.next(), begin_so.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// Every key with a default, and some without.
fn all_keys() -> Vec<String> {
    let defaults: toml::Table = toml::from_str(super::DEFAULTS).unwrap_or_default();
    let mut keys = Vec::new();
    for (section, value) in &defaults {
        let names = value.as_table().into_iter().flat_map(toml::Table::keys);
        keys.extend(names.map(|name| format!("{section}.{name}")));
    }
    keys.extend(UNSET.iter().map(|key| (*key).to_owned()));
    keys
}

/// A name without what people write differently: `maxBody` and `max-body` are `max_body`.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-' | '.'));
    letters.flat_map(char::to_lowercase).collect()
}

/// How many letters have to be added, left out or replaced to turn one text into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

pub(super) fn is_number(part: &str) -> bool {
    part.parse::<usize>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_letters() {
        let cases = [
            ("", "", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("lisen", "listen", 1),
            ("listem", "listen", 1),
            ("kitten", "sitting", 3),
            ("äö", "aö", 1),
        ];
        for (from, to, expected) in cases {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn only_a_typo_is_similar() {
        let names = ["listen", "max_body", "max_ids"];
        assert_eq!(most_similar("lisen", &names), Some("listen"));
        assert_eq!(most_similar("maxBody", &names), Some("max_body"));
        assert_eq!(most_similar("max-id", &names), Some("max_ids"));
        assert_eq!(most_similar("lis", &names), Some("listen"));
        assert_eq!(most_similar("max", &names), None);
        assert_eq!(most_similar("x", &names), None);
        assert_eq!(most_similar("messages_per_run", &names), None);
        assert_eq!(most_similar("listen", &[]), None);
    }

    #[test]
    fn keys_are_found_in_other_sections() {
        let sections = ["http", "mongodb"];
        let found = |key| nearest(key, &sections);
        assert_eq!(found("htttp").as_deref(), Some("http"));
        assert_eq!(found("listen").as_deref(), Some("http.listen"));
        assert_eq!(found("http_max_body").as_deref(), Some("http.max_body"));
        assert_eq!(found("nonsense"), None);
        let in_app = nearest("apps.0.max_ids", &["name", "provider"]);
        assert_eq!(in_app.as_deref(), Some("http.max_ids"));
    }

    #[test]
    fn examples_are_defaults_where_there_are_any() {
        let cases = [
            ("http.max_body", Some("\"1MiB\"")),
            ("http.max_ids", Some("1000")),
            ("apps.0.freshness", Some("\"5m\"")),
            ("http.trusted_proxies", Some("[\"10.0.0.0/8\"]")),
            ("apps.0.name", None),
            ("http", None),
        ];
        for (key, expected) in cases {
            assert_eq!(example(key).as_deref(), expected, "{key}");
        }
    }
}
