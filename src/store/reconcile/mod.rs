//! Finds messages whose `state` disagrees with the read marks and recalls, and repairs them.
//!
//! # Promise
//! What is counted as disagreeing has disagreed for longer than any commit takes; where nothing went
//! wrong that is 0, also beside live traffic. After a run without an error all of it agrees, on a
//! majority, journaled.
//!
//! # Operation
//! - The **unread pass** walks the index `unread_by_peer`, which holds every unread message, and looks
//!   up the mark of each pair. It finds what is unread though its mark says read: that is what a crash
//!   between the steps of a commit leaves. It reads no document where all is well.
//! - The **history pass** walks the messages themselves by `_id`, and finds every disagreement: unread
//!   though read or recalled, and read though neither.
//! - Where the passes have come to is kept in MongoDB (`progress`), so the service takes a slice of each at
//!   a time, and a run that was interrupted goes on.
//! - A message between the two steps of its commit looks wrong for a moment. So what was found is looked
//!   at **again** after a `grace`, and only what is wrong both times, in the same way, is a
//!   disagreement.
//! - The **repair** is by writes of the same kind as a commit's. The filter of each repeats what was found,
//!   so it does nothing where anything has changed since. A message that becomes unread again is
//!   written before its mark is read once more, and settled, as a message that comes in: a receipt at
//!   the same moment is not lost.
//!
//! # Cost
//! Reads of `CHUNK` index entries or documents, one after the other, on one connection; at most
//! `MOST_HELD` findings in memory; no wait where nothing is found. Several instances may do it at once:
//! they share the positions, and what both repair is repaired once.
//!
//! # What can go wrong
//! - A callback whose commit failed may be stored in part while it waits in a spool. It is found and
//!   repaired; its commit then finds it done.
//! - A run may end between the write that makes a message unread again and its settling, or MongoDB may
//!   do that write only after we gave up waiting for it. The next unread pass finds that.

mod findings;
mod progress;
mod timer;

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{Document, doc};
use mongodb::options::Hint;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::Attempt;
use super::documents::Pair;
use super::error::StoreError;
use super::indexes::UNREAD_BY_PEER;
use super::{Store, collection};
use findings::{Finding, Seen, entry};
use progress::Progress;
pub use timer::{Settings, Timer};

/// How many index entries or documents are read at once, and for how many pairs marks are looked up.
const CHUNK: usize = 1000;

/// How many findings are held until they are looked at again.
const MOST_HELD: usize = 10_000;

/// How long one read may take. Longer than a query's time: nobody waits, and a cold disk is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many unread messages are looked at for each of the history: an entry of an index costs that much
/// less than a document.
const UNREAD: usize = 10;

/// What a run looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This many messages of the history and ten times as many unread ones, from where the last
    /// slice ended.
    Slice(usize),
    /// All messages.
    All,
    /// All messages, from where the last run over all of them was interrupted.
    Rest,
    /// All messages, without writing anything.
    DryRun,
}

/// What came of a run, as far as it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages looked at, by index entry or document. An unread one may be looked at by both passes.
    pub looked_at: u64,
    /// Messages whose `state` was wrong.
    pub disagreed: u64,
    /// Those among them that are right now.
    pub repaired: u64,
}

impl Store {
    /// Looks for disagreements and repairs them. The report is kept as it goes, so it also tells what
    /// was done before an error.
    ///
    /// # Errors
    /// When MongoDB is away, or lacks the index `unread_by_peer`.
    pub async fn reconcile(&self, scope: Scope, report: &mut Report) -> Result<(), StoreError> {
        let mut run = Run {
            store: self,
            repairs: scope != Scope::DryRun,
            report,
            held: Vec::new(),
            first_found: Instant::now(),
            last_found: Instant::now(),
        };
        match scope {
            // The history pass finds all, and both passes would find some of it twice.
            Scope::DryRun => run.history(None, usize::MAX).await,
            Scope::Slice(most) => {
                let progress = Progress::shared(self, "unread").await?;
                run.unread(progress, most.saturating_mul(UNREAD)).await?;
                let progress = Progress::shared(self, "history").await?;
                run.history(Some(progress), most).await
            }
            Scope::All | Scope::Rest => {
                let resumes = scope == Scope::Rest;
                let unread = Progress::of_command(self, "unread", resumes).await?;
                let history = Progress::of_command(self, "history", resumes).await?;
                // An interruption in the second pass is no reason to begin the first anew.
                if history.after().is_empty() {
                    run.unread(unread, usize::MAX).await?;
                }
                run.history(Some(history), usize::MAX).await
            }
        }
    }
}

/// Longer than a commit can take, with all that it may still wait for.
fn grace(commit_timeout: Duration) -> Duration {
    commit_timeout * 2 + Duration::from_secs(1)
}

/// A run under way.
struct Run<'r> {
    store: &'r Store,
    repairs: bool,
    report: &'r mut Report,
    /// What looked wrong once.
    held: Vec<Finding>,
    first_found: Instant,
    last_found: Instant,
}

