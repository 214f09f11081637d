//! Unread counts, from the index alone.
//!
//! The two unread indexes hold only messages with `state: 0` and have every queried field in their
//! key, so a count reads no document and costs what is unread, not what was ever stored. The query
//! names its index: without it the answer is an error, never a scan of the collection.
//!
//! Most of what a small query costs MongoDB is that it is a query. So questions that come while others are
//! being asked wait for a turn and are asked **together**, as one query for several readers. A question is
//! only ever part of a query that begins after it, so its answer has all that was acknowledged before it.
//!
//! Such a query meets no more than [`TOGETHER`] messages, or [`ALONE`] for a question by itself. Where there are more it
//! is halved. Where one question has more, the id that has most of those met is counted apart, in parts side by side,
//! for which MongoDB only walks the index, and its other ids are asked again; where no id has half of them, all are
//! counted in one go.

mod together;

use std::collections::HashMap;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::bson::error::Error as RawError;
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::{CountOptions, Hint};

use super::error::StoreError;
use super::indexes::{UNREAD_BY_ORDER, UNREAD_BY_PEER};
use super::{Store, collection};
use crate::callback::ids::{Account, AppName};
pub use together::Questions;
use together::{Question, Waiting};

/// The most messages that are counted in one go: MongoDB takes some milliseconds for them.
pub const TOGETHER: u32 = 5000;

/// The same for a question that is asked by itself at first. Few have more.
const ALONE: u32 = 1000;

/// The parts in which a peer's many messages are counted.
const PARTS: i64 = 4;

/// What unread messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadBy {
    /// Their sender; the ids are lower-cased accounts.
    Peer,
    /// Their order; the ids are as the messages carry them.
    Order,
}

impl UnreadBy {
    fn field(self) -> &'static str {
        match self {
            Self::Peer => "fromAccount",
            Self::Order => "orderId",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Peer => UNREAD_BY_PEER,
            Self::Order => UNREAD_BY_ORDER,
        }
    }

    /// The aggregation, apart from [`Store::unread`] so that its plan can be asked for. It counts by reader
    /// and id, also what no question asked: one reader's messages from another's peers. Of more than `most`
    /// messages it counts one more than `most`.
    pub fn pipeline(
        self,
        app: &AppName,
        readers: &[&str],
        ids: &[&str],
        most: Option<u32>,
    ) -> Vec<Document> {
        let mut matching = doc! { "app": app.as_str(), "to": { "$in": readers }, "state": 0 };
        matching.insert(self.field(), doc! { "$in": ids });
        let by = doc! { "reader": "$to", "id": format!("${}", self.field()) };
        let mut stages = vec![doc! { "$match": matching }];
        // One more, to see that there are more.
        stages.extend(most.map(|most| doc! { "$limit": most + 1 }));
        stages.push(doc! { "$group": { "_id": by, "n": { "$sum": 1_i64 } } });
        stages
    }

    /// The index the aggregation is bound to.
    pub fn hint(self) -> Hint {
        Hint::Name(self.index().to_owned())
    }
}

/// Counts by id; an id without any is absent.
pub type Counts = HashMap<String, u64>;

/// What a query met.
struct Met {
    by_reader: HashMap<String, Counts>,
    /// Whether there was no more to meet.
    is_all: bool,
}

