//! What a route is asked, as a body or a query string, read by hand, so that each error has a code and a path.
//!
//! A route lists the fields it knows, and reads both forms into the same [`AskedFields`]. serde's derived reader
//! describes an error only in words. Here [`Position`] follows the reader, and is there when it stops.

use std::collections::HashMap;
use std::fmt;

use actix_web::{HttpRequest, web};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Service;
use super::body::body;
use super::error::{Code, Problem};
use super::query::{QueryParameter, parameters};

/// The name of a field and what it holds.
pub type AskedField = (&'static str, FieldKind);

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// A string that must be there.
    NeededText,
    /// A string, or nothing.
    Text,
    /// A list of strings, or nothing.
    Texts,
    /// A whole number from 0 on, or nothing.
    Number,
    /// `true`, `false` or nothing.
    Flag,
}

/// The value of a field.
enum FieldValue {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
    Flag(bool),
}

/// The fields that were given. Each is taken once.
#[derive(Default)]
pub struct AskedFields(HashMap<&'static str, FieldValue>);

impl AskedFields {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// A [`Problem`] of the body, or with the place of what is wrong.
    pub async fn from_body(
        request: &HttpRequest,
        payload: web::Payload,
        service: &Service,
        known: &'static [AskedField],
    ) -> Result<Self, Problem> {
        let body = body(request, payload, service, &|| Ok(())).await?;
        Self::from_json(&body, known)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// A [`Problem`] with the place of what is wrong.
    pub fn from_json(body: &[u8], known: &'static [AskedField]) -> Result<Self, Problem> {
        if body.trim_ascii().is_empty() {
            let detail = "the body is empty; send a JSON object";
            return Err(Problem::new(Code::EmptyBody, detail));
        }
        let body = std::str::from_utf8(body).map_err(|error| {
            let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
            Problem::new(Code::InvalidUtf8, detail)
        })?;
        let mut position = Position {
            code: Code::InvalidField,
            field: None,
            index: None,
            detail: "expected an object",
        };
        let mut json = serde_json::Deserializer::from_str(body);
        let object = Object {
            known,
            position: &mut position,
        };
        let asked = object.deserialize(&mut json);
        let asked = asked.and_then(|asked| json.end().map(|()| asked));
        asked.map_err(|error| {
            if error.is_data() {
                return position.problem();
            }
            let (line, column) = (error.line(), error.column());
            let detail = format!("syntax error at line {line} column {column}");
            Problem::new(Code::InvalidJson, detail)
        })
    }

    /// Reads `user=R&peers=a,b&orders=o`. A list may be repeated, also as `peers[]=a&peers[]=b`.
    ///
    /// # Errors
    /// A [`Problem`] with the place of what is wrong.
    pub fn from_query(query: &str, known: &'static [AskedField]) -> Result<Self, Problem> {
        let mut fields = Self::default();
        for parameter in parameters(query) {
            let parameter = parameter?;
            let Some((name, kind)) = known.iter().find(|field| is_named(&parameter, field)) else {
                let detail = "this field is not known";
                let name = parameter.shown_name();
                return Err(Problem::at(Code::UnknownField, name, detail));
            };
            fields.add(&parameter, name, *kind)?;
        }
        for (name, kind) in known {
            if *kind == FieldKind::NeededText && !fields.0.contains_key(name) {
                let detail = "this field is needed";
                return Err(Problem::at(Code::MissingField, *name, detail));
            }
        }
        Ok(fields)
    }

    fn add(
        &mut self,
        parameter: &QueryParameter<'_>,
        name: &'static str,
        kind: FieldKind,
    ) -> Result<(), Problem> {
        if kind == FieldKind::Texts {
            let list = self.0.entry(name).or_insert(FieldValue::Texts(Vec::new()));
            return match list {
                FieldValue::Texts(list) => parameter.add_to(list),
                _ => unreachable!("a field has one kind"),
            };
        }
        let mut text = None;
        if self.0.contains_key(name) {
            // Taken, so that the second value is refused.
            text = Some(String::new());
        }
        parameter.put(&mut text)?;
        let text = text.unwrap_or_default();
        let wrong = |detail| Problem::at(Code::InvalidField, name, detail);
        let value = match kind {
            FieldKind::NeededText | FieldKind::Text => FieldValue::Text(text),
            FieldKind::Number => {
                let number = text.parse().map_err(|_| wrong(WHOLE_NUMBER))?;
                FieldValue::Number(number)
            }
            FieldKind::Flag => match text.as_str() {
                "true" => FieldValue::Flag(true),
                "false" => FieldValue::Flag(false),
                _ => return Err(wrong(TRUE_OR_FALSE)),
            },
            FieldKind::Texts => unreachable!("handled above"),
        };
        self.0.insert(name, value);
        Ok(())
    }

    /// Takes a string.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.0.remove(name)? {
            FieldValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Takes a string that must be there; the reader has checked that it is.
    pub fn needed_text(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    /// Takes a list.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        match self.0.remove(name)? {
            FieldValue::Texts(list) => Some(list),
            _ => None,
        }
    }

    /// Takes a number.
    pub fn number(&mut self, name: &str) -> Option<u64> {
        match self.0.remove(name)? {
            FieldValue::Number(number) => Some(number),
            _ => None,
        }
    }

    /// Takes a flag; one that is not given is `false`.
    pub fn flag(&mut self, name: &str) -> bool {
        matches!(self.0.remove(name), Some(FieldValue::Flag(true)))
    }
}

const WHOLE_NUMBER: &str = "expected a whole number, from 0 on";
const TRUE_OR_FALSE: &str = "expected true or false";

fn is_named(parameter: &QueryParameter<'_>, (name, kind): &AskedField) -> bool {
    let given = parameter.name.as_str();
    given == *name || (*kind == FieldKind::Texts && given.strip_suffix("[]") == Some(name))
}

/// Where the reader is, and what is wrong if it stops there.
struct Position {
    code: Code,
    field: Option<String>,
    index: Option<usize>,
    detail: &'static str,
}

impl Position {
    /// Goes to a field.
    fn enter(&mut self, field: &str, expected: &'static str) {
        // What a caller sends is shown only as far as a field name goes.
        self.field = Some(field.chars().take(64).collect());
        self.index = None;
        self.detail = expected;
    }

    /// Stops here.
    fn stop<E: serde::de::Error>(&mut self, code: Code, detail: &'static str) -> E {
        self.code = code;
        self.detail = detail;
        E::custom(detail)
    }

    fn problem(self) -> Problem {
        let path = self.field.map(|field| match self.index {
            Some(index) => format!("{field}[{index}]"),
            None => field,
        });
        Problem {
            path,
            ..Problem::new(self.code, self.detail)
        }
    }
}

struct Object<'p> {
    known: &'static [AskedField],
    position: &'p mut Position,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = AskedFields;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<AskedFields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = AskedFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<AskedFields, A::Error> {
        let Self { known, position } = self;
        let mut fields = AskedFields::default();
        let mut given: Vec<&str> = Vec::new();
        while let Some(member) = members.next_key::<String>()? {
            let Some((name, kind)) = known.iter().find(|(name, _)| *name == member) else {
                position.enter(&member, "");
                return Err(position.stop(Code::UnknownField, "this field is not known"));
            };
            position.enter(name, kind.expected());
            if given.contains(name) {
                return Err(position.stop(Code::InvalidField, "this field is given twice"));
            }
            given.push(name);
            let value = match kind {
                FieldKind::NeededText => Some(FieldValue::Text(members.next_value()?)),
                FieldKind::Text => members.next_value::<Option<_>>()?.map(FieldValue::Text),
                FieldKind::Texts => members.next_value_seed(List(position))?,
                FieldKind::Number => members.next_value::<Option<_>>()?.map(FieldValue::Number),
                FieldKind::Flag => members.next_value::<Option<_>>()?.map(FieldValue::Flag),
            };
            if let Some(value) = value {
                fields.0.insert(name, value);
            }
        }
        for (name, kind) in known {
            if *kind == FieldKind::NeededText && !given.contains(name) {
                position.enter(name, "");
                return Err(position.stop(Code::MissingField, "this field is needed"));
            }
        }
        Ok(fields)
    }
}

