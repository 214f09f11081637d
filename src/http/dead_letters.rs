//! `/v1/dead-letters`, for operators: callbacks that could not be decoded or stored.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::Service;
use super::auth::authorize;
use super::error::{Code, Problem};
use crate::auth::Scope;
use crate::ingest::dead_letters::{Retried, retry as retry_dead_letter};
use crate::store::dead_letters::{DeadLetter, Heading, Place, Which};

/// Dead letters per page: the default and the maximum.
const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    app: Option<String>,
    code: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'l> {
    dead_letters: Vec<DeadLetterHead<'l>>,
    /// The `before` of the next page; `None` on the last page.
    next: Option<String>,
}

/// A dead letter without its body.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterHead<'l> {
    id: &'l str,
    app: &'l str,
    code: &'l str,
    reason: &'l str,
    path: &'l str,
    provider: &'l str,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'l str,
    #[serde(skip_serializing_if = "str::is_empty")]
    query: &'l str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'l str, &'l str>,
    received_at: String,
}

impl<'l> From<&'l Heading> for DeadLetterHead<'l> {
    fn from(heading: &'l Heading) -> Self {
        let headers = heading.envelope.headers.iter();
        Self {
            id: &heading.id,
            app: &heading.app,
            code: &heading.code,
            reason: &heading.reason,
            path: &heading.path,
            provider: &heading.provider,
            route: &heading.envelope.route,
            query: &heading.envelope.query,
            headers: headers.map(|(name, value)| (&**name, &**value)).collect(),
            received_at: heading
                .received_at
                .try_to_rfc3339_string()
                .unwrap_or_default(),
        }
    }
}

/// A dead letter with its body: as text, or in hexadecimal if it is not UTF-8.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WholeDeadLetter<'l> {
    #[serde(flatten)]
    head: DeadLetterHead<'l>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'l> From<&'l DeadLetter> for WholeDeadLetter<'l> {
    fn from(dead_letter: &'l DeadLetter) -> Self {
        let text = std::str::from_utf8(&dead_letter.received.body).ok();
        Self {
            head: DeadLetterHead::from(&dead_letter.heading),
            body: text,
            body_hex: text
                .is_none()
                .then(|| hex::encode(&dead_letter.received.body)),
        }
    }
}

/// The outcome of an operation on a dead letter.
#[derive(Serialize)]
struct Done<'l> {
    id: &'l str,
    outcome: &'static str,
}

pub async fn list(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    authorize(&current.keys, &request, Scope::Admin)?;
    let asked = web::Query::<Asked>::from_query(request.query_string())
        .map_err(|error| Problem::new(Code::InvalidField, error.to_string()))?
        .into_inner();
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        let detail = format!("must be between 1 and {LARGEST_PAGE}");
        return Err(Problem::at(Code::InvalidField, "limit", detail));
    }
    let before = match asked.before.as_deref().map(Place::parse) {
        Some(None) => {
            let detail = "must be the `next` of a page";
            return Err(Problem::at(Code::InvalidField, "before", detail));
        }
        Some(place) => place,
        None => None,
    };
    let which = Which {
        app: asked.app,
        code: asked.code,
    };
    let store = &service.durable.store;
    let found = store.dead_letters(&which, before.as_ref(), limit).await?;
    let is_full = found.len() == limit as usize;
    let next = found.last().filter(|_| is_full);
    Ok(HttpResponse::Ok().json(Page {
        dead_letters: found.iter().map(DeadLetterHead::from).collect(),
        next: next.map(|last| Place::of(last).to_string()),
    }))
}

pub async fn show(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let id = authorized_id(&request, &service)?;
    match service.durable.store.dead_letter(&id).await? {
        Some(dead_letter) => Ok(HttpResponse::Ok().json(WholeDeadLetter::from(&dead_letter))),
        None => Err(not_there()),
    }
}

pub async fn retry(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let id = authorized_id(&request, &service)?;
    let current = service.live.current();
    let problem = match retry_dead_letter(&current.apps, &service.durable.store, &id).await? {
        Retried::Stored => {
            let done = Done {
                id: &id,
                outcome: "stored",
            };
            return Ok(HttpResponse::Ok().json(done));
        }
        Retried::StillUndecodable { code, reason, path } => {
            let detail = format!("{code}: {reason}; the dead letter is kept");
            Problem::at(Code::StillUndecodable, path, detail)
        }
        Retried::StillRefused => Problem::new(
            Code::StillRefused,
            "MongoDB refuses its documents, or they contradict what is stored; the dead letter is kept",
        ),
        Retried::SaysNothing => Problem::new(
            Code::StillUndecodable,
            "its body contains no event; the dead letter is kept, drop it if it is not needed",
        ),
        Retried::UnknownApp => Problem::new(
            Code::UnknownApp,
            "its app is not configured, so it cannot be decoded; the dead letter is kept",
        ),
        Retried::NotThere => not_there(),
    };
    Err(problem)
}

pub async fn remove(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let id = authorized_id(&request, &service)?;
    if !service.durable.store.remove_dead_letter(&id).await? {
        return Err(not_there());
    }
    tracing::warn!(id, "a dead letter was dropped");
    let done = Done {
        id: &id,
        outcome: "dropped",
    };
    Ok(HttpResponse::Ok().json(done))
}

/// The id in the path. Checks the key first; an extractor would run before that check.
fn authorized_id(request: &HttpRequest, service: &Service) -> Result<String, Problem> {
    let current = service.live.current();
    authorize(&current.keys, request, Scope::Admin)?;
    let part = |name: &str| request.match_info().get(name).unwrap_or_default();
    Ok(format!("{}/{}", part("app"), part("digest")))
}

fn not_there() -> Problem {
    Problem::new(Code::UnknownDeadLetter, "no dead letter has this id")
}
