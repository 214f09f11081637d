//! What the unread indexes say of messages: for each its reader, its peer, its order and its time.

use std::collections::HashMap;

use mongodb::bson::{Document, RawDocument, doc};
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;

use super::UnreadBy;
use crate::callback::ids::AppName;
use crate::store::marks::{MOST_PAIRS, Marks, documents, number};
use crate::store::{Store, StoreError, collection};

/// Index keys of unread messages, in the order of the index.
pub struct Keys {
    by: UnreadBy,
    batches: Vec<RawBatch>,
    most: usize,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Key<'k> {
    pub reader: &'k str,
    /// The peer or the order, whatever is counted by.
    pub id: &'k str,
    pub peer: &'k str,
    sent_at: i64,
}

impl Store {
    /// Reads index keys, and one more than `most`, which shows that there are more.
    pub(in crate::store) async fn unread_keys(
        &self,
        by: UnreadBy,
        matching: Document,
        most: usize,
    ) -> Result<Keys, StoreError> {
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
        Ok(Keys { by, batches, most })
    }
}

impl Keys {
    /// All keys, in the order of the index.
    pub fn all(&self) -> Result<Vec<Key<'_>>, StoreError> {
        let keys = documents(&self.batches).map(|key| self.by.key(key?));
        let unreadable = || StoreError::Unavailable("an index key is unreadable".to_owned());
        keys.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// The last key, where there are more keys than were wanted: whatever comes before its reader, its id and its
    /// peer in the index is there, and of these some are missing.
    pub fn cut<'k>(&self, all: &[Key<'k>]) -> Option<Key<'k>> {
        all.last().filter(|_| all.len() > self.most).copied()
    }
}

/// The readers or the peers of some keys, each once.
pub fn each<'k>(keys: &[Key<'k>], of: fn(&Key<'k>) -> &'k str) -> Vec<&'k str> {
    let mut each: Vec<_> = keys.iter().map(of).collect();
    each.sort_unstable();
    each.dedup();
    each
}

/// The keys in parts of whole readers, of few enough readers and peers to ask for all marks between them.
pub fn few_pairs<'a, 'k>(mut keys: &'a [Key<'k>]) -> Vec<&'a [Key<'k>]> {
    let mut parts = Vec::new();
    while !keys.is_empty() {
        let (mut readers, mut end) = (0, 0);
        for of_reader in keys.chunk_by(|a, b| a.reader == b.reader) {
            let some = end + of_reader.len();
            // Each key may be of another peer.
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

/// The unread messages by reader and id: those that are later than their pair's mark.
pub fn count<'k>(
    keys: &[Key<'k>],
    marks: &Marks,
) -> Result<HashMap<(&'k str, &'k str), u64>, StoreError> {
    let marks = marks.by_pair()?;
    let mut counts = HashMap::new();
    // Keys of one pair stand together.
    for of_pair in keys.chunk_by(|a, b| (a.reader, a.id, a.peer) == (b.reader, b.id, b.peer)) {
        let Key {
            reader, id, peer, ..
        } = of_pair[0];
        let mark = marks.get(&(reader, peer)).copied().unwrap_or(i64::MIN);
        let unread = of_pair.iter().filter(|key| key.sent_at > mark).count();
        *counts.entry((reader, id)).or_default() += unread as u64;
    }
    Ok(counts)
}

impl UnreadBy {
    /// What questions match, apart so that the plan can be asked for. It also finds what no question asked: one
    /// reader's messages from another's peers.
    pub fn matching(self, app: &AppName, readers: &[&str], ids: &[&str]) -> Document {
        let mut matching = doc! { "app": app.as_str(), "to": { "$in": readers }, "state": 0 };
        matching.insert(self.field(), doc! { "$in": ids });
        matching
    }

    /// The part of the index that is read.
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

    /// The index that queries are bound to: without it the answer is an error, never a scan.
    pub fn hint(self) -> Hint {
        Hint::Name(self.index().to_owned())
    }

    fn key(self, key: &RawDocument) -> Option<Key<'_>> {
        Some(Key {
            reader: key.get_str("to").ok()?,
            id: key.get_str(self.field()).ok()?,
            peer: key.get_str("fromAccount").ok()?,
            sent_at: number(key, "msgTimestamp")?,
        })
    }
}