impl Store {
    /// Counts a reader's unread messages by id. An id without any is absent from the result.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or the index is not there yet.
    pub async fn unread(
        &self,
        by: UnreadBy,
        app: &AppName,
        reader: &Account,
        ids: &[&str],
    ) -> Result<Counts, StoreError> {
        if ids.is_empty() {
            return Ok(Counts::new());
        }
        let mut answered = self.questions.wait(Question {
            by,
            app: app.clone(),
            reader: reader.clone(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        });
        let asking = async {
            loop {
                let turn = tokio::select! {
                    biased;
                    answer = &mut answered => return answer,
                    turn = self.questions.turns.clone().acquire_owned() => turn,
                };
                let together = self.questions.next();
                if together.is_empty() {
                    drop(turn);
                    return answered.await;
                }
                let store = self.clone();
                // A task of its own: who asks may go away, and the others not.
                self.runtime.spawn(async move {
                    store.ask(together).await;
                    drop(turn);
                });
            }
        };
        match tokio::time::timeout(self.settings.query_timeout, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_gone)) => Err(StoreError::Unavailable("the query ended".to_owned())),
            Err(_elapsed) => Err(StoreError::TimedOut),
        }
    }

    /// Asks alike questions, and answers each.
    async fn ask(&self, mut together: Vec<Waiting>) {
        let questions: Vec<&Question> = together.iter().map(|one| &one.question).collect();
        let is_alone = together.len() == 1;
        let most = if is_alone { ALONE } else { TOGETHER };
        match self.count_together(&questions, Some(most)).await {
            Ok(met) if met.is_all => {
                for one in together {
                    // An error means that who asked has gone.
                    let _ = one.answer.send(Ok(one.question.pick(&met.by_reader)));
                }
            }
            // Whose the many messages are is found by halves.
            Ok(_) if !is_alone => {
                let second = together.split_off(together.len() / 2);
                Box::pin(self.ask(together)).await;
                Box::pin(self.ask(second)).await;
            }
            Ok(met) => {
                let Some(Waiting {
                    question,
                    mut answer,
                }) = together.pop()
                else {
                    return;
                };
                let store = self.clone();
                // It takes long, and leaves its turn to others.
                self.runtime.spawn(async move {
                    let some = question.pick(&met.by_reader);
                    tokio::select! {
                        counts = store.ask_crowded(&question, &some) => drop(answer.send(counts)),
                        () = answer.closed() => {}
                    }
                });
            }
            Err(error) => {
                for one in together {
                    let _ = one.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Asks a question of whose messages only `some` were met.
    async fn ask_crowded(&self, question: &Question, some: &Counts) -> Result<Counts, StoreError> {
        let met: u64 = some.values().sum();
        let fullest = some.iter().max_by_key(|(_, n)| **n);
        match fullest.filter(|(_, n)| **n * 2 >= met) {
            Some((id, _)) => {
                let mut others = question.clone();
                others.ids.retain(|other| other != id);
                let (n, mut counts) = tokio::try_join!(
                    self.count_one(question, id),
                    Box::pin(self.ask_again(&others)),
                )?;
                if n > 0 {
                    counts.insert(id.clone(), n);
                }
                Ok(counts)
            }
            None if met <= u64::from(TOGETHER) => Box::pin(self.ask_again(question)).await,
            None => {
                let met = self.count_together(&[question], None).await?;
                Ok(question.pick(&met.by_reader))
            }
        }
    }

    /// Asks a question that has been asked before, or what is left of it.
    async fn ask_again(&self, question: &Question) -> Result<Counts, StoreError> {
        if question.ids.is_empty() {
            return Ok(Counts::new());
        }
        let met = self.count_together(&[question], Some(TOGETHER)).await?;
        let counts = question.pick(&met.by_reader);
        if met.is_all {
            return Ok(counts);
        }
        self.ask_crowded(question, &counts).await
    }

    /// Counts by reader and id, of `most` messages at most.
    async fn count_together(
        &self,
        questions: &[&Question],
        most: Option<u32>,
    ) -> Result<Met, StoreError> {
        let first = questions[0];
        let mut readers: Vec<&str> = questions.iter().map(|q| q.reader.as_str()).collect();
        let ids = questions.iter().flat_map(|q| &q.ids);
        let mut ids: Vec<&str> = ids.map(String::as_str).collect();
        for list in [&mut readers, &mut ids] {
            list.sort_unstable();
            list.dedup();
        }
        let messages = self
            .database()?
            .collection::<Document>(collection::MESSAGES);
        let query = messages
            .aggregate(first.by.pipeline(&first.app, &readers, &ids, most))
            .hint(first.by.hint())
            .batch_size(TOGETHER + 1)
            .max_time(self.settings.query_timeout)
            .with_type::<RawDocumentBuf>();
        let groups: Vec<RawDocumentBuf> = self
            .within_query_timeout(async move { query.await?.try_collect().await })
            .await?;
        let mut by_reader: HashMap<String, Counts> = HashMap::new();
        let mut all = 0;
        for group in &groups {
            let (reader, id, n) = counted(group)
                .map_err(|_| StoreError::Unavailable("unreadable count".to_owned()))?;
            all += n;
            let of_reader = by_reader.entry(reader.to_owned()).or_default();
            of_reader.insert(id.to_owned(), n);
        }
        let is_all = most.is_none_or(|most| all <= u64::from(most));
        Ok(Met { by_reader, is_all })
    }

    /// Counts one id's messages.
    async fn count_one(&self, question: &Question, id: &str) -> Result<u64, StoreError> {
        let matching = question.matching(id);
        if question.by == UnreadBy::Order {
            // The index by order knows no times.
            return self.count(question, matching).await;
        }
        let (Some(first), Some(last)) = tokio::try_join!(
            self.sent_at(question, &matching, 1),
            self.sent_at(question, &matching, -1),
        )?
        else {
            return Ok(0); // all of them read meanwhile
        };
        // Parts of equal time, the outer ones open: messages come and go meanwhile.
        let cut = |part: i64| first + (last - first) / PARTS * part;
        let parts = (0..PARTS).map(|part| {
            let mut within = Document::new();
            if part > 0 {
                within.insert("$gte", cut(part));
            }
            if part + 1 < PARTS {
                within.insert("$lt", cut(part + 1));
            }
            let mut matching = matching.clone();
            matching.insert("msgTimestamp", within);
            self.count(question, matching)
        });
        Ok(try_join_all(parts).await?.into_iter().sum())
    }

    /// Counts what matches. MongoDB does not take the keys out of the index for that.
    async fn count(&self, question: &Question, matching: Document) -> Result<u64, StoreError> {
        let options = CountOptions::builder()
            .hint(question.by.hint())
            .max_time(self.settings.query_timeout)
            .build();
        let messages = self
            .database()?
            .collection::<Document>(collection::MESSAGES);
        let count = messages.count_documents(matching).with_options(options);
        self.within_query_timeout(async move { count.await }).await
    }

    /// When the first (1) or last (-1) of the messages that match was sent, as the index says.
    async fn sent_at(
        &self,
        question: &Question,
        matching: &Document,
        order: i32,
    ) -> Result<Option<i64>, StoreError> {
        let messages = self
            .database()?
            .collection::<Document>(collection::MESSAGES);
        let query = messages
            .find_one(matching.clone())
            .sort(doc! { "msgTimestamp": order })
            .projection(doc! { "_id": 0, "msgTimestamp": 1 })
            .hint(question.by.hint())
            .max_time(self.settings.query_timeout);
        let found = self
            .within_query_timeout(async move { query.await })
            .await?;
        let Some(found) = found else { return Ok(None) };
        let sent_at = found.get_i64("msgTimestamp");
        sent_at
            .map(Some)
            .map_err(|_| StoreError::Unavailable("unreadable time".to_owned()))
    }
}

/// A group of the aggregation: reader, id, number.
fn counted(group: &RawDocument) -> Result<(&str, &str, u64), RawError> {
    let by = group.get_document("_id")?;
    let n = group.get_i64("n")?;
    Ok((by.get_str("reader")?, by.get_str("id")?, n.unsigned_abs()))
}
