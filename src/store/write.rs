//! One attempt to store a batch, in one step: all writes run in parallel, and each waits until it is journaled on
//! a majority of the replica set.
//!
//! Every write is a set union, a maximum or a tombstone, and none reads what another wrote. So writes need no
//! order, within a batch or between batches and instances, and an interrupted attempt leaves nothing to repair:
//! what it wrote is valid, and the next attempt writes the rest.
//!
//! Only a message whose `_id` exists needs a lookup. Either it is a redelivery, or an earlier recall or edit left
//! the document, and the message is filled in.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, cstr, doc, rawdoc};

use super::documents::{MessageWrite, Submission, Write};
use super::error::{Blame, DUPLICATE_KEY, StoreError, blame};
use super::statements::{fill_in, without_effect};
use super::{Store, collection};
use crate::metrics::CollectionLabel;

/// A write that MongoDB refuses.
pub struct WriteRejection {
    /// The position of its callback in the batch.
    pub callback: usize,
    /// MongoDB's error code.
    pub code: i32,
    /// Whether the code blames the document. Otherwise the cause is unknown, and a second try may succeed.
    pub is_certain: bool,
}

/// A write command.
#[derive(Clone, Copy)]
pub enum WriteCommand {
    /// Its statements are documents.
    Insert,
    /// Its statements are filters with updates.
    Update,
}

/// The result of write commands.
#[derive(Default)]
pub struct Written {
    /// The statements that failed.
    pub errors: Vec<WriteError>,
    /// How many documents were changed by updates.
    pub modified: u64,
}

/// A failed statement of a write command.
pub struct WriteError {
    index: usize,
    /// MongoDB's error code.
    pub code: i32,
    /// Whether the duplicate key is the `_id`, and not a key of an index that somebody else created.
    is_id_taken: bool,
}

/// A write and the position of its callback in the batch.
type Of<'b, T> = (usize, &'b T);

/// The largest command, in bytes of its statements. A command is one document, for which MongoDB's limit is a
/// little above 16 MiB.
const MAX_COMMAND: usize = 12 * 1024 * 1024;

#[derive(Default)]
struct ByCollection<'b> {
    messages: Vec<Of<'b, MessageWrite>>,
    changes: Vec<Of<'b, RawDocument>>,
    marks: Vec<Of<'b, RawDocument>>,
    presence: Vec<Of<'b, RawDocument>>,
    events: Vec<Of<'b, RawDocument>>,
    dead_letters: Vec<Of<'b, RawDocument>>,
}

impl<'b> ByCollection<'b> {
    fn of(batch: &[&'b Submission]) -> Self {
        let mut by = Self::default();
        for (i, submission) in batch.iter().enumerate() {
            for write in &submission.writes {
                match write {
                    Write::Message(message) => by.messages.push((i, message)),
                    Write::Change(change) => by.changes.push((i, change)),
                    Write::Mark(mark) => by.marks.push((i, &mark.statement)),
                    Write::Presence(presence) => by.presence.push((i, presence)),
                    Write::Event(event) => by.events.push((i, event)),
                    Write::DeadLetter(dead_letter) => by.dead_letters.push((i, dead_letter)),
                }
            }
        }
        by
    }
}

impl Store {
    /// Stores a batch, and returns the writes that MongoDB refuses.
    pub(super) async fn attempt(
        &self,
        batch: &[&Submission],
    ) -> Result<Vec<WriteRejection>, StoreError> {
        self.ensure_collections().await?;
        let writes = ByCollection::of(batch);
        let (messages, changes, marks, presence, events, dead_letters) = tokio::try_join!(
            self.insert_messages(&writes.messages),
            self.update(collection::MESSAGES, &writes.changes),
            self.update(collection::READ_MARKS, &writes.marks),
            self.update(collection::PRESENCE, &writes.presence),
            self.insert(collection::EVENTS, &writes.events),
            self.insert(collection::DEAD_LETTERS, &writes.dead_letters),
        )?;
        let rejections = [messages, changes, marks, presence, events, dead_letters];
        Ok(rejections.into_iter().flatten().collect())
    }

