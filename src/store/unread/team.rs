//! Unread messages of teams.
//!
//! A team's messages have no `state`, since each member reads for itself. Those that count have `countsInTeam: true`,
//! and the index `unread_by_team` has the time and the sender of each. So a member's count is a walk over the keys
//! later than the member's mark for the team, or, without a mark, later than when the member joined, if a notice said
//! so. It ends at a limit, since nothing makes a team's messages leave the index, and a member may never read them. The
//! member's own messages are among the keys and do not count, so there is a limit of the keys, too.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::Hint;

use super::{Store, UnreadCount};
use crate::callback::ids::{Account, AppName};
use crate::store::indexes::{TEAM_JOINS, UNREAD_BY_TEAM};
use crate::store::marks::{documents, number};
use crate::store::{StoreError, collection};

/// Counts of one question that wait for a turn at once: more than there are turns, and few, so that a small question
/// does not wait for all teams of a large one.
const WAITING: usize = 4;

/// How many times the keys of the query before a query reads, where too many were the reader's own.
const MORE_KEYS: u64 = 4;

/// Where a count ends.
#[derive(Debug, Clone, Copy)]
pub struct TeamLimits {
    /// The most messages that are counted.
    pub most: u64,
    /// The most index keys that are read for that. Beyond, there is no count.
    pub keys: u64,
}

impl Store {
    /// Counts a reader's unread messages in teams, at most so many of each. A team without any is absent.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, the index is not there yet, or [`StoreError::TooManyOwn`].
    pub async fn unread_in_teams(
        &self,
        app: &AppName,
        reader: &Account,
        teams: &[&str],
        limits: TeamLimits,
    ) -> Result<Vec<UnreadCount>, StoreError> {
        if teams.is_empty() {
            return Ok(Vec::new());
        }
        // On the heap, as the queries within: futures within futures are large, and moved on the stack.
        let counted = Box::pin(async {
            let within = self.settings.query_timeout;
            let marks = Box::pin(self.team_marks(app, reader, teams));
            let since = self.team_turns.take(within, marks).await?;
            let unmarked = teams.iter().filter(|team| !since.contains_key(**team));
            let unmarked: Vec<&str> = unmarked.copied().collect();
            let joined = Box::pin(self.joined_at(app, reader, &unmarked));
            let joined = self.team_turns.take(within, joined).await?;
            let counts = teams.iter().map(|team| {
                let since = since.get(*team).or_else(|| joined.get(*team)).copied();
                async move {
                    let count = Box::pin(self.count_in_team(app, reader, team, since, limits));
                    let unread = self.team_turns.take(within, count).await?;
                    Ok::<_, StoreError>(UnreadCount {
                        id: (*team).to_owned(),
                        peer: String::new(),
                        unread,
                    })
                }
            });
            // As a list: with the closure in it, the compiler would not see that the whole can move between threads.
            let counts: Vec<_> = counts.collect();
            let counts = stream::iter(counts).buffer_unordered(WAITING);
            let counts = counts.try_filter(|count| std::future::ready(count.unread > 0));
            counts.try_collect().await
        });
        tokio::time::timeout(self.settings.query_timeout, counted)
            .await
            .map_err(|_| StoreError::TimedOut)?
    }

