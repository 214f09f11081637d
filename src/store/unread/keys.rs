//! Keys of the unread indexes: a message's reader, peer, order and time.

use mongodb::bson::{Bson, Document, RawDocument, doc};
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;

use super::{UnreadBy, UnreadCount};
use crate::callback::ids::AppName;
use crate::store::marks::{MOST_PAIRS, Marks, covers, documents, number};
use crate::store::{Store, StoreError, collection};

/// Index keys of unread messages, in the order of the index.
pub struct IndexKeys {
    by: UnreadBy,
    batches: Vec<RawBatch>,
    most: usize,
}

/// One index key.
#[derive(Debug, Clone, Copy)]
pub struct IndexKey<'k> {
    pub reader: &'k str,
    /// The peer or the order, whichever is counted by.
    pub id: &'k str,
    pub peer: &'k str,
    sent_at: i64,
}

impl Store {
    /// Reads `most` index keys, and one more to see whether there are more.
    pub(in crate::store) async fn unread_keys(
        &self,
        by: UnreadBy,
        matching: Document,
        most: usize,
    ) -> Result<IndexKeys, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let find = messages
            .find(matching)
            .projection(by.projection())
            .sort(by.sort())
            .hint(by.hint())
            .limit(most as i64 + 1)
            .batch_size(most as u32 + 2)
            .max_time(self.settings.query_timeout);
        let batches = self.batches(find).await?;
        Ok(IndexKeys { by, batches, most })
    }
}

impl IndexKeys {
    /// All keys, in the order of the index.
    pub fn all(&self) -> Result<Vec<IndexKey<'_>>, StoreError> {
        let keys = documents(&self.batches).map(|key| self.by.key(key?));
        let unreadable = || StoreError::Unavailable("an index key is unreadable".to_owned());
        keys.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// The last key, if there are more keys in the index. Everything before its reader, id and peer is complete; of
    /// these three some keys may be missing.
    pub fn truncated_at<'k>(&self, all: &[IndexKey<'k>]) -> Option<IndexKey<'k>> {
        all.last().filter(|_| all.len() > self.most).copied()
    }
}

/// An order of an index, backwards.
pub fn reversed(sort: Document) -> Document {
    let keys = sort.into_iter().map(|(field, _)| (field, Bson::Int32(-1)));
    keys.collect()
}

/// The distinct readers or peers of some keys.
pub fn distinct<'k>(keys: &[IndexKey<'k>], of: fn(&IndexKey<'k>) -> &'k str) -> Vec<&'k str> {
    let mut distinct: Vec<_> = keys.iter().map(of).collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// Splits keys between readers, into parts that have few enough readers and peers to ask for all marks between them.
pub fn chunks_for_marks<'a, 'k>(mut keys: &'a [IndexKey<'k>]) -> Vec<&'a [IndexKey<'k>]> {
    let mut parts = Vec::new();
    while !keys.is_empty() {
        let (mut readers, mut end) = (0, 0);
        for of_reader in keys.chunk_by(|a, b| a.reader == b.reader) {
            let some = end + of_reader.len();
            // In the worst case every key has another peer.
            if readers > 0 && (readers + 1) * some > MOST_PAIRS {
                break;
            }
            (readers, end) = (readers + 1, some);
        }
        let (part, rest) = keys.split_at(end);
        parts.push(part);
        keys = rest;
    }
    parts
}

/// The unread messages of a reader, an id and a peer.
#[derive(Debug, Clone, Copy)]
pub struct CountedKeys<'k> {
    pub reader: &'k str,
    pub id: &'k str,
    pub peer: &'k str,
    pub unread: u64,
}

/// Counts unread messages: those later than their pair's mark. In the order of the index, without zeros.
pub fn count<'k>(keys: &[IndexKey<'k>], marks: &Marks) -> Result<Vec<CountedKeys<'k>>, StoreError> {
    let marks = marks.by_pair()?;
    let mut counts = Vec::new();
    // The index sorts the keys of one pair next to each other.
    for of_pair in keys.chunk_by(|a, b| (a.reader, a.id, a.peer) == (b.reader, b.id, b.peer)) {
        let IndexKey {
            reader, id, peer, ..
        } = of_pair[0];
        let mark = marks.get(&(reader, peer)).copied();
        let is_unread = |key: &&IndexKey<'_>| !covers(mark, key.sent_at);
        let unread = of_pair.iter().filter(is_unread).count() as u64;
        if unread > 0 {
            counts.push(CountedKeys {
                reader,
                id,
                peer,
                unread,
            });
        }
    }
    Ok(counts)
}

impl CountedKeys<'_> {
    /// As it is answered.
    pub fn answered(&self, by: UnreadBy) -> UnreadCount {
        UnreadCount {
            id: self.id.to_owned(),
            peer: match by {
                UnreadBy::Peer => String::new(),
                UnreadBy::Order => self.peer.to_owned(),
            },
            unread: self.unread,
        }
    }
}

impl UnreadBy {
    /// The filter of a query for several questions; public so that a test can ask for its plan. It also finds
    /// combinations that no question asked for: one reader's messages from another's peers.
    pub fn matching(self, app: &AppName, readers: &[&str], ids: &[&str]) -> Document {
        let mut matching = doc! { "app": app.as_str(), "to": { "$in": readers }, "state": 0 };
        matching.insert(self.field(), doc! { "$in": ids });
        matching
    }

    /// The fields of the index that are read.
    pub fn projection(self) -> Document {
        let mut shown = doc! { "_id": 0, "to": 1, "fromAccount": 1, "msgTimestamp": 1 };
        shown.insert(self.field(), 1);
        shown
    }

    /// The order of the index.
    pub fn sort(self) -> Document {
        let mut keys = doc! { "app": 1, "to": 1, "state": 1 };
        keys.insert(self.field(), 1);
        keys.insert("fromAccount", 1);
        keys.insert("msgTimestamp", 1);
        keys
    }

    /// The index of the query. Without it MongoDB returns an error and never scans.
    pub fn hint(self) -> Hint {
        Hint::Name(self.index().to_owned())
    }

    fn key(self, key: &RawDocument) -> Option<IndexKey<'_>> {
        Some(IndexKey {
            reader: key.get_str("to").ok()?,
            id: key.get_str(self.field()).ok()?,
            peer: key.get_str("fromAccount").ok()?,
            sent_at: number(key, "msgTimestamp")?,
        })
    }
}
