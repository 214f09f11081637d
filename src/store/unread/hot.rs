//! The hot lane: questions with too many unread messages for one query are counted alone, in steps.

use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::{CountOptions, Hint};

use super::keys::{CountedKeys, IndexKey, count, distinct};
use super::lane::{Coalesce, Slot, WaitingQuestion};
use super::{MOST_KEYS, Question, Store, UnreadBy, UnreadCount};
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

    async fn count_in_steps(&self, question: &Question) -> Result<Vec<UnreadCount>, StoreError> {
        let (by, app, reader) = (question.by, &question.app, question.reader.as_str());
        let mut counts = Vec::new();
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
            let counted = count(&all[..whole], &marks)?;
            counts.extend(counted.iter().map(|counted| counted.answered(by)));
            let Some(last) = last else { continue };
            let mark = marks.by_pair()?.get(&(reader, last.peer)).copied();
            let enough =
                |counts: &[UnreadCount]| question.still_to_count(last.id, counts) == Some(0);
            if !enough(&counts) {
                let most = question.still_to_count(last.id, &counts);
                let counted = CountedKeys {
                    reader,
                    id: last.id,
                    peer: last.peer,
                    unread: self.count_pair(question, &last, mark, most).await?,
                };
                counts.extend((counted.unread > 0).then(|| counted.answered(by)));
            }
            rest.extend(part.after(by, &last, enough(&counts)));
        }
        Ok(counts)
    }

    /// Counts the messages of one pair (and of one order, where questions are by order) that are later than a mark, or
    /// `most` of them.
    async fn count_pair(
        &self,
        question: &Question,
        pair: &IndexKey<'_>,
        mark: Option<i64>,
        most: Option<u64>,
    ) -> Result<u64, StoreError> {
        let mut matching = doc! {
            "app": question.app.as_str(), "to": question.reader.as_str(), "state": 0,
            "fromAccount": pair.peer,
        };
        matching.insert(question.by.field(), pair.id);
        matching.insert("msgTimestamp", doc! { "$gt": mark.unwrap_or(i64::MIN) });
        let hint = question.by.hint();
        if let Some(most) = most.filter(|most| *most <= MOST_KEYS as u64) {
            return self.count(matching, hint, Some(most)).await;
        }
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
            self.count(matching, question.by.hint(), None)
        });
        Ok(try_join_all(parts).await?.into_iter().sum())
    }

    /// Counts what matches, or `most` of it. MongoDB only walks the index and does not return its keys.
    pub(super) async fn count(
        &self,
        matching: Document,
        hint: Hint,
        most: Option<u64>,
    ) -> Result<u64, StoreError> {
        let options = CountOptions::builder()
            .hint(hint)
            .limit(most)
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

impl Question {
    /// How many more messages of an id make a difference: as many as its cap allows. The last counts are the id's.
    fn still_to_count(&self, id: &str, counts: &[UnreadCount]) -> Option<u64> {
        let of_id = counts.iter().rev().take_while(|count| count.id == id);
        let counted: u64 = match self.is_cap_of_peers {
            true => 0,
            false => of_id.map(|count| count.unread).sum(),
        };
        self.cap.map(|cap| cap.saturating_sub(counted))
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

    /// What is left after a pair, in the order of the index; without the rest of its id if there is enough of that.
    fn after(self, by: UnreadBy, pair: &IndexKey<'_>, is_enough: bool) -> Vec<Self> {
        let mut rest = Vec::new();
        if by == UnreadBy::Order && !is_enough {
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
