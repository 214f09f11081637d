//! Holds every answer that a test gets against `docs/openapi.json`: route, method, status, content type, and each field
//! of its JSON. So an answer that is not documented fails the test that met it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::Value;

use super::Answer;
use super::schema::conforms;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON")
});

/// The second paths of callbacks (`apps.callback_path`) that tests configure.
const SECOND_PATHS: &[&str] = &["/receiveMsg.action", "/moved", "/im_event", "/cloopen"];

/// The document.
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// What was asked.
pub struct Asked {
    method: Method,
    path: String,
    parameters: BTreeSet<String>,
    /// A browser's question whether a page may send a request.
    is_preflight: bool,
}

impl Asked {
    pub fn of(request: &reqwest::Request) -> Self {
        let url = request.url();
        let names = url
            .query_pairs()
            .map(|(name, _)| name.trim_end_matches("[]").to_owned());
        let is_sent = |name| request.headers().contains_key(name);
        let is_preflight = request.method() == Method::OPTIONS
            && is_sent("origin")
            && is_sent("access-control-request-method");
        Self {
            is_preflight,
            method: request.method().clone(),
            path: url.path().to_owned(),
            parameters: names.collect(),
        }
    }
}

/// Panics unless this answer is documented.
#[track_caller]
pub fn check(asked: &Asked, answer: &Answer) {
    if let Err(why) = compared(asked, answer) {
        let Asked { method, path, .. } = asked;
        panic!(
            "{method} {path} is not answered as docs/openapi.json says: {why}\n\
             (document it, and run `make openapi`)\n{answer:?}"
        );
    }
}

fn compared(asked: &Asked, answer: &Answer) -> Result<(), String> {
    let is_of_the_server = [400, 431].contains(&answer.status) && answer.text.is_empty();
    if is_of_the_server && asked.method != Method::HEAD {
        return Ok(());
    }
    let item = document()["paths"].as_object().unwrap().iter();
    let item = item
        .filter(|(template, _)| has_path(template, &asked.path))
        .map(|(_, item)| item)
        .next();
    let callbacks = &document()["paths"]["/callbacks/{app}"];
    let is_second_path = SECOND_PATHS.iter().any(|path| is_below(path, &asked.path));
    let item = item.or(is_second_path.then_some(callbacks));
    let is_callback = item.is_none_or(|item| item == callbacks);
    if is_callback && answer.status == 404 {
        return problem(answer);
    }
    let Some(item) = item else {
        return Err("no route has the path".to_owned());
    };
    let method = match &asked.method {
        &Method::HEAD => "get".to_owned(),
        method => method.as_str().to_lowercase(),
    };
    let Some(operation) = item.get(&method) else {
        // Where no origin is configured, it is a method as any other.
        if asked.is_preflight && answer.status != 405 {
            return preflight(item, answer);
        }
        return other_method(item, answer);
    };
    if answer.status < 300 && !is_callback {
        parameters(operation, asked)?;
    }
    let status = answer.status.to_string();
    let Some(response) = operation["responses"].get(&status) else {
        return Err(format!("status {status}"));
    };
    let given = answer.header("content-type");
    let Some(content) = response.get("content") else {
        let is_empty = answer.text.is_empty() && given.is_empty();
        return if is_empty {
            Ok(())
        } else {
            Err("it has a body".to_owned())
        };
    };
    if given.is_empty() && answer.text.is_empty() && is_callback {
        return Ok(());
    }
    let essence = given.split(';').next().unwrap_or_default().trim();
    let Some(content) = content.get(essence) else {
        return Err(format!("content type `{given}`"));
    };
    if asked.method == Method::HEAD || !essence.ends_with("json") {
        return Ok(());
    }
    conforms(&content["schema"], &answer.json(), "$")?;
    if answer.status >= 400 && essence.contains("problem") {
        problem(answer)?;
    }
    Ok(())
}

