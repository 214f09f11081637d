//! Reads the changes of those who are asked about.

use std::hash::Hash;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Following, Shared};
use crate::store::changes::{Change, Changes, ChangesError, ChangesPosition, NextChange};

/// The least time between two openings of the change stream, so that many new subscribers share one.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// How much longer than the opening took that time is: with ten thousand ids MongoDB works for it.
const PAUSE_PER_OPENING: u32 = 10;

/// The most of it: who comes meanwhile is not told of changes.
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// How long until the change stream is opened again after it failed, and where only a person can change that.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_FOR_PEOPLE: Duration = Duration::from_secs(2);

/// How long the change stream stays open after the last subscriber, since pages are reloaded.
const LINGER: Duration = Duration::from_secs(5);

/// The most messages in one look-up.
const LOOKED_UP: usize = 500;

/// Why reading a change stream ended.
enum ReadEnd {
    /// Others are to be watched, or nobody.
    Asked(Option<ChangesPosition>),
    /// Changes were missed.
    Lost,
    /// It failed. Subscribers are told that their counts are stale, and all are counted anew.
    Failed(ChangesError),
}

impl<Q: Eq + Hash + Send + Sync + 'static> Shared<Q> {
    /// Reads changes while there are subscribers.
    pub(super) async fn follow(&self) {
        // After a panic nothing is followed, whatever was noted before.
        self.questions.watch_ended();
        self.following.send_replace(Following::No);
        loop {
            self.questions.until_asked().await;
            self.follow_while_asked().await;
            self.questions.watch_ended();
            self.following.send_replace(Following::No);
        }
    }

    async fn follow_while_asked(&self) {
        let mut position = None;
        while !self.questions.is_empty() {
            let (watched, below) = self.questions.to_watch();
            let began = Instant::now();
            // A position is of a stream that was read until now. After an interruption MongoDB would search its oplog
            // for an older one, each time for longer than it may, and no stream would ever be opened again.
            let opened = self.store.watch_changes(&watched, position.take()).await;
            self.metrics.change_streams_opened.inc();
            let read = match opened {
                Ok(changes) => {
                    self.questions.watched(watched, below);
                    self.following.send_replace(Following::Yes);
                    let pause = began.elapsed() * PAUSE_PER_OPENING;
                    let pause = pause.clamp(LEAST_PAUSE, MOST_PAUSE);
                    self.read(changes, pause).await
                }
                Err(ChangesError::PositionLost) => ReadEnd::Lost,
                Err(error) => ReadEnd::Failed(error),
            };
            match read {
                ReadEnd::Asked(at) => position = at,
                ReadEnd::Lost => {
                    tracing::warn!("changes may have been missed; all live counts are read anew");
                    sleep(RETRY).await;
                }
                ReadEnd::Failed(error) => self.failed(error).await,
            }
            if position.is_none() {
                self.questions.watch_ended();
            }
        }
    }

    /// Tells subscribers that their counts are stale, and waits.
    async fn failed(&self, error: ChangesError) {
        let is_new = *self.following.borrow() != Following::Failed(error.clone());
        if is_new {
            tracing::warn!(%error, "changes cannot be read; live counts are stale");
        }
        let pause = if error.is_lasting() {
            RETRY_FOR_PEOPLE
        } else {
            RETRY
        };
        self.following.send_replace(Following::Failed(error));
        self.questions
            .all()
            .iter()
            .for_each(|asked| asked.tell_stale());
        sleep(pause).await;
    }

    /// Makes due what changes, until others are to be watched.
    async fn read(&self, mut changes: Changes, pause: Duration) -> ReadEnd {
        let opened = Instant::now();
        let mut nobody_since = None;
        loop {
            match changes.next().await {
                Ok(NextChange::Change(Change::Of(party))) => self.questions.make_due(&party),
                Ok(NextChange::Change(Change::OfMessage(id))) => {
                    if self.look_ups.try_send(id).is_err() {
                        self.make_all_due();
                    }
                }
                Ok(NextChange::Quiet) => {}
                Ok(NextChange::Ended) | Err(ChangesError::PositionLost) => return ReadEnd::Lost,
                Err(error) => return ReadEnd::Failed(error),
            }
            if self.questions.is_empty() {
                if nobody_since.get_or_insert_with(Instant::now).elapsed() > LINGER {
                    return ReadEnd::Asked(None);
                }
            } else {
                nobody_since = None;
                if opened.elapsed() >= pause && self.questions.has_uncovered() {
                    return ReadEnd::Asked(changes.position());
                }
            }
        }
    }

    fn make_all_due(&self) {
        self.questions
            .all()
            .iter()
            .for_each(|asked| asked.make_due());
    }

    /// Looks up whom recalled messages were sent to. Those that come meanwhile are looked up together.
    pub(super) async fn look_up_receivers(&self) {
        let mut to_look_up = self.to_look_up.lock().await;
        let mut messages = Vec::new();
        loop {
            messages.clear();
            if to_look_up.recv_many(&mut messages, LOOKED_UP).await == 0 {
                return;
            }
            match self.store.receivers_of(&messages).await {
                Ok(parties) => parties
                    .iter()
                    .for_each(|party| self.questions.make_due(party)),
                // Whoever received them is among all.
                Err(_) => self.make_all_due(),
            }
        }
    }
}
