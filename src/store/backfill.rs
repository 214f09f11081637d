//! Derives fields of stored messages anew by an app's current rules: `conversation`, `orderId`, whether a message
//! counts, which means that it has a `state`, and what it means for a team: `countsInTeam` and `joined`. For documents of older versions, and after a change of the
//! rules.
//!
//! # Operation
//! A walk over the app's messages by `_id`, `CHUNK` at a time. All is derived from the stored columns, by the same
//! code as in decoding. Only differences are written. The update finds the message by its key as every other
//! update does, and computes `state` on the document itself, so it does not undo a concurrent recall. Running it
//! again, or beside traffic, is harmless.
//!
//! A message that starts to count gets `state: 0`, or 1 if it is recalled. If its read mark covers it, it is not
//! counted as unread, and `state` is updated from the mark as always.

use std::borrow::Cow;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::raw_batch_cursor::RawBatch;
use tokio::time::timeout;

use super::bson::raw;
use super::documents::is_ours;
use super::error::StoreError;
use super::marks::documents;
use super::place::MessageKey;
use super::reconcile::{TIMEOUT, in_time};
use super::statements::is_there;
use super::write::WriteCommand;
use super::{Store, collection};
use crate::callback::ProviderName;
use crate::callback::columns::{Columns, Value};
use crate::callback::derived::Derived;
use crate::callback::event::{Class, MessageRef};
use crate::callback::ids::AppName;

/// How many messages are read and written at once.
const CHUNK: u32 = 500;

/// The result so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackfillReport {
    /// Messages examined.
    pub looked_at: u64,
    /// Messages left alone, because another provider sent them.
    pub other_provider: u64,
    /// Messages whose `conversation` was missing or different.
    pub conversations: u64,
    /// Messages whose `orderId` was missing, different, or should not exist.
    pub orders: u64,
    /// Messages that start to count.
    pub count_now: u64,
    /// Messages that no longer count.
    pub count_no_more: u64,
    /// Messages whose `countsInTeam` or `joined` was missing, different, or should not exist.
    pub teams: u64,
    /// Documents that were changed; 0 in a dry run. A step that is retried does not count what its first try changed.
    pub changed: u64,
}

/// What to derive anew.
pub struct Backfill<'a, D> {
    /// The app whose messages are walked over.
    pub app: &'a AppName,
    /// The app's provider. Messages of another one are left alone: its rules say nothing about them.
    pub provider: ProviderName,
    /// The provider's `derive`.
    pub derive: D,
    /// Whether only to count.
    pub is_dry_run: bool,
}

impl Store {
    /// Walks over all messages of an app. `report` is updated during the walk, so it says what was done even after an error.
    ///
    /// # Errors
    /// If MongoDB is unavailable for more than a minute, or refuses a write.
    pub async fn backfill<D: Fn(Class, &Columns<'_>) -> Derived>(
        &self,
        backfill: &Backfill<'_, D>,
        report: &mut BackfillReport,
    ) -> Result<(), StoreError> {
        // All ids that begin with `{app}/`: `0` is the character after the slash.
        let app = backfill.app;
        let (mut after, end) = (format!("{app}/"), format!("{app}0"));
        while let Some(chunk) = patiently(|| self.chunk(&after, &end)).await? {
            let mut statements = Vec::new();
            for message in documents(std::slice::from_ref(&chunk)) {
                let message = message.ok_or_else(unreadable)?;
                let id = message.get_str("_id").map_err(|_| unreadable())?;
                id.clone_into(&mut after);
                // A recall or an edit arrived before its message, so there is nothing to derive from yet.
                if message.get("receivedAt").ok().flatten().is_none() {
                    continue;
                }
                if message.get_str("provider").ok() != Some(backfill.provider.as_str()) {
                    report.other_provider += 1;
                    continue;
                }
                report.looked_at += 1;
                statements.extend(statement(app, id, message, &backfill.derive, report));
            }
            if !backfill.is_dry_run {
                report.changed += patiently(|| self.change(&statements)).await?;
            }
        }
        if !backfill.is_dry_run {
            patiently(|| self.save_team_counts(app)).await?;
        }
        Ok(())
    }

    /// The messages after one, as many as fit into a batch; `None` after the last.
    async fn chunk(&self, after: &str, end: &str) -> Result<Option<RawBatch>, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let find = messages
            .find(doc! { "_id": { "$gt": after, "$lt": end } })
            .sort(doc! { "_id": 1 })
            .limit(i64::from(CHUNK))
            .batch_size(CHUNK)
            .batch();
        // The rest of a batch that did not fit into 16 MB is asked for anew, after its last message.
        let batch = in_time(async { find.await?.try_next().await }).await?;
        let is_empty = batch.as_ref().is_none_or(|batch| {
            let mut messages = documents(std::slice::from_ref(batch));
            messages.next().is_none()
        });
        Ok(batch.filter(|_| !is_empty))
    }

    async fn change(&self, statements: &[RawDocumentBuf]) -> Result<u64, StoreError> {
        let statements: Vec<&RawDocument> = statements.iter().map(|s| &**s).collect();
        let written = self.write(WriteCommand::Update, collection::MESSAGES, &statements);
        let written = timeout(TIMEOUT, written).await;
        let written = written.map_err(|_| StoreError::TimedOut)??;
        match written.errors.first() {
            None => Ok(written.modified),
            Some(error) => {
                let code = error.code;
                Err(StoreError::Refused(format!("error {code}")))
            }
        }
    }
}

