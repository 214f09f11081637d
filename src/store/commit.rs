//! A batch of callbacks becomes durable, exactly once.
//!
//! # Promise
//! `Ok` for a callback means that all it says is on a majority of the replica set, journaled, and that
//! every unread count asked from now on reflects it. Anything else is [`Unavailable`], and then the
//! callback may be stored in part or in whole; committing it again is always right.
//!
//! # Operation
//! 1. **Facts** are written, each idempotent and commutative: messages are inserted with `state: 0`,
//!    recalls and edits merged onto their message's `_id`, read marks raised, events inserted.
//! 2. A message whose `_id` is taken is either stored already, or meets what a recall or an edit left
//!    there before it; then it is **filled in**.
//! 3. The pairs touched are **settled**: their marks are read, and what is at or under its mark becomes
//!    `state: 1`.
//!
//! A message is inserted before its mark is read, and a mark is raised before messages are looked
//! for. So whichever of the two comes last sees the other, over any batches and instances, and step 3
//! needs no lock. Both reads go to the primary, after the writes are on a majority.
//!
//! # What can go wrong
//! MongoDB's fault (away, failing over, write not confirmed): the whole batch is tried again until the
//! time is up. A document's fault (MongoDB refuses it): the batch is halved until that callback stands
//! alone, and its body is kept as a dead letter; its neighbours are stored. A crash between the steps
//! leaves callbacks that were not acknowledged, and a redelivery runs all steps again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use tokio::time::Instant;

use super::documents::{
    Change, MarkWrite, MessageWrite, Origin, Pair, PresenceWrite, Write, dead_letter, settle,
};
use super::error::{DUPLICATE_KEY, StoreError, is_of_state};
use super::{Store, collection};

/// One callback's part of a batch.
#[derive(Debug)]
pub struct Submission {
    /// Where it came from.
    pub origin: Origin,
    /// Its body, for the case that MongoDB refuses what we made of it.
    pub body: Bytes,
    /// What it asks of the store.
    pub writes: Vec<Write>,
}

/// The callback is not known to be durable: MongoDB is away, or did not confirm in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event could not be stored durably in time")]
pub struct Unavailable;

/// A write that MongoDB refuses for good, by the position of its callback in the batch.
struct Refusal {
    callback: usize,
    code: i32,
}

/// A statement of a write command that failed.
struct WriteError {
    index: usize,
    code: i32,
}

/// A write and the position of its callback in the batch.
type Of<'b, T> = (usize, &'b T);

#[derive(Default)]
struct Batch<'b> {
    messages: Vec<Of<'b, MessageWrite>>,
    changes: Vec<Of<'b, Change>>,
    marks: Vec<Of<'b, MarkWrite>>,
    presence: Vec<Of<'b, PresenceWrite>>,
    events: Vec<Of<'b, Document>>,
    dead_letters: Vec<Of<'b, Document>>,
}

impl<'b> Batch<'b> {
    fn of(submissions: &'b [Submission]) -> Self {
        let mut batch = Self::default();
        for (i, submission) in submissions.iter().enumerate() {
            for write in &submission.writes {
                match write {
                    Write::Message(message) => batch.messages.push((i, message)),
                    Write::Change(change) => batch.changes.push((i, change)),
                    Write::Mark(mark) => batch.marks.push((i, mark)),
                    Write::Presence(presence) => batch.presence.push((i, presence)),
                    Write::Event(event) => batch.events.push((i, event)),
                    Write::DeadLetter(letter) => batch.dead_letters.push((i, letter)),
                }
            }
        }
        batch
    }
}

impl Store {
    /// Commits a batch; the verdicts are in its order.
    pub async fn commit(&self, batch: &[Submission]) -> Vec<Result<(), Unavailable>> {
        let deadline = Instant::now() + self.settings.commit_timeout;
        self.commit_until(batch, deadline).await
    }

