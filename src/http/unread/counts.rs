//! From a question to its answer.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;

use super::answer::TotalOf;
use super::overview::overview;
use super::{UnreadAnswer, UnreadQuery};
use crate::callback::ids::Account;
use crate::http::Service;
use crate::http::error::Problem;
use crate::ingest::App;
use crate::store::{IdReservation, Question, TeamLimits, UnreadBy, UnreadCount};

/// The index keys that are read for a team's count, for each message that is counted at most: the user's own messages
/// are among them.
const KEYS_PER_MESSAGE: u64 = 50;

/// Answers a question that was checked, of a caller who may ask it, while MongoDB is not known to be away.
///
/// # Errors
/// A [`Problem`] of 503, or of 422 for an overview that is too large.
pub async fn counts(
    service: &Service,
    app: &App,
    reader: &Account,
    asked: &UnreadQuery,
) -> Result<UnreadAnswer, Problem> {
    let store = &service.durable.store;
    let ids = asked.lists().into_iter().filter_map(|(_, list)| list);
    let ids = ids.flatten().map(String::as_str);
    let lists = Lists {
        service,
        app,
        reader,
        asked,
        reserved: store.reserve(ids)?,
    };
    // Before the counts: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let waits_for_spool = !service.durable.complete.is_known().await?;
    if asked.is_overview() {
        let answer = Box::pin(overview(service, app, reader, asked)).await?;
        return Ok(UnreadAnswer {
            complete: !waits_for_spool,
            waits_for_spool,
            ..answer
        });
    }
    let lacks_teams = asked.teams.is_some() && !lists.has_team_counts().await;
    let (peers, orders, teams) = tokio::try_join!(
        lists.count(UnreadBy::Peer, asked.peers.as_deref()),
        lists.count(UnreadBy::Order, asked.orders.as_deref()),
        lists.count_teams(asked.teams.as_deref()),
    )?;
    let totals = [
        (TotalOf::Peers, &peers),
        (TotalOf::Orders, &orders),
        (TotalOf::Teams, &teams),
    ];
    let first = totals
        .into_iter()
        .find_map(|(of, list)| Some((of, list.as_ref()?.total)));
    let (total_of, total) = first.unwrap_or((TotalOf::Peers, 0));
    let (orders, order_peers) = match orders {
        Some(list) => (Some(list.counts), list.peers),
        None => (None, None),
    };
    Ok(UnreadAnswer {
        user: asked.user.clone(),
        peers: peers.map(|list| list.counts),
        orders,
        order_peers,
        teams: teams.map(|list| list.counts),
        total: asked.capped(total),
        total_of,
        newest: None,
        next: None,
        complete: !waits_for_spool && !lacks_teams,
        waits_for_spool,
    })
}

/// A question by lists.
struct Lists<'q> {
    service: &'q Service,
    app: &'q App,
    reader: &'q Account,
    asked: &'q UnreadQuery,
    reserved: IdReservation,
}

/// One list.
struct CountedList {
    /// Over its distinct ids.
    total: u64,
    /// Of each id as it was spelled.
    counts: IndexMap<String, u64>,
    /// The same by sender, where that was asked for.
    peers: Option<IndexMap<String, BTreeMap<String, u64>>>,
}

impl Lists<'_> {
    async fn count(
        &self,
        by: UnreadBy,
        ids: Option<&[String]>,
    ) -> Result<Option<CountedList>, Problem> {
        let Some(ids) = ids else { return Ok(None) };
        let provider = self.app.provider.name();
        let stored = |id: &String| match by {
            UnreadBy::Peer => provider.account(id).into_string(),
            UnreadBy::Order => id.clone(),
        };
        let spellings = Spellings::of(ids, stored);
        let question = Question {
            by,
            app: self.app.name.clone(),
            reader: self.reader.clone(),
            ids: spellings.distinct(),
            cap: self.asked.cap,
            is_cap_of_peers: self.asked.order_peers,
        };
        let store = &self.service.durable.store;
        let found = store.unread(question, &self.reserved).await?;
        let with_peers = by == UnreadBy::Order && self.asked.order_peers;
        Ok(Some(self.list(&spellings, found, with_peers)))
    }

    /// Whether all messages of teams are counted. If that cannot be found out, no answer claims it.
    async fn has_team_counts(&self) -> bool {
        let store = &self.service.durable.store;
        let known = Box::pin(store.has_team_counts(&self.app.name)).await;
        known.unwrap_or_default()
    }

    async fn count_teams(&self, ids: Option<&[String]>) -> Result<Option<CountedList>, Problem> {
        let Some(ids) = ids else { return Ok(None) };
        let spellings = Spellings::of(ids, String::clone);
        let teams = spellings.distinct();
        let teams: Vec<&str> = teams.iter().map(String::as_str).collect();
        let most = self.service.limits.max_team_unread;
        let limits = TeamLimits {
            most: self.asked.capped(most),
            keys: most * KEYS_PER_MESSAGE,
        };
        let store = &self.service.durable.store;
        let found = store.unread_in_teams(&self.app.name, self.reader, &teams, limits);
        Ok(Some(self.list(&spellings, found.await?, false)))
    }

    fn list(
        &self,
        spellings: &Spellings<'_>,
        found: Vec<UnreadCount>,
        with_peers: bool,
    ) -> CountedList {
        let asked = || spellings.asked.iter().cloned();
        let mut list = CountedList {
            total: found.iter().map(|count| count.unread).sum(),
            counts: asked().map(|id| (id, 0)).collect(),
            peers: with_peers.then(|| asked().map(|id| (id, BTreeMap::new())).collect()),
        };
        for UnreadCount { id, peer, unread } in found {
            for spelling in spellings.stored_as.get(&id).into_iter().flatten() {
                if let Some(count) = list.counts.get_mut(*spelling) {
                    *count = self.asked.capped(*count + unread);
                }
                let peers = list.peers.as_mut();
                if let Some(peers) = peers.and_then(|peers| peers.get_mut(*spelling)) {
                    peers.insert(peer.clone(), self.asked.capped(unread));
                }
            }
        }
        list
    }
}

/// The ids of a list, as they were asked and as they are stored.
struct Spellings<'q> {
    asked: &'q [String],
    stored_as: HashMap<String, Vec<&'q str>>,
}

impl<'q> Spellings<'q> {
    fn of(asked: &'q [String], stored: impl Fn(&String) -> String) -> Self {
        let mut stored_as: HashMap<String, Vec<&str>> = HashMap::new();
        for id in asked {
            let spellings = stored_as.entry(stored(id)).or_default();
            if !spellings.contains(&id.as_str()) {
                spellings.push(id);
            }
        }
        Self { asked, stored_as }
    }

    fn distinct(&self) -> Vec<String> {
        self.stored_as.keys().cloned().collect()
    }
}
