//! Unread counts: what the unread index says of messages, compared with the read marks.
//!
//! The two unread indexes hold only messages with `state: 0`, and their keys have every field that is read; so has the
//! index of marks. So a count reads no document, and its cost depends on what is unread, not on the history. Whatever
//! was acknowledged before the question is in both indexes, so the count is exact in whichever order they are read, and
//! however far `state` is behind. The queries name their index: without it the answer is an error, never a scan.
//!
//! A small query costs MongoDB a fixed amount, whatever it reads. So questions that arrive while others are being
//! answered are **coalesced** into one query for several readers. A question only joins a query that starts after it.
//!
//! There are two lanes. In the **usual lane** a query reads at most [`MOST_KEYS`] keys, in the order of the index. If
//! there are more, the readers before the last key are answered, those after it are asked again, and the reader of the
//! last key goes to the **hot lane**. There each question runs alone, in steps: a step reads some keys, and counts the
//! pair at which it was truncated in parallel parts, for which MongoDB only walks the index.
//!
//! A question is dropped when its client disconnects, and the memory for questions is limited.

mod hot;
mod keys;
mod lane;
mod last;
mod newest;
mod team;

use std::cmp::Ordering;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, oneshot};

use super::Store;
use super::error::StoreError;
use super::indexes::{UNREAD_BY_ORDER, UNREAD_BY_PEER};
use super::marks::Marks;
use keys::{CountedKeys, IndexKeys, chunks_for_marks, count, distinct};
use lane::{Asker, Coalesce, Lane, Slot, WaitingQuestion};
pub use lane::{IdReservation, Question, UnreadCount};
pub use last::{LastUnread, last_messages};
pub use newest::{MOST_NEWEST, NewestUnread, UnreadPairs, newest_of};
pub use team::{TeamLimits, team_joins, team_messages};

/// The most keys that a query of the usual lane reads, in a few milliseconds.
pub const MOST_KEYS: usize = 5000;

/// Queries of each lane at once. Two, so that a slow one does not block the lane; few, so that questions coalesce.
const SLOTS: usize = 2;

/// The memory budget for the ids of all questions, in bytes.
const MEMORY_BUDGET: usize = 16 * 1024 * 1024;

/// What an id takes beside its own bytes.
const ID_OVERHEAD: usize = 32;

/// What unread messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadBy {
    /// Their sender. The ids are accounts as the provider normalizes them: NetEase's in lower case, others as sent.
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
}

/// The lanes, and the memory that is left for questions.
#[derive(Debug)]
pub struct Questions {
    usual: Arc<Lane>,
    hot: Arc<Lane>,
    memory: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            usual: Lane::new(SLOTS),
            hot: Lane::new(SLOTS),
            memory: Arc::new(Semaphore::new(MEMORY_BUDGET)),
        }
    }
}

