//! Whether an app's stored messages say what they mean for their teams: those of versions before team counts do not
//! until `im-callback backfill` has run.
//!
//! A document in `progress` for each app says so, and stays. A backfill writes it at its end; so does whoever asks while
//! there is no team message that was received before this process started.

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::Hint;

use super::{Store, StoreError, collection};
use crate::callback::event::Class;
use crate::callback::ids::AppName;

/// The most team messages that are looked at. An app that has more was not just added.
const LOOKED_AT: i64 = 1000;

impl Store {
    /// Whether all stored team messages of an app can be counted. Once that is known nothing is asked.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn has_team_counts(&self, app: &AppName) -> Result<bool, StoreError> {
        if self.known.has_team_counts(app) {
            return Ok(true);
        }
        if !self.is_team_counts_stored(app).await? {
            // What was received before this process stays, so that needs no second look.
            if self.known.has_older_team_messages(app) {
                return Ok(false);
            }
            if self.is_older_team_message_possible(app).await? {
                self.known.learn_older_team_messages(app);
                return Ok(false);
            }
            self.save_team_counts(app).await?;
        }
        self.known.learn_team_counts(app);
        Ok(true)
    }

    /// Remembers that all stored team messages of an app can be counted.
    pub(super) async fn save_team_counts(&self, app: &AppName) -> Result<(), StoreError> {
        let progress = self.collection(collection::PROGRESS)?;
        let at = doc! { "$set": { "updatedAt": DateTime::now() } };
        let saved = progress
            .update_one(doc! { "_id": progress_id(app) }, at)
            .upsert(true);
        let saved = self.within_query_timeout(async move { saved.await }).await;
        saved.map(drop)
    }

    /// Whether `save_team_counts` was called for an app, by whomever.
    pub async fn is_team_counts_stored(&self, app: &AppName) -> Result<bool, StoreError> {
        let progress = self.collection(collection::PROGRESS)?;
        let find = progress
            .find_one(doc! { "_id": progress_id(app) })
            .max_time(self.settings.query_timeout);
        let found = self.within_query_timeout(async move { find.await }).await?;
        Ok(found.is_some())
    }

    /// Whether there may be a team message that another process received before this one started.
    pub async fn is_older_team_message_possible(&self, app: &AppName) -> Result<bool, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let aggregate = messages
            .aggregate(older_team_messages(app, self.known.since()))
            .hint(Hint::Name("_id_".to_owned()))
            .max_time(self.settings.query_timeout);
        let read = async move {
            let mut cursor = aggregate.await?;
            match cursor.advance().await? {
                true => cursor.deserialize_current().map(Some),
                false => Ok(None),
            }
        };
        let found = self.within_query_timeout(read).await?;
        let number = |found: &Document, name| {
            let value = found.get(name);
            value.and_then(|value: &Bson| value.as_i64().or_else(|| value.as_i32().map(i64::from)))
        };
        Ok(found.is_some_and(|found| {
            number(&found, "older") != Some(0) || number(&found, "all") > Some(LOOKED_AT)
        }))
    }
}

fn progress_id(app: &AppName) -> String {
    format!("team_counts/{app}")
}

/// Counts an app's team messages, and those received before a time. A recall that came before its message has no time,
/// and its message will be stored with all fields.
fn older_team_messages(app: &AppName, since: DateTime) -> Vec<Document> {
    // All ids of a class: `0` is the character after the slash.
    let of_class = [Class::Team, Class::SuperTeam].map(|class| {
        let class = class.as_str();
        doc! { "_id": { "$gt": format!("{app}/{class}/"), "$lt": format!("{app}/{class}0") } }
    });
    let is_older = doc! { "$and": [
        { "$gt": ["$receivedAt", Bson::Null] }, { "$lt": ["$receivedAt", since] },
    ] };
    vec![
        doc! { "$match": { "$or": of_class.to_vec() } },
        doc! { "$limit": LOOKED_AT + 1 },
        doc! { "$group": {
            "_id": Bson::Null,
            "all": { "$sum": 1 },
            "older": { "$sum": { "$cond": [is_older, 1, 0] } },
        } },
    ]
}
