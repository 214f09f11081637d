//! The questions that subscribers ask, each once, and what a change makes due.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{NotSubscribed, Told};
use crate::callback::ids::{Account, AppName};
use crate::store::changes::{Party, Watched};

/// The memory budget for all questions with the answers that are kept, in bytes.
const MEMORY_BUDGET: usize = 64 * 1024 * 1024;

/// What a question takes beside its ids.
const QUESTION_OVERHEAD: usize = 256;

/// A question whose answer is kept up to date.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LiveQuestion<Q> {
    /// The app.
    pub app: AppName,
    /// Whose unread messages are counted.
    pub reader: Account,
    /// The teams that are asked about.
    pub teams: Vec<String>,
    /// What is asked.
    pub asked: Q,
    /// The bytes of all its ids.
    pub bytes: usize,
}

impl<Q> LiveQuestion<Q> {
    /// Whose changes may change the answer.
    fn parties(&self) -> impl Iterator<Item = Party> {
        let ids =
            std::iter::once(self.reader.as_str()).chain(self.teams.iter().map(String::as_str));
        ids.map(|id| Party {
            app: self.app.to_string(),
            id: id.to_owned(),
        })
    }
}

/// A question that somebody asks.
pub struct Asked<Q> {
    pub question: LiveQuestion<Q>,
    /// What was told last.
    pub told: watch::Sender<Option<Told>>,
    /// Wakes who counts it.
    pub due: Notify,
    /// Cancelled when nobody asks any more.
    pub gone: CancellationToken,
    number: u64,
    progress: Mutex<Progress>,
}

/// How far a question is counted.
#[derive(Default)]
pub struct Progress {
    /// Since when it is due.
    pub due_since: Option<Instant>,
    pub counted_at: Option<Instant>,
    /// It is not counted before.
    pub not_before: Option<Instant>,
    /// How often in a row it could not be counted.
    pub failures: u32,
    pub is_stale: bool,
    pub is_incomplete: bool,
    /// Whether somebody came who was told nothing yet.
    pub is_new_to_somebody: bool,
    /// The bytes of the answer that is kept.
    answer_bytes: usize,
}

impl<Q> Asked<Q> {
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it counted soon.
    pub fn make_due(&self) {
        self.progress().due_since.get_or_insert_with(Instant::now);
        self.due.notify_one();
    }

    /// Has it counted soon, and told also if it is as before: somebody came.
    pub fn greet(&self) {
        let mut progress = self.progress();
        progress.is_new_to_somebody = true;
        if progress.failures == 0 {
            // Somebody waits. What others were told does not have to be counted so soon.
            progress.not_before = None;
        }
        drop(progress);
        self.make_due();
    }

    /// Tells that its counts cannot be read, once.
    pub fn tell_stale(&self) {
        // Held while it is told, so that counts which come now are told before it or after it, flag and all.
        let mut progress = self.progress();
        if !std::mem::replace(&mut progress.is_stale, true) {
            self.told.send_replace(Some(Told::Stale));
        }
    }

    /// A number from 0 to 1 that differs between questions.
    pub fn spread(&self) -> f64 {
        (self.number % 64) as f64 / 64.0
    }
}

/// All questions. A lock of it is held for moments only.
pub struct LiveQuestions<Q>(Mutex<Index<Q>>, Notify);

struct Index<Q> {
    /// With the number of subscribers.
    all: HashMap<LiveKey<Q>, usize>,
    by_party: HashMap<Party, BTreeMap<u64, Arc<Asked<Q>>>>,
    bytes: usize,
    /// Who is watched now.
    watched: WatchedSets,
    /// The questions that may miss changes, since not all of their parties are watched yet.
    uncovered: BTreeMap<u64, Arc<Asked<Q>>>,
    next_number: u64,
}

/// Compares by the question.
struct LiveKey<Q>(Arc<Asked<Q>>);

impl<Q: PartialEq> PartialEq for LiveKey<Q> {
    fn eq(&self, other: &Self) -> bool {
        self.0.question == other.0.question
    }
}

impl<Q: Eq> Eq for LiveKey<Q> {}

impl<Q: Hash> Hash for LiveKey<Q> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.question.hash(state);
    }
}

/// Who is watched, to look up.
#[derive(Default)]
struct WatchedSets {
    readers: HashSet<String>,
    teams: HashSet<String>,
}

impl WatchedSets {
    fn covers<Q>(&self, question: &LiveQuestion<Q>) -> bool {
        let is_in = |team: &String| self.teams.contains(team) || self.readers.contains(team);
        self.readers.contains(question.reader.as_str()) && question.teams.iter().all(is_in)
    }
}

impl<Q> Default for LiveQuestions<Q> {
    fn default() -> Self {
        let index = Index {
            all: HashMap::new(),
            by_party: HashMap::new(),
            bytes: 0,
            watched: WatchedSets::default(),
            uncovered: BTreeMap::new(),
            next_number: 0,
        };
        Self(Mutex::new(index), Notify::new())
    }
}

