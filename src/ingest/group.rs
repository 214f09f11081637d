//! Group commit: callbacks in flight share commits.
//!
//! A few committers take turns at one bounded queue. Each takes what waits there, commits it as one batch, and tells
//! each callback its verdict. A lone callback meets no commit under way and goes at once. Beside a commit
//! under way a batch lingers for a moment, or the first few callbacks that come after a large batch would make one of
//! their own, which costs MongoDB almost as much.
//!
//! Limits: callbacks that wait; bytes held for those that wait or are being committed; callbacks and bytes in one
//! batch. A callback that meets one of the first two is told so at once, and goes to the spool.
//!
//! The spool has a group of its own, so that callbacks share its fsyncs as well.

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
    /// Commits under way at once.
    pub commits_in_flight: usize,
    /// Callbacks in one commit.
    pub batch_callbacks: usize,
    /// Bytes held for the callbacks of one commit; one callback more may go beyond it.
    pub batch_bytes: usize,
    /// Callbacks that may wait.
    pub callbacks_in_flight: usize,
    /// Bytes held for callbacks that wait or are being committed.
    pub bytes_in_flight: usize,
    /// How long a batch waits for more beside a commit under way.
    pub linger: Duration,
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoVerdict {
    /// As many callbacks, or bytes, are in flight as may be.
    Full,
    /// The commit panicked.
    Panicked,
}

struct Waiting<T, V> {
    item: T,
    bytes: usize,
    /// Its share of the bytes in flight, until its commit has ended, whoever still waits for it.
    reserved: OwnedSemaphorePermit,
    verdict: oneshot::Sender<V>,
}

/// What the committers share.
struct Line<T, V> {
    queue: Mutex<Queue<T, V>>,
    /// Commits under way.
    committing: AtomicUsize,
    limits: Limits,
}

struct Queue<T, V> {
    received: mpsc::Receiver<Waiting<T, V>>,
    /// Taken out of the channel, and not yet part of a batch.
    next: VecDeque<Waiting<T, V>>,
}

/// The way into the next batch. Cheap to clone; when the last clone is gone and the queue is empty, the committers
/// end.
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
    /// Starts the committers on the current runtime; `tracker` sees them end. `commit` commits a batch and
    /// gives the verdicts in its order.
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

    /// Joins the next batch and waits for the verdict. Whoever ceases to wait before the commit has begun is left
    /// out of it.
    ///
    /// # Errors
    /// [`NoVerdict`]; after a panic the item may be committed all the same.
    pub async fn commit(&self, item: T, bytes: usize) -> Result<V, NoVerdict> {
        // What is larger than all that may be in flight goes alone.
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
        // Whoever waited too long has gone another way; no need to work for it.
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
            // The verdicts are dropped, which tells those who wait; the committer must live on.
            tracing::error!("a commit panicked");
            continue;
        };
        for ((_reserved, told), verdict) in waiting.into_iter().zip(verdicts) {
            // An error means that the client went away: the event is stored, nobody is left to tell.
            let _ = told.send(verdict);
        }
    }
}

impl<T, V> Line<T, V> {
    /// Waits for a first callback, lingers beside a commit under way, then takes what waits. `None` when no more can
    /// come. The commit counts as under way from here on.
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
    /// Waits until at least one callback is next, and takes what else has come. None is next when no more can come.
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

    /// A batch of those that are next.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::Mutex as StdMutex;

    use futures_util::future::join_all;
    use tokio::time::{Instant, timeout};

    use super::*;

    const LIMITS: Limits = Limits {
        commits_in_flight: 2,
        batch_callbacks: 10,
        batch_bytes: 1000,
        callbacks_in_flight: 20,
        bytes_in_flight: 5000,
        linger: Duration::from_millis(50),
    };
    const ONE_BY_ONE: Limits = Limits {
        commits_in_flight: 1,
        ..LIMITS
    };
    const OWN_COMMIT: Duration = Duration::from_secs(1);

    struct Group {
        group: GroupCommit<&'static str, bool>,
        sizes: Arc<StdMutex<Vec<usize>>>,
    }

    impl Group {
        /// A group whose commits take a second, say no to `no` and panic at `panic`.
        fn start(limits: Limits) -> Self {
            let sizes = Arc::new(StdMutex::new(Vec::new()));
            let seen = sizes.clone();
            let commit = move |batch: Vec<&'static str>| {
                seen.lock().unwrap().push(batch.len());
                async move {
                    sleep(OWN_COMMIT).await;
                    assert!(!batch.contains(&"panic"));
                    batch.iter().map(|item| *item != "no").collect()
                }
            };
            let group = GroupCommit::start(commit, limits, &TaskTracker::new());
            Self { group, sizes }
        }

        async fn commit(&self, item: &'static str) -> Result<bool, NoVerdict> {
            self.group.commit(item, item.len()).await
        }

