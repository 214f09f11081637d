//! The questions that wait to be asked together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use mongodb::bson::{Document, doc};
use tokio::sync::{Semaphore, oneshot};

use super::{Counts, UnreadBy};
use crate::callback::ids::{Account, AppName};
use crate::store::StoreError;

/// Queries under way at once: one that takes long does not hold up all others, and the others come together.
const TURNS: usize = 2;

/// The most questions in one query, and the ids after which no other question joins it.
const QUESTIONS: usize = 64;
const IDS: usize = 2000;

/// How many messages has this reader not read, by these ids?
#[derive(Debug, Clone)]
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
    pub answer: oneshot::Sender<Result<Counts, StoreError>>,
}

/// The questions that wait for a turn.
#[derive(Debug)]
pub struct Questions {
    waiting: Mutex<VecDeque<Waiting>>,
    pub turns: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }
}

impl Questions {
    /// Puts a question behind the others.
    pub fn wait(&self, question: Question) -> oneshot::Receiver<Result<Counts, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(Waiting { question, answer });
        answered
    }

    /// The first question, with those behind it that can be asked in the same query.
    pub fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Waiting> = Vec::new();
        let mut ids = 0;
        for one in std::mem::take(&mut *waiting) {
            let fits = match taken.first() {
                None => true,
                Some(first) => {
                    taken.len() < QUESTIONS && ids < IDS && one.question.is_alike(&first.question)
                }
            };
            if one.answer.is_closed() {
                // Who waited too long has gone.
            } else if fits {
                ids += one.question.ids.len();
                taken.push(one);
            } else {
                waiting.push_back(one);
            }
        }
        taken
    }
}

impl Question {
    fn is_alike(&self, other: &Self) -> bool {
        self.by == other.by && self.app == other.app
    }

    /// What its messages of one id match.
    pub fn matching(&self, id: &str) -> Document {
        let (app, reader) = (self.app.as_str(), self.reader.as_str());
        let mut matching = doc! { "app": app, "to": reader, "state": 0 };
        matching.insert(self.by.field(), id);
        matching
    }

    /// Its part of what was found.
    pub fn pick(&self, by_reader: &HashMap<String, Counts>) -> Counts {
        let Some(counts) = by_reader.get(self.reader.as_str()) else {
            return Counts::new();
        };
        let asked = self.ids.iter();
        asked
            .filter_map(|id| Some((id.clone(), *counts.get(id)?)))
            .collect()
    }
}
