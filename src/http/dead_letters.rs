//! `/v1/dead-letters`: what could not be decoded, for whoever operates the service.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::Service;
use super::auth::authorize;
use super::error::{Code, Problem};
use crate::auth::Scope;
use crate::ingest::dead_letters::{Retried, retry as retry_letter};
use crate::store::dead_letters::{DeadLetter, Heading, Place, Which};

/// The letters on a page that is not asked for otherwise, and the most on one.
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
struct Page<'l> {
    letters: Vec<Letter<'l>>,
    /// The `before` of the next page, unless this is the last.
    next: Option<String>,
}

/// A letter without its body.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Letter<'l> {
    id: &'l str,
    app: &'l str,
    code: &'l str,
    reason: &'l str,
    path: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<&'l str>,
    received_at: String,
}

impl<'l> From<&'l Heading> for Letter<'l> {
    fn from(heading: &'l Heading) -> Self {
        Self {
            id: &heading.id,
            app: &heading.app,
            code: &heading.code,
            reason: &heading.reason,
            path: &heading.path,
            product: heading.product.as_deref(),
            received_at: heading
                .received_at
                .try_to_rfc3339_string()
                .unwrap_or_default(),
        }
    }
}

/// A letter with its body: text, or, where that is no UTF-8, hexadecimal digits.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WholeLetter<'l> {
    #[serde(flatten)]
    letter: Letter<'l>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'l> From<&'l DeadLetter> for WholeLetter<'l> {
    fn from(letter: &'l DeadLetter) -> Self {
        let text = std::str::from_utf8(&letter.body).ok();
        Self {
            letter: Letter::from(&letter.heading),
            body: text,
            body_hex: text.is_none().then(|| hex::encode(&letter.body)),
        }
    }
}

/// What was done with a letter.
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
            let detail = "must be the `next` of another page";
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
        letters: found.iter().map(Letter::from).collect(),
        next: next.map(|last| Place::of(last).to_string()),
    }))
}

pub async fn show(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let id = authorized_id(&request, &service)?;
    match service.durable.store.dead_letter(&id).await? {
        Some(letter) => Ok(HttpResponse::Ok().json(WholeLetter::from(&letter))),
        None => Err(not_there()),
    }
}

pub async fn retry(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let id = authorized_id(&request, &service)?;
    let current = service.live.current();
    let problem = match retry_letter(&current.apps, &service.durable.store, &id).await? {
        Retried::Stored => {
            let done = Done {
                id: &id,
                outcome: "stored",
            };
            return Ok(HttpResponse::Ok().json(done));
        }
        Retried::StillUndecodable { code, reason, path } => {
            let detail = format!("{code}: {reason}; the letter is kept");
            Problem::at(Code::StillUndecodable, path, detail)
        }
        Retried::StillRefused => Problem::new(
            Code::StillRefused,
            "MongoDB refuses what is made of it, or it contradicts what is stored; the letter is kept",
        ),
        Retried::SaysNothing => Problem::new(
            Code::StillUndecodable,
            "its body says nothing; the letter is kept, drop it if it is of no use",
        ),
        Retried::UnknownApp => Problem::new(
            Code::UnknownApp,
            "its app is not configured, so nothing says how to decode it; the letter is kept",
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

/// The letter that the path names. The key is looked at first: an extractor would run before it.
fn authorized_id(request: &HttpRequest, service: &Service) -> Result<String, Problem> {
    let current = service.live.current();
    authorize(&current.keys, request, Scope::Admin)?;
    let part = |name: &str| request.match_info().get(name).unwrap_or_default();
    Ok(format!("{}/{}", part("app"), part("digest")))
}

fn not_there() -> Problem {
    Problem::new(Code::UnknownDeadLetter, "no dead letter has this id")
}
