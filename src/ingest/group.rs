//! Group commit: callbacks in flight share commits.
//!
//! A few committers take turns at one queue. Each takes whatever waits there, commits it as one batch,
//! and tells each callback its verdict. A lone callback meets no commit under way and goes at once.
//!
//! Beside a commit under way a batch waits for company: until as many callbacks wait as are being committed, or
//! 50 ms have passed. Else the first few that come after a large batch would make one of their own, which
//! costs MongoDB almost as much.
//!
//! Limits: callbacks, and bytes held for them, that wait or are being committed, beyond which a callback
//! is refused at once; callbacks and bytes in one batch; and the time a callback may take. What a
//! callback holds is its body and the documents made of it: a body of many small values grows several
//! times on its way into BSON.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::store::{Durability, Submission, Unavailable, Verdict};

/// The limits of group commit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Commits under way at once.
    pub commits_in_flight: usize,
    /// Callbacks in one commit.
    pub batch_callbacks: usize,
    /// Bytes held for the callbacks of one commit; one callback more may go beyond it.
    pub batch_bytes: usize,
    /// Callbacks that may wait or be in commits under way.
    pub callbacks_in_flight: usize,
    /// Bytes held for them.
    pub bytes_in_flight: usize,
    /// How long a callback may take, waiting included.
    pub patience: Duration,
}

/// Why a callback is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many callbacks, or bytes, are in flight as may be.
    #[error("too many callbacks are in flight")]
    Overloaded,
    /// It is not known to be durable.
    #[error(transparent)]
    NotDurable(#[from] Unavailable),
}

struct Waiting {
    submission: Submission,
    bytes: usize,
    room: Held,
    verdict: oneshot::Sender<Verdict>,
    since: Instant,
}

/// A callback's share of the limits, until its commit has ended, whoever still waits for it.
struct Held {
    _callback: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// How long a callback waits for company at most: some commits' time, so that one that hangs holds up no other.
const COMPANY: Duration = Duration::from_millis(50);

/// What the committers share.
struct Line {
    queue: Mutex<mpsc::UnboundedReceiver<Waiting>>,
    /// A permit for each callback in the queue, or about to be there.
    waiting: Arc<Semaphore>,
    /// Callbacks that are being committed.
    committing: AtomicUsize,
    /// Tells that fewer are.
    ended: Notify,
}

/// Callbacks that are being committed, until it is dropped.
struct UnderWay<'l> {
    line: &'l Line,
    callbacks: usize,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.line
            .committing
            .fetch_sub(self.callbacks, Ordering::Relaxed);
        self.line.ended.notify_one();
    }
}

/// The way into the running batch. Cheap to clone; when the last clone is gone and the queue is empty,
/// the committers end.
#[derive(Clone)]
pub struct GroupCommit {
    queue: mpsc::UnboundedSender<Waiting>,
    /// A permit for each callback in the queue, or about to be there.
    waiting: Arc<Semaphore>,
    callbacks: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: Limits,
}

impl GroupCommit {
    /// Starts the committers on the current runtime; `tracker` sees them end. `commit` commits a batch, of
    /// which the oldest callback waits since then, and gives the verdicts in its order.
    pub fn start<C, V>(commit: C, limits: Limits, tracker: &TaskTracker) -> Self
    where
        C: Fn(Arc<[Submission]>, Instant) -> V + Clone + Send + Sync + 'static,
        V: Future<Output = Vec<Verdict>> + Send + 'static,
    {
        let (queue, received) = mpsc::unbounded_channel();
        let waiting = Arc::new(Semaphore::new(0));
        let line = Arc::new(Line {
            queue: Mutex::new(received),
            waiting: waiting.clone(),
            committing: AtomicUsize::new(0),
            ended: Notify::new(),
        });
        for _ in 0..limits.commits_in_flight {
            tracker.spawn(committer(commit.clone(), line.clone(), limits));
        }
        Self {
            queue,
            waiting,
            callbacks: Arc::new(Semaphore::new(limits.callbacks_in_flight)),
            bytes: Arc::new(Semaphore::new(limits.bytes_in_flight)),
            limits,
        }
    }

    /// Joins the next batch and waits for the verdict.
    ///
    /// # Errors
    /// [`Refused`]; unless it is [`Refused::Overloaded`], the callback may be stored all the same.
    pub async fn commit(&self, submission: Submission) -> Result<Durability, Refused> {
        let bytes = submission.bytes();
        let room = self.hold(bytes).ok_or(Refused::Overloaded)?;
        let (verdict, told) = oneshot::channel();
        let waiting = Waiting {
            submission,
            bytes,
            room,
            verdict,
            since: Instant::now(),
        };
        self.waiting.add_permits(1);
        self.queue.send(waiting).map_err(|_| Unavailable)?;
        match tokio::time::timeout(self.limits.patience, told).await {
            Ok(Ok(verdict)) => Ok(verdict?),
            // Too late, or the commit panicked.
            Ok(Err(_)) | Err(_) => Err(Unavailable.into()),
        }
    }