    /// A reader's read marks for teams.
    async fn team_marks(
        &self,
        app: &AppName,
        reader: &Account,
        teams: &[&str],
    ) -> Result<HashMap<String, i64>, StoreError> {
        let marks = self.collection(collection::READ_MARKS)?;
        let of_team =
            |team: &&str| doc! { "app": app.as_str(), "reader": reader.as_str(), "team": *team };
        let ids: Vec<Document> = teams.iter().map(of_team).collect();
        let find = marks
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "readUpTo": 1 })
            .hint(Hint::Name("_id_".to_owned()))
            .batch_size(u32::MAX >> 1)
            .max_time(self.settings.query_timeout);
        let batches = self.batches(find).await?;
        let marks = documents(&batches).map(|mark| {
            let mark = mark?;
            let team = mark.get_document("_id").ok()?.get_str("team").ok()?;
            Some((team.to_owned(), number(mark, "readUpTo")?))
        });
        let unreadable = || StoreError::Unavailable("a read mark is unreadable".to_owned());
        marks.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// When a reader joined teams, for the last time, where notices said so.
    pub(in crate::store) async fn joined_at(
        &self,
        app: &AppName,
        reader: &Account,
        teams: &[&str],
    ) -> Result<HashMap<String, i64>, StoreError> {
        if teams.is_empty() {
            return Ok(HashMap::new());
        }
        let messages = self.collection(collection::MESSAGES)?;
        let aggregate = messages
            .aggregate(team_joins(app, reader, teams))
            .hint(Hint::Name(TEAM_JOINS.to_owned()))
            .max_time(self.settings.query_timeout);
        let read = async move {
            let batches: Vec<_> = aggregate.batch().await?.try_collect().await?;
            Ok(batches)
        };
        let batches = self.within_query_timeout(read).await?;
        let joins = documents(&batches).map(|join| {
            let join = join?;
            Some((join.get_str("_id").ok()?.to_owned(), number(join, "at")?))
        });
        let unreadable = || StoreError::Unavailable("an index key is unreadable".to_owned());
        joins.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// Counts the messages in a team that are later than a time, or the most that are asked for.
    pub(in crate::store) async fn count_in_team(
        &self,
        app: &AppName,
        reader: &Account,
        team: &str,
        since: Option<i64>,
        limits: TeamLimits,
    ) -> Result<u64, StoreError> {
        // Mostly the first query tells it. Only where the reader writes much itself, more keys are read.
        let mut keys = limits.most;
        loop {
            let pipeline = team_messages(app, reader, team, since, keys);
            let (all, own) = self.counted_in_team(pipeline).await?;
            let others = all.saturating_sub(own);
            if others >= limits.most || all < keys {
                return Ok(others.min(limits.most));
            }
            if keys >= limits.keys {
                return Err(StoreError::TooManyOwn);
            }
            keys = limits.keys.min(keys * MORE_KEYS);
        }
    }

    /// How many messages a pipeline found, and how many of them are the reader's own.
    async fn counted_in_team(&self, pipeline: Vec<Document>) -> Result<(u64, u64), StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let aggregate = messages
            .aggregate(pipeline)
            .hint(Hint::Name(UNREAD_BY_TEAM.to_owned()))
            .max_time(self.settings.query_timeout);
        let batches = self.all_batches(aggregate.batch()).await?;
        let counted = documents(&batches).next().flatten();
        let of = |name| counted.and_then(|counted| u64::try_from(number(counted, name)?).ok());
        Ok((of("all").unwrap_or(0), of("own").unwrap_or(0)))
    }
}

/// The pipeline that counts the first messages of a team after a time, and the reader's own among them; public so that a
/// test can ask for its plan.
pub fn team_messages(
    app: &AppName,
    reader: &Account,
    team: &str,
    since: Option<i64>,
    keys: u64,
) -> Vec<Document> {
    let is_own = doc! { "$eq": ["$fromAccount", { "$literal": reader.as_str() }] };
    vec![
        doc! { "$match": {
            "app": app.as_str(), "to": team, "countsInTeam": true,
            "msgTimestamp": { "$gt": since.unwrap_or(i64::MIN) },
        } },
        doc! { "$limit": i64::try_from(keys).unwrap_or(i64::MAX) },
        doc! { "$group": {
            "_id": Bson::Null,
            "all": { "$sum": 1 },
            "own": { "$sum": { "$cond": [is_own, 1, 0] } },
        } },
    ]
}

/// The pipeline that finds when an account joined some teams; public so that a test can ask for its plan.
pub fn team_joins(app: &AppName, account: &Account, teams: &[&str]) -> Vec<Document> {
    vec![
        doc! { "$match": {
            "app": app.as_str(), "to": { "$in": teams }, "joined": account.as_str(),
        } },
        doc! { "$group": { "_id": "$to", "at": { "$max": "$msgTimestamp" } } },
    ]
}
