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
//! Such a query meets no more than [`TOGETHER`] messages. Where there are more it is halved, and where even one
//! question has more, each of its ids is counted by itself, for which MongoDB only walks the index; a peer's very
//! many messages in parts, side by side. A question with more than [`EACH`] ids is then asked whole, without a limit.

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

/// The most ids that are counted each by itself.
const EACH: usize = 50;

/// The parts in which a peer's messages are counted when they are more than that.
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
        match self.count_together(&questions, Some(TOGETHER)).await {
            Ok(Some(found)) => {
                for one in together {
                    // An error means that who asked has gone.
                    let _ = one.answer.send(Ok(one.question.pick(&found)));
                }
            }
            // Whose the many messages are is found by halves.
            Ok(None) if together.len() > 1 => {
                let second = together.split_off(together.len() / 2);
                Box::pin(self.ask(together)).await;
                Box::pin(self.ask(second)).await;
            }
            Ok(None) => {
                let store = self.clone();
                // It takes long, and leaves its turn to others.
                self.runtime.spawn(async move {
                    for Waiting {
                        question,
                        mut answer,
                    } in together
                    {
                        tokio::select! {
                            counts = store.ask_crowded(&question) => drop(answer.send(counts)),
                            () = answer.closed() => {}
                        }
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

    /// Asks a question whose messages are many.
    async fn ask_crowded(&self, question: &Question) -> Result<Counts, StoreError> {
        if question.ids.len() > EACH {
            let found = self.count_together(&[question], None).await?;
            return Ok(found.map(|found| question.pick(&found)).unwrap_or_default());
        }
        let each = question.ids.iter().map(async |id| {
            let n = self.count_one(question, id).await?;
            Ok::<_, StoreError>((id.clone(), n))
        });
        let mut counts: Counts = try_join_all(each).await?.into_iter().collect();
        counts.retain(|_, n| *n > 0);
        Ok(counts)
    }

    /// Counts by reader and id; `None` where there are more messages than `most`.
    async fn count_together(
        &self,
        questions: &[&Question],
        most: Option<u32>,
    ) -> Result<Option<HashMap<String, Counts>>, StoreError> {
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
        let mut found: HashMap<String, Counts> = HashMap::new();
        let mut all = 0;
        for group in &groups {
            let (reader, id, n) = counted(group)
                .map_err(|_| StoreError::Unavailable("unreadable count".to_owned()))?;
            all += n;
            let of_reader = found.entry(reader.to_owned()).or_default();
            of_reader.insert(id.to_owned(), n);
        }
        let is_whole = most.is_none_or(|most| all <= u64::from(most));
        Ok(is_whole.then_some(found))
    }

    /// Counts one id's messages.
    async fn count_one(&self, question: &Question, id: &str) -> Result<u64, StoreError> {
        let matching = question.matching(id);
        if question.by == UnreadBy::Order {
            // The index by order knows no times.
            return self.count(question, matching, None).await;
        }
        let some = self
            .count(question, matching.clone(), Some(TOGETHER))
            .await?;
        if some < u64::from(TOGETHER) {
            return Ok(some);
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
            self.count(question, matching, None)
        });
        Ok(try_join_all(parts).await?.into_iter().sum())
    }

    /// Counts what matches, up to a limit. MongoDB does not take the keys out of the index for that.
    async fn count(
        &self,
        question: &Question,
        matching: Document,
        limit: Option<u32>,
    ) -> Result<u64, StoreError> {
        let mut options = CountOptions::builder()
            .hint(question.by.hint())
            .max_time(self.settings.query_timeout)
            .build();
        options.limit = limit.map(u64::from);
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
