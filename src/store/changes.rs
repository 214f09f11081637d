//! What changes the counts of some users, as MongoDB's change streams tell it, whichever instance wrote it.
//!
//! One stream for all that an instance watches. MongoDB reads its oplog once for each stream, and leaves out what is
//! not watched before it makes an event of it, so other users' traffic costs little. A count changes by
//!
//! - a message: it is inserted, or filled into the document that an edit left;
//! - a read mark;
//! - a recall.
//!
//! An edit changes the text of a user's last message.
//!
//! `state` follows the marks and changes no count, so its updates are left out. So is what people change by hand, and
//! what a retention deletes: counts that are told are read anew from time to time.
//!
//! An update tells the `_id` of its document and not its `to`, which is looked up ([`Store::receivers_of`]).

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ChangeStreamOptions, ReadConcern};

use super::error::{Blame, StoreError, blame, code, is_unauthorized};
use super::{Store, collection};

/// How long MongoDB waits for a change before it answers that there is none. Whoever follows looks as often for whom
/// else to watch.
const WAIT: Duration = Duration::from_millis(200);

/// With more ids, or more bytes of them, they are not sent to MongoDB, which then tells the changes of all.
const MOST_IDS: usize = 20_000;
const MOST_BYTES: usize = 1024 * 1024;

/// The code of a server that is in no replica set, and so has no oplog.
const NO_REPLICA_SET: i32 = 40573;

/// Whose changes are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Accounts that read, as stored, in any app.
    pub readers: Vec<String>,
    /// Teams, in any app.
    pub teams: Vec<String>,
}

impl Watched {
    fn is_told_to_mongodb(&self) -> bool {
        let ids = || self.readers.iter().chain(&self.teams);
        ids().count() <= MOST_IDS && ids().map(String::len).sum::<usize>() <= MOST_BYTES
    }

    /// The stages that leave out all else.
    fn pipeline(&self) -> Vec<Document> {
        let (mut message, mut mark) = (doc! {}, doc! {});
        if self.is_told_to_mongodb() {
            let receivers = self.readers.iter().chain(&self.teams);
            message.insert("fullDocument.to", doc! { "$in": texts(receivers) });
            mark.insert(
                "documentKey._id.reader",
                doc! { "$in": texts(self.readers.iter()) },
            );
        }
        message.insert("ns.coll", collection::MESSAGES);
        message.insert("operationType", doc! { "$in": ["insert", "replace"] });
        mark.insert("ns.coll", collection::READ_MARKS);
        mark.insert(
            "operationType",
            doc! { "$in": ["insert", "update", "replace"] },
        );
        let is_there = |field: &str| doc! { format!("updateDescription.updatedFields.{field}"): { "$exists": true } };
        let merged = doc! {
            "ns.coll": collection::MESSAGES,
            "operationType": "update",
            "$or": [is_there("recall"), is_there("receivedAt"), is_there("body")],
        };
        vec![
            doc! { "$match": { "$or": [message, mark, merged] } },
            doc! { "$project": {
                "operationType": 1, "ns": 1, "clusterTime": 1, "documentKey": 1, "fullDocument.app": 1,
                "fullDocument.to": 1,
            } },
        ]
    }
}

fn texts<'t>(texts: impl Iterator<Item = &'t String>) -> Vec<Bson> {
    texts.map(|text| Bson::from(text.as_str())).collect()
}

/// A change, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Of this account or team.
    Of(Party),
    /// Of whoever receives the message with this `_id`.
    OfMessage(String),
}

/// An account or a team of an app.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Party {
    /// The app's name.
    pub app: String,
    /// The account, or the team's id.
    pub id: String,
}

/// What a stream says next.
#[derive(Debug)]
pub enum NextChange {
    /// There is one.
    Change(Change),
    /// None so far.
    Quiet,
    /// The stream ended, because the database was dropped. What happens now is told by another one only.
    Ended,
}

/// Up to where changes were read.
///
/// MongoDB looks for the change that a token names, and does not find it with a filter that leaves it out. So after a
/// change the position is its time, from which on the next stream tells changes once more, which does no harm. A token
/// that is given where there was no change names none.
#[derive(Debug, Clone)]
pub struct ChangesPosition(OplogPosition);

#[derive(Debug, Clone)]
enum OplogPosition {
    From(Timestamp),
    After(ResumeToken),
}

/// Why changes are not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// The server is in no replica set.
    #[error("MongoDB is no replica set, so it has no change streams")]
    NoReplicaSet,
    /// The user's rights do not include them.
    #[error("the user of mongodb.uri lacks the right to open change streams (action changeStream)")]
    NotAllowed,
    /// MongoDB has forgotten what came after the position, or cannot find it.
    #[error("the change stream cannot be resumed")]
    PositionLost,
    /// It passes.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ChangesError {
    /// Whether only a person can change it.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::NoReplicaSet | Self::NotAllowed)
    }

    fn of(error: Error, is_resumed: bool) -> Self {
        let is_command = matches!(error.kind.as_ref(), ErrorKind::Command(_));
        match code(&error) {
            Some(NO_REPLICA_SET) => Self::NoReplicaSet,
            _ if is_unauthorized(&error) => Self::NotAllowed,
            // Whatever it says of the position: without it the stream can be opened.
            Some(code) if is_resumed && is_command && blame(code) != Blame::Server => {
                Self::PositionLost
            }
            _ => Self::Store(StoreError::of_state(error)),
        }
    }
}

