//! Group commit: callbacks in flight share commits.
//!
//! A few committers serve one bounded queue. Each takes what waits there, commits it as one batch, and sends each
//! callback its verdict. While no commit is running, a callback is committed at once. While one is running, a batch
//! lingers for a moment: otherwise the first few callbacks after a large batch would become a small batch, which
//! costs MongoDB almost as much.
//!
//! Limits: waiting callbacks; bytes of callbacks that wait or are being committed; callbacks and bytes in one batch.
//! A callback beyond one of the first two is refused at once, and goes to the spool.
//!
//! The spool has a group of its own, so that callbacks also share its fsyncs.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

/// The limits of a group.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Commits running at once.
    pub commits_in_flight: usize,
    /// Callbacks in one commit.
    pub batch_callbacks: usize,
    /// Bytes of callbacks in one commit. The last callback of a batch may exceed it.
    pub batch_bytes: usize,
    /// Waiting callbacks.
    pub callbacks_in_flight: usize,
    /// Bytes of callbacks that wait or are being committed.
    pub bytes_in_flight: usize,
    /// How long a batch waits for more callbacks while another commit is running.
    pub linger: Duration,
}

/// What waits in a queue, and how much may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueStatus {
    /// What its callbacks wait for.
    pub name: &'static str,
    /// Callbacks that wait for a batch.
    pub callbacks: usize,
    /// Bytes of callbacks that wait or are being committed.
    pub bytes: usize,
    /// The most bytes.
    pub limit_bytes: usize,
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoVerdict {
    /// A limit of callbacks or bytes in flight is reached.
    Full,
    /// The commit panicked.
    Panicked,
}

struct Waiting<T, V> {
    item: T,
    bytes: usize,
    /// Held until the commit ends, even if nobody waits for the verdict any more.
    reserved: OwnedSemaphorePermit,
    verdict: oneshot::Sender<V>,
}

/// Shared by the committers.
struct Line<T, V> {
    queue: Mutex<Queue<T, V>>,
    /// Running commits.
    committing: AtomicUsize,
    limits: Limits,
}

struct Queue<T, V> {
    received: mpsc::Receiver<Waiting<T, V>>,
    /// Received, but not yet in a batch.
    next: VecDeque<Waiting<T, V>>,
}

/// Adds callbacks to the next batch. Cheap to clone; the committers end when the last clone is dropped and the queue
/// is empty.
pub struct GroupCommit<T, V> {
    queue: mpsc::Sender<Waiting<T, V>>,
    bytes: Arc<Semaphore>,
    limits: Limits,
}

impl<T, V> Clone for GroupCommit<T, V> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            bytes: self.bytes.clone(),
            limits: self.limits,
        }
    }
}

impl<T: Send + 'static, V: Send + 'static> GroupCommit<T, V> {
    /// Starts the committers on the current runtime, tracked by `tracker`. `commit` commits a batch and returns the
    /// verdicts in its order.
    pub fn start<C, F>(commit: C, limits: Limits, tracker: &TaskTracker) -> Self
    where
        C: Fn(Vec<T>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Vec<V>> + Send + 'static,
    {
        let (queue, received) = mpsc::channel(limits.callbacks_in_flight);
        let line = Arc::new(Line {
            queue: Mutex::new(Queue {
                received,
                next: VecDeque::new(),
            }),
            committing: AtomicUsize::new(0),
            limits,
        });
        for _ in 0..limits.commits_in_flight {
            tracker.spawn(committer(commit.clone(), line.clone()));
        }
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(limits.bytes_in_flight)),
            limits,
        }
    }

    /// What waits now.
    pub fn status(&self, name: &'static str) -> QueueStatus {
        let limit_bytes = self.limits.bytes_in_flight;
        QueueStatus {
            name,
            callbacks: self.queue.max_capacity() - self.queue.capacity(),
            bytes: limit_bytes.saturating_sub(self.bytes.available_permits()),
            limit_bytes,
        }
    }

    /// Joins the next batch and waits for the verdict. Dropped before its commit begins, the item is left out.
    ///
    /// # Errors
    /// [`NoVerdict`]; after a panic the item may still have been committed.
    pub async fn commit(&self, item: T, bytes: usize) -> Result<V, NoVerdict> {
        // An item larger than the whole limit is admitted when nothing else is in flight.
        let reserved = bytes.min(self.limits.bytes_in_flight);
        let reserved = u32::try_from(reserved).unwrap_or(u32::MAX);
        let reserved = self.bytes.clone().try_acquire_many_owned(reserved);
        let (verdict, told) = oneshot::channel();
        let waiting = Waiting {
            item,
            bytes,
            reserved: reserved.map_err(|_| NoVerdict::Full)?,
            verdict,
        };
        self.queue.try_send(waiting).map_err(|_| NoVerdict::Full)?;
        told.await.map_err(|_| NoVerdict::Panicked)
    }
}

