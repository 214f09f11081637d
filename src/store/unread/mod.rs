//! Unread counts: what the unread index says of messages, compared with the read marks.
//!
//! The two unread indexes hold only messages with `state: 0` and have every queried field in their key, and so has the
//! index of marks. So a count reads no document and costs what is unread, not what was ever stored. Whatever
//! was acknowledged before the question is in both indexes, so the count is exact in whatever order they are read, and
//! however far `state` is behind. The queries name their index: without it the answer is an error, never a scan.
//!
//! Most of what a small query costs MongoDB is that it is a query. So questions that come while others are being asked
//! are asked **together**, as one query for several readers. A question is only ever part of a query that begins
//! after it.
//!
//! There are two lanes. In the **usual** one a query reads at most [`MOST_KEYS`] keys. They come in the order of the
//! index, so where there are more, the readers before the last one are answered, those behind it are asked again,
//! and the one at which it was cut goes to the **crowded** lane. There every question is asked by itself, in steps that
//! each read some keys and count the pair at which they are cut, in parts side by side, for which MongoDB only
//! walks the index.
//!
//! A question is dropped when its client disconnects, and what questions take in memory is limited.

mod crowded;
mod keys;
mod lane;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, oneshot};

use super::Store;
use super::error::StoreError;
use super::indexes::{UNREAD_BY_ORDER, UNREAD_BY_PEER};
use super::marks::Marks;
use crate::callback::ids::{Account, AppName};
use keys::{Keys, count, each, few_pairs};
use lane::{Asker, Lane, Question, Turn, Waiting};
pub use lane::{Counts, Reserved};

/// The most keys that a usual query reads: MongoDB takes some milliseconds for them.
pub const MOST_KEYS: usize = 5000;

/// Queries of each lane at once: one that takes long does not hold up all others, and the others come together.
const TURNS: usize = 2;

/// The most bytes of ids that wait for an answer.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What an id takes beside its own bytes.
const ID_BYTES: usize = 32;

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
}

/// The questions that wait.
#[derive(Debug)]
pub struct Questions {
    usual: Arc<Lane>,
    crowded: Arc<Lane>,
    bytes: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            usual: Lane::new(TURNS),
            crowded: Lane::new(TURNS),
            bytes: Arc::new(Semaphore::new(MOST_BYTES)),
        }
    }
}

impl Store {
    /// Reserves memory for questions about these ids, to be held as long as they are.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many questions wait.
    pub fn reserve<'i>(&self, ids: impl Iterator<Item = &'i str>) -> Result<Reserved, StoreError> {
        let bytes: usize = ids.map(|id| id.len() + ID_BYTES).sum();
        let bytes = u32::try_from(bytes.min(MOST_BYTES)).unwrap_or(u32::MAX);
        let reserved = self.questions.bytes.clone().try_acquire_many_owned(bytes);
        reserved
            .map(Reserved::new)
            .map_err(|_| StoreError::Overloaded)
    }

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
        reserved: &Reserved,
    ) -> Result<Counts, StoreError> {
        if ids.is_empty() {
            return Ok(Counts::new());
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            question: Question {
                by,
                app: app.clone(),
                reader: reader.clone(),
                ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            },
            asker: Asker::new(answer, reserved.clone()),
        };
        if let Some(turn) = self.questions.usual.add(waiting) {
            let store = self.clone();
            // A task of its own: who asks may go away, and the others not.
            self.runtime.spawn(store.ask_usual(turn));
        }
        match tokio::time::timeout(self.settings.query_timeout, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_gone)) => Err(StoreError::Unavailable("the query ended".to_owned())),
            Err(_elapsed) => Err(StoreError::TimedOut),
        }
    }

    /// Asks what waits in the usual lane, until nothing does.
    async fn ask_usual(self, mut turn: Turn) {
        while let Some(waiting) = turn.next(true) {
            let both = waiting.into_iter().map(|one| (one.question, one.asker));
            let (questions, mut askers): (Vec<_>, Vec<_>) = both.unzip();
            let found = tokio::select! {
                found = self.find(&questions) => found,
                _ = join_all(askers.iter_mut().map(Asker::gone)) => continue,
            };
            let asked = questions.into_iter().zip(askers);
            match found.as_ref().map_err(Clone::clone).and_then(Found::of) {
                Ok(found) => self.answer(&turn, &found, asked),
                Err(error) => asked.for_each(|(_, asker)| asker.tell(Err(error.clone()))),
            }
        }
    }

    /// Reads what is needed to answer some alike questions.
    async fn find(&self, questions: &[Question]) -> Result<(Keys, Marks), StoreError> {
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
                // Readers have peers of their own: all of them at once would be asked for each other's, too.
                for some in few_pairs(&keys.all()?) {
                    let readers = each(some, |key| key.reader);
                    let peers = each(some, |key| key.peer);
                    marks.extend(self.marks_between(app, &readers, &peers).await?);
                }
                Ok((keys, marks))
            }
        }
    }

    /// Answers questions whose keys are all there, and passes the others on.
    fn answer(
        &self,
        turn: &Turn,
        found: &Found<'_>,
        asked: impl Iterator<Item = (Question, Asker)>,
    ) {
        let mut again = Vec::new();
        for (question, asker) in asked {
            match found.cut.map(|cut| question.reader.as_str().cmp(cut)) {
                None | Some(Ordering::Less) => asker.tell(Ok(found.counts_of(&question))),
                Some(Ordering::Equal) => self.ask_apart(Waiting { question, asker }),
                Some(Ordering::Greater) => again.push(Waiting { question, asker }),
            }
        }
        turn.put_back(again.into_iter());
    }
}

/// What the keys and marks that were read say.
struct Found<'f> {
    counts: HashMap<(&'f str, &'f str), u64>,
    /// The reader of whom some keys are missing, as they are of all who come later.
    cut: Option<&'f str>,
}

impl<'f> Found<'f> {
    fn of((keys, marks): &'f (Keys, Marks)) -> Result<Self, StoreError> {
        let all = keys.all()?;
        Ok(Self {
            counts: count(&all, marks)?,
            cut: keys.cut(&all).map(|key| key.reader),
        })
    }

    fn counts_of(&self, question: &Question) -> Counts {
        let reader = question.reader.as_str();
        let count = |id: &String| Some((id.clone(), *self.counts.get(&(reader, id.as_str()))?));
        question.ids.iter().filter_map(count).collect()
    }
}