/// A change stream that is open.
pub struct Changes {
    stream: ChangeStream<RawDocumentBuf>,
    /// The last change: its token and its time.
    last: Option<(ResumeToken, Timestamp)>,
    /// How long MongoDB may take to answer.
    patience: Duration,
}

impl Store {
    /// Opens a change stream. With a position it tells what came after that, also of those who are watched only now.
    /// MongoDB searches its oplog from there within the query timeout, so it must be a recent one.
    ///
    /// # Errors
    /// [`ChangesError`]
    pub async fn watch_changes(
        &self,
        watched: &Watched,
        after: Option<ChangesPosition>,
    ) -> Result<Changes, ChangesError> {
        let database = self.database()?.clone();
        let is_resumed = after.is_some();
        let (time, token) = match after {
            None => (None, None),
            Some(ChangesPosition(OplogPosition::From(time))) => (Some(time), None),
            Some(ChangesPosition(OplogPosition::After(token))) => (None, Some(token)),
        };
        let opened = database
            .watch()
            .pipeline(watched.pipeline())
            .with_options(
                ChangeStreamOptions::builder()
                    .start_at_operation_time(time)
                    .resume_after(token)
                    .build(),
            )
            // The client's own is `local`, which change streams do not take.
            .read_concern(ReadConcern::majority())
            .max_await_time(WAIT);
        let patience = self.settings.query_timeout;
        let stream = tokio::time::timeout(patience, async { opened.await })
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(|error| ChangesError::of(error, is_resumed))?;
        Ok(Changes {
            stream: stream.with_type(),
            last: None,
            patience: WAIT + patience,
        })
    }

    /// Who receives the messages with these `_id`s. One that is deleted has no receiver.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn receivers_of(&self, messages: &[String]) -> Result<Vec<Party>, StoreError> {
        let collection = self.collection(collection::MESSAGES)?;
        let find = collection
            .find(doc! { "_id": { "$in": messages } })
            .projection(doc! { "app": 1, "to": 1 });
        let found: Vec<Document> = self
            .within_query_timeout(async move { find.await?.try_collect().await })
            .await?;
        let receiver = |message: &Document| {
            let text = |name: &str| message.get_str(name).ok().map(str::to_owned);
            Some(Party {
                app: text("app")?,
                id: text("to")?,
            })
        };
        Ok(found.iter().filter_map(receiver).collect())
    }
}

impl Changes {
    /// Waits for the next change, for a moment.
    ///
    /// # Errors
    /// [`ChangesError`]; the stream is of no more use.
    pub async fn next(&mut self) -> Result<NextChange, ChangesError> {
        let next = tokio::time::timeout(self.patience, self.stream.next_if_any()).await;
        let next = next.map_err(|_| StoreError::TimedOut)?;
        match next.map_err(|error| ChangesError::of(error, true))? {
            Some(event) => {
                let token = self.stream.resume_token();
                self.last = token.zip(event.get_timestamp("clusterTime").ok());
                Ok(change_of(&event).map_or(NextChange::Quiet, NextChange::Change))
            }
            None if self.stream.is_alive() => Ok(NextChange::Quiet),
            None => Ok(NextChange::Ended),
        }
    }

    /// Up to where changes were read.
    pub fn position(&self) -> Option<ChangesPosition> {
        let token = self.stream.resume_token()?;
        let place = match &self.last {
            Some((last, time)) if *last == token => OplogPosition::From(*time),
            _ => OplogPosition::After(token),
        };
        Some(ChangesPosition(place))
    }
}

/// Reads an event. `None` for one that has none of our fields, which somebody made by hand.
fn change_of(event: &RawDocument) -> Option<Change> {
    let key = event.get_document("documentKey").ok()?;
    let in_collection = event.get_document("ns").ok()?.get_str("coll").ok()?;
    if in_collection == collection::READ_MARKS {
        let mark = key.get_document("_id").ok()?;
        return party(mark, "reader").map(Change::Of);
    }
    let document = event.get_document("fullDocument").ok();
    // In a sharded cluster the key has both fields.
    let party = document
        .and_then(|document| party(document, "to"))
        .or_else(|| party(key, "to"));
    match party {
        Some(party) => Some(Change::Of(party)),
        None => Some(Change::OfMessage(key.get_str("_id").ok()?.to_owned())),
    }
}

fn party(document: &RawDocument, id: &str) -> Option<Party> {
    Some(Party {
        app: document.get_str("app").ok()?.to_owned(),
        id: document.get_str(id).ok()?.to_owned(),
    })
}
