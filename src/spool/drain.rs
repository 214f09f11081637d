//! The drain: takes what is in the spool into MongoDB, beside live traffic, as soon as MongoDB is back.

use std::io::ErrorKind;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Damage, Reader, Segment, Spool};
use crate::ingest::group::Limits;
use crate::ingest::{Durable, replay, without_app};
use crate::live::Live;
use crate::store::{Received, Submission, Unavailable};

/// How long the drain waits before it asks MongoDB again.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether MongoDB is known to be away: then callbacks go to the spool without trying it first.
/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Outage(Arc<(AtomicBool, Notify)>);

impl Outage {
    /// Whether it goes on, as far as is known.
    pub fn is_known(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    /// MongoDB did not confirm a commit.
    pub fn begin(&self) {
        if !self.0.0.swap(true, Ordering::Relaxed) {
            tracing::error!("MongoDB does not confirm writes; callbacks go to the spool");
        }
        self.0.1.notify_one();
    }

    fn end(&self) {
        if self.0.0.swap(false, Ordering::Relaxed) {
            tracing::info!("MongoDB confirms writes again");
        }
    }

    async fn begun(&self) {
        self.0.1.notified().await;
    }
}

/// What the drain works with.
pub struct Drain {
    /// Where callbacks come from and go to, and the outage to end.
    pub durable: Durable,
    /// The apps whose rules they are decoded by.
    pub live: Live,
    /// How much goes at once.
    pub limits: Limits,
}

/// The system's number for a disk that fails.
const EIO: i32 = 5;

/// The longest that the drain waits when the disk does not let go of a segment.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why callbacks cannot be stored now, or a segment not be left behind.
enum Halt {
    /// MongoDB is away.
    Outage,
    /// We fail on it ourselves.
    Panic,
    /// The disk refuses.
    Disk,
}

impl Drain {
    /// Drains until it is told to stop. What is left then is drained at the next start.
    pub async fn run(self, stopping: CancellationToken) {
        let whatever_happens = async {
            loop {
                // Without the drain an outage would never end.
                let _panic = AssertUnwindSafe(self.forever()).catch_unwind().await;
                tracing::error!("the drain panicked, and begins anew");
                tokio::time::sleep(LONGEST_PAUSE).await;
            }
        };
        stopping.run_until_cancelled(whatever_happens).await;
    }

    async fn forever(&self) {
        let mut pause = PAUSE;
        loop {
            if self.durable.outage.is_known() {
                if let Err(error) = self.durable.store.probe().await {
                    tracing::debug!(%error, "MongoDB is still away");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                self.durable.outage.end();
            }
            match self.oldest().await {
                Some(segment) => match self.take(&segment).await {
                    Ok(()) => pause = PAUSE,
                    Err(Halt::Outage) => self.durable.outage.begin(),
                    Err(Halt::Disk | Halt::Panic) => {
                        // Not at once again: all of the segment is stored anew each time.
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                },
                None => tokio::select! {
                    () = self.durable.outage.begun() => {}
                    () = self.durable.spool.appended() => {}
                },
            }
        }
    }

    async fn oldest(&self) -> Option<Segment> {
        let spool = self.durable.spool.clone();
        let oldest = tokio::task::spawn_blocking(move || spool.oldest()).await;
        oldest.ok().flatten()
    }

    /// Takes a segment into MongoDB, and then out of the spool.
    async fn take(&self, segment: &Segment) -> Result<(), Halt> {
        let name = segment.name();
        let reader = match self.read(segment).await {
            Ok(reader) => reader,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::error!(segment = name, "a segment of the spool was taken away");
                return self.leave(segment, Spool::forget);
            }
            Err(error) if error.raw_os_error() == Some(EIO) => {
                tracing::error!(segment = name, %error, "the disk lost a segment of the spool");
                return self.leave(segment, Spool::set_aside);
            }
            Err(error) => {
                tracing::error!(segment = name, %error, "a segment of the spool cannot be read now");
                return Err(Halt::Disk);
            }
        };
        let mut callbacks = Vec::new();
        let mut is_whole = true;
        for read in reader {
            match read {
                Ok(received) => callbacks.push(received),
                Err(Damage(Range { start, end })) => {
                    is_whole = false;
                    tracing::error!(
                        segment = name,
                        start,
                        end,
                        "bytes of the spool are no callback"
                    );
                }
            }
        }
        let all = callbacks.len();
        let stored = self.store_all(callbacks).await?;
        tracing::info!(
            segment = name,
            callbacks = stored,
            "a segment of the spool is in MongoDB"
        );
        if is_whole && stored == all {
            return self.leave(segment, Spool::remove);
        }
        let left = all - stored;
        tracing::error!(segment = name, left, "a segment of the spool is set aside");
        self.leave(segment, Spool::set_aside)
    }

    async fn read(&self, segment: &Segment) -> std::io::Result<Reader> {
        let segment = segment.clone();
        let read = tokio::task::spawn_blocking(move || segment.read());
        read.await.unwrap_or_else(|panic| Err(panic.into()))
    }

    fn leave(
        &self,
        segment: &Segment,
        how: impl Fn(&Spool, &Segment) -> std::io::Result<()>,
    ) -> Result<(), Halt> {
        how(&self.durable.spool, segment).map_err(|error| {
            tracing::error!(segment = segment.name(), %error, "the spool cannot be changed now");
            Halt::Disk
        })
    }

    /// Stores callbacks, and says how many. Those that are missing make us panic.
    async fn store_all(&self, callbacks: Vec<Received>) -> Result<usize, Halt> {
        let mut results = stream::iter(self.batches(callbacks))
            .map(|batch| async move { self.store_batch(&batch).await })
            .buffer_unordered(self.limits.commits_in_flight);
        let mut stored = 0;
        while let Some(result) = results.next().await {
            // At an outage what is under way besides is given up, to be done again.
            stored += result?;
        }
        Ok(stored)
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

    /// Stores a batch, by the decoder and the settings of today. What makes us panic is told apart from its
    /// neighbours, for it must neither be lost nor stand in their way.
    async fn store_batch(&self, batch: &[Received]) -> Result<usize, Halt> {
        match self.try_store(batch).await {
            Err(Halt::Panic) => {}
            result => return result.map(|()| batch.len()),
        }
        let mut stored = 0;
        for one in batch {
            match self.try_store(std::slice::from_ref(one)).await {
                Ok(()) => stored += 1,
                Err(Halt::Panic) => {
                    tracing::error!(app = %one.origin.app, "a callback of the spool makes us panic");
                }
                Err(halt) => return Err(halt),
            }
        }
        Ok(stored)
    }

    async fn try_store(&self, batch: &[Received]) -> Result<(), Halt> {
        let store = async {
            let current = self.live.current();
            let submissions: Vec<Submission> = batch
                .iter()
                .map(|received| match current.app(received.origin.app.as_str()) {
                    Some(app) => replay(app, received.clone()),
                    None => without_app(received.clone()),
                })
                .collect();
            let verdicts = self.durable.store.commit(&submissions).await;
            verdicts.into_iter().try_for_each(|v| v.map(drop))
        };
        match AssertUnwindSafe(store).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Unavailable)) => Err(Halt::Outage),
            Err(_panic) => Err(Halt::Panic),
        }
    }
}
