//! The drain: takes what is in the spool into MongoDB, beside live traffic, as soon as MongoDB is back.

use std::io::ErrorKind;
use std::ops::ControlFlow;
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

/// Callbacks of a segment that cannot be stored now.
enum Halt {
    /// MongoDB is away.
    Outage,
    /// We fail on it ourselves.
    Panic,
}

impl Drain {
    /// Drains until it is told to stop. What is left then is drained at the next start.
    pub async fn run(self, stopping: CancellationToken) {
        stopping.run_until_cancelled(self.forever()).await;
    }

    async fn forever(self) {
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
                Some(segment) => {
                    if self.take(&segment).await.is_break() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
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

    /// Takes a segment into MongoDB, and then out of the spool. Breaks when it has to be tried again.
    async fn take(&self, segment: &Segment) -> ControlFlow<()> {
        let name = segment.name();
        let reader = match self.read(segment).await {
            Ok(reader) => reader,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::error!(segment = name, "a segment of the spool was taken away");
                return self.settle(segment, Spool::forget);
            }
            Err(error) => {
                tracing::error!(segment = name, %error, "a segment of the spool cannot be read");
                return self.settle(segment, Spool::set_aside);
            }
        };
        let mut damage = Vec::new();
        let mut callbacks = Vec::new();
        for read in reader {
            match read {
                Ok(received) => callbacks.push(received),
                Err(found) => damage.push(found),
            }
        }
        let mut taken = 0;
        let mut left = 0;
        let mut halted = false;
        let batches = self.batches(callbacks);
        let mut stored = stream::iter(batches)
            .map(|batch| async move { (batch.len(), self.store_batch(&batch).await) })
            .buffer_unordered(self.limits.commits_in_flight);
        while let Some((callbacks, result)) = stored.next().await {
            match result {
                Ok(()) => taken += callbacks,
                // What is under way besides is given up, to be done again.
                Err(Halt::Outage) => {
                    halted = true;
                    break;
                }
                Err(Halt::Panic) => left += callbacks,
            }
        }
        drop(stored);
        if halted {
            self.durable.outage.begin();
            return ControlFlow::Break(());
        }
        tracing::info!(
            segment = name,
            callbacks = taken,
            "a segment of the spool is in MongoDB"
        );
        if damage.is_empty() && left == 0 {
            return self.settle(segment, Spool::remove);
        }
        for Damage(bytes) in damage {
            let (from, to) = (bytes.start, bytes.end);
            tracing::error!(
                segment = name,
                from,
                to,
                "bytes of the spool are no callback"
            );
        }
        tracing::error!(
            segment = name,
            callbacks = left,
            "a segment of the spool is set aside"
        );
        self.settle(segment, Spool::set_aside)
    }

    async fn read(&self, segment: &Segment) -> std::io::Result<Reader> {
        let segment = segment.clone();
        let read = tokio::task::spawn_blocking(move || segment.read());
        read.await.unwrap_or_else(|panic| Err(panic.into()))
    }

    fn settle(
        &self,
        segment: &Segment,
        how: impl Fn(&Spool, &Segment) -> std::io::Result<()>,
    ) -> ControlFlow<()> {
        match how(&self.durable.spool, segment) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::error!(segment = segment.name(), %error, "the spool cannot be changed");
                ControlFlow::Break(())
            }
        }
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
    async fn store_batch(&self, batch: &[Received]) -> Result<(), Halt> {
        match (self.try_store(batch).await, batch) {
            (Err(Halt::Panic), [_, _, ..]) => {
                let mut all = Ok(());
                for one in batch {
                    match self.try_store(std::slice::from_ref(one)).await {
                        Ok(()) => {}
                        Err(Halt::Outage) => return Err(Halt::Outage),
                        Err(Halt::Panic) => all = Err(Halt::Panic),
                    }
                }
                all
            }
            (result, _) => result,
        }
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
