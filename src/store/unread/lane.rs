//! A lane: a queue of questions, and a limit to the queries that work on it at once.
//!
//! Adding a question to a lane with a free slot takes the slot, and the slot is freed when the queue is empty. So
//! questions that arrive while all slots are busy wait, and are coalesced into one query.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::UnreadBy;
use crate::callback::ids::{Account, AppName};
use crate::store::StoreError;
use crate::store::marks::MOST_PAIRS;

/// Unread messages of an id, and by order of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadCount {
    /// As it was asked.
    pub id: String,
    /// Who wrote them; empty where the ids are senders.
    pub peer: String,
    /// How many, at least one.
    pub unread: u64,
}

/// How many messages of these ids has this reader not read?
#[derive(Debug)]
pub struct Question {
    /// What the ids are.
    pub by: UnreadBy,
    /// The app.
    pub app: AppName,
    /// Whose messages are counted.
    pub reader: Account,
    /// As they are stored, each once.
    pub ids: Vec<String>,
    /// Where it is the same whether there are that many or more of an id, and so counting may stop.
    pub cap: Option<u64>,
    /// By order: whether the cap is one for each sender of an order. Otherwise it is one for the order, and senders
    /// may be missing where it is reached.
    pub is_cap_of_peers: bool,
}

/// A question in the queue, and who waits for its answer.
#[derive(Debug)]
pub struct WaitingQuestion {
    pub question: Question,
    pub asker: Asker,
}

/// Who waits for an answer.
#[derive(Debug)]
pub struct Asker {
    answer: oneshot::Sender<Result<Vec<UnreadCount>, StoreError>>,
    _memory: IdReservation,
}

/// A reservation of the memory for questions, freed when its last clone is dropped.
#[derive(Debug, Clone)]
pub struct IdReservation(#[expect(dead_code, reason = "held, not used")] Arc<OwnedSemaphorePermit>);

impl IdReservation {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

impl Asker {
    pub fn new(
        answer: oneshot::Sender<Result<Vec<UnreadCount>, StoreError>>,
        memory: IdReservation,
    ) -> Self {
        Self {
            answer,
            _memory: memory,
        }
    }

    pub fn tell(self, answer: Result<Vec<UnreadCount>, StoreError>) {
        // An error means that nobody waits any more.
        let _ = self.answer.send(answer);
    }

    /// Waits until nobody waits for the answer any more.
    pub async fn gone(&mut self) {
        self.answer.closed().await;
    }
}

/// A queue of questions.
#[derive(Debug)]
pub struct Lane {
    queue: Mutex<QuestionQueue>,
    slots: usize,
}

#[derive(Debug, Default)]
struct QuestionQueue {
    waiting: VecDeque<WaitingQuestion>,
    busy_slots: usize,
}

impl Lane {
    /// A lane for so many queries at once.
    pub fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            slots,
        })
    }

    fn queue(&self) -> MutexGuard<'_, QuestionQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a question. Whoever gets a slot must work on the lane with it.
    pub fn add(self: &Arc<Self>, waiting: WaitingQuestion) -> Option<Slot> {
        let mut queue = self.queue();
        queue.waiting.push_back(waiting);
        if queue.busy_slots == self.slots {
            return None;
        }
        queue.busy_slots += 1;
        Some(Slot(Some(self.clone())))
    }
}

/// Whether one query may answer several questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coalesce {
    Yes,
    No,
}

/// The right to run one query at a time for a lane, until its queue is empty.
pub struct Slot(Option<Arc<Lane>>);

impl Slot {
    /// Takes the first question, coalesced with others that fit into the same query. Questions that nobody waits for
    /// are dropped. `None` frees the slot.
    pub fn next(&mut self, coalesce: Coalesce) -> Option<Vec<WaitingQuestion>> {
        let lane = self.0.as_ref()?;
        let mut queue = lane.queue();
        let mut taken = TakenQuestions::default();
        for waiting in std::mem::take(&mut queue.waiting) {
            if waiting.asker.answer.is_closed() {
                continue;
            }
            if taken.questions.is_empty()
                || coalesce == Coalesce::Yes && taken.fits(&waiting.question)
            {
                taken.add(waiting);
            } else {
                queue.waiting.push_back(waiting);
            }
        }
        if taken.questions.is_empty() {
            // Under the lock that saw the queue empty: a question added later finds the slot free.
            queue.busy_slots -= 1;
            drop(queue);
            self.0 = None;
            return None;
        }
        Some(taken.questions)
    }

    /// Puts questions back at the front.
    pub fn put_back(&self, questions: impl DoubleEndedIterator<Item = WaitingQuestion>) {
        if let Some(lane) = &self.0 {
            let mut queue = lane.queue();
            for waiting in questions.rev() {
                queue.waiting.push_front(waiting);
            }
        }
    }
}

impl Drop for Slot {
    /// Frees the slot after a panic, too.
    fn drop(&mut self) {
        if let Some(lane) = &self.0 {
            lane.queue().busy_slots -= 1;
        }
    }
}

/// Questions for one query.
#[derive(Default)]
struct TakenQuestions {
    questions: Vec<WaitingQuestion>,
    ids: usize,
}

impl TakenQuestions {
    fn add(&mut self, waiting: WaitingQuestion) {
        self.ids += waiting.question.ids.len();
        self.questions.push(waiting);
    }

    /// The query asks for every reader with every id, so their product is limited.
    fn fits(&self, question: &Question) -> bool {
        let is_alike = self.questions.first().is_none_or(|first| {
            (first.question.by, &first.question.app) == (question.by, &question.app)
        });
        let ids = self.ids + question.ids.len();
        is_alike && (self.questions.len() + 1) * ids <= MOST_PAIRS
    }
}