    async fn insert_messages(
        &self,
        messages: &[Of<'_, MessageWrite>],
    ) -> Result<Vec<WriteRejection>, StoreError> {
        let documents: Vec<&RawDocument> = messages.iter().map(|(_, m)| &*m.document).collect();
        let errors = self
            .write(WriteCommand::Insert, collection::MESSAGES, &documents)
            .await?
            .errors;
        let (taken, refused): (Vec<_>, Vec<_>) = errors.into_iter().partition(|e| e.is_id_taken);
        let mut rejections = rejections(messages, &refused);
        let taken: Vec<_> = taken.iter().map(|e| messages[e.index]).collect();
        rejections.extend(self.resolve_duplicates(&taken).await?);
        Ok(rejections)
    }

    /// Resolves duplicate `_id`s of messages. If a message is stored, this is a redelivery. If only a recall or an
    /// edit is stored, the message is filled in. If the document has another `to`, the message contradicts what is
    /// stored, and is refused.
    async fn resolve_duplicates(
        &self,
        messages: &[Of<'_, MessageWrite>],
    ) -> Result<Vec<WriteRejection>, StoreError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = messages.iter().map(|(_, m)| m.key.id.as_str()).collect();
        let found = self
            .collection(collection::MESSAGES)?
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "to": 1, "receivedAt": 1 })
            .await
            .map_err(StoreError::of_state)?;
        let found: Vec<Document> = found.try_collect().await.map_err(StoreError::of_state)?;
        let there: HashMap<(&str, &str), bool> = found
            .iter()
            .filter_map(|d| Some(((d.get_str("_id").ok()?, d.get_str("to").ok()?), d)))
            .map(|(key, d)| (key, d.contains_key("receivedAt")))
            .collect();
        let stored = there.values().filter(|is_stored| **is_stored).count();
        self.count_duplicates(collection::MESSAGES, stored);
        let mut rejections = Vec::new();
        let mut to_fill = Vec::new();
        for (callback, message) in messages {
            match there.get(&(message.key.id.as_str(), message.key.to.as_str())) {
                Some(true) => {}
                Some(false) => to_fill.push((*callback, fill_in(&message.key, &message.document))),
                None => rejections.push(WriteRejection {
                    callback: *callback,
                    code: DUPLICATE_KEY,
                    is_certain: true,
                }),
            }
        }
        let to_fill: Vec<_> = to_fill.iter().map(|(i, s)| (*i, &**s)).collect();
        rejections.extend(self.update(collection::MESSAGES, &to_fill).await?);
        Ok(rejections)
    }

