//! Group commit: callbacks in flight share commits.
//!
//! A few committers take turns at one queue. Each takes whatever waits there, commits it as one batch,
//! and tells each callback its verdict. A lone callback meets an idle committer and goes at once: there
//! is no timer. Under load, what arrives while commits are under way forms the next batch by itself.
//!
//! Limits: the queue holds a fixed number of callbacks, and beyond that a callback is refused at once;
//! a batch ends at a number of callbacks or of bytes, since MongoDB takes 48 MB in one command.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::store::{Store, Submission, Unavailable};

/// The limits of group commit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Commits under way at once.
    pub commits_in_flight: usize,
    /// Callbacks in one commit.
    pub batch_callbacks: usize,
    /// Bytes of bodies in one commit; one callback more may go beyond it.
    pub batch_bytes: usize,
    /// Callbacks that may wait.
    pub queue: usize,
    /// How long a callback may take, waiting included.
    pub patience: Duration,
}

struct Waiting {
    submission: Submission,
    verdict: oneshot::Sender<Result<(), Unavailable>>,
}

/// The way into the running batch. Cheap to clone; when the last clone is gone and the queue is empty,
/// the committers end.
#[derive(Clone)]
pub struct GroupCommit {
    queue: mpsc::Sender<Waiting>,
    patience: Duration,
}

impl GroupCommit {
    /// Starts the committers on the current runtime; `tracker` sees them end.
    pub fn start(store: &Store, limits: Limits, tracker: &TaskTracker) -> Self {
        let (queue, waiting) = mpsc::channel(limits.queue);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..limits.commits_in_flight {
            tracker.spawn(committer(store.clone(), waiting.clone(), limits));
        }
        Self {
            queue,
            patience: limits.patience,
        }
    }

    /// Joins the next batch and waits for the verdict.
    ///
    /// # Errors
    /// [`Unavailable`] when the queue is full, the commit fails, or it takes too long; the callback may
    /// then be stored all the same.
    pub async fn commit(&self, submission: Submission) -> Result<(), Unavailable> {
        let (verdict, told) = oneshot::channel();
        let waiting = Waiting {
            submission,
            verdict,
        };
        self.queue.try_send(waiting).map_err(|_| Unavailable)?;
        match tokio::time::timeout(self.patience, told).await {
            Ok(Ok(verdict)) => verdict,
            // Too late, or the committer is gone.
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }
}

async fn committer(store: Store, queue: Arc<Mutex<mpsc::Receiver<Waiting>>>, limits: Limits) {
    while let Some(batch) = next_batch(&queue, limits).await {
        let (submissions, verdicts): (Vec<_>, Vec<_>) = batch
            .into_iter()
            // Whoever waited too long has been refused already; no need to work for it.
            .filter(|waiting| !waiting.verdict.is_closed())
            .map(|waiting| (waiting.submission, waiting.verdict))
            .unzip();
        let commit = AssertUnwindSafe(store.commit(&submissions)).catch_unwind();
        let Ok(results) = commit.await else {
            // The verdicts are dropped, which refuses the batch; the committer must live on.
            tracing::error!("a commit panicked");
            continue;
        };
        for (verdict, result) in verdicts.into_iter().zip(results) {
            // An error means that the client went away: the event is stored, nobody is left to tell.
            let _ = verdict.send(result);
        }
    }
}

/// Waits for a first callback, then takes what waits behind it. `None` when no more can come.
async fn next_batch(
    queue: &Mutex<mpsc::Receiver<Waiting>>,
    limits: Limits,
) -> Option<Vec<Waiting>> {
    let mut queue = queue.lock().await;
    let first = queue.recv().await?;
    let mut bytes = first.submission.body.len();
    let mut batch = vec![first];
    while batch.len() < limits.batch_callbacks && bytes < limits.batch_bytes {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.submission.body.len();
        batch.push(next);
    }
    Some(batch)
}
