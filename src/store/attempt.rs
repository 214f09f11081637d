//! The steps by which a batch is stored and confirmed.
//!
//! 1. **Facts** are written, each idempotent and commutative: messages are inserted with `state: 0`,
//!    recalls and edits merged onto their message's `_id`, read marks raised, events inserted. A message
//!    whose `_id` is taken is either stored already, or meets what a recall or an edit left there before
//!    it; then it is filled in.
//! 2. The pairs touched are **settled**, which means that messages at or under the mark become `state: 1`:
//!    a receipt's pair up to the receipt's time, a message's pair up to its mark, which is read for that.
//! 3. All of it is **confirmed**: on a majority, journaled.
//!
//! A message is inserted before its mark is read, and a mark is raised before messages are looked for,
//! all on the primary. So whichever of the two comes last sees the other, over any batches and
//! instances, and settling needs no lock.
//!
//! # One confirmation
//! To wait for a majority and the journal costs MongoDB far more than to write, so a batch with marks waits
//! where it settles: once, and a second time where a message came late. That covers the writes before as long as
//! one primary took them all: a term has one primary, whose log is one sequence, and a majority that has its end
//! has all before it. Every reply tells the term; where two differ, the primary changed in between, an early
//! write may have been rolled back, and the attempt is void. Where replies tell no term (`mongos`, a server
//! without a replica set), every write waits for itself.
//!
//! A batch without marks has seldom anything to settle, so its facts wait for themselves, at the same time:
//! a confirmation after them would make MongoDB write its journal twice.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use futures_util::TryStreamExt;
use mongodb::bson::error::Error as RawError;
use mongodb::bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, cstr, doc, rawdoc};

use super::commit::Submission;
use super::documents::{MessageWrite, Pair, Write};
use super::error::{DUPLICATE_KEY, StoreError, blames_the_document};
use super::statements::{confirmation, fill_in, settle};
use super::{Store, collection};

/// A write that MongoDB refuses for good, by the position of its callback in the batch.
pub struct Refusal {
    /// The callback's position.
    pub callback: usize,
    /// MongoDB's error code.
    pub code: i32,
}

/// What a write command waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// That the primary has done it.
    Done,
    /// That a majority has it and all before it, journaled.
    Confirmed,
}

/// The write commands.
#[derive(Clone, Copy)]
enum Command {
    Insert,
    Update,
}

/// A statement of a write command that failed.
struct WriteError {
    index: usize,
    code: i32,
}

/// A write and the position of its callback in the batch.
type Of<'b, T> = (usize, &'b T);

/// The most bytes of statements in one command. MongoDB takes 16 MiB and a little in one document, which a
/// command is.
const MAX_COMMAND: usize = 12 * 1024 * 1024;

#[derive(Default)]
struct Batch<'b> {
    messages: Vec<Of<'b, MessageWrite>>,
    changes: Vec<Of<'b, RawDocument>>,
    marks: Vec<Of<'b, RawDocument>>,
    /// The pairs whose marks are raised, and up to where.
    read: Vec<(usize, &'b Pair, i64)>,
    presence: Vec<Of<'b, RawDocument>>,
    events: Vec<Of<'b, RawDocument>>,
    dead_letters: Vec<Of<'b, RawDocument>>,
}

impl<'b> Batch<'b> {
    fn of(submissions: &'b [Submission]) -> Self {
        let mut batch = Self::default();
        for (i, submission) in submissions.iter().enumerate() {
            for write in &submission.writes {
                match write {
                    Write::Message(message) => batch.messages.push((i, message)),
                    Write::Change(change) => batch.changes.push((i, change)),
                    Write::Mark(mark) => {
                        batch.marks.push((i, &mark.statement));
                        let up_to = mark.up_to.get();
                        batch
                            .read
                            .extend(mark.pair.iter().map(|pair| (i, pair, up_to)));
                    }
                    Write::Presence(presence) => batch.presence.push((i, presence)),
                    Write::Event(event) => batch.events.push((i, event)),
                    Write::DeadLetter(letter) => batch.dead_letters.push((i, letter)),
                }
            }
        }
        batch
    }

