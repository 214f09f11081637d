//! `GET` and `POST /v1/unread`: how many messages a user has not read, by sender and by order.

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web};
use indexmap::IndexMap;
use serde::Serialize;

use super::Service;
use super::asked::{AskedField, AskedFields, FieldKind};
use super::auth::{Caller, authorize_reader};
use super::body::body;
use super::error::{Code, Problem};
use crate::callback::ids::Account;
use crate::config::Http;
use crate::ingest::App;
use crate::live::ReloadableConfig;
use crate::store::{IdReservation, UnreadBy};

/// What may be asked.
const FIELDS: &[AskedField] = &[
    ("app", FieldKind::Text),
    ("user", FieldKind::NeededText),
    ("peers", FieldKind::Texts),
    ("orders", FieldKind::Texts),
];

/// What is asked.
struct UnreadQuery {
    app: Option<String>,
    user: String,
    peers: Option<Vec<String>>,
    orders: Option<Vec<String>>,
}

impl From<AskedFields> for UnreadQuery {
    fn from(mut fields: AskedFields) -> Self {
        Self {
            app: fields.text("app"),
            user: fields.needed_text("user"),
            peers: fields.texts("peers"),
            orders: fields.texts("orders"),
        }
    }
}

/// The counts: the lists that were asked for, every id in them, spelled as asked.
#[derive(Serialize)]
struct UnreadAnswer<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<IndexMap<&'a str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orders: Option<IndexMap<&'a str, u64>>,
    total: u64,
    /// Only where it is not so: acknowledged callbacks wait in a spool, and may change the counts.
    #[serde(skip_serializing_if = "is_true")]
    complete: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_true(flag: &bool) -> bool {
    *flag
}

pub async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let body = body(&request, payload, &service, &|| Ok(())).await?;
    let asked = AskedFields::from_json(&body, FIELDS)?;
    answer(&service, &current, &caller, &asked.into()).await
}

pub async fn get(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_query(request.query_string(), FIELDS)?;
    answer(&service, &current, &caller, &asked.into()).await
}

async fn answer(
    service: &Service,
    current: &ReloadableConfig,
    caller: &Caller<'_>,
    asked: &UnreadQuery,
) -> Result<HttpResponse, Problem> {
    let app = caller.app(current, asked.app.as_deref())?;
    check(asked, &service.limits)?;
    if asked.orders.is_some() && app.provider.order_id().is_none() {
        return Err(no_orders(app));
    }
    if service.durable.outage.is_known() {
        // A primary without its majority might still answer, and know nothing of what is in the spool.
        let detail = "MongoDB is away, so the counts cannot be read now; ask again";
        return Err(Problem::new(Code::Unavailable, detail));
    }
    let reader = caller.account(app, &asked.user)?;
    let ids = [&asked.peers, &asked.orders]
        .into_iter()
        .flatten()
        .flatten();
    let reserved = service.durable.store.reserve(ids.map(String::as_str))?;
    // Before the counts: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let complete = service.durable.complete.is_known().await?;
    let (peers, orders) = tokio::try_join!(
        count(
            service,
            UnreadBy::Peer,
            app,
            &reader,
            asked.peers.as_deref(),
            &reserved,
        ),
        count(
            service,
            UnreadBy::Order,
            app,
            &reader,
            asked.orders.as_deref(),
            &reserved,
        ),
    )?;
    let (total, peers, orders) = match (peers, orders) {
        (Some((total, peers)), orders) => (total, Some(peers), orders.map(|(_, orders)| orders)),
        (None, Some((total, orders))) => (total, None, Some(orders)),
        (None, None) => (0, None, None),
    };
    Ok(HttpResponse::Ok().json(UnreadAnswer {
        user: &asked.user,
        peers,
        orders,
        total,
        complete,
    }))
}

/// Counts one list: the total over its distinct ids, and the count of each id as it was spelled.
async fn count<'a>(
    service: &Service,
    by: UnreadBy,
    app: &App,
    reader: &Account,
    ids: Option<&'a [String]>,
    reserved: &IdReservation,
) -> Result<Option<(u64, IndexMap<&'a str, u64>)>, Problem> {
    let Some(ids) = ids else { return Ok(None) };
    let mut stored_as: HashMap<String, Vec<&str>> = HashMap::new();
    for id in ids {
        let stored = match by {
            UnreadBy::Peer => app.provider.name().account(id).into_string(),
            UnreadBy::Order => id.clone(),
        };
        stored_as.entry(stored).or_default().push(id);
    }
    let distinct: Vec<&str> = stored_as.keys().map(String::as_str).collect();
    let store = &service.durable.store;
    let found = store
        .unread(by, &app.name, reader, &distinct, reserved)
        .await?;
    let mut counts: IndexMap<&str, u64> = ids.iter().map(|id| (id.as_str(), 0)).collect();
    for (stored, n) in &found {
        for asked in stored_as.get(stored).into_iter().flatten() {
            counts.insert(asked, *n);
        }
    }
    Ok(Some((found.values().sum(), counts)))
}

/// Zeros would say that there is nothing to read.
fn no_orders(app: &App) -> Problem {
    let provider = app.provider.name();
    let why = if provider.order_fields().is_empty() {
        format!(
            "the bodies of its provider, `{provider}`, are not decoded, so apps.order_id cannot be set"
        )
    } else {
        "set apps.order_id, which says where its messages carry their order".to_owned()
    };
    let detail = format!("the app `{}` cannot be asked by order: {why}", app.name);
    Problem::at(Code::OrdersNotConfigured, "orders", detail)
}

fn check(asked: &UnreadQuery, limits: &Http) -> Result<(), Problem> {
    check_id("user", &asked.user, limits)?;
    if asked.peers.is_none() && asked.orders.is_none() {
        return Err(Problem::new(Code::NoList, "give `peers`, `orders` or both"));
    }
    let lists = [("peers", &asked.peers), ("orders", &asked.orders)];
    let mut ids = 0;
    for (name, list) in lists {
        for (i, id) in list.iter().flatten().enumerate() {
            ids += 1;
            if ids > limits.max_ids {
                let detail = format!(
                    "the limit is {} ids (http.max_ids); split the query",
                    limits.max_ids
                );
                return Err(Problem::at(Code::TooManyIds, name, detail));
            }
            check_id(&format!("{name}[{i}]"), id, limits)?;
        }
    }
    Ok(())
}

/// Checks an id's length.
pub fn check_id(path: &str, id: &str, limits: &Http) -> Result<(), Problem> {
    if id.is_empty() {
        return Err(Problem::at(
            Code::EmptyId,
            path,
            "an id has at least one character",
        ));
    }
    if id.len() > limits.max_id_length {
        let detail = format!(
            "the limit is {} bytes (http.max_id_length)",
            limits.max_id_length
        );
        return Err(Problem::at(Code::IdTooLong, path, detail));
    }
    Ok(())
}