        async fn commit_all(&self, items: &[&'static str]) -> Vec<Result<bool, NoVerdict>> {
            join_all(items.iter().map(|item| self.commit(item))).await
        }

        fn sizes(&self) -> Vec<usize> {
            self.sizes.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_callback_waits_for_its_own_commit_only() {
        let group = Group::start(LIMITS);
        let started = Instant::now();
        assert_eq!(group.commit("x").await, Ok(true));
        assert_eq!(started.elapsed(), OWN_COMMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_during_a_commit_shares_the_next_and_each_has_its_verdict() {
        let group = Group::start(ONE_BY_ONE);
        let started = Instant::now();
        let later = async {
            sleep(Duration::from_millis(500)).await;
            group.commit_all(&["x", "no", "x", "no", "x", "x"]).await
        };
        let (first, later) = tokio::join!(group.commit_all(&["a", "b"]), later);
        assert_eq!(first, [Ok(true); 2]);
        assert_eq!(later, [true, false, true, false, true, true].map(Ok));
        assert_eq!(group.sizes(), [2, 6]);
        assert_eq!(started.elapsed(), 2 * OWN_COMMIT);
    }

    /// What comes beside a commit under way waits for more, and a full batch for no more.
    #[tokio::test(start_paused = true)]
    async fn beside_a_commit_a_batch_lingers() {
        for (second, lingers) in [(3, LIMITS.linger), (10, Duration::ZERO)] {
            let group = Group::start(LIMITS);
            let later = async {
                sleep(Duration::from_millis(10)).await;
                let began = Instant::now();
                let late = async {
                    sleep(LIMITS.linger / 2).await;
                    group.commit("late").await
                };
                let items = vec!["x"; second];
                let (some, late) = tokio::join!(
                    async { (group.commit_all(&items).await, began.elapsed()) },
                    late
                );
                assert_eq!(late, Ok(true));
                some
            };
            let (_, (verdicts, took)) = tokio::join!(group.commit_all(&["x"; 3]), later);
            assert!(verdicts.iter().all(|verdict| *verdict == Ok(true)));
            assert_eq!(took, OWN_COMMIT + lingers);
            let shared = if lingers.is_zero() {
                vec![3, 10, 1]
            } else {
                vec![3, 4]
            };
            assert_eq!(group.sizes(), shared);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn batches_end_at_their_limits() {
        let by_number = Group::start(ONE_BY_ONE);
        by_number.commit_all(&["x"; 20]).await;
        assert_eq!(by_number.sizes(), [10, 10]);
        let by_bytes = Group::start(Limits {
            batch_bytes: 6,
            ..ONE_BY_ONE
        });
        by_bytes.commit_all(&["four"; 8]).await;
        assert_eq!(by_bytes.sizes(), [2, 2, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limits_callbacks_are_told_at_once() {
        let few = Limits {
            callbacks_in_flight: 3,
            ..ONE_BY_ONE
        };
        let small = Limits {
            bytes_in_flight: 3,
            ..ONE_BY_ONE
        };
        for limits in [few, small] {
            let group = Group::start(limits);
            let started = Instant::now();
            let timed = (0..9).map(|_| async {
                let verdict = group.commit("x").await;
                (verdict, started.elapsed())
            });
            let answers = join_all(timed).await;
            let full: Vec<_> = answers
                .iter()
                .filter(|(verdict, _)| *verdict == Err(NoVerdict::Full))
                .collect();
            assert_eq!(full.len(), 6);
            assert!(full.iter().all(|(_, took)| took.is_zero()));
            // What was reserved is free again.
            assert_eq!(group.commit("x").await, Ok(true));
        }
    }

    /// Whoever has gone another way meanwhile is no part of a commit.
    #[tokio::test(start_paused = true)]
    async fn who_has_ceased_to_wait_is_left_out() {
        let group = Group::start(ONE_BY_ONE);
        let later = async {
            sleep(Duration::from_millis(100)).await;
            let impatient = timeout(Duration::from_millis(300), group.commit("x"));
            let (gone, stayed) = tokio::join!(impatient, group.commit("y"));
            assert!(gone.is_err());
            stayed
        };
        let (first, stayed) = tokio::join!(group.commit("x"), later);
        assert_eq!((first, stayed), (Ok(true), Ok(true)));
        assert_eq!(group.sizes(), [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_its_batchs_alone_and_the_committer_lives_on() {
        let group = Group::start(LIMITS);
        let panicked = group.commit_all(&["panic"; 3]).await;
        assert_eq!(panicked, [Err(NoVerdict::Panicked); 3]);
        // Nothing is being committed any more that these would linger beside.
        let began = Instant::now();
        assert_eq!(group.commit_all(&["x", "x"]).await, [Ok(true); 2]);
        assert_eq!(began.elapsed(), OWN_COMMIT);
    }
}