impl Run<'_> {
    /// Looks at unread messages in the index alone, at most so many, from where `progress` has come to. Ends
    /// early where another instance has moved it on.
    async fn unread(&mut self, mut progress: Progress<'_>, most: usize) -> Result<(), StoreError> {
        let mut left = most;
        let mut oldest = HashMap::new();
        for range in ranges_after(progress.after()) {
            let mut walk = self.unread_in(range).await?;
            while let Some(found) = patiently(walk.try_next()).await? {
                self.report.looked_at += 1;
                left = left.saturating_sub(1);
                let Some((pair, sent_at)) = entry(&found) else {
                    continue;
                };
                // A pair's entries stand together and by time, so the first is the oldest, and the
                // others need not be seen.
                if !oldest.contains_key(&pair) {
                    oldest.insert(pair.clone(), sent_at);
                }
                if oldest.len() < CHUNK && left > 0 {
                    continue;
                }
                self.look_at_pairs(mem::take(&mut oldest)).await?;
                if left == 0 || self.is_time_to_look_again() {
                    self.look_again().await?;
                }
                // What is held would be passed over by a run that goes on from here.
                let is_saved = !self.held.is_empty() || progress.save(&position(&pair)).await?;
                if left == 0 || !is_saved {
                    return self.look_again().await;
                }
            }
        }
        self.look_at_pairs(oldest).await?;
        self.look_again().await?;
        progress.save("").await.map(drop)
    }

    async fn unread_in(&self, range: Document) -> Result<Cursor<Document>, StoreError> {
        let keys = doc! { "app": 1, "to": 1, "state": 1, "fromAccount": 1, "msgTimestamp": 1 };
        let mut shown = keys.clone();
        shown.insert("_id", 0);
        let messages = self.messages()?;
        let found = messages
            .find(range)
            .projection(shown)
            .sort(keys)
            .hint(Hint::Name(UNREAD_BY_PEER.to_owned()))
            .batch_size(CHUNK as u32);
        patiently(async { found.await }).await
    }

    /// Holds the messages of those pairs whose oldest unread one is at or under the mark.
    async fn look_at_pairs(&mut self, oldest: HashMap<Pair, i64>) -> Result<(), StoreError> {
        let marks = self.marks(oldest.keys()).await?;
        for (pair, mark) in marks {
            if oldest.get(&pair).is_some_and(|sent_at| *sent_at <= mark) {
                self.look_at_pair(&pair, mark).await?;
            }
        }
        Ok(())
    }

    async fn look_at_pair(&mut self, pair: &Pair, mark: i64) -> Result<(), StoreError> {
        let unread = doc! {
            "app": &pair.app,
            "to": &pair.reader,
            "state": 0,
            "fromAccount": &pair.peer,
            "msgTimestamp": { "$lte": mark },
        };
        let messages = self.messages()?;
        let unread = messages
            .find(unread)
            .projection(Seen::projection())
            .hint(Hint::Name(UNREAD_BY_PEER.to_owned()))
            .batch_size(CHUNK as u32);
        let mut unread = patiently(async { unread.await }).await?;
        while let Some(message) = patiently(unread.try_next()).await? {
            let finding = Seen::of(&message).and_then(|seen| seen.judge(Some(mark)));
            self.hold(finding);
            if self.held.len() >= MOST_HELD {
                self.look_again().await?;
            }
        }
        Ok(())
    }

    /// Looks at messages by `_id`, at most so many, from where `progress` has come to. Ends early where
    /// another instance has moved it on.
    async fn history(
        &mut self,
        mut progress: Option<Progress<'_>>,
        most: usize,
    ) -> Result<(), StoreError> {
        let mut after = progress.as_ref().map_or("", Progress::after).to_owned();
        let mut left = most;
        while left > 0 {
            let wanted = CHUNK.min(left);
            let chunk = self.messages_after(&after, wanted).await?;
            left -= chunk.len();
            let is_last = chunk.len() < wanted;
            after = match chunk.last().map(|message| message.get_str("_id")) {
                Some(Ok(id)) if !is_last => id.to_owned(),
                // The next pass begins at the start.
                _ => String::new(),
            };
            self.look_at(&chunk).await?;
            if is_last || left == 0 || self.is_time_to_look_again() {
                self.look_again().await?;
            }
            // What is held would be passed over by a run that goes on from here.
            if let Some(progress) = &mut progress
                && self.held.is_empty()
                && !progress.save(&after).await?
            {
                return Ok(());
            }
            if is_last {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn messages_after(&self, id: &str, most: usize) -> Result<Vec<Document>, StoreError> {
        let messages = self.messages()?;
        let chunk = messages
            .find(doc! { "_id": { "$gt": id } })
            .sort(doc! { "_id": 1 })
            .limit(most as i64)
            .projection(Seen::projection());
        patiently(async { chunk.await?.try_collect().await }).await
    }

    async fn look_at(&mut self, messages: &[Document]) -> Result<(), StoreError> {
        self.report.looked_at += messages.len() as u64;
        for finding in self.judge(messages).await? {
            self.hold(Some(finding));
        }
        Ok(())
    }

    /// Those of some messages whose `state` is wrong. Marks are read after messages: a mark that is
    /// older than the `state` made by it would call a read message unread.
    async fn judge(&self, messages: &[Document]) -> Result<Vec<Finding>, StoreError> {
        let seen: Vec<_> = messages.iter().filter_map(Seen::of).collect();
        let pairs: HashMap<_, ()> = seen.iter().map(|seen| (&seen.pair, ())).collect();
        let marks = self.marks(pairs.into_keys()).await?;
        let judged = seen.into_iter().filter_map(|seen| {
            let mark = marks.get(&seen.pair).copied();
            seen.judge(mark)
        });
        Ok(judged.collect())
    }

    fn hold(&mut self, finding: Option<Finding>) {
        let Some(finding) = finding else { return };
        self.last_found = Instant::now();
        if self.held.is_empty() {
            self.first_found = self.last_found;
        }
        self.held.push(finding);
    }

    /// Whether there is much to look at again, or some of it need not be waited for.
    fn is_time_to_look_again(&self) -> bool {
        let some_are_ripe = !self.held.is_empty() && self.first_found.elapsed() >= self.grace();
        some_are_ripe || self.held.len() >= MOST_HELD
    }

    /// Looks at what is held once more, when all of it is older than any commit, and repairs what is
    /// still wrong.
    async fn look_again(&mut self) -> Result<(), StoreError> {
        if self.held.is_empty() {
            return Ok(());
        }
        sleep_until(self.last_found + self.grace()).await;
        let held = mem::take(&mut self.held);
        for some in held.chunks(CHUNK) {
            let states: HashMap<_, _> = some.iter().map(|f| (&*f.seen.id, f.seen.state)).collect();
            let ids: Vec<_> = states.keys().copied().collect();
            let messages = self.messages()?;
            let again = messages
                .find(doc! { "_id": { "$in": ids } })
                .projection(Seen::projection());
            let again: Vec<_> = patiently(async { again.await?.try_collect().await }).await?;
            let mut wrong = self.judge(&again).await?;
            wrong.retain(|finding| states.get(&*finding.seen.id) == Some(&finding.seen.state));
            self.report.disagreed += wrong.len() as u64;
            if self.repairs && !wrong.is_empty() {
                self.repair(&wrong).await?;
                self.report.repaired += wrong.len() as u64;
            }
        }
        Ok(())
    }

    /// Repairs messages. As a commit, it is attempted again where MongoDB is at fault.
    async fn repair(&self, wrong: &[Finding]) -> Result<(), StoreError> {
        let statements: Vec<_> = wrong.iter().map(Finding::repair).collect();
        // Messages that are unread again are settled, whatever their time.
        let unread = wrong.iter().filter(|finding| finding.makes_unread());
        let pairs: HashMap<_, _> = unread.map(|f| (&f.seen.pair, i64::MIN)).collect();
        let mut last = StoreError::TimedOut;
        for _ in 0..3 {
            let attempt = Attempt::new(self.store);
            match timeout(PATIENCE, attempt.repair(&statements, &pairs)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = StoreError::TimedOut,
            }
            tracing::debug!(error = %last, "a repair is tried again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(last)
    }

    async fn marks(
        &self,
        pairs: impl ExactSizeIterator<Item = &Pair>,
    ) -> Result<HashMap<Pair, i64>, StoreError> {
        let attempt = Attempt::new(self.store);
        timeout(PATIENCE, attempt.marks(pairs))
            .await
            .map_err(|_| StoreError::TimedOut)?
    }

    fn messages(&self) -> Result<mongodb::Collection<Document>, StoreError> {
        Ok(self.store.database()?.collection(collection::MESSAGES))
    }

    fn grace(&self) -> Duration {
        grace(self.store.settings.commit_timeout)
    }
}

/// A pair's position in the index, as text.
fn position(pair: &Pair) -> String {
    json!([pair.app, pair.reader, pair.peer]).to_string()
}

/// The parts of the index after a position, in order. The empty position is the start. Each part names its
/// first keys: else MongoDB reads documents for `state`.
fn ranges_after(position: &str) -> Vec<Document> {
    match serde_json::from_str::<[String; 3]>(position) {
        Ok([app, to, peer]) => vec![
            doc! { "app": &app, "to": &to, "state": 0, "fromAccount": { "$gt": peer } },
            doc! { "app": &app, "to": { "$gt": to }, "state": 0 },
            doc! { "app": { "$gt": app }, "to": { "$gte": "" }, "state": 0 },
        ],
        Err(_) => vec![doc! { "app": { "$gt": "" }, "to": { "$gte": "" }, "state": 0 }],
    }
}

/// Waits for a read, but not for ever.
async fn patiently<T>(
    read: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, StoreError> {
    timeout(PATIENCE, read)
        .await
        .map_err(|_| StoreError::TimedOut)?
        .map_err(|error| StoreError::from(error).as_of_state())
}
