//! What `/v1/unread` is asked, as a body or a query string, read by hand, so that each error has a code and a path.
//!
//! serde's derived reader describes an error only in words. Here [`Position`] follows the reader, and is there when it
//! stops.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::{Code, Problem};
use super::query::parameters;

/// What is asked.
#[derive(Default)]
pub struct UnreadQuery {
    pub app: Option<String>,
    pub user: String,
    pub peers: Option<Vec<String>>,
    pub orders: Option<Vec<String>>,
}

impl UnreadQuery {
    /// Reads a body.
    pub fn from_json(body: &[u8]) -> Result<Self, Problem> {
        if body.trim_ascii().is_empty() {
            let detail =
                r#"the body is empty; send JSON such as {"user": "bob", "peers": ["ann"]}"#;
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
        let asked = Object(&mut position).deserialize(&mut json);
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
    pub fn from_query(query: &str) -> Result<Self, Problem> {
        let (mut app, mut user, mut peers, mut orders) = (None, None, None, None);
        for parameter in parameters(query) {
            let parameter = parameter?;
            match parameter.name.as_str() {
                "app" => parameter.put(&mut app)?,
                "user" => parameter.put(&mut user)?,
                "peers" | "peers[]" => parameter.add_to(peers.get_or_insert_default())?,
                "orders" | "orders[]" => parameter.add_to(orders.get_or_insert_default())?,
                _ => {
                    let detail = "this field is not known";
                    return Err(Problem::at(
                        Code::UnknownField,
                        parameter.shown_name(),
                        detail,
                    ));
                }
            }
        }
        let missing = || Problem::at(Code::MissingField, "user", "this field is needed");
        Ok(Self {
            app,
            user: user.ok_or_else(missing)?,
            peers,
            orders,
        })
    }
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
    fn enter(&mut self, field: &str) {
        // What a caller sends is shown only as far as a field name goes.
        self.field = Some(field.chars().take(64).collect());
        self.index = None;
        self.detail = "expected a string";
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

struct Object<'p>(&'p mut Position);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = UnreadQuery;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<UnreadQuery, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = UnreadQuery;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<UnreadQuery, A::Error> {
        let position = self.0;
        let (mut app, mut user, mut peers, mut orders) = (None, None, None, None);
        while let Some(name) = members.next_key::<String>()? {
            position.enter(&name);
            match name.as_str() {
                "app" if app.is_none() => app = Some(members.next_value::<Option<String>>()?),
                "user" if user.is_none() => user = Some(members.next_value::<String>()?),
                "peers" if peers.is_none() => peers = Some(members.next_value_seed(Ids(position))?),
                "orders" if orders.is_none() => {
                    orders = Some(members.next_value_seed(Ids(position))?)
                }
                "app" | "user" | "peers" | "orders" => {
                    return Err(position.stop(Code::InvalidField, "this field is given twice"));
                }
                _ => return Err(position.stop(Code::UnknownField, "this field is not known")),
            }
        }
        let Some(user) = user else {
            position.enter("user");
            return Err(position.stop(Code::MissingField, "this field is needed"));
        };
        Ok(UnreadQuery {
            app: app.flatten(),
            user,
            peers: peers.flatten(),
            orders: orders.flatten(),
        })
    }
}

/// A list of ids; `null` is none.
struct Ids<'p>(&'p mut Position);

impl<'de> DeserializeSeed<'de> for Ids<'_> {
    type Value = Option<Vec<String>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.detail = "expected a list";
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Ids<'_> {
    type Value = Option<Vec<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        self.0.detail = "expected a string";
        let mut ids = Vec::new();
        loop {
            self.0.index = Some(ids.len());
            match items.next_element()? {
                Some(id) => ids.push(id),
                None => return Ok(Some(ids)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (r#"{"user":"a"} {}"#, Code::InvalidJson, None),
            (r#"{"user":"\ud83d"}"#, Code::InvalidJson, None),
            (r#"{"peers":["a",]}"#, Code::InvalidJson, None),
            ("", Code::EmptyBody, None),
            (" \r\n", Code::EmptyBody, None),
        ];
        for (body, code, path) in cases {
            let problem = UnreadQuery::from_json(body.as_bytes()).err();
            let problem = problem.unwrap_or_else(|| panic!("{body} was read"));
            assert_eq!(
                (problem.code, problem.path.as_deref()),
                (code, path),
                "{body}"
            );
        }
    }

    #[test]
    fn null_is_no_list_and_no_app() {
        let body = br#" {"orders":["o"], "peers":null, "user":"a", "app":null} "#;
        let asked = UnreadQuery::from_json(body).expect("a question");
        assert_eq!((asked.user.as_str(), asked.app), ("a", None));
        assert_eq!(
            (asked.peers, asked.orders),
            (None, Some(vec!["o".to_owned()]))
        );
    }
}