/// Retries while MongoDB is unavailable, through an election or a restart.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    step: impl FnMut() -> F,
) -> Result<T, StoreError> {
    step.retry(
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(20),
    )
    .when(|error| matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut))
    .notify(|error, _| tracing::warn!(%error, "a step of the backfill is retried"))
    .await
}

/// The update that a message needs; `None` if it is correct.
fn statement(
    app: &AppName,
    id: &str,
    message: &RawDocument,
    derive: impl Fn(Class, &Columns<'_>) -> Derived,
    report: &mut BackfillReport,
) -> Option<RawDocumentBuf> {
    let text = |name: &str| message.get_str(name).ok();
    let (class, msgid) = id.strip_prefix(app.as_str())?.get(1..)?.split_once('/')?;
    let class = Class::parse(class)?;
    let key = MessageKey::new(
        app,
        &MessageRef {
            class,
            id: msgid.to_owned(),
            to: text("to")?.to_owned(),
        },
    );
    let derived = derive(class, &columns(message));
    let mut change = DerivedChange::default();
    let text_of = |derived: &Option<String>| derived.as_deref().map(Bson::from);
    let conversation = text_of(&derived.conversation);
    report.conversations += change.correct(message, "conversation", conversation);
    let order_id = text_of(&derived.order_id);
    report.orders += change.correct(message, "orderId", order_id);
    let has_state = message.get("state").ok().flatten().is_some();
    match (derived.counts.is_ok(), has_state) {
        (true, false) => {
            report.count_now += 1;
            let unread = doc! { "$cond": [is_there("$recall"), 1, 0] };
            let state = doc! { "$cond": [is_there("$state"), "$state", unread] };
            change.set.insert("state", state);
        }
        (false, true) => {
            report.count_no_more += 1;
            change.unset.extend(["state", "readAt"]);
        }
        _ => {}
    }
    report.teams += change.of_team(message, &derived);
    change.statement(&key)
}

/// What a message's derived fields lack.
#[derive(Default)]
struct DerivedChange {
    set: Document,
    unset: Vec<&'static str>,
}

impl DerivedChange {
    /// Makes a field what it should be, and returns 1 if it is not so already.
    fn correct(&mut self, message: &RawDocument, name: &'static str, derived: Option<Bson>) -> u64 {
        let stored = message.get(name).ok().flatten();
        let stored = stored.and_then(|stored| Bson::try_from(stored).ok());
        if stored == derived {
            return 0;
        }
        match derived {
            Some(derived) => drop(self.set.insert(name, doc! { "$literal": derived })),
            None => self.unset.push(name),
        }
        1
    }

    /// The same for what a message means for its team.
    fn of_team(&mut self, message: &RawDocument, derived: &Derived) -> u64 {
        let joined: Vec<Bson> = derived.joined.iter().map(|id| id.as_str().into()).collect();
        let joined = (!joined.is_empty()).then_some(Bson::Array(joined));
        let is_recalled = message.get("recall").ok().flatten().is_some();
        let counts = derived
            .counts_in_team
            .then_some(Bson::Boolean(!is_recalled));
        let of_both =
            self.correct(message, "joined", joined) + self.correct(message, "countsInTeam", counts);
        if self.set.contains_key("countsInTeam") {
            // Computed on the document itself, which may be recalled meanwhile.
            let not_recalled = doc! { "$not": [is_there("$recall")] };
            self.set.insert("countsInTeam", not_recalled);
        }
        of_both.min(1)
    }

    fn statement(self, key: &MessageKey) -> Option<RawDocumentBuf> {
        let mut pipeline = Vec::new();
        if !self.set.is_empty() {
            pipeline.push(doc! { "$set": self.set });
        }
        if !self.unset.is_empty() {
            pipeline.push(doc! { "$unset": self.unset });
        }
        let is_needed = !pipeline.is_empty();
        is_needed.then(|| raw(&doc! { "q": key.filter(), "u": pipeline }))
    }
}

/// The columns of a stored message, as they were received: for an edited one, with the text before the edits.
pub(super) fn columns(message: &RawDocument) -> Columns<'_> {
    let mut columns = Columns::default();
    let original = message.get("originalBody").ok().flatten();
    for element in message {
        let Ok((name, stored)) = element else {
            continue;
        };
        let stored = match (name.as_str(), original) {
            ("body", Some(original)) => original,
            _ => stored,
        };
        if !is_ours(name.as_str())
            && let Some(value) = value(stored)
        {
            columns.push(name.as_str(), value);
        }
    }
    columns
}

fn value(stored: RawBsonRef<'_>) -> Option<Value<'_>> {
    Some(match stored {
        RawBsonRef::String(text) => Value::Text(text.into()),
        RawBsonRef::Int32(number) => Value::Number(number),
        RawBsonRef::Int64(number) => Value::Int(number),
        RawBsonRef::Boolean(flag) => Value::Flag(flag),
        nested => Value::Json(Cow::Owned(serde_json::value::to_raw_value(&nested).ok()?)),
    })
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("a message is unreadable".to_owned())
}