impl FieldKind {
    fn expected(self) -> &'static str {
        match self {
            Self::NeededText | Self::Text => "expected a string",
            Self::Texts => "expected a list",
            Self::Number => WHOLE_NUMBER,
            Self::Flag => TRUE_OR_FALSE,
        }
    }
}

/// A list of strings; `null` is none.
struct List<'p>(&'p mut Position);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Option<FieldValue>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Option<FieldValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        self.0.detail = "expected a string";
        let mut list = Vec::new();
        loop {
            self.0.index = Some(list.len());
            match items.next_element()? {
                Some(item) => list.push(item),
                None => return Ok(Some(FieldValue::Texts(list))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[AskedField] = &[
        ("app", FieldKind::Text),
        ("user", FieldKind::NeededText),
        ("peers", FieldKind::Texts),
        ("orders", FieldKind::Texts),
        ("cap", FieldKind::Number),
        ("whole", FieldKind::Flag),
    ];

    #[test]
    fn every_wrong_body_has_its_code_and_path() {
        let long = format!(r#"{{"{}":1}}"#, "x".repeat(1000));
        let shown = "x".repeat(64);
        let cases = [
            ("[]", Code::InvalidField, None),
            ("7", Code::InvalidField, None),
            ("null", Code::InvalidField, None),
            ("{}", Code::MissingField, Some("user")),
            (r#"{"user":null}"#, Code::InvalidField, Some("user")),
            (
                r#"{"user":"a","user":"b"}"#,
                Code::InvalidField,
                Some("user"),
            ),
            (
                r#"{"peers":null,"peers":[]}"#,
                Code::InvalidField,
                Some("peers"),
            ),
            (r#"{"user":"a","app":[]}"#, Code::InvalidField, Some("app")),
            (r#"{"orders":{}}"#, Code::InvalidField, Some("orders")),
            (
                r#"{"orders":["a",1]}"#,
                Code::InvalidField,
                Some("orders[1]"),
            ),
            (r#"{"orders":["a"],"x":1}"#, Code::UnknownField, Some("x")),
            (&long, Code::UnknownField, Some(&shown)),
            (r#"{"cap":-1}"#, Code::InvalidField, Some("cap")),
            (r#"{"cap":1.5}"#, Code::InvalidField, Some("cap")),
            (r#"{"cap":"1"}"#, Code::InvalidField, Some("cap")),
            (r#"{"whole":"true"}"#, Code::InvalidField, Some("whole")),
            (r#"{"user":"a"} {}"#, Code::InvalidJson, None),
            (r#"{"user":"\ud83d"}"#, Code::InvalidJson, None),
            (r#"{"peers":["a",]}"#, Code::InvalidJson, None),
            ("", Code::EmptyBody, None),
            (" \r\n", Code::EmptyBody, None),
        ];
        for (body, code, path) in cases {
            let problem = AskedFields::from_json(body.as_bytes(), KNOWN).err();
            let problem = problem.unwrap_or_else(|| panic!("{body} was read"));
            assert_eq!(
                (problem.code, problem.path.as_deref()),
                (code, path),
                "{body}"
            );
        }
    }

    #[test]
    fn every_wrong_query_has_its_code_and_path() {
        let cases = [
            ("", Code::MissingField, "user"),
            ("user=a&user=a", Code::InvalidField, "user"),
            ("user=a&cap=", Code::InvalidField, "cap"),
            ("user=a&cap=-1", Code::InvalidField, "cap"),
            ("user=a&cap=1&cap=2", Code::InvalidField, "cap"),
            ("user=a&whole=yes", Code::InvalidField, "whole"),
            ("user=a&user[]=b", Code::UnknownField, "user[]"),
            ("user=a&x=1", Code::UnknownField, "x"),
        ];
        for (query, code, path) in cases {
            let problem = AskedFields::from_query(query, KNOWN).err();
            let problem = problem.unwrap_or_else(|| panic!("{query} was read"));
            assert_eq!(
                (problem.code, problem.path.as_deref()),
                (code, Some(path)),
                "{query}"
            );
        }
    }

    #[test]
    fn both_forms_are_read_alike() {
        let body = br#" {"orders":["o"], "peers":null, "user":"a", "app":null, "cap": 99, "whole": true} "#;
        let query = "orders[]=o&user=a&cap=99&whole=true";
        let asked = [
            AskedFields::from_json(body, KNOWN),
            AskedFields::from_query(query, KNOWN),
        ];
        for asked in asked {
            let mut asked = asked.unwrap_or_else(|problem| panic!("{problem}"));
            assert_eq!(asked.needed_text("user"), "a");
            assert_eq!((asked.text("app"), asked.texts("peers")), (None, None));
            assert_eq!(asked.texts("orders"), Some(vec!["o".to_owned()]));
            assert_eq!((asked.number("cap"), asked.flag("whole")), (Some(99), true));
        }
        let mut asked = AskedFields::from_query("user=", KNOWN).unwrap_or_default();
        assert_eq!(
            (asked.needed_text("user"), asked.flag("whole")),
            (String::new(), false)
        );
    }
}