    /// The pairs whose marks were raised, each up to the highest time, without those that were refused.
    fn read(&self, refused: &[Refusal]) -> HashMap<&'b Pair, i64> {
        let mut read = HashMap::new();
        for (callback, pair, up_to) in &self.read {
            if refused.iter().all(|refusal| refusal.callback != *callback) {
                let highest = read.entry(*pair).or_insert(*up_to);
                *highest = (*up_to).max(*highest);
            }
        }
        read
    }

    /// The pairs whose messages are in the batch, each with the time of its oldest message here.
    fn written(&self) -> HashMap<&'b Pair, i64> {
        let mut written = HashMap::with_capacity(self.messages.len());
        for (pair, sent_at) in self.messages.iter().filter_map(|(_, m)| m.counts.as_ref()) {
            let oldest = written.entry(pair).or_insert(i64::MAX);
            *oldest = sent_at.get().min(*oldest);
        }
        written
    }
}

/// One attempt to store a batch.
pub struct Attempt<'s> {
    store: &'s Store,
    /// Whether every write waits for itself. Fixed for the attempt: a write that did not wait must be
    /// confirmed, whatever another attempt learns of the server meanwhile.
    confirms_each: bool,
    /// The term in which the first write was done; every other must be done in the same.
    term: OnceLock<i64>,
}

impl<'s> Attempt<'s> {
    /// A fresh attempt.
    pub fn new(store: &'s Store) -> Self {
        Self {
            store,
            confirms_each: store.confirms_each.load(Ordering::Relaxed),
            term: OnceLock::new(),
        }
    }

    /// Stores and confirms a batch; the result are the writes that MongoDB refuses.
    pub async fn store(&self, submissions: &[Submission]) -> Result<Vec<Refusal>, StoreError> {
        self.store.ensure_collections().await?;
        let batch = Batch::of(submissions);
        let wait = if batch.marks.is_empty() {
            Wait::Confirmed
        } else {
            Wait::Done
        };
        let (messages, changes, marks, presence, events, letters) = tokio::try_join!(
            self.insert_messages(&batch.messages, wait),
            self.update(collection::MESSAGES, &batch.changes, wait),
            self.update(collection::READ_MARKS, &batch.marks, wait),
            self.update(collection::PRESENCE, &batch.presence, wait),
            self.insert(collection::EVENTS, &batch.events, wait),
            self.insert(collection::DEAD_LETTERS, &batch.dead_letters, wait),
        )?;
        self.settle_and_confirm(&batch.read(&marks), &batch.written(), wait)
            .await?;
        let refusals = [messages, changes, marks, presence, events, letters];
        Ok(refusals.into_iter().flatten().collect())
    }

    /// Stores and confirms a dead letter.
    pub async fn store_dead_letter(&self, letter: &RawDocument) -> Result<(), StoreError> {
        let refused = self
            .insert(collection::DEAD_LETTERS, &[(0, letter)], Wait::Confirmed)
            .await?;
        match refused.first() {
            Some(Refusal { code, .. }) => Err(StoreError::Refused(code.to_string())),
            None => Ok(()),
        }
    }

    /// Runs updates of messages, then settles the pairs given, each with the time of its oldest message
    /// that was written, and waits until all of it is durable.
    pub async fn repair(
        &self,
        updates: &[RawDocumentBuf],
        pairs: &HashMap<&Pair, i64>,
    ) -> Result<(), StoreError> {
        let all: Vec<&RawDocument> = updates.iter().map(|update| &**update).collect();
        let errors = self
            .write(Command::Update, collection::MESSAGES, &all, Wait::Done)
            .await
            .map_err(StoreError::as_of_state)?;
        if let Some(error) = errors.first() {
            return Err(StoreError::Unavailable(format!("repair: {}", error.code)));
        }
        self.settle_and_confirm(&HashMap::new(), pairs, Wait::Done)
            .await
    }

