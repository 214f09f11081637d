//! The drain: moves the spool's callbacks to MongoDB, beside live traffic, as soon as MongoDB is available again.
//!
//! # Promise
//! A segment is deleted when each of its callbacks is durable in MongoDB, or is quarantined. No callback blocks the
//! others permanently, whatever is wrong with it.
//!
//! # What can go wrong
//! - MongoDB is unavailable: a probe shows that it confirms no write at all. The drain waits until the outage is
//!   over, and starts the segment again.
//! - MongoDB confirms other writes but not these, or storing them panics. Then the batch is halved until the callback
//!   at fault is alone. If it still cannot be stored it becomes a dead letter, and if that fails, too, or panics, the
//!   callback is quarantined.
//! - Bytes of the segment are damaged, or the disk cannot read them: they are quarantined.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::dead_letters::DeadLetterLines;
use super::group::Limits;
use super::{App, Outage, replay, without_app};
use crate::callback::Received;
use crate::callback::ids::AppName;
use crate::metrics::Metrics;
use crate::spool::{self, Segment, Spool};
use crate::store::documents::STORE_REFUSED;
use crate::store::{Durability, Store, Submission};

/// How long the drain waits if a segment cannot be deleted: at first, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often a callback is tried alone before it is considered to be at fault.
const TRIES_ALONE: usize = 3;

/// The timeout for writing its dead letter.
const DEAD_LETTER: Duration = Duration::from_secs(10);

/// Finds an app by its name.
pub type AppLookup = Box<dyn Fn(&AppName) -> Option<Arc<App>> + Send + Sync>;

/// The parts that the drain uses.
pub struct Drain {
    /// The source of callbacks.
    pub spool: Spool,
    /// The destination.
    pub store: Store,
    /// Whether MongoDB is unavailable.
    pub outage: Outage,
    /// Finds an app with its current configuration.
    pub app: AppLookup,
    /// The limits of a batch.
    pub limits: Limits,
    /// What is drained is counted.
    pub metrics: Arc<Metrics>,
    /// Logs new dead letters.
    pub dead_letter_lines: Arc<DeadLetterLines>,
}

/// Why a segment cannot be drained now.
enum Halt {
    /// MongoDB is unavailable.
    Outage,
    /// The disk reports an error.
    Disk,
}

/// Why a batch is not stored.
enum Fault {
    /// MongoDB did not confirm it.
    Unconfirmed,
    /// Storing it panicked.
    Panic,
}

/// The contents of a segment.
struct Contents {
    callbacks: Vec<Received>,
    /// Bytes that are not a callback.
    damage: Vec<Bytes>,
    /// Whether the disk returned all of it.
    is_readable: bool,
}

impl Drain {
    /// Drains forever. Callbacks that are left when this future is dropped are drained at the next start.
    pub async fn run(&self) {
        let mut pause = PAUSE;
        loop {
            self.outage.until(false).await;
            match self.oldest().await {
                Some(segment) => match self.take(&segment).await {
                    Ok(()) => pause = PAUSE,
                    Err(Halt::Outage) => self.outage.begin(),
                    Err(Halt::Disk) => {
                        // Waits, because each try stores the whole segment again.
                        sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                },
                None => self.spool.appended().await,
            }
        }
    }

    async fn oldest(&self) -> Option<Segment> {
        let spool = self.spool.clone();
        let oldest = tokio::task::spawn_blocking(move || spool.oldest()).await;
        oldest.ok().flatten()
    }

    /// Stores a segment in MongoDB, then deletes it.
    async fn take(&self, segment: &Segment) -> Result<(), Halt> {
        let name = segment.name();
        let reading = segment.clone();
        let read = tokio::task::spawn_blocking(move || contents(&reading)).await;
        let contents = match read.unwrap_or_else(|panic| Err(panic.into())) {
            Ok(contents) => contents,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::error!(segment = name, "a segment of the spool has disappeared");
                self.spool.forget(segment);
                return Ok(());
            }
            Err(error) => {
                tracing::error!(segment = name, %error, "a segment of the spool cannot be read now");
                return Err(Halt::Disk);
            }
        };
        let callbacks = contents.callbacks.len();
        let left = self.store_all(contents.callbacks).await?;
        let callbacks = callbacks - left.len();
        self.metrics.spool_drained.inc_by(callbacks as u64);
        tracing::info!(
            segment = name,
            callbacks,
            "a segment of the spool was stored in MongoDB"
        );
        let mut quarantined = contents.damage.concat();
        for received in &left {
            spool::write(received, segment.salt(), &mut quarantined);
        }
        self.leave(segment, &quarantined, contents.is_readable)
    }