fn is_below(above: &str, path: &str) -> bool {
    let below = path.strip_prefix(above);
    below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Whether a path is of this template. actix compares it decoded.
fn has_path(template: &str, path: &str) -> bool {
    let path = match path {
        "/docs/" => "/docs",
        path => path,
    };
    if template == "/callbacks/{app}" {
        return path.starts_with("/callbacks/");
    }
    let parts: Vec<&str> = path.split('/').collect();
    let expected: Vec<&str> = template.split('/').collect();
    let mut both = expected.iter().zip(&parts);
    parts.len() == expected.len()
        && both.all(|(expected, part)| {
            let plain = |text: &str| {
                url::form_urlencoded::parse(text.as_bytes())
                    .next()
                    .map(|(name, _)| name.into_owned())
            };
            (expected.starts_with('{') && !part.is_empty()) || plain(part) == plain(expected)
        })
}

fn methods(item: &Value) -> BTreeSet<String> {
    let methods = item.as_object().unwrap().keys();
    methods.map(|method| method.to_uppercase()).collect()
}

fn listed(answer: &Answer, header: &str) -> BTreeSet<String> {
    let listed = answer.header(header).split(", ");
    listed.map(str::to_owned).collect()
}

/// As the description of the document says of the operations that take users' tokens.
fn preflight(item: &Value, answer: &Answer) -> Result<(), String> {
    let mut operations = item.as_object().unwrap().values();
    let takes_tokens = operations.all(|operation| {
        let schemes = operation["security"].as_array().into_iter().flatten();
        schemes.filter(|scheme| scheme["token"].is_array()).count() == 1
    });
    if !takes_tokens {
        return Err("a preflight request, where no token is taken".to_owned());
    }
    match answer.status {
        204 if !answer.text.is_empty() => Err("it has a body".to_owned()),
        204 if listed(answer, "access-control-allow-methods") != methods(item) => {
            Err("other methods than documented".to_owned())
        }
        204 => Ok(()),
        403 if answer.code() == "origin_not_allowed" => problem(answer),
        status => Err(format!("status {status} of a preflight request")),
    }
}

fn other_method(item: &Value, answer: &Answer) -> Result<(), String> {
    let mut documented = methods(item);
    if documented.contains("GET") {
        documented.insert("HEAD".to_owned());
    }
    if answer.status != 405 {
        return Err("the method is not documented".to_owned());
    }
    let allowed = listed(answer, "allow");
    if allowed != documented {
        return Err(format!(
            "allowed are {allowed:?}, documented {documented:?}"
        ));
    }
    problem(answer)
}

/// An answer with a problem says the same in its document, its status and its headers.
fn problem(answer: &Answer) -> Result<(), String> {
    if answer.text.is_empty() {
        return Ok(());
    }
    let document_of_it = answer.json();
    conforms(
        &document()["components"]["schemas"]["Problem"],
        &document_of_it,
        "$",
    )?;
    let id = document_of_it["request_id"].as_str();
    if id != Some(answer.header("x-request-id")) || document_of_it["status"] != answer.status {
        return Err("its document, its status and its headers differ".to_owned());
    }
    Ok(())
}

/// What is answered well was asked with documented parameters.
fn parameters(operation: &Value, asked: &Asked) -> Result<(), String> {
    let documented = operation["parameters"].as_array().into_iter().flatten();
    let documented: Vec<_> = documented
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    let unknown = asked
        .parameters
        .iter()
        .find(|name| !documented.contains(&&***name));
    match unknown {
        // Prometheus and others may add some to a route that reads none.
        Some(name) if !documented.is_empty() => Err(format!("parameter `{name}`")),
        _ => Ok(()),
    }
}

#[test]
fn what_no_route_of_the_document_has_is_found() {
    let asked = |method: Method, path: &str| Asked {
        method,
        path: path.to_owned(),
        parameters: BTreeSet::new(),
        is_preflight: false,
    };
    let answer = |status: u16, text: &str| {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        Answer {
            status,
            headers,
            text: text.to_owned(),
        }
    };
    let taken = || answer(200, r#"{"errCode":0}"#);
    for path in ["/callbacks/otc", "/receiveMsg.action", "/im_event/message"] {
        assert_eq!(
            compared(&asked(Method::POST, path), &taken()),
            Ok(()),
            "{path}"
        );
    }
    for path in [
        "/v1/undocumented",
        "/v2",
        "/callback/otc",
        "/receiveMsg.actions",
        "/",
    ] {
        for status in [200, 204, 400, 403, 500] {
            let answer = answer(status, r#"{"errCode":0}"#);
            let found = compared(&asked(Method::POST, path), &answer);
            assert!(found.is_err(), "{path} {status}");
        }
    }
    let other = asked(Method::DELETE, "/v1/unread");
    assert!(compared(&other, &taken()).is_err());
    let document_of_404 = answer(404, "{}");
    assert!(compared(&asked(Method::POST, "/v2"), &document_of_404).is_err());
}