impl<Q: Eq + Hash> LiveQuestions<Q> {
    fn index(&self) -> MutexGuard<'_, Index<Q>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscriber. Says whether it is the first one with this question, which then is due.
    ///
    /// # Errors
    /// [`NotSubscribed::TooMany`] when the memory budget is used up.
    pub fn join(&self, question: LiveQuestion<Q>) -> Result<(Arc<Asked<Q>>, bool), NotSubscribed> {
        let mut index = self.index();
        let number = index.next_number;
        let bytes = question.bytes + QUESTION_OVERHEAD;
        let asked = Arc::new(Asked {
            question,
            told: watch::Sender::new(None),
            due: Notify::new(),
            gone: CancellationToken::new(),
            number,
            progress: Mutex::default(),
        });
        let key = LiveKey(asked.clone());
        if let Some((LiveKey(known), _)) = index.all.get_key_value(&key) {
            let known = known.clone();
            if let Some(subscribers) = index.all.get_mut(&key) {
                *subscribers += 1;
            }
            return Ok((known, false));
        }
        if index.bytes + bytes > MEMORY_BUDGET {
            return Err(NotSubscribed::TooMany);
        }
        index.next_number += 1;
        index.bytes += bytes;
        index.all.insert(key, 1);
        for party in asked.question.parties() {
            let of_party = index.by_party.entry(party).or_default();
            of_party.insert(number, asked.clone());
        }
        if !index.watched.covers(&asked.question) {
            index.uncovered.insert(number, asked.clone());
        }
        drop(index);
        asked.make_due();
        self.1.notify_one();
        Ok((asked, true))
    }

    /// Takes memory for an answer instead of the one before.
    ///
    /// # Errors
    /// [`NotSubscribed::TooMany`] when the memory budget is used up.
    pub fn keep(&self, asked: &Asked<Q>, bytes: usize) -> Result<(), NotSubscribed> {
        let mut index = self.index();
        if asked.gone.is_cancelled() {
            return Ok(());
        }
        let before = asked.progress().answer_bytes;
        if bytes > before && index.bytes + bytes - before > MEMORY_BUDGET {
            return Err(NotSubscribed::TooMany);
        }
        index.bytes = index.bytes - before + bytes;
        asked.progress().answer_bytes = bytes;
        Ok(())
    }

    /// Removes a subscriber.
    pub fn leave(&self, asked: &Arc<Asked<Q>>) {
        let mut index = self.index();
        let key = LiveKey(asked.clone());
        if let Some(subscribers) = index.all.get_mut(&key)
            && *subscribers > 1
        {
            *subscribers -= 1;
            return;
        }
        index.all.remove(&key);
        index.bytes -= asked.question.bytes + QUESTION_OVERHEAD + asked.progress().answer_bytes;
        index.uncovered.remove(&asked.number);
        for party in asked.question.parties() {
            if let Some(of_party) = index.by_party.get_mut(&party) {
                of_party.remove(&asked.number);
                if of_party.is_empty() {
                    index.by_party.remove(&party);
                }
            }
        }
        asked.gone.cancel();
    }

    /// Waits until somebody asks something.
    pub async fn until_asked(&self) {
        while self.is_empty() {
            self.1.notified().await;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.index().all.is_empty()
    }

    /// Whether a question may miss changes.
    pub fn has_uncovered(&self) -> bool {
        !self.index().uncovered.is_empty()
    }

    /// Whom to watch, and the number below which questions are covered when these are watched.
    pub fn to_watch(&self) -> (Watched, u64) {
        let index = self.index();
        let (mut readers, mut teams) = (Vec::new(), Vec::new());
        for LiveKey(asked) in index.all.keys() {
            readers.push(asked.question.reader.as_str().to_owned());
            teams.extend(asked.question.teams.iter().cloned());
        }
        for ids in [&mut readers, &mut teams] {
            ids.sort_unstable();
            ids.dedup();
        }
        (Watched { readers, teams }, index.next_number)
    }

    /// Notes who is watched from now on. Questions that were not covered before are due, as they may have missed changes.
    pub fn watched(&self, watched: Watched, below: u64) {
        let mut index = self.index();
        let sets = WatchedSets {
            readers: watched.readers.into_iter().collect(),
            teams: watched.teams.into_iter().collect(),
        };
        // Also one that came meanwhile and was covered by those who were watched before.
        let came_since = index.all.keys().map(|LiveKey(asked)| asked);
        let came_since = came_since.filter(|asked| asked.number >= below);
        let uncovered = came_since.filter(|asked| !sets.covers(&asked.question));
        let uncovered: BTreeMap<_, _> = uncovered.map(|a| (a.number, a.clone())).collect();
        let before = std::mem::replace(&mut index.uncovered, uncovered);
        let covered = before.iter();
        let covered = covered.filter(|(number, _)| !index.uncovered.contains_key(number));
        covered.for_each(|(_, asked)| asked.make_due());
        index.watched = sets;
    }

    /// Notes that nobody is watched, and the next stream does not tell what happens until it is open.
    pub fn watch_ended(&self) {
        let mut index = self.index();
        index.watched = WatchedSets::default();
        let all = index
            .all
            .keys()
            .map(|LiveKey(asked)| (asked.number, asked.clone()));
        index.uncovered = all.collect();
    }

    /// The questions that a change of this account or team makes due.
    pub fn make_due(&self, party: &Party) {
        let index = self.index();
        for asked in index
            .by_party
            .get(party)
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            asked.make_due();
        }
    }

