//! The drain: takes what is in the spool into MongoDB, beside live traffic, as soon as MongoDB is back.
//!
//! # Promise
//! A segment leaves the spool when each of its callbacks is durable in MongoDB, or is set aside. No callback
//! stands in the way of the others for good, whatever is wrong with it.
//!
//! # What can go wrong
//! - MongoDB is away: asked whether it confirms any write, it does not. The drain waits until the outage is over, and
//!   takes the segment anew.
//! - MongoDB confirms other writes and not these, or we panic at them. Then the batch is halved until the
//!   callback at fault stands alone. If that is still not stored it becomes a dead letter, and if MongoDB
//!   does not take this either, or we panic, it is set aside.
//! - Bytes of the segment are damaged, or the disk cannot read them: they are set aside.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::group::Limits;
use super::{Outage, replay, without_app};
use crate::live::Live;
use crate::spool::{self, Segment, Spool};
use crate::store::{Received, Store, Submission};

/// How long the drain waits when the disk does not let go of a segment, at first and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often a callback that stands alone is tried before it is taken to be at fault.
const TRIES_ALONE: usize = 3;

/// How long it may take to make a dead letter of it.
const DEAD_LETTER: Duration = Duration::from_secs(10);

/// What the drain works with.
pub struct Drain {
    /// Where callbacks come from.
    pub spool: Spool,
    /// Where they go.
    pub store: Store,
    /// Whether that is away.
    pub outage: Outage,
    /// The apps whose rules they are decoded by.
    pub live: Live,
    /// How much goes at once.
    pub limits: Limits,
}

/// Why a segment cannot be taken now.
enum Halt {
    /// MongoDB is away.
    Outage,
    /// The disk refuses.
    Disk,
}

/// Why a batch is not stored.
enum Fault {
    /// MongoDB did not confirm it.
    Unconfirmed,
    /// We panicked at it.
    Panic,
}

/// A segment, read.
struct Contents {
    callbacks: Vec<Received>,
    /// What is no callback.
    damage: Vec<Bytes>,
    /// Whether the disk gave all of it.
    is_readable: bool,
}

impl Drain {
    /// Drains without end. What is left when that is dropped is drained at the next start.
    pub async fn run(&self) {
        let mut pause = PAUSE;
        loop {
            self.outage.until(false).await;
            match self.oldest().await {
                Some(segment) => match self.take(&segment).await {
                    Ok(()) => pause = PAUSE,
                    Err(Halt::Outage) => self.outage.begin(),
                    Err(Halt::Disk) => {
                        // Not at once again: all of the segment is stored anew each time.
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

    /// Takes a segment into MongoDB, and then out of the spool.
    async fn take(&self, segment: &Segment) -> Result<(), Halt> {
        let name = segment.name();
        let reading = segment.clone();
        let read = tokio::task::spawn_blocking(move || contents(&reading)).await;
        let contents = match read.unwrap_or_else(|panic| Err(panic.into())) {
            Ok(contents) => contents,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::error!(segment = name, "a segment of the spool was taken away");
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
        tracing::info!(
            segment = name,
            callbacks = callbacks - left.len(),
            "a segment of the spool is in MongoDB"
        );
        let mut aside = contents.damage.concat();
        for received in &left {
            spool::write(received, segment.salt(), &mut aside);
        }
        self.leave(segment, &aside, contents.is_readable)
    }

    /// Ends with a segment of which all is stored but what is to be set aside.
    fn leave(&self, segment: &Segment, aside: &[u8], is_readable: bool) -> Result<(), Halt> {
        let spool = &self.spool;
        // A disk that hangs must not hold up commits.
        let left = tokio::task::block_in_place(|| match (is_readable, aside) {
            (true, []) => spool.remove(segment),
            (true, aside) => spool.quarantine(segment, aside),
            (false, _) => spool.quarantine_whole(segment),
        });
        let name = segment.name();
        left.map_err(|error| {
            tracing::error!(segment = name, %error, "the spool cannot be changed now");
            Halt::Disk
        })?;
        if !aside.is_empty() {
            let bytes = aside.len();
            tracing::error!(segment = name, bytes, "a part of the spool is quarantined");
        }
        Ok(())
    }

    /// Stores callbacks, and returns those that cannot be.
    async fn store_all(&self, callbacks: Vec<Received>) -> Result<Vec<Received>, Halt> {
        let mut results = stream::iter(self.batches(callbacks))
            .map(|batch| async move { self.store_batch(&batch).await })
            .buffer_unordered(self.limits.commits_in_flight);
        let mut left = Vec::new();
        while let Some(result) = results.next().await {
            // At an outage what is under way besides is given up, to be done again.
            left.extend(result?);
        }
        Ok(left)
    }

    /// Splits callbacks into batches as large as live ones.
    fn batches(&self, callbacks: Vec<Received>) -> Vec<Vec<Received>> {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for received in callbacks {
            bytes += received.body.len();
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

    /// Stores a batch, and returns what of it cannot be: it is told apart from its neighbours by halving.
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
            "a batch of the spool is halved to find what is wrong with it"
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
                    tracing::error!(%app, "a callback of the spool makes us panic");
                    return Ok(vec![received.clone()]);
                }
            }
        }
        let why = "it is not confirmed, while other writes are".to_owned();
        let refused = [(received, why)];
        let written = self
            .store
            .write_dead_letters(&refused, Instant::now() + DEAD_LETTER);
        if written.await.is_ok() {
            return Ok(Vec::new());
        }
        self.ask_for_outage().await?;
        tracing::error!(%app, "MongoDB refuses a callback of the spool even as a dead letter");
        Ok(vec![received.clone()])
    }

    /// Whether it is MongoDB that is at fault.
    async fn ask_for_outage(&self) -> Result<(), Halt> {
        self.store.probe().await.map_err(|_| Halt::Outage)
    }

    async fn try_store(&self, batch: &[Received]) -> Result<(), Fault> {
        let store = async {
            let current = self.live.current();
            let submissions: Vec<Submission> = batch
                .iter()
                .map(|received| match current.app(received.origin.app.as_str()) {
                    Some(app) => replay(app, received.clone()),
                    None => without_app(received.clone()),
                })
                .collect();
            let verdicts = self.store.commit(&submissions).await;
            verdicts.into_iter().try_for_each(|v| v.map(drop))
        };
        match AssertUnwindSafe(store).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_not_stored)) => Err(Fault::Unconfirmed),
            Err(_panic) => Err(Fault::Panic),
        }
    }
}

/// Reads a segment, and reports its damage. Blocks on the disk.
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