    /// Inserts documents. An existing `_id` is a redelivery and no error.
    pub(super) async fn insert(
        &self,
        collection: &'static str,
        documents: &[Of<'_, RawDocument>],
    ) -> Result<Vec<WriteRejection>, StoreError> {
        let all: Vec<_> = documents.iter().map(|(_, d)| *d).collect();
        let mut errors = self
            .write(WriteCommand::Insert, collection, &all)
            .await?
            .errors;
        let failed = errors.len();
        errors.retain(|e| !e.is_id_taken);
        self.count_duplicates(collection, failed - errors.len());
        Ok(rejections(documents, &errors))
    }

    fn count_duplicates(&self, collection: &'static str, documents: usize) {
        if documents > 0 {
            let label = CollectionLabel { collection };
            let duplicates = self.metrics.duplicates.get_or_create(&label);
            duplicates.inc_by(documents as u64);
        }
    }

    /// Runs update statements, mostly upserts. Two upserts may race to insert the same `_id`, and one fails with a
    /// duplicate key; since nothing is deleted, a second run finds the document. If the `_id` is still a
    /// duplicate, the stored document does not match the filter, and the event contradicts it.
    async fn update(
        &self,
        collection: &'static str,
        statements: &[Of<'_, RawDocument>],
    ) -> Result<Vec<WriteRejection>, StoreError> {
        let all: Vec<_> = statements.iter().map(|(_, s)| *s).collect();
        let errors = self
            .write(WriteCommand::Update, collection, &all)
            .await?
            .errors;
        let (raced, refused): (Vec<_>, Vec<_>) = errors.into_iter().partition(|e| e.is_id_taken);
        let mut all = rejections(statements, &refused);
        if !raced.is_empty() {
            let raced: Vec<_> = raced.iter().map(|e| statements[e.index]).collect();
            let again: Vec<_> = raced.iter().map(|(_, s)| *s).collect();
            let errors = self
                .write(WriteCommand::Update, collection, &again)
                .await?
                .errors;
            all.extend(rejections(&raced, &errors));
        }
        Ok(all)
    }

    /// Checks whether writes are confirmed now, by the same rule as commits: one write without effect to each
    /// collection that callbacks are written to, since a lock may affect only one. MongoDB confirms it when all
    /// its earlier writes are durable.
    ///
    /// # Errors
    /// If one is not confirmed within the commit timeout.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let nothing = without_effect();
        let statements: [&RawDocument; 1] = [&nothing];
        let probes =
            collection::WRITTEN.map(|name| self.write(WriteCommand::Update, name, &statements));
        let probed = tokio::time::timeout(self.settings.commit_timeout, try_join_all(probes)).await;
        match probed.map_err(|_| StoreError::TimedOut)? {
            Ok(_) => Ok(()),
            Err(error) => Err(error.as_of_state()),
        }
    }

    /// Runs unordered write commands, and returns the statements that failed. The driver's bulk helpers are not
    /// used, because MongoDB before 8.0 has no bulk write for updates, and one path should serve both. The helpers
    /// would add retries, which are simple here because every statement is idempotent.
    pub(super) async fn write(
        &self,
        command: WriteCommand,
        collection: &'static str,
        statements: &[&RawDocument],
    ) -> Result<Written, StoreError> {
        let mut written = Written::default();
        let mut from = 0;
        while from < statements.len() {
            let mut bytes = 0;
            let fit = statements[from..].iter().take_while(|statement| {
                bytes += statement.as_bytes().len();
                bytes <= MAX_COMMAND
            });
            let to = from + fit.count().max(1);
            let command = self.command(command, collection, &statements[from..to]);
            let reply = self.database()?.run_raw_command(command).await?;
            for e in write_errors(&reply)? {
                let index = from + e.index;
                written.errors.push(WriteError { index, ..e });
            }
            let modified = reply.get_i32("nModified").unwrap_or_default();
            written.modified += u64::from(modified.unsigned_abs());
            from = to;
        }
        Ok(written)
    }

    fn command(
        &self,
        command: WriteCommand,
        collection: &'static str,
        statements: &[&RawDocument],
    ) -> RawDocumentBuf {
        let mut all = RawArrayBuf::new();
        for statement in statements {
            all.push(*statement);
        }
        let mut bytes = RawDocumentBuf::new();
        match command {
            WriteCommand::Insert => {
                bytes.append(cstr!("insert"), collection);
                bytes.append(cstr!("documents"), all);
            }
            WriteCommand::Update => {
                bytes.append(cstr!("update"), collection);
                bytes.append(cstr!("updates"), all);
            }
        }
        let timeout = self.settings.commit_timeout.as_millis();
        let timeout = i64::try_from(timeout).unwrap_or(i64::MAX);
        let durable = rawdoc! { "w": "majority", "j": true, "wtimeout": timeout };
        bytes.append(cstr!("ordered"), false);
        bytes.append(cstr!("writeConcern"), &durable);
        bytes
    }
}

/// Parses the reply of a write command.
fn write_errors(reply: &Document) -> Result<Vec<WriteError>, StoreError> {
    if let Ok(concern) = reply.get_document("writeConcernError") {
        let code = concern.get_i32("code").unwrap_or_default();
        return Err(StoreError::Unavailable(format!(
            "write not confirmed ({code})"
        )));
    }
    let mut errors = Vec::new();
    for error in reply.get_array("writeErrors").into_iter().flatten() {
        let error = error.as_document();
        let number = |name: &str| error.and_then(|e| e.get_i32(name).ok());
        let (Some(index), Some(code)) = (number("index"), number("code")) else {
            return Err(StoreError::Unavailable("unreadable reply".to_owned()));
        };
        if blame(code) == Blame::Server {
            return Err(StoreError::Unavailable(format!("write error {code}")));
        }
        let key = error.and_then(|e| e.get_document("keyPattern").ok());
        let is_id = key.is_some_and(|key| key.keys().eq(["_id"]));
        errors.push(WriteError {
            index: usize::try_from(index).unwrap_or(usize::MAX),
            code,
            is_id_taken: code == DUPLICATE_KEY && is_id,
        });
    }
    Ok(errors)
}

fn rejections<T: ?Sized>(writes: &[Of<'_, T>], errors: &[WriteError]) -> Vec<WriteRejection> {
    let refusal = |e: &WriteError| WriteRejection {
        callback: writes[e.index].0,
        code: e.code,
        is_certain: blame(e.code) == Blame::Document,
    };
    errors.iter().map(refusal).collect()
}
