//! Unread messages of teams.
//!
//! A team's messages have no `state`, since each member reads for itself. Those that count have `countsInTeam: true`,
//! and the index `unread_by_team` has the time and the sender of each. So a member's count is a walk over the keys
//! later than the member's mark for the team, or, without a mark, later than when the member joined, if a notice said
//! so. It ends at a limit, since nothing makes a team's messages leave the index, and a member may never read them.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, doc};
use mongodb::options::Hint;

use super::{Store, UnreadCount};
use crate::callback::ids::{Account, AppName};
use crate::store::indexes::{TEAM_JOINS, UNREAD_BY_TEAM};
use crate::store::marks::{documents, number};
use crate::store::{StoreError, collection};

/// Counts of one question at once.
const QUERIES: usize = 8;

impl Store {
    /// Counts a reader's unread messages in teams, at most `most` of each. A team without any is absent.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or the index is not there yet.
    pub async fn unread_in_teams(
        &self,
        app: &AppName,
        reader: &Account,
        teams: &[&str],
        most: u64,
    ) -> Result<Vec<UnreadCount>, StoreError> {
        if teams.is_empty() {
            return Ok(Vec::new());
        }
        let counted = async {
            let since = self.team_marks(app, reader, teams).await?;
            let unmarked = teams.iter().filter(|team| !since.contains_key(**team));
            let unmarked: Vec<&str> = unmarked.copied().collect();
            let joined = self.joined_at(app, reader, &unmarked).await?;
            let counts = teams.iter().map(|team| {
                let since = since.get(*team).or_else(|| joined.get(*team)).copied();
                async move {
                    let unread = self.count_in_team(app, reader, team, since, most).await?;
                    Ok::<_, StoreError>(UnreadCount {
                        id: (*team).to_owned(),
                        peer: String::new(),
                        unread,
                    })
                }
            });
            // As a list: with the closure in it, the compiler would not see that the whole can move between threads.
            let counts: Vec<_> = counts.collect();
            let counts = stream::iter(counts).buffer_unordered(QUERIES);
            let counts = counts.try_filter(|count| std::future::ready(count.unread > 0));
            counts.try_collect().await
        };
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

    /// Counts the messages in a team that are later than a time, or `most` of them.
    pub(in crate::store) async fn count_in_team(
        &self,
        app: &AppName,
        reader: &Account,
        team: &str,
        since: Option<i64>,
        most: u64,
    ) -> Result<u64, StoreError> {
        let matching = team_messages(app, reader, team, since);
        let hint = Hint::Name(UNREAD_BY_TEAM.to_owned());
        self.count(matching, hint, Some(most)).await
    }
}

/// The messages of a team that count for a member after a time; public so that a test can ask for its plan.
pub fn team_messages(app: &AppName, reader: &Account, team: &str, since: Option<i64>) -> Document {
    doc! {
        "app": app.as_str(), "to": team, "countsInTeam": true,
        "msgTimestamp": { "$gt": since.unwrap_or(i64::MIN) },
        "fromAccount": { "$ne": reader.as_str() },
    }
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