async fn committer<T, V, C, F>(commit: C, line: Arc<Line<T, V>>)
where
    C: Fn(Vec<T>) -> F,
    F: Future<Output = Vec<V>>,
{
    while let Some(mut batch) = line.next_batch().await {
        // Callers that timed out have gone to the spool.
        batch.retain(|waiting| !waiting.verdict.is_closed());
        let (items, waiting): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.item, (waiting.reserved, waiting.verdict)))
            .unzip();
        let verdicts = match items.len() {
            0 => Ok(Vec::new()),
            _ => {
                let commit = AssertUnwindSafe(async { commit(items).await });
                commit.catch_unwind().await
            }
        };
        line.committing.fetch_sub(1, Ordering::Relaxed);
        let Ok(verdicts) = verdicts else {
            // Dropping the senders tells the callers. The committer must go on.
            tracing::error!("a commit panicked");
            continue;
        };
        for ((_reserved, told), verdict) in waiting.into_iter().zip(verdicts) {
            // An error means that the client disconnected. The event is stored anyway.
            let _ = told.send(verdict);
        }
    }
}

impl<T, V> Line<T, V> {
    /// Waits for a first callback, lingers while a commit is running, then takes what waits. `None` when no more can
    /// arrive. From here on the commit counts as running.
    async fn next_batch(&self) -> Option<Vec<Waiting<T, V>>> {
        let mut queue = self.queue.lock().await;
        let most = self.limits.batch_callbacks;
        if queue.receive(most).await == 0 {
            return None;
        }
        let is_lone = self.committing.load(Ordering::Relaxed) == 0;
        if !is_lone && queue.next.len() < most && !self.limits.linger.is_zero() {
            sleep(self.limits.linger).await;
            queue.receive_at_once(most);
        }
        self.committing.fetch_add(1, Ordering::Relaxed);
        Some(queue.take(&self.limits))
    }
}

impl<T, V> Queue<T, V> {
    /// Waits for at least one callback and receives all that wait; returns how many. 0 when no more can arrive.
    async fn receive(&mut self, most: usize) -> usize {
        if self.next.is_empty() {
            let mut received = Vec::new();
            self.received.recv_many(&mut received, most).await;
            self.next.extend(received);
        } else {
            self.receive_at_once(most);
        }
        self.next.len()
    }

    fn receive_at_once(&mut self, most: usize) {
        while self.next.len() < most
            && let Ok(waiting) = self.received.try_recv()
        {
            self.next.push_back(waiting);
        }
    }

    /// Takes a batch within the limits.
    fn take(&mut self, limits: &Limits) -> Vec<Waiting<T, V>> {
        let mut bytes = 0;
        let fit = self.next.iter().take(limits.batch_callbacks);
        let fit = fit.take_while(|waiting| {
            let has_room = bytes < limits.batch_bytes;
            bytes += waiting.bytes;
            has_room
        });
        let fit = fit.count();
        self.next.drain(..fit).collect()
    }
}
