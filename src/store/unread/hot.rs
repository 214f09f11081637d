//! The hot lane: questions with too many unread messages for one query are counted alone, in steps.

use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::CountOptions;

use super::keys::{IndexKey, count, distinct};
use super::lane::{Coalesce, Question, Slot, UnreadCounts, WaitingQuestion};
use super::{Store, UnreadBy};
use crate::store::{StoreError, collection};

/// The keys that one step reads.
const STEP_KEYS: usize = 1000;

/// The parts in which the messages of one large pair are counted, in parallel.
const PARTS: i64 = 4;

/// A part of a question that is not counted yet.
struct Remaining {
    /// Sorted like the index.
    ids: Vec<String>,
    /// Peers up to this one are counted.
    after_peer: Option<String>,
}

impl Store {
    /// Puts a question into the hot lane.
    pub(super) fn ask_hot(&self, waiting: WaitingQuestion) {
        if let Some(slot) = self.questions.hot.add(waiting) {
            self.runtime.spawn(self.clone().work_hot_lane(slot));
        }
    }

    async fn work_hot_lane(self, mut slot: Slot) {
        while let Some(waiting) = slot.next(Coalesce::No) {
            for WaitingQuestion {
                question,
                mut asker,
            } in waiting
            {
                let counts = tokio::select! {
                    counts = self.count_in_steps(&question) => counts,
                    () = asker.gone() => continue,
                };
                asker.tell(counts);
            }
        }
    }

    async fn count_in_steps(&self, question: &Question) -> Result<UnreadCounts, StoreError> {
        let (by, app, reader) = (question.by, &question.app, question.reader.as_str());
        let mut counts = UnreadCounts::new();
        let mut rest = vec![Remaining::all_of(question)];
        while let Some(part) = rest.pop() {
            let keys = self
                .unread_keys(by, part.matching(question), STEP_KEYS)
                .await?;
            let all = keys.all()?;
            let last = keys.truncated_at(&all);
            let whole = match last {
                Some(last) => all.partition_point(|key| (key.id, key.peer) < (last.id, last.peer)),
                None => all.len(),
            };
            let marks = self
                .marks_between(app, &[reader], &distinct(&all, |key| key.peer))
                .await?;
            for ((_, id), n) in count(&all[..whole], &marks)? {
                *counts.entry(id.to_owned()).or_default() += n;
            }
            if let Some(last) = last {
                let mark = marks.by_pair()?.get(&(reader, last.peer)).copied();
                let n = self.count_pair(question, &last, mark).await?;
                *counts.entry(last.id.to_owned()).or_default() += n;
                rest.extend(part.after(by, &last));
            }
        }
        Ok(counts)
    }

    /// Counts the messages of one pair (and of one order, where questions are by order) that are later than a mark.
    async fn count_pair(
        &self,
        question: &Question,
        pair: &IndexKey<'_>,
        mark: Option<i64>,
    ) -> Result<u64, StoreError> {
        let mut matching = doc! {
            "app": question.app.as_str(), "to": question.reader.as_str(), "state": 0,
            "fromAccount": pair.peer,
        };
        matching.insert(question.by.field(), pair.id);
        matching.insert("msgTimestamp", doc! { "$gt": mark.unwrap_or(i64::MIN) });
        let (Some(first), Some(last)) = tokio::try_join!(
            self.sent_at(question, &matching, 1),
            self.sent_at(question, &matching, -1),
        )?
        else {
            return Ok(0);
        };
        // Parts of equal time. The last one is open, because new messages may arrive.
        let start = |part: i64| first + (last - first) / PARTS * part;
        let parts = (0..PARTS).map(|part| {
            let mut within = doc! { "$gte": start(part) };
            if part + 1 < PARTS {
                within.insert("$lt", start(part + 1));
            }
            let mut matching = matching.clone();
            matching.insert("msgTimestamp", within);
            self.count(question, matching)
        });
        Ok(try_join_all(parts).await?.into_iter().sum())
    }

    /// Counts what matches. MongoDB only walks the index and does not return its keys.
    async fn count(&self, question: &Question, matching: Document) -> Result<u64, StoreError> {
        let options = CountOptions::builder()
            .hint(question.by.hint())
            .max_time(self.settings.query_timeout)
            .build();
        let messages = self.collection(collection::MESSAGES)?;
        let count = messages.count_documents(matching).with_options(options);
        self.within_query_timeout(async move { count.await }).await
    }

    /// The time of the first (1) or last (-1) matching message, from the index.
    async fn sent_at(
        &self,
        question: &Question,
        matching: &Document,
        order: i32,
    ) -> Result<Option<i64>, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
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

impl Remaining {
    fn all_of(question: &Question) -> Self {
        let mut ids = question.ids.clone();
        ids.sort_unstable();
        Self {
            ids,
            after_peer: None,
        }
    }

    fn matching(&self, question: &Question) -> Document {
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let reader = question.reader.as_str();
        let mut matching = question.by.matching(&question.app, &[reader], &ids);
        if let Some(peer) = &self.after_peer {
            matching.insert("fromAccount", doc! { "$gt": peer });
        }
        matching
    }

    /// What is left after a pair, in the order of the index.
    fn after(self, by: UnreadBy, pair: &IndexKey<'_>) -> Vec<Self> {
        let mut rest = Vec::new();
        if by == UnreadBy::Order {
            rest.push(Self {
                ids: vec![pair.id.to_owned()],
                after_peer: Some(pair.peer.to_owned()),
            });
        }
        let later = self.ids.partition_point(|id| id.as_str() <= pair.id);
        if later < self.ids.len() {
            rest.push(Self {
                ids: self.ids[later..].to_vec(),
                after_peer: None,
            });
        }
        rest
    }
}