    async fn insert_messages(
        &self,
        messages: &[Of<'_, MessageWrite>],
        wait: Wait,
    ) -> Result<Vec<Refusal>, StoreError> {
        let documents: Vec<&RawDocument> = messages.iter().map(|(_, m)| &*m.document).collect();
        let errors = self
            .write(Command::Insert, collection::MESSAGES, &documents, wait)
            .await?;
        let (taken, refused): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|e| e.code == DUPLICATE_KEY);
        let mut refusals = refusals(messages, &refused);
        let taken: Vec<_> = taken.iter().map(|e| messages[e.index]).collect();
        refusals.extend(self.meet(&taken, wait).await?);
        Ok(refusals)
    }

    /// Looks at what is there under the `_id`s of messages that could not be inserted. A message: this is
    /// a redelivery. Words about a message: they are filled in. Either of them for another `to`: the
    /// message contradicts what is stored, and is refused.
    async fn meet(
        &self,
        messages: &[Of<'_, MessageWrite>],
        wait: Wait,
    ) -> Result<Vec<Refusal>, StoreError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = messages.iter().map(|(_, m)| m.key.id.as_str()).collect();
        let found = self
            .store
            .database()?
            .collection::<Document>(collection::MESSAGES);
        let found = found
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "to": 1, "receivedAt": 1 })
            .await
            .map_err(of_state)?;
        let found: Vec<Document> = found.try_collect().await.map_err(of_state)?;
        let there: HashMap<(&str, &str), bool> = found
            .iter()
            .filter_map(|d| Some(((d.get_str("_id").ok()?, d.get_str("to").ok()?), d)))
            .map(|(key, d)| (key, d.contains_key("receivedAt")))
            .collect();
        let mut refusals = Vec::new();
        let mut to_fill = Vec::new();
        for (callback, message) in messages {
            match there.get(&(message.key.id.as_str(), message.key.to.as_str())) {
                Some(true) => {}
                Some(false) => to_fill.push((*callback, fill_in(message))),
                None => refusals.push(Refusal {
                    callback: *callback,
                    code: DUPLICATE_KEY,
                }),
            }
        }
        let to_fill: Vec<_> = to_fill.iter().map(|(i, s)| (*i, &**s)).collect();
        refusals.extend(self.update(collection::MESSAGES, &to_fill, wait).await?);
        Ok(refusals)
    }

    /// Inserts documents; one that is there already is a redelivery and no error.
    async fn insert(
        &self,
        collection: &'static str,
        documents: &[Of<'_, RawDocument>],
        wait: Wait,
    ) -> Result<Vec<Refusal>, StoreError> {
        let all: Vec<_> = documents.iter().map(|(_, d)| *d).collect();
        let mut errors = self.write(Command::Insert, collection, &all, wait).await?;
        errors.retain(|e| e.code != DUPLICATE_KEY);
        Ok(refusals(documents, &errors))
    }

    /// Runs update statements, mostly upserts. Two upserts that race to insert one `_id` leave a duplicate
    /// key behind; nothing deletes, so a second run finds the document. A key that is taken even then
    /// belongs to a document that does not match: the event contradicts it.
    async fn update(
        &self,
        collection: &'static str,
        statements: &[Of<'_, RawDocument>],
        wait: Wait,
    ) -> Result<Vec<Refusal>, StoreError> {
        let all: Vec<_> = statements.iter().map(|(_, s)| *s).collect();
        let errors = self.write(Command::Update, collection, &all, wait).await?;
        let (raced, refused): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|e| e.code == DUPLICATE_KEY);
        let mut all = refusals(statements, &refused);
        if !raced.is_empty() {
            let raced: Vec<_> = raced.iter().map(|e| statements[e.index]).collect();
            let again: Vec<_> = raced.iter().map(|(_, s)| *s).collect();
            let errors = self
                .write(Command::Update, collection, &again, wait)
                .await?;
            all.extend(refusals(&raced, &errors));
        }
        Ok(all)
    }

    /// Makes `state` agree with the read marks, and waits until all that the attempt wrote is durable.
    /// `read` are the pairs whose marks it raised, and up to where: whoever raised a mark further settles that,
    /// or was not acknowledged. `written` are the pairs whose messages it wrote, each with the time of its
    /// oldest message; `waited` is what its writes have waited for.
    async fn settle_and_confirm(
        &self,
        read: &HashMap<&Pair, i64>,
        written: &HashMap<&Pair, i64>,
        waited: Wait,
    ) -> Result<(), StoreError> {
        let statements: Vec<_> = read
            .iter()
            .map(|(pair, up_to)| settle(pair, *up_to))
            .collect();
        let ((), marks) = tokio::try_join!(
            self.settle(&statements),
            self.marks(written.keys().copied())
        )?;
        let late: Vec<_> = written
            .iter()
            .filter_map(|(pair, oldest)| {
                let mark = *marks.get(*pair)?;
                // A receipt of this batch that reached as far has settled them just now.
                let is_settled = read.get(*pair).is_some_and(|up_to| *up_to >= mark);
                (*oldest <= mark && !is_settled).then(|| settle(pair, mark))
            })
            .collect();
        self.settle(&late).await?;
        if waited == Wait::Done && read.is_empty() && late.is_empty() {
            self.confirm().await?;
        }
        Ok(())
    }

    /// Settles pairs, and waits until that and all before it is durable.
    async fn settle(&self, statements: &[RawDocumentBuf]) -> Result<(), StoreError> {
        let all: Vec<&RawDocument> = statements.iter().map(|s| &**s).collect();
        let settled = self
            .write(Command::Update, collection::MESSAGES, &all, Wait::Confirmed)
            .await;
        // No document of the batch is in these statements, so none can be at fault.
        match settled.map_err(StoreError::as_of_state)?.first() {
            None => Ok(()),
            Some(e) => Err(StoreError::Unavailable(format!("settling: {}", e.code))),
        }
    }

    /// The read marks of pairs; a pair without one is absent from the result.
    pub async fn marks(
        &self,
        pairs: impl ExactSizeIterator<Item = &Pair>,
    ) -> Result<HashMap<Pair, i64>, StoreError> {
        let mut marks = HashMap::new();
        if pairs.len() == 0 {
            return Ok(marks);
        }
        // All of them at once: MongoDB's first batch is of 101 otherwise.
        let most = i64::try_from(pairs.len()).unwrap_or(i64::MAX - 1) + 1;
        let ids: RawArrayBuf = pairs.map(Pair::mark_id).collect();
        let find = rawdoc! {
            "find": collection::READ_MARKS,
            "filter": { "_id": { "$in": ids } },
            "projection": { "readUpTo": 1 },
            "batchSize": most,
            // Another's mark counts from the moment on at which it is written, whatever the cluster's default is.
            "readConcern": { "level": "local" },
        };
        let database = self.store.database()?;
        let found = database.run_raw_cursor_command(find).await;
        let mut found = found.map_err(of_state)?.with_type::<RawDocumentBuf>();
        while let Some(mark) = found.try_next().await.map_err(of_state)? {
            let (pair, read_up_to) = read_mark(&mark)
                .map_err(|_| StoreError::Unavailable("a read mark is unreadable".to_owned()))?;
            marks.insert(pair, read_up_to);
        }
        Ok(marks)
    }

    /// Waits until everything the primary has done so far is durable.
    async fn confirm(&self) -> Result<(), StoreError> {
        if self.confirms_each {
            return Ok(());
        }
        self.probe().await
    }

    /// Makes a write without effect, and waits until it is confirmed.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let nothing = confirmation();
        self.write(
            Command::Update,
            collection::READ_MARKS,
            &[&nothing],
            Wait::Confirmed,
        )
        .await
        .map(drop)
        .map_err(StoreError::as_of_state)
    }

    /// Runs unordered write commands and reports the statements that failed. Not through the driver's
    /// bulk helpers: MongoDB before 8.0 has no bulk write for updates, and one path serves both. What the
    /// helpers add, retrying, the idempotence of every statement makes simple here.
    async fn write(
        &self,
        command: Command,
        collection: &'static str,
        statements: &[&RawDocument],
        wait: Wait,
    ) -> Result<Vec<WriteError>, StoreError> {
        let mut errors = Vec::new();
        let mut from = 0;
        while from < statements.len() {
            let mut bytes = 0;
            let fit = statements[from..].iter().take_while(|statement| {
                bytes += statement.as_bytes().len();
                bytes <= MAX_COMMAND
            });
            let to = from + fit.count().max(1);
            let some = &statements[from..to];
            for e in self.write_some(command, collection, some, wait).await? {
                let index = from + e.index;
                errors.push(WriteError { index, ..e });
            }
            from = to;
        }
        Ok(errors)
    }

    async fn write_some(
        &self,
        command: Command,
        collection: &'static str,
        statements: &[&RawDocument],
        wait: Wait,
    ) -> Result<Vec<WriteError>, StoreError> {
        let concern = if wait == Wait::Confirmed || self.confirms_each {
            let patience = self.store.settings.commit_timeout.as_millis();
            let patience = i64::try_from(patience).unwrap_or(i64::MAX);
            rawdoc! { "w": "majority", "j": true, "wtimeout": patience }
        } else {
            rawdoc! { "w": 1, "j": false }
        };
        let mut all = RawArrayBuf::new();
        for statement in statements {
            all.push(*statement);
        }
        let mut bytes = RawDocumentBuf::new();
        match command {
            Command::Insert => {
                bytes.append(cstr!("insert"), collection);
                bytes.append(cstr!("documents"), all);
            }
            Command::Update => {
                bytes.append(cstr!("update"), collection);
                bytes.append(cstr!("updates"), all);
            }
        }
        bytes.append(cstr!("ordered"), false);
        bytes.append(cstr!("writeConcern"), &concern);
        let reply = self.store.database()?.run_raw_command(bytes).await?;
        if !self.confirms_each {
            self.check_term(&reply)?;
        }
        write_errors(&reply)
    }

    /// Voids the attempt when its writes were not all done by one primary.
    fn check_term(&self, reply: &Document) -> Result<(), StoreError> {
        let term = reply
            .get_document("opTime")
            .and_then(|time| time.get_i64("t"));
        match term {
            Ok(term) if *self.term.get_or_init(|| term) == term => Ok(()),
            Ok(_) => Err(StoreError::Unavailable("the primary changed".to_owned())),
            Err(_) => {
                self.store.confirms_each.store(true, Ordering::Relaxed);
                let why = "replies tell no term, so every write is confirmed from now on";
                Err(StoreError::Unavailable(why.to_owned()))
            }
        }
    }
}

/// Whose mark a document is, and where it stands.
fn read_mark(mark: &RawDocument) -> Result<(Pair, i64), RawError> {
    let id = mark.get_document("_id")?;
    let pair = Pair {
        app: id.get_str("app")?.to_owned(),
        reader: id.get_str("reader")?.to_owned(),
        peer: id.get_str("peer")?.to_owned(),
    };
    Ok((pair, mark.get_i64("readUpTo")?))
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
        if code != DUPLICATE_KEY && !blames_the_document(code) {
            return Err(StoreError::Unavailable(format!("write error {code}")));
        }
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        errors.push(WriteError { index, code });
    }
    Ok(errors)
}

fn refusals<T: ?Sized>(writes: &[Of<'_, T>], errors: &[WriteError]) -> Vec<Refusal> {
    let refusal = |e: &WriteError| Refusal {
        callback: writes[e.index].0,
        code: e.code,
    };
    errors.iter().map(refusal).collect()
}

/// An error of a read: nothing in it is a document's fault.
fn of_state(error: mongodb::error::Error) -> StoreError {
    StoreError::from(error).as_of_state()
}