    /// Deletes a segment that is stored, and quarantines the rest of it.
    fn leave(&self, segment: &Segment, quarantined: &[u8], is_readable: bool) -> Result<(), Halt> {
        let spool = &self.spool;
        // A hanging disk must not block commits.
        let left = tokio::task::block_in_place(|| match (is_readable, quarantined) {
            (true, []) => spool.remove(segment),
            (true, quarantined) => spool.quarantine(segment, quarantined),
            (false, _) => spool.quarantine_whole(segment),
        });
        let name = segment.name();
        left.map_err(|error| {
            tracing::error!(segment = name, %error, "the spool cannot be changed now");
            Halt::Disk
        })?;
        if !quarantined.is_empty() {
            let bytes = quarantined.len();
            tracing::error!(segment = name, bytes, "a part of the spool is quarantined");
        }
        Ok(())
    }

    /// Stores callbacks, and returns those that cannot be stored.
    async fn store_all(&self, callbacks: Vec<Received>) -> Result<Vec<Received>, Halt> {
        let mut results = stream::iter(self.batches(callbacks))
            .map(|batch| async move { self.store_batch(&batch).await })
            .buffer_unordered(self.limits.commits_in_flight);
        let mut left = Vec::new();
        while let Some(result) = results.next().await {
            // In an outage the running batches are abandoned; they will be repeated.
            left.extend(result?);
        }
        Ok(left)
    }

    /// Splits callbacks into batches of the same size as live ones.
    fn batches(&self, callbacks: Vec<Received>) -> Vec<Vec<Received>> {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for received in callbacks {
            bytes += received.bytes();
            batch.push(received);
            if batch.len() >= self.limits.batch_callbacks || bytes >= self.limits.batch_bytes {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }

    /// Stores a batch, and returns the callbacks that cannot be stored. Halves the batch to find them.
    async fn store_batch(&self, batch: &[Received]) -> Result<Vec<Received>, Halt> {
        if let [alone] = batch {
            return self.store_alone(alone).await;
        }
        match self.try_store(batch).await {
            Ok(()) => return Ok(Vec::new()),
            Err(Fault::Unconfirmed) => self.ask_for_outage().await?,
            Err(Fault::Panic) => {}
        }
        tracing::warn!(
            callbacks = batch.len(),
            "a batch of the spool is halved to find the callback at fault"
        );
        let (first, second) = batch.split_at(batch.len() / 2);
        let mut left = Box::pin(self.store_batch(first)).await?;
        left.extend(Box::pin(self.store_batch(second)).await?);
        Ok(left)
    }

    async fn store_alone(&self, received: &Received) -> Result<Vec<Received>, Halt> {
        let app = &received.origin.app;
        for _ in 0..TRIES_ALONE {
            match self.try_store(std::slice::from_ref(received)).await {
                Ok(()) => return Ok(Vec::new()),
                Err(Fault::Unconfirmed) => self.ask_for_outage().await?,
                Err(Fault::Panic) => {
                    tracing::error!(%app, "storing a callback of the spool panicked");
                    return Ok(vec![received.clone()]);
                }
            }
        }
        let why = "MongoDB does not confirm it, but confirms other writes".to_owned();
        let refused = [(received, why)];
        let written = self
            .store
            .write_dead_letters(&refused, Instant::now() + DEAD_LETTER);
        if written.await.is_ok() {
            self.store.count_dead_letter(received, STORE_REFUSED);
            return Ok(Vec::new());
        }
        self.ask_for_outage().await?;
        tracing::error!(%app, "MongoDB refuses a callback of the spool, and also its dead letter");
        Ok(vec![received.clone()])
    }

    /// Checks whether MongoDB is at fault.
    async fn ask_for_outage(&self) -> Result<(), Halt> {
        self.store.probe().await.map_err(|_| Halt::Outage)
    }

    async fn try_store(&self, batch: &[Received]) -> Result<(), Fault> {
        let store = async {
            let submissions: Vec<Submission> = batch
                .iter()
                .map(|received| match (self.app)(&received.origin.app) {
                    Some(app) => replay(&app, received.clone()),
                    None => without_app(received.clone()),
                })
                .collect();
            let verdicts = self.store.commit(&submissions).await;
            for (submission, verdict) in submissions.iter().zip(&verdicts) {
                if let (Ok(Durability::Stored), Some(stored)) = (verdict, submission.dead_letter())
                {
                    let app = &submission.received.origin.app;
                    self.dead_letter_lines.log(app, &stored);
                }
            }
            verdicts.into_iter().try_for_each(|v| v.map(drop))
        };
        match AssertUnwindSafe(store).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_not_stored)) => Err(Fault::Unconfirmed),
            Err(_panic) => Err(Fault::Panic),
        }
    }
}

/// Reads a segment, and reports damage. Blocks on the disk.
fn contents(segment: &Segment) -> std::io::Result<Contents> {
    let (mut reader, is_readable) = segment.read()?;
    let mut contents = Contents {
        callbacks: Vec::new(),
        damage: Vec::new(),
        is_readable,
    };
    while let Some(read) = reader.next() {
        match read {
            Ok(received) => contents.callbacks.push(received),
            Err(damage) => {
                let (segment, range) = (segment.name(), &damage.0);
                let (start, end) = (range.start, range.end);
                tracing::error!(segment, start, end, "bytes of the spool are no callback");
                contents.damage.push(reader.damaged(&damage));
            }
        }
    }
    Ok(contents)
}
