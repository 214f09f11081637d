//! Updates `state` from the read marks, in the background.
//!
//! The read marks decide what is unread, and every count compares messages with them. `state` is a projection of that
//! for analysts, and keeps the unread indexes small. It is written in large commands, spread evenly over time, and
//! each command first gives way to running commits.
//!
//! # Operation
//! - A commit notes the pairs it touched: a receipt's pair with its mark, and a **late** message's pair with its time.
//! - Noted pairs are taken in one go, so that many share a command, when each is at least half of the delay old. Then
//!   the marks of late messages are looked up, and each mark that covers a message is applied by one update statement
//!   with the unread index as its hint. Measured, that costs MongoDB less than finding the messages first and updating
//!   them by `_id`.
//! - A message is late if it is older than a quarter of the delay when it arrives. Other messages need no note: a
//!   receipt is sent after the messages it covers and applied half of the delay later, when they are stored. The
//!   remaining quarter allows for clocks that differ.
//!
//! # What can go wrong
//! The notes are in memory. A crash, a fail-over or a full table loses some. A walk over the unread messages
//! ([`Store::catch_up`]) at start and from time to time finds their messages, and also those that arrive after a
//! receipt from a clock that is ahead. Counts are not affected.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::documents::Write;
use super::error::StoreError;
use super::place::Pair;
use super::reconcile::Report;
use super::statements::apply_mark;
use super::write::WriteCommand;
use super::{Store, collection};

/// Pairs in one command: more are not cheaper, and block other commands for longer.
const CHUNK: usize = 100;

/// The most noted pairs, of about 200 bytes each.
const MOST_NOTED: usize = 50_000;

/// MongoDB's code for a hint that names no index, among others.
const BAD_VALUE: i32 = 2;

/// The pause after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// The pairs whose `state` may lag behind their mark.
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
    /// How many were taken and are not done, and when the first of them was noted.
    taken: Option<(usize, Instant)>,
    /// Whether pairs were lost because the table was full.
    some_are_missing: bool,
    /// Whether the first walk over all unread messages is done.
    has_caught_up: bool,
}

/// What is known of a pair.
#[derive(Debug, Clone, Copy)]
struct Note {
    /// Its mark, if a receipt raised it.
    read_up_to: Option<i64>,
    /// The oldest late message, whose mark must be looked up.
    oldest: Option<i64>,
}

/// Notes that are being applied.
struct Taken {
    pairs: Vec<(Pair, Note)>,
    /// When the first of them was noted.
    since: Instant,
    /// Whether pairs were lost because the table was full.
    some_are_missing: bool,
}

/// How far `state` is behind the read marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Pairs to be updated.
    pub pairs: usize,
    /// How long the first of them has waited.
    pub oldest: Duration,
    /// Whether the first walk over all unread messages is done.
    pub has_caught_up: bool,
}

impl Behind {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the pairs of committed writes.
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

    /// How far `state` lags behind.
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

    /// Records that the first walk is done.
    pub fn caught_up(&self) {
        self.notes().has_caught_up = true;
    }

    /// Waits for a note, and returns when the first was made.
    async fn first_note(&self) -> Instant {
        loop {
            if let Some(since) = self.notes().since {
                return since;
            }
            self.noted.notified().await;
        }
    }

    /// Takes all notes.
    fn take(&self) -> Taken {
        let mut notes = self.notes();
        // Still set: a panic lost the notes that were taken before.
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

    /// Records how many of the taken pairs are left.
    fn left(&self, pairs: usize) {
        let mut notes = self.notes();
        notes.taken = match notes.taken {
            Some((_, since)) if pairs > 0 => Some((pairs, since)),
            _ => None,
        };
    }

    /// Puts taken notes back.
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
    /// How far `state` lags behind the read marks that this instance committed.
    pub fn lag(&self) -> Lag {
        self.behind.lag()
    }

    /// Applies noted read marks, forever.
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

    /// Applies the read marks of all noted pairs now.
    ///
    /// # Errors
    /// When MongoDB is unavailable or lacks the index `unread_by_peer`. Pairs that are left stay noted.
    pub async fn apply_noted_marks(&self) -> Result<(), StoreError> {
        self.apply_taken(self.behind.take(), Duration::ZERO).await
    }

    /// Applies taken notes, spread evenly `over` a time so that commits are hardly slowed down.
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

    /// Applies each mark to its pair, and returns how many messages became read.
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

    /// Runs updates of `state`, and returns how many messages they changed.
    pub(super) async fn write_projection(
        &self,
        updates: &[RawDocumentBuf],
    ) -> Result<u64, StoreError> {
        let all: Vec<&RawDocument> = updates.iter().map(|update| &**update).collect();
        let write = self.write(WriteCommand::Update, collection::MESSAGES, &all);
        let written = tokio::time::timeout(super::reconcile::TIMEOUT, write)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::as_of_state)?;
        for error in &written.errors {
            // The index of the hint does not exist yet.
            if error.code == BAD_VALUE {
                return Err(StoreError::Unavailable(format!("state: {}", error.code)));
            }
            // Perhaps an analyst's validator or unique index. It must not block the others, and counts do not need it.
            tracing::error!(code = error.code, "MongoDB refuses to change a `state`");
        }
        Ok(written.modified)
    }

    /// Waits while commits are running, until this moment at most.
    pub(super) async fn give_way(&self, until: Instant) {
        while self.is_busy() && Instant::now() < until {
            sleep_until(until.min(Instant::now() + Duration::from_millis(2))).await;
        }
    }
}
