//! `state` follows the read marks.
//!
//! What is unread is decided by marks, and every count compares messages with them. `state` is a projection of that,
//! for analysts, and it keeps the unread indexes small. It is written in the background, in large commands, evenly
//! over the time, and each of them gives way to callbacks for a while.
//!
//! # Operation
//! - A commit notes the pairs it touched: a receipt's pair with the mark, and the pair of a message that came **late**
//!   with the message's time.
//! - The pairs that were noted are taken together, so that many share a command, and wait until each is at least half
//!   of the delay old. Then the marks of late messages are looked up, and each mark that reaches a message is
//!   applied, by one update statement bound to the unread index: measured, that costs MongoDB less than to look
//!   for the messages first and update them by `_id`.
//! - A message is late when it is older at its arrival than a quarter of the delay. Of any other, whichever instance
//!   raised a mark that reaches it applies that mark after the message is there: a receipt comes after what it
//!   acknowledges was sent, and is applied half of the delay later. The other quarter is for clocks that differ.
//!
//! # What can go wrong
//! The notes are in memory. What a crash or a fail-over takes from them, and what they have no room for, is found by
//! a walk over the unread messages ([`Store::catch_up`]), at start and from time to time; also the messages of the next
//! hours that a receipt covers whose clock is ahead. Counts do not notice any of it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::documents::{Pair, Write};
use super::error::StoreError;
use super::reconcile::Report;
use super::statements::apply_mark;
use super::write::Command;
use super::{Store, collection};

/// Pairs whose marks are looked up and applied at once: more are no cheaper, and hold up others for longer.
const CHUNK: usize = 100;

/// The most pairs that are noted, some 200 bytes each.
const MOST_NOTED: usize = 50_000;

/// The code of a hint that names no index, among others.
const BAD_VALUE: i32 = 2;

/// How long it waits when MongoDB is away.
const PAUSE: Duration = Duration::from_secs(1);

/// The pairs whose messages may be behind their mark.
#[derive(Debug, Default)]
pub struct Behind {
    notes: Mutex<Notes>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    pairs: HashMap<Pair, Note>,
    /// When the first of them was noted.
    since: Option<Instant>,
    /// Those that were taken and are not done, and since when the first of them waits.
    taken: Option<(usize, Instant)>,
    /// Whether some found no room.
    some_are_missing: bool,
    /// Whether all that was stored before this process has been looked over.
    has_caught_up: bool,
}

/// What is known of a pair.
#[derive(Debug, Clone, Copy)]
struct Note {
    /// Its mark, where that was raised.
    read_up_to: Option<i64>,
    /// The oldest message that came, whose mark is not known.
    oldest: Option<i64>,
}

/// What was noted, and is being done.
struct Taken {
    pairs: Vec<(Pair, Note)>,
    /// When the first of them was noted.
    since: Instant,
    /// Whether some found no room.
    some_are_missing: bool,
}

/// How far `state` is behind the read marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Pairs that are still to be looked at.
    pub pairs: usize,
    /// How long the first of them has waited.
    pub oldest: Duration,
    /// Whether all that was stored before this process has been looked over.
    pub has_caught_up: bool,
}

impl Behind {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was committed.
    pub fn add<'w>(&self, writes: impl Iterator<Item = &'w Write>, delay: Duration) {
        let fresh = DateTime::now().timestamp_millis() - delay.as_millis() as i64 / 4;
        let mut notes = self.notes();
        for write in writes {
            match write {
                Write::Message(message) => {
                    if let Some((pair, sent_at)) = &message.counts
                        && sent_at.get() <= fresh
                    {
                        notes.add(pair, None, Some(sent_at.get()));
                    }
                }
                Write::Mark(mark) => {
                    if let Some(pair) = &mark.pair {
                        notes.add(pair, Some(mark.up_to.get()), None);
                    }
                }
                Write::Change(_) | Write::Presence(_) | Write::Event(_) | Write::DeadLetter(_) => {}
            }
        }
        if notes.since.is_some() {
            self.noted.notify_one();
        }
    }

    /// How much there is to do.
    pub fn lag(&self) -> Lag {
        let notes = self.notes();
        let (taken, first_taken) = notes
            .taken
            .map_or((0, None), |(pairs, since)| (pairs, Some(since)));
        Lag {
            pairs: notes.pairs.len() + taken,
            oldest: first_taken
                .or(notes.since)
                .map_or(Duration::ZERO, |since| since.elapsed()),
            has_caught_up: notes.has_caught_up,
        }
    }

    /// Notes that all that is stored has been looked over.
    pub fn caught_up(&self) {
        self.notes().has_caught_up = true;
    }

    /// Waits until something is noted, and says when the first of it was.
    async fn first_note(&self) -> Instant {
        loop {
            if let Some(since) = self.notes().since {
                return since;
            }
            self.noted.notified().await;
        }
    }

    /// Takes all that is noted.
    fn take(&self) -> Taken {
        let mut notes = self.notes();
        // A panic has lost what was taken before.
        notes.some_are_missing |= notes.taken.is_some();
        let pairs: Vec<_> = std::mem::take(&mut notes.pairs).into_iter().collect();
        let since = notes.since.take().unwrap_or_else(Instant::now);
        notes.taken = Some((pairs.len(), since));
        Taken {
            pairs,
            since,
            some_are_missing: std::mem::take(&mut notes.some_are_missing),
        }
    }

    /// Says how many of those that were taken are left.
    fn left(&self, pairs: usize) {
        let mut notes = self.notes();
        notes.taken = match notes.taken {
            Some((_, since)) if pairs > 0 => Some((pairs, since)),
            _ => None,
        };
    }

    /// Puts back what was taken.
    fn put_back(&self, pairs: &[(Pair, Note)], since: Instant, some_are_missing: bool) {
        let mut notes = self.notes();
        for (pair, note) in pairs {
            notes.add(pair, note.read_up_to, note.oldest);
        }
        notes.since = Some(since);
        notes.taken = None;
        notes.some_are_missing |= some_are_missing;
    }
}