    /// All questions.
    pub fn all(&self) -> Vec<Arc<Asked<Q>>> {
        self.index()
            .all
            .keys()
            .map(|LiveKey(asked)| asked.clone())
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::callback::ProviderName;

    fn question(reader: &str, teams: &[&str]) -> LiveQuestion<u32> {
        LiveQuestion {
            app: AppName::new("otc").unwrap(),
            reader: ProviderName::Netease.account(reader),
            teams: teams.iter().map(|team| (*team).to_owned()).collect(),
            asked: 0,
            bytes: 1,
        }
    }

    fn join(questions: &LiveQuestions<u32>, reader: &str, teams: &[&str]) -> Arc<Asked<u32>> {
        let (asked, is_first) = questions.join(question(reader, teams)).ok().unwrap();
        assert!(is_first);
        asked.progress().due_since = None;
        asked
    }

    fn is_due(asked: &Asked<u32>) -> bool {
        asked.progress().due_since.take().is_some()
    }

    /// A change stream with others was being opened when it came, and those before it had its reader.
    #[test]
    fn a_question_that_comes_while_a_stream_is_opened_is_covered_by_the_next() {
        let questions = LiveQuestions::default();
        let (ann, bob) = (join(&questions, "ann", &[]), join(&questions, "bob", &[]));
        let (both, below) = questions.to_watch();
        questions.watched(both, below);
        assert!(is_due(&ann) && is_due(&bob) && !questions.has_uncovered());
        questions.leave(&bob);
        let carl = join(&questions, "carl", &[]);
        let (without_bob, below) = questions.to_watch();
        let bob = join(&questions, "bob", &[]);
        let dora = join(&questions, "dora", &["t1"]);
        questions.watched(without_bob, below);
        assert!(questions.has_uncovered());
        assert!(is_due(&carl) && !is_due(&ann) && !is_due(&bob) && !is_due(&dora));
        let (all, below) = questions.to_watch();
        assert_eq!(all.readers, ["ann", "bob", "carl", "dora"]);
        assert_eq!(all.teams, ["t1"]);
        questions.watched(all, below);
        assert!(is_due(&bob) && is_due(&dora) && !is_due(&carl) && !questions.has_uncovered());
    }

    #[test]
    fn a_page_that_is_reloaded_needs_no_other_stream() {
        let questions = LiveQuestions::default();
        let bob = join(&questions, "bob", &["t1"]);
        let (all, below) = questions.to_watch();
        questions.watched(all, below);
        questions.leave(&bob);
        join(&questions, "bob", &["t1"]);
        assert!(!questions.has_uncovered());
        // A team is no reader, whose marks would be watched.
        join(&questions, "t1", &[]);
        assert!(questions.has_uncovered());
    }

    #[test]
    fn a_change_is_of_one_app_and_of_who_asks() {
        let questions = LiveQuestions::default();
        let bob = join(&questions, "bob", &["t1"]);
        let carl = join(&questions, "carl", &["t1"]);
        let party = |app: &str, id: &str| Party {
            app: app.to_owned(),
            id: id.to_owned(),
        };
        questions.make_due(&party("otc", "bob"));
        assert!(is_due(&bob) && !is_due(&carl));
        questions.make_due(&party("otc", "t1"));
        assert!(is_due(&bob) && is_due(&carl));
        questions.make_due(&party("shop", "t1"));
        questions.make_due(&party("otc", "dora"));
        assert!(!is_due(&bob) && !is_due(&carl));
        questions.leave(&bob);
        questions.leave(&carl);
        assert!(questions.is_empty() && questions.index().by_party.is_empty());
        assert_eq!(questions.index().bytes, 0);
    }

    #[test]
    fn questions_take_a_bounded_memory() {
        let questions = LiveQuestions::default();
        let large = |reader: &str| LiveQuestion {
            bytes: MEMORY_BUDGET / 2,
            ..question(reader, &[])
        };
        let (first, _) = questions.join(large("ann")).ok().unwrap();
        assert_eq!(
            questions.join(large("bob")).err(),
            Some(NotSubscribed::TooMany)
        );
        // The same question takes nothing more, but its answer does.
        assert!(!questions.join(large("ann")).ok().unwrap().1);
        assert!(questions.keep(&first, MEMORY_BUDGET / 4).is_ok());
        assert!(questions.keep(&first, MEMORY_BUDGET).is_err());
        questions.leave(&first);
        questions.leave(&first);
        assert!(questions.join(large("bob")).is_ok());
    }
}