    fn hold(&self, bytes: usize) -> Option<Held> {
        // What is larger than all the room there is goes alone.
        let bytes = bytes.min(self.limits.bytes_in_flight);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Some(Held {
            _callback: self.callbacks.clone().try_acquire_owned().ok()?,
            _bytes: self.bytes.clone().try_acquire_many_owned(bytes).ok()?,
        })
    }
}

async fn committer<C, V>(commit: C, line: Arc<Line>, limits: Limits)
where
    C: Fn(Arc<[Submission]>, Instant) -> V,
    V: Future<Output = Vec<Verdict>>,
{
    while let Some((mut batch, under_way)) = line.next_batch(limits).await {
        // Whoever waited too long has been refused already; no need to work for it.
        batch.retain(|waiting| !waiting.verdict.is_closed());
        // The queue is in the order of time.
        let Some(since) = batch.first().map(|oldest| oldest.since) else {
            continue;
        };
        let (submissions, waiting): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.submission, (waiting.room, waiting.verdict)))
            .unzip();
        let commit = AssertUnwindSafe(async { commit(submissions.into(), since).await });
        let results = commit.catch_unwind().await;
        drop(under_way);
        let Ok(results) = results else {
            // The verdicts are dropped, which refuses the batch; the committer must live on.
            tracing::error!("a commit panicked");
            continue;
        };
        for ((_room, verdict), result) in waiting.into_iter().zip(results) {
            // An error means that the client went away: the event is stored, nobody is left to tell.
            let _ = verdict.send(result);
        }
    }
}

impl Line {
    /// Waits for a first callback and for its company, then takes what waits. `None` when no more can come.
    async fn next_batch(&self, limits: Limits) -> Option<(Vec<Waiting>, UnderWay<'_>)> {
        let mut queue = self.queue.lock().await;
        let first = queue.recv().await?;
        // To have waited long enough alone is as good.
        let _ = tokio::time::timeout_at(first.since + COMPANY, self.company(limits)).await;
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < limits.batch_callbacks && bytes < limits.batch_bytes {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.bytes;
            batch.push(next);
        }
        let callbacks = batch.len();
        self.waiting.forget_permits(callbacks);
        self.committing.fetch_add(callbacks, Ordering::Relaxed);
        let under_way = UnderWay {
            line: self,
            callbacks,
        };
        Some((batch, under_way))
    }