impl Notes {
    fn add(&mut self, pair: &Pair, read_up_to: Option<i64>, oldest: Option<i64>) {
        self.since.get_or_insert_with(Instant::now);
        if let Some(note) = self.pairs.get_mut(pair) {
            note.read_up_to = note.read_up_to.max(read_up_to);
            note.oldest = match (note.oldest, oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        } else if self.pairs.len() < MOST_NOTED {
            let note = Note { read_up_to, oldest };
            self.pairs.insert(pair.clone(), note);
        } else {
            self.some_are_missing = true;
        }
    }
}

impl Store {
    /// How far `state` is behind the read marks, of what this instance has committed.
    pub fn lag(&self) -> Lag {
        self.behind.lag()
    }

    /// Applies read marks without end.
    pub async fn keep_applying_marks(&self) {
        let half = self.settings.state_delay / 2;
        loop {
            sleep_until(self.behind.first_note().await + half).await;
            let taken = self.behind.take();
            sleep(half).await;
            if let Err(error) = self.apply_taken(taken, half).await {
                tracing::debug!(%error, "read marks cannot be applied now");
                sleep(PAUSE).await;
            }
        }
    }

    /// Applies the read marks of all pairs that are noted, at once.
    ///
    /// # Errors
    /// When MongoDB is away, or lacks the index `unread_by_peer`. What is left is noted still.
    pub async fn apply_noted_marks(&self) -> Result<(), StoreError> {
        self.apply_taken(self.behind.take(), Duration::ZERO).await
    }

    /// Applies what was taken, evenly `over` a time, so that callbacks hardly notice.
    async fn apply_taken(&self, taken: Taken, over: Duration) -> Result<(), StoreError> {
        let Taken {
            pairs,
            since,
            some_are_missing,
        } = taken;
        let each = over / u32::try_from(pairs.len().div_ceil(CHUNK).max(1)).unwrap_or(u32::MAX);
        let mut turn = Instant::now();
        for (done, some) in (0..).step_by(CHUNK).zip(pairs.chunks(CHUNK)) {
            sleep_until(turn).await;
            turn += each;
            self.give_way(turn).await;
            if let Err(error) = self.apply_some(some).await {
                self.behind
                    .put_back(&pairs[done..], since, some_are_missing);
                return Err(error);
            }
            let left = pairs.len() - done - some.len();
            self.behind.left(left.max(usize::from(some_are_missing)));
        }
        if some_are_missing && let Err(error) = self.catch_up(&mut Report::default()).await {
            self.behind.put_back(&[], since, true);
            return Err(error);
        }
        self.behind.left(0);
        Ok(())
    }

    async fn apply_some(&self, pairs: &[(Pair, Note)]) -> Result<(), StoreError> {
        let with_messages: Vec<&Pair> = pairs
            .iter()
            .filter(|(_, note)| note.oldest.is_some())
            .map(|(pair, _)| pair)
            .collect();
        let marks = self.marks(&with_messages).await?;
        let reached = pairs.iter().filter_map(|(pair, note)| {
            let found = marks.get(pair).copied();
            let late = found.filter(|mark| note.oldest.is_some_and(|oldest| oldest <= *mark));
            Some((pair, note.read_up_to.max(late)?))
        });
        self.apply_marks(reached).await.map(drop)
    }

    /// Applies marks, each to its pair, and says how many messages became read by it.
    pub(super) async fn apply_marks<'p>(
        &self,
        marks: impl Iterator<Item = (&'p Pair, i64)>,
    ) -> Result<u64, StoreError> {
        let statements: Vec<RawDocumentBuf> =
            marks.map(|(pair, mark)| apply_mark(pair, mark)).collect();
        let mut modified = 0;
        for some in statements.chunks(CHUNK) {
            modified += self.write_projection(some).await?;
        }
        Ok(modified)
    }

    /// Runs updates of `state`, and says how many messages they have changed.
    pub(super) async fn write_projection(
        &self,
        updates: &[RawDocumentBuf],
    ) -> Result<u64, StoreError> {
        let all: Vec<&RawDocument> = updates.iter().map(|update| &**update).collect();
        let write = self.write(Command::Update, collection::MESSAGES, &all);
        let written = tokio::time::timeout(super::reconcile::TIMEOUT, write)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::as_of_state)?;
        for error in &written.errors {
            // The index that it names is not there yet.
            if error.code == BAD_VALUE {
                return Err(StoreError::Unavailable(format!("state: {}", error.code)));
            }
            // An analyst's validator or unique index: it must not hold up all others, and no count needs it.
            tracing::error!(code = error.code, "MongoDB refuses to change a `state`");
        }
        Ok(written.modified)
    }

    /// Waits while callbacks are being committed, until this moment at most.
    pub(super) async fn give_way(&self, until: Instant) {
        while self.is_busy() && Instant::now() < until {
            sleep_until(until.min(Instant::now() + Duration::from_millis(2))).await;
        }
    }
}