    async fn commit_until(
        &self,
        batch: &[Submission],
        deadline: Instant,
    ) -> Vec<Result<(), Unavailable>> {
        match self.attempt_until(batch, deadline).await {
            Ok(refusals) => {
                let mut verdicts = vec![Ok(()); batch.len()];
                for Refusal { callback, code } in refusals {
                    let code = code.to_string();
                    verdicts[callback] = self.bury(&batch[callback], &code, deadline).await;
                }
                verdicts
            }
            Err(StoreError::Refused(reason)) => match batch {
                [] => Vec::new(),
                [alone] => vec![self.bury(alone, &reason, deadline).await],
                _ => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    let mut verdicts = Box::pin(self.commit_until(first, deadline)).await;
                    verdicts.extend(Box::pin(self.commit_until(second, deadline)).await);
                    verdicts
                }
            },
            Err(error @ (StoreError::Unavailable(_) | StoreError::TimedOut)) => {
                tracing::error!(callbacks = batch.len(), %error, "commit failed");
                vec![Err(Unavailable); batch.len()]
            }
        }
    }

    /// Attempts a batch, again and again while MongoDB is at fault and time is left.
    async fn attempt_until(
        &self,
        batch: &[Submission],
        deadline: Instant,
    ) -> Result<Vec<Refusal>, StoreError> {
        let mut pause = Duration::from_millis(20);
        loop {
            let error = match tokio::time::timeout_at(deadline, self.attempt(batch)).await {
                Ok(Err(error @ (StoreError::Unavailable(_) | StoreError::TimedOut))) => error,
                Ok(result) => return result,
                Err(_elapsed) => return Err(StoreError::TimedOut),
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::warn!(callbacks = batch.len(), %error, "commit is tried again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Keeps a callback that MongoDB refuses as a dead letter. That it can be kept shows that the
    /// fault is the document's.
    async fn bury(
        &self,
        submission: &Submission,
        why: &str,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        let Submission { origin, body, .. } = submission;
        tracing::error!(app = %origin.app, why, "MongoDB refuses a document; its callback becomes a dead letter");
        let reason = format!("MongoDB refused the document: {why}");
        let letter = dead_letter(origin, body, "store_refused", &reason, "$");
        let letter = [(0, &letter)];
        let insert = self.insert(collection::DEAD_LETTERS, &letter);
        match tokio::time::timeout_at(deadline, insert).await {
            Ok(Ok(refusals)) if refusals.is_empty() => Ok(()),
            _ => Err(Unavailable),
        }
    }

    async fn attempt(&self, submissions: &[Submission]) -> Result<Vec<Refusal>, StoreError> {
        let batch = Batch::of(submissions);
        let facts = tokio::try_join!(
            self.insert_messages(&batch.messages),
            self.update(collection::MESSAGES, &batch.changes, |c| c.statement()),
            self.update(collection::READ_MARKS, &batch.marks, |m| m.statement()),
            self.update(collection::PRESENCE, &batch.presence, |p| p.statement()),
            self.insert(collection::EVENTS, &batch.events),
            self.insert(collection::DEAD_LETTERS, &batch.dead_letters),
        )?;
        self.settle_pairs(&batch).await?;
        let (messages, changes, marks, presence, events, letters) = facts;
        let refusals = [messages, changes, marks, presence, events, letters];
        Ok(refusals.into_iter().flatten().collect())
    }

    async fn insert_messages(
        &self,
        messages: &[Of<'_, MessageWrite>],
    ) -> Result<Vec<Refusal>, StoreError> {
        let documents = messages.iter().map(|(_, m)| &m.document).collect();
        let errors = self
            .write("insert", collection::MESSAGES, documents)
            .await?;
        let (taken, refused): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|e| e.code == DUPLICATE_KEY);
        let mut refusals = refusals(messages, refused);
        let taken: Vec<_> = taken.iter().map(|e| messages[e.index]).collect();
        refusals.extend(self.fill_in(&taken).await?);
        Ok(refusals)
    }

    /// Of messages whose `_id` is taken, fills in those that were only spoken of. Most are
    /// redeliveries, so one cheap read comes before any update.
    async fn fill_in(&self, messages: &[Of<'_, MessageWrite>]) -> Result<Vec<Refusal>, StoreError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let any_of: Vec<Document> = messages
            .iter()
            .map(|(_, m)| doc! { "_id": &m.key.id, "app": &m.key.app, "to": &m.key.to })
            .collect();
        let spoken_of: Vec<Document> = self
            .database
            .collection::<Document>(collection::MESSAGES)
            .find(doc! { "$or": any_of, "receivedAt": { "$exists": false } })
            .projection(doc! { "_id": 1 })
            .await?
            .try_collect()
            .await?;
        let spoken_of: Vec<&str> = spoken_of
            .iter()
            .filter_map(|d| d.get_str("_id").ok())
            .collect();
        let to_fill: Vec<_> = messages
            .iter()
            .filter(|(_, m)| spoken_of.contains(&m.key.id.as_str()))
            .copied()
            .collect();
        self.update(collection::MESSAGES, &to_fill, |m| m.fill_in())
            .await
    }

    /// Inserts documents; one that is there already is a redelivery and no error.
    async fn insert(
        &self,
        collection: &'static str,
        documents: &[Of<'_, Document>],
    ) -> Result<Vec<Refusal>, StoreError> {
        let inserted = documents.iter().map(|(_, d)| *d).collect();
        let mut errors = self.write("insert", collection, inserted).await?;
        errors.retain(|e| e.code != DUPLICATE_KEY);
        Ok(refusals(documents, errors))
    }

    /// Runs one update statement, mostly an upsert, for each write. Two upserts that race to insert one `_id` leave a
    /// duplicate key behind; nothing deletes, so a second run finds the document. A key that is taken
    /// even then belongs to a document that does not match: the event contradicts it.
    async fn update<T>(
        &self,
        collection: &'static str,
        writes: &[Of<'_, T>],
        statement: impl Fn(&T) -> Document,
    ) -> Result<Vec<Refusal>, StoreError> {
        let statements: Vec<_> = writes.iter().map(|(_, w)| statement(w)).collect();
        let errors = self
            .write("update", collection, statements.iter().collect())
            .await?;
        let (raced, refused): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|e| e.code == DUPLICATE_KEY);
        let mut all = refusals(writes, refused);
        if !raced.is_empty() {
            let again = raced.iter().map(|e| &statements[e.index]).collect();
            let errors = self.write("update", collection, again).await?;
            let raced: Vec<_> = raced.iter().map(|e| writes[e.index]).collect();
            all.extend(refusals(&raced, errors));
        }
        Ok(all)
    }

    /// Makes `state` agree with the read marks, for every pair that the batch touches.
    async fn settle_pairs(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        // The time of the pair's oldest message in the batch. For a mark it is the oldest there can
        // be: any stored message may now be read.
        let mut pairs: HashMap<&Pair, i64> = HashMap::new();
        for (pair, sent_at) in batch.messages.iter().filter_map(|(_, m)| m.counts.as_ref()) {
            let oldest = pairs.entry(pair).or_insert(i64::MAX);
            *oldest = sent_at.get().min(*oldest);
        }
        for pair in batch.marks.iter().filter_map(|(_, m)| m.pair.as_ref()) {
            pairs.insert(pair, i64::MIN);
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let marks = self.marks(pairs.keys().copied()).await?;
        let statements: Vec<_> = pairs
            .iter()
            .filter_map(|(pair, oldest)| {
                let mark = *marks.get(*pair)?;
                (*oldest <= mark).then(|| settle(pair, mark))
            })
            .collect();
        let errors = self
            .write("update", collection::MESSAGES, statements.iter().collect())
            .await?;
        match errors.first() {
            None => Ok(()),
            Some(e) => Err(StoreError::Refused(format!("settling a pair: {}", e.code))),
        }
    }

    async fn marks(
        &self,
        pairs: impl Iterator<Item = &Pair>,
    ) -> Result<HashMap<Pair, i64>, StoreError> {
        let ids: Vec<_> = pairs.map(Pair::mark_id).collect();
        let mut found = self
            .database
            .collection::<Document>(collection::READ_MARKS)
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "readUpTo": 1 })
            .await?;
        let mut marks = HashMap::new();
        while let Some(mark) = found.try_next().await? {
            let part = |name: &str| {
                mark.get_document("_id")
                    .and_then(|id| id.get_str(name))
                    .map(str::to_owned)
            };
            if let (Ok(app), Ok(reader), Ok(peer), Ok(read_up_to)) = (
                part("app"),
                part("reader"),
                part("peer"),
                mark.get_i64("readUpTo"),
            ) {
                marks.insert(Pair { app, reader, peer }, read_up_to);
            }
        }
        Ok(marks)
    }

    /// Runs an unordered write command and reports the statements that failed. Not through the
    /// driver's bulk helpers: MongoDB before 8.0 has no bulk write for updates, and one path serves
    /// both. What the helpers add, retrying, the idempotence of every statement makes simple here.
    async fn write(
        &self,
        command: &'static str,
        collection: &'static str,
        statements: Vec<&Document>,
    ) -> Result<Vec<WriteError>, StoreError> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let field = if command == "insert" {
            "documents"
        } else {
            "updates"
        };
        let wait = i64::try_from(self.settings.commit_timeout.as_millis()).unwrap_or(i64::MAX);
        let statements: Vec<Bson> = statements.into_iter().cloned().map(Bson::from).collect();
        let reply = self
            .database
            .run_command(doc! {
                command: collection,
                field: statements,
                "ordered": false,
                "writeConcern": { "w": "majority", "j": true, "wtimeout": wait },
            })
            .await?;
        write_errors(&reply)
    }
}

/// Reads the reply of a write command.
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
        if is_of_state(code) {
            return Err(StoreError::Unavailable(format!("write error {code}")));
        }
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        errors.push(WriteError { index, code });
    }
    Ok(errors)
}

fn refusals<T>(writes: &[Of<'_, T>], errors: Vec<WriteError>) -> Vec<Refusal> {
    let refusal = |e: WriteError| Refusal {
        callback: writes[e.index].0,
        code: e.code,
    };
    errors.into_iter().map(refusal).collect()
}