    /// Waits until as many wait as are being committed, or as a batch takes.
    async fn company(&self, limits: Limits) {
        loop {
            let committing = self.committing.load(Ordering::Relaxed);
            let enough = committing.min(limits.batch_callbacks);
            let enough = u32::try_from(enough).unwrap_or(u32::MAX);
            tokio::select! {
                biased;
                // It is never closed.
                _permits = self.waiting.acquire_many(enough) => return,
                () = self.ended.notified() => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::Mutex as StdMutex;

    use futures_util::future::join_all;
    use mongodb::bson::DateTime;
    use tokio::time::sleep;

    use super::*;
    use crate::callback::ids::AppName;
    use crate::store::documents::{Origin, Received};

    const STORED: Result<Durability, Refused> = Ok(Durability::Stored);
    const NOT_DURABLE: Result<Durability, Refused> = Err(Refused::NotDurable(Unavailable));

    const LIMITS: Limits = Limits {
        commits_in_flight: 2,
        batch_callbacks: 10,
        batch_bytes: 1000,
        callbacks_in_flight: 20,
        bytes_in_flight: 5000,
        patience: Duration::from_secs(3),
    };

    fn submission(body: &'static str) -> Submission {
        Submission {
            received: Received {
                origin: Origin {
                    app: AppName::new("a").unwrap(),
                    provider: "netease",
                    received_at: DateTime::from_millis(0),
                },
                product: None,
                body: body.into(),
            },
            writes: Vec::new(),
        }
    }

    /// A group whose commits take a second, refuse bodies that say `no` and panic at `panic`; with the
    /// sizes of its batches.
    fn group(limits: Limits) -> (GroupCommit, Arc<StdMutex<Vec<usize>>>) {
        let sizes = Arc::new(StdMutex::new(Vec::new()));
        let seen = sizes.clone();
        let commit = move |batch: Arc<[Submission]>, _since| {
            seen.lock().unwrap().push(batch.len());
            async move {
                sleep(Duration::from_secs(1)).await;
                assert!(batch.iter().all(|s| &s.received.body[..] != b"panic"));
                let verdict = |s: &Submission| {
                    if &s.received.body[..] == b"no" {
                        Err(Unavailable)
                    } else {
                        Ok(Durability::Stored)
                    }
                };
                batch.iter().map(verdict).collect()
            }
        };
        (
            GroupCommit::start(commit, limits, &TaskTracker::new()),
            sizes,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_callback_waits_for_its_own_commit_only() {
        let (group, _) = group(LIMITS);
        let started = Instant::now();
        assert_eq!(group.commit(submission("x")).await, STORED);
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_during_commits_shares_the_next_and_each_has_its_verdict() {
        let (group, sizes) = group(Limits {
            commits_in_flight: 1,
            ..LIMITS
        });
        let started = Instant::now();
        let first = join_all([group.commit(submission("a")), group.commit(submission("b"))]);
        let later = async {
            sleep(Duration::from_millis(500)).await;
            let bodies = ["x", "no", "x", "no", "x", "x"];
            join_all(bodies.map(|body| group.commit(submission(body)))).await
        };
        let (first, later) = tokio::join!(first, later);
        assert!(first.iter().all(Result::is_ok));
        let no = NOT_DURABLE;
        assert_eq!(later, [STORED, no, STORED, no, STORED, STORED]);
        assert_eq!(*sizes.lock().unwrap(), [2, 6]);
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }

    /// Some are being committed, others come ten milliseconds later: how long do these take?
    async fn beside(limits: Limits, first: usize, second: usize) -> (Vec<usize>, Duration) {
        let (group, sizes) = group(limits);
        let at_once = |n| join_all((0..n).map(|_| group.commit(submission("x"))));
        let later = async {
            sleep(Duration::from_millis(10)).await;
            let began = Instant::now();
            (at_once(second).await, began.elapsed())
        };
        let (first, (second, took)) = tokio::join!(at_once(first), later);
        assert!(first.iter().chain(&second).all(|v| *v == STORED));
        assert_eq!(group.waiting.available_permits(), 0);
        let sizes = sizes.lock().unwrap().clone();
        (sizes, took)
    }

    #[tokio::test(start_paused = true)]
    async fn beside_a_commit_another_begins_with_as_many_or_after_a_while() {
        let own = Duration::from_secs(1);
        assert_eq!(beside(LIMITS, 3, 3).await, (vec![3, 3], own));
        assert_eq!(beside(LIMITS, 3, 2).await, (vec![3, 2], own + COMPANY));
        // A batch that is full waits for no more.
        let small = Limits {
            batch_callbacks: 4,
            commits_in_flight: 3,
            ..LIMITS
        };
        assert_eq!(beside(small, 8, 4).await, (vec![4, 4, 4], own));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_the_commit_beside_it_ends() {
        let (group, sizes) = group(LIMITS);
        let lone = |after| {
            let group = &group;
            async move {
                sleep(Duration::from_millis(after)).await;
                let began = Instant::now();
                assert_eq!(group.commit(submission("x")).await, STORED);
                began.elapsed()
            }
        };
        let three = join_all([lone(0), lone(0), lone(0)]);
        let (_, took) = tokio::join!(three, lone(980));
        assert_eq!(took, Duration::from_millis(1020));
        assert_eq!(*sizes.lock().unwrap(), [3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_end_at_their_limits() {
        let (by_number, sizes) = group(Limits {
            commits_in_flight: 1,
            ..LIMITS
        });
        join_all((0..20).map(|_| by_number.commit(submission("x")))).await;
        assert!(sizes.lock().unwrap().iter().all(|n| *n <= 10), "{sizes:?}");
        let (by_bytes, sizes) = group(Limits {
            commits_in_flight: 1,
            batch_bytes: 6,
            ..LIMITS
        });
        join_all((0..8).map(|_| by_bytes.commit(submission("four")))).await;
        assert!(sizes.lock().unwrap().iter().all(|n| *n <= 2), "{sizes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limits_callbacks_are_refused_at_once() {
        for limits in [
            Limits {
                callbacks_in_flight: 3,
                ..LIMITS
            },
            Limits {
                bytes_in_flight: 3,
                ..LIMITS
            },
        ] {
            let (group, _) = group(Limits {
                commits_in_flight: 1,
                ..limits
            });
            let started = Instant::now();
            let timed = (0..9).map(|_| async {
                let verdict = group.commit(submission("x")).await;
                (verdict, started.elapsed())
            });
            let answers = join_all(timed).await;
            let overloaded = Err(Refused::Overloaded);
            let refused: Vec<_> = answers.iter().filter(|(v, _)| *v == overloaded).collect();
            assert_eq!(refused.len(), 6);
            assert!(refused.iter().all(|(_, took)| took.is_zero()));
            // What was held is free again.
            assert_eq!(group.commit(submission("x")).await, STORED);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_waits_no_longer_than_its_patience() {
        let (group, _) = group(Limits {
            patience: Duration::from_millis(900),
            ..LIMITS
        });
        let started = Instant::now();
        assert_eq!(group.commit(submission("x")).await, NOT_DURABLE);
        assert_eq!(started.elapsed(), Duration::from_millis(900));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_refuses_its_batch_and_the_committer_lives_on() {
        let (group, _) = group(LIMITS);
        let refused = join_all((0..3).map(|_| group.commit(submission("panic")))).await;
        assert_eq!(refused, [NOT_DURABLE; 3]);
        // Nothing is being committed any more that these would wait beside.
        let began = Instant::now();
        let stored = join_all([group.commit(submission("x")), group.commit(submission("x"))]).await;
        assert_eq!(stored, [STORED; 2]);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
