//! Questions that wait to be asked, and how many are asked at once.
//!
//! Whoever adds a question to an idle lane begins a turn, and a turn ends when nothing waits any more. So questions
//! that come while others are being asked wait, and are taken together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::UnreadBy;
use crate::callback::ids::{Account, AppName};
use crate::store::StoreError;
use crate::store::marks::MOST_PAIRS;

/// Counts by id; an id without any is absent.
pub type Counts = HashMap<String, u64>;

/// How many messages has this reader not read, by these ids?
#[derive(Debug)]
pub struct Question {
    pub by: UnreadBy,
    pub app: AppName,
    pub reader: Account,
    pub ids: Vec<String>,
}

/// A question, and whom to tell.
#[derive(Debug)]
pub struct Waiting {
    pub question: Question,
    pub asker: Asker,
}

/// Who waits for an answer.
#[derive(Debug)]
pub struct Asker {
    answer: oneshot::Sender<Result<Counts, StoreError>>,
    _reserved: Reserved,
}

/// A share of the memory for questions, given back when all who have it are gone.
#[derive(Debug, Clone)]
pub struct Reserved(#[expect(dead_code, reason = "held, not used")] Arc<OwnedSemaphorePermit>);

impl Reserved {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

impl Asker {
    pub fn new(answer: oneshot::Sender<Result<Counts, StoreError>>, reserved: Reserved) -> Self {
        Self {
            answer,
            _reserved: reserved,
        }
    }

    pub fn tell(self, answer: Result<Counts, StoreError>) {
        // An error means that the asker has gone.
        let _ = self.answer.send(answer);
    }

    /// Waits until it does not wait for an answer any more.
    pub async fn gone(&mut self) {
        self.answer.closed().await;
    }
}

/// A queue of questions.
#[derive(Debug)]
pub struct Lane {
    queue: Mutex<Queue>,
    most_turns: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    turns: usize,
}

impl Lane {
    /// A lane with so many turns at once.
    pub fn new(most_turns: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            most_turns,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question behind the others. A turn that comes back must be taken.
    pub fn add(self: &Arc<Self>, waiting: Waiting) -> Option<Turn> {
        let mut queue = self.queue();
        queue.waiting.push_back(waiting);
        if queue.turns == self.most_turns {
            return None;
        }
        queue.turns += 1;
        Some(Turn(Some(self.clone())))
    }
}

/// The right to ask what waits in a lane, until nothing waits.
pub struct Turn(Option<Arc<Lane>>);

impl Turn {
    /// Takes the first question, with those that can be asked in the same query, as far as they wait `together`.
    /// Whoever does not wait for an answer any more is passed over. `None` ends the turn.
    pub fn next(&mut self, together: bool) -> Option<Vec<Waiting>> {
        let lane = self.0.as_ref()?;
        let mut queue = lane.queue();
        let mut taken = Taken::default();
        for waiting in std::mem::take(&mut queue.waiting) {
            if waiting.asker.answer.is_closed() {
                continue;
            }
            if taken.questions.is_empty() || together && taken.has_room_for(&waiting.question) {
                taken.add(waiting);
            } else {
                queue.waiting.push_back(waiting);
            }
        }
        if taken.questions.is_empty() {
            // Under the same lock as the look at the queue, so that whoever adds a question sees that it has ended.
            queue.turns -= 1;
            drop(queue);
            self.0 = None;
            return None;
        }
        Some(taken.questions)
    }

    /// Puts questions before all others.
    pub fn put_back(&self, questions: impl DoubleEndedIterator<Item = Waiting>) {
        if let Some(lane) = &self.0 {
            let mut queue = lane.queue();
            for waiting in questions.rev() {
                queue.waiting.push_front(waiting);
            }
        }
    }
}

impl Drop for Turn {
    /// A panic must not take the turn away for good.
    fn drop(&mut self) {
        if let Some(lane) = &self.0 {
            lane.queue().turns -= 1;
        }
    }
}

/// Questions for one query.
#[derive(Default)]
struct Taken {
    questions: Vec<Waiting>,
    ids: usize,
}

impl Taken {
    fn add(&mut self, waiting: Waiting) {
        self.ids += waiting.question.ids.len();
        self.questions.push(waiting);
    }

    /// Each reader is asked for with each id, so it is their product that is limited.
    fn has_room_for(&self, question: &Question) -> bool {
        let is_alike = self.questions.first().is_none_or(|first| {
            (first.question.by, &first.question.app) == (question.by, &question.app)
        });
        let ids = self.ids + question.ids.len();
        is_alike && (self.questions.len() + 1) * ids <= MOST_PAIRS
    }
}
