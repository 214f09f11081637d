//! From a question to its answer.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::{UnreadAnswer, UnreadQuery};
use crate::callback::ids::Account;
use crate::http::Service;
use crate::http::error::Problem;
use crate::ingest::App;
use crate::store::{IdReservation, UnreadBy};

/// Answers a question that was checked, of a caller who may ask it, while MongoDB is not known to be away.
///
/// # Errors
/// A [`Problem`] of 503.
pub async fn counts(
    service: &Service,
    app: &App,
    reader: &Account,
    asked: &UnreadQuery,
) -> Result<UnreadAnswer, Problem> {
    let ids = [&asked.peers, &asked.orders]
        .into_iter()
        .flatten()
        .flatten();
    let reserved = service.durable.store.reserve(ids.map(String::as_str))?;
    // Before the counts: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let complete = service.durable.complete.is_known().await?;
    let count = |by, ids| count(service, by, app, reader, ids, &reserved);
    let (peers, orders) = tokio::try_join!(
        count(UnreadBy::Peer, asked.peers.as_deref()),
        count(UnreadBy::Order, asked.orders.as_deref()),
    )?;
    let first = peers.as_ref().or(orders.as_ref());
    Ok(UnreadAnswer {
        user: asked.user.clone(),
        total: first.map_or(0, |list| list.total),
        peers: peers.map(|list| list.counts),
        orders: orders.map(|list| list.counts),
        complete,
    })
}

/// One list: the total over its distinct ids, and the count of each id as it was spelled.
struct CountedList {
    total: u64,
    counts: IndexMap<String, u64>,
}

async fn count(
    service: &Service,
    by: UnreadBy,
    app: &App,
    reader: &Account,
    ids: Option<&[String]>,
    reserved: &IdReservation,
) -> Result<Option<CountedList>, Problem> {
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
    let mut counts: IndexMap<String, u64> = ids.iter().map(|id| (id.clone(), 0)).collect();
    for (stored, n) in &found {
        for asked in stored_as.get(stored).into_iter().flatten() {
            if let Some(count) = counts.get_mut(*asked) {
                *count = *n;
            }
        }
    }
    Ok(Some(CountedList {
        total: found.values().sum(),
        counts,
    }))
}