impl Store {
    /// Reserves memory for questions about these ids, as long as the reservation is held.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when the memory budget is used up.
    pub fn reserve<'i>(
        &self,
        ids: impl Iterator<Item = &'i str>,
    ) -> Result<IdReservation, StoreError> {
        self.reserve_bytes(ids.map(|id| id.len() + ID_OVERHEAD).sum())
    }

    fn reserve_bytes(&self, bytes: usize) -> Result<IdReservation, StoreError> {
        let bytes = u32::try_from(bytes.min(MEMORY_BUDGET)).unwrap_or(u32::MAX);
        let reserved = self.questions.memory.clone().try_acquire_many_owned(bytes);
        reserved
            .map(IdReservation::new)
            .map_err(|_| StoreError::Overloaded)
    }

    /// Counts a reader's unread messages by id. An id without any is absent from the result. A count may be larger
    /// than the question's cap.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or the index is not there yet.
    pub async fn unread(
        &self,
        question: Question,
        memory: &IdReservation,
    ) -> Result<Vec<UnreadCount>, StoreError> {
        if question.ids.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        let waiting = WaitingQuestion {
            question,
            asker: Asker::new(answer, memory.clone()),
        };
        if let Some(slot) = self.questions.usual.add(waiting) {
            let store = self.clone();
            // A task of its own, because other questions depend on it when this client disconnects.
            self.runtime.spawn(store.work_usual_lane(slot));
        }
        match tokio::time::timeout(self.settings.query_timeout, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_gone)) => Err(StoreError::Unavailable("the query ended".to_owned())),
            Err(_elapsed) => Err(StoreError::TimedOut),
        }
    }

    /// Answers the usual lane's questions until its queue is empty.
    async fn work_usual_lane(self, mut slot: Slot) {
        while let Some(waiting) = slot.next(Coalesce::Yes) {
            let both = waiting.into_iter().map(|one| (one.question, one.asker));
            let (questions, mut askers): (Vec<_>, Vec<_>) = both.unzip();
            let found = tokio::select! {
                found = self.find(&questions) => found,
                _ = join_all(askers.iter_mut().map(Asker::gone)) => continue,
            };
            let asked = questions.into_iter().zip(askers);
            match found.as_ref().map_err(Clone::clone).and_then(Found::of) {
                Ok(found) => self.answer(&slot, &found, asked),
                Err(error) => asked.for_each(|(_, asker)| asker.tell(Err(error.clone()))),
            }
        }
    }

    /// Reads what answers some questions of one app and kind.
    async fn find(&self, questions: &[Question]) -> Result<(IndexKeys, Marks), StoreError> {
        let first = &questions[0];
        let mut readers: Vec<&str> = questions.iter().map(|q| q.reader.as_str()).collect();
        let ids = questions.iter().flat_map(|q| &q.ids);
        let mut ids: Vec<&str> = ids.map(String::as_str).collect();
        for list in [&mut readers, &mut ids] {
            list.sort_unstable();
            list.dedup();
        }
        let (by, app) = (first.by, &first.app);
        let keys = self.unread_keys(by, by.matching(app, &readers, &ids), MOST_KEYS);
        match by {
            UnreadBy::Peer => tokio::try_join!(keys, self.marks_between(app, &readers, &ids)),
            UnreadBy::Order => {
                let keys = keys.await?;
                let mut marks = Marks::default();
                // Every reader is combined with every peer, so few of both go into one query.
                for some in chunks_for_marks(&keys.all()?) {
                    let readers = distinct(some, |key| key.reader);
                    let peers = distinct(some, |key| key.peer);
                    marks.extend(self.marks_between(app, &readers, &peers).await?);
                }
                Ok((keys, marks))
            }
        }
    }

    /// Answers the questions whose keys are complete, and requeues the others.
    fn answer(
        &self,
        slot: &Slot,
        found: &Found<'_>,
        asked: impl Iterator<Item = (Question, Asker)>,
    ) {
        let mut again = Vec::new();
        for (question, asker) in asked {
            match found
                .truncated_at
                .map(|last| question.reader.as_str().cmp(last))
            {
                None | Some(Ordering::Less) => asker.tell(Ok(found.counts_of(&question))),
                Some(Ordering::Equal) => self.ask_hot(WaitingQuestion { question, asker }),
                Some(Ordering::Greater) => again.push(WaitingQuestion { question, asker }),
            }
        }
        slot.put_back(again.into_iter());
    }
}

/// What the keys and marks that were read say.
struct Found<'f> {
    /// In the order of the index.
    counts: Vec<CountedKeys<'f>>,
    /// The reader at which the keys were truncated; later readers have none.
    truncated_at: Option<&'f str>,
}

impl<'f> Found<'f> {
    fn of((keys, marks): &'f (IndexKeys, Marks)) -> Result<Self, StoreError> {
        let all = keys.all()?;
        Ok(Self {
            counts: count(&all, marks)?,
            truncated_at: keys.truncated_at(&all).map(|key| key.reader),
        })
    }

    fn counts_of(&self, question: &Question) -> Vec<UnreadCount> {
        let reader = question.reader.as_str();
        let of_id = |id: &String| {
            let is_before = |c: &CountedKeys<'_>| (c.reader, c.id) < (reader, id.as_str());
            let first = self.counts.partition_point(is_before);
            let ours = self.counts[first..].chunk_by(|a, b| (a.reader, a.id) == (b.reader, b.id));
            let ours = ours.take(1).flatten();
            let ours = ours.filter(|c| (c.reader, c.id) == (reader, id.as_str()));
            ours.map(|counted| counted.answered(question.by))
                .collect::<Vec<_>>()
        };
        question.ids.iter().flat_map(of_id).collect()
    }
}
