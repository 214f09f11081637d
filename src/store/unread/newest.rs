//! Of whom and of what a reader has unread messages: the newest of each pair, from the unread indexes alone.
//!
//! By sender, MongoDB jumps in the index from one sender's last key to the next's (`DISTINCT_SCAN`), so the cost is the
//! number of senders. By order it has no such plan for two fields, and reads the keys of all unread messages that belong
//! to an order; it returns one document for each order and sender.

use mongodb::bson::{Document, RawDocument, doc};
use mongodb::raw_batch_cursor::RawBatch;

use futures_util::TryStreamExt;

use super::keys::reversed;
use super::{IdReservation, UnreadBy};
use crate::callback::ids::{Account, AppName};
use crate::store::marks::{MOST_PAIRS, Marks, covers, documents, number};
use crate::store::{Store, StoreError, collection};

/// The most pairs of an overview. Beyond, there is none.
pub const MOST_NEWEST: usize = 50_000;

/// Pairs in a batch of MongoDB's answer.
const BATCH: u32 = 5000;

/// When the newest unread message of a pair was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestUnread {
    /// The sender or the order, whichever is asked by.
    pub id: String,
    /// The sender.
    pub peer: String,
    /// When it was sent, in milliseconds.
    pub sent_at: i64,
}

/// What a reader has not read.
#[derive(Debug)]
pub struct UnreadPairs {
    /// One for each sender, or each order and sender.
    pub newest: Vec<NewestUnread>,
    /// Whether there are more than [`MOST_NEWEST`], so that this says nothing.
    pub is_truncated: bool,
    _memory: Vec<IdReservation>,
}

impl Store {
    /// Waits for a turn of an overview and answers it, both within the timeout of one query.
    ///
    /// # Errors
    /// As the answer, and when there was no turn, or no answer, in time.
    pub async fn in_turn_of_overviews<T, E: From<StoreError>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let within = self.settings.query_timeout;
        self.overview_turns.take(within, answer).await
    }

    /// All senders, or orders and senders, of whom a reader has unread messages.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, the index is not there yet, or the memory budget is used up.
    pub async fn newest_unread(
        &self,
        by: UnreadBy,
        app: &AppName,
        reader: &Account,
    ) -> Result<UnreadPairs, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let aggregate = messages
            .aggregate(newest_of(by, app, reader))
            .hint(by.hint())
            .batch_size(BATCH)
            .max_time(self.settings.query_timeout);
        let read = async move {
            let mut memory = Vec::new();
            let mut batches: Vec<RawBatch> = Vec::new();
            let mut cursor = aggregate.batch().await?;
            while let Some(batch) = cursor.try_next().await? {
                let bytes = batch.doc_slices()?.as_bytes().len();
                match self.reserve_bytes(bytes) {
                    Ok(reserved) => memory.push(reserved),
                    Err(error) => return Ok(Err(error)),
                }
                batches.push(batch);
            }
            Ok(Ok((batches, memory)))
        };
        let (batches, memory) = self.within_query_timeout(read).await??;
        let all = documents(&batches).map(|found| by.newest(found?));
        let all: Vec<NewestUnread> = all.collect::<Option<_>>().ok_or_else(unreadable)?;
        let is_truncated = all.len() > MOST_NEWEST;
        let newest = match is_truncated {
            true => Vec::new(),
            false => self.later_than_marks(app, reader, all).await?,
        };
        Ok(UnreadPairs {
            newest,
            is_truncated,
            _memory: memory,
        })
    }

    /// `state` may lag behind the marks.
    async fn later_than_marks(
        &self,
        app: &AppName,
        reader: &Account,
        mut all: Vec<NewestUnread>,
    ) -> Result<Vec<NewestUnread>, StoreError> {
        let reader = reader.as_str();
        let mut peers: Vec<&str> = all.iter().map(|one| one.peer.as_str()).collect();
        peers.sort_unstable();
        peers.dedup();
        let mut marks = Marks::default();
        for peers in peers.chunks(MOST_PAIRS) {
            marks.extend(self.marks_between(app, &[reader], peers).await?);
        }
        let marks = marks.by_pair()?;
        all.retain(|one| {
            let mark = marks.get(&(reader, one.peer.as_str())).copied();
            !covers(mark, one.sent_at)
        });
        Ok(all)
    }
}

/// The pipeline that finds the newest messages with `state: 0`; public so that a test can ask for its plan.
pub fn newest_of(by: UnreadBy, app: &AppName, reader: &Account) -> Vec<Document> {
    let mut matching = doc! { "app": app.as_str(), "to": reader.as_str(), "state": 0 };
    let mut pipeline = Vec::new();
    match by {
        UnreadBy::Peer => {
            // Backwards and `$first`: MongoDB plans `$last` as a walk over all keys.
            let newest = doc! { "_id": "$fromAccount", "sentAt": { "$first": "$msgTimestamp" } };
            pipeline.extend([
                doc! { "$sort": reversed(by.sort()) },
                doc! { "$group": newest },
            ]);
        }
        UnreadBy::Order => {
            // A range of strings, since for `$exists` MongoDB would fetch the documents.
            matching.insert("orderId", doc! { "$gte": "" });
            let pair = doc! { "order": "$orderId", "peer": "$fromAccount" };
            let newest = doc! { "_id": pair, "sentAt": { "$max": "$msgTimestamp" } };
            pipeline.push(doc! { "$group": newest });
        }
    }
    pipeline.insert(0, doc! { "$match": matching });
    pipeline.push(doc! { "$limit": MOST_NEWEST as i64 + 1 });
    pipeline
}

impl UnreadBy {
    fn newest(self, found: &RawDocument) -> Option<NewestUnread> {
        let sent_at = number(found, "sentAt")?;
        let (id, peer) = match self {
            Self::Peer => {
                let peer = found.get_str("_id").ok()?;
                (peer, peer)
            }
            Self::Order => {
                let pair = found.get_document("_id").ok()?;
                (pair.get_str("order").ok()?, pair.get_str("peer").ok()?)
            }
        };
        Some(NewestUnread {
            id: id.to_owned(),
            peer: peer.to_owned(),
            sent_at,
        })
    }
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("an index key is unreadable".to_owned())
}
