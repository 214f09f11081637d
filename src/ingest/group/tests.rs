//! The group commit on a clock that is paused.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

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

/// While a commit is running a batch lingers, unless it is full.
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

/// A caller that timed out is left out of the commit.
#[tokio::test(start_paused = true)]
async fn callers_that_timed_out_are_left_out() {
    let group = Group::start(ONE_BY_ONE);
    let later = async {
        sleep(Duration::from_millis(100)).await;
        let too_long = timeout(Duration::from_millis(300), group.commit("x"));
        let (gone, stayed) = tokio::join!(too_long, group.commit("y"));
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
    // No commit is running, so these do not linger.
    let began = Instant::now();
    assert_eq!(group.commit_all(&["x", "x"]).await, [Ok(true); 2]);
    assert_eq!(began.elapsed(), OWN_COMMIT);
}
