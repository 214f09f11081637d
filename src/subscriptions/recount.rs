//! Counts a question whenever it is due.

use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use super::questions::Asked;
use super::{CountFailure, LiveCounts, Shared, Told};

/// The least time between two counts of a question. What changes meanwhile costs one recount.
const PAUSE: Duration = Duration::from_millis(150);

/// How much longer than a count the time until the next one is, so that counts which slow each other become fewer.
const PAUSE_PER_COUNT: u32 = 10;

/// The most of it.
const MOST_PAUSE: Duration = Duration::from_secs(10);

/// The time after a count that failed, as one does that MongoDB does not answer in time. It doubles with each.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The most of it.
const MOST_PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// How often a question that pauses looks whether it still must: not after an outage.
const LOOK: Duration = Duration::from_millis(500);

impl<Q: Eq + Hash + Send + Sync + 'static> Shared<Q> {
    /// Keeps a question's counts up to date until nobody asks it any more.
    pub(super) async fn keep_counting(self: Arc<Self>, asked: Arc<Asked<Q>>) {
        let counting = async {
            loop {
                asked.due.notified().await;
                asked.pause().await;
                // Else the last count has it: that was woken once more before it began.
                if asked.progress().due_since.is_some() {
                    self.recount(&asked).await;
                }
            }
        };
        tokio::select! {
            () = counting => {}
            () = asked.gone.cancelled() => {}
            () = self.ended.cancelled() => {}
        }
    }

    async fn recount(&self, asked: &Asked<Q>) {
        let Some(counter) = self.counter.get() else {
            return;
        };
        let turns = if counter.is_costly(&asked.question) {
            &self.costly_recounts
        } else {
            &self.recounts
        };
        // An error would mean that the semaphore is closed, which never happens.
        let turn = turns.acquire().await;
        // Before the count: a change that comes now may not be in it.
        let (due_since, is_new_to_somebody) = {
            let mut progress = asked.progress();
            let is_new = std::mem::take(&mut progress.is_new_to_somebody);
            (progress.due_since.take(), is_new)
        };
        let began = Instant::now();
        let counted = AssertUnwindSafe(counter.count(&asked.question)).catch_unwind();
        let counted = counted.await.unwrap_or_else(|_| {
            tracing::error!("a live count panicked and is tried again");
            Err(CountFailure::Unavailable)
        });
        drop(turn);
        self.metrics.stream_recounts.inc();
        let failed = counted == Err(CountFailure::Unavailable) && !counter.is_away();
        asked.counted(began, failed);
        let kept = counted.and_then(|counts| {
            let memory = self.questions.keep(asked, counts.event.len());
            memory.map_err(|_| CountFailure::Refused("too_many_streams"))?;
            Ok(counts)
        });
        match kept {
            Ok(counts) => {
                asked.tell(counts, is_new_to_somebody);
                if let Some(since) = due_since {
                    self.metrics
                        .stream_delay
                        .observe(since.elapsed().as_secs_f64());
                }
            }
            Err(CountFailure::Busy) => {
                {
                    let mut progress = asked.progress();
                    progress.due_since = due_since;
                    progress.is_new_to_somebody |= is_new_to_somebody;
                }
                asked.make_due();
            }
            // The sweep makes it due when MongoDB is back.
            Err(CountFailure::Unavailable) => asked.tell_stale(),
            Err(CountFailure::Refused(code)) => {
                let _progress = asked.progress();
                asked.told.send_replace(Some(Told::Refused(code)));
            }
        }
    }
}

impl<Q> Asked<Q> {
    /// Waits until it may be counted again.
    async fn pause(&self) {
        loop {
            let now = Instant::now();
            let end = self.progress().not_before;
            let Some(end) = end.filter(|end| *end > now) else {
                return;
            };
            sleep_until(end.min(now + LOOK)).await;
        }
    }

    /// Notes a count, and how long to wait before the next one.
    fn counted(&self, began: Instant, failed: bool) {
        let now = Instant::now();
        let took = now - began;
        let mut progress = self.progress();
        progress.failures = if failed { progress.failures + 1 } else { 0 };
        let pause = match progress.failures {
            0 => (took * PAUSE_PER_COUNT).clamp(PAUSE, MOST_PAUSE),
            failures => {
                let pause = PAUSE_AFTER_FAILURE.max(took) * (1 << (failures - 1).min(5));
                pause.min(MOST_PAUSE_AFTER_FAILURE)
            }
        };
        progress.counted_at = Some(now);
        progress.not_before = Some(now + pause);
    }

    /// Has it counted as soon as MongoDB is back: what failed was not the count.
    pub(super) fn forget_failures(&self) {
        let mut progress = self.progress();
        progress.failures = 0;
        progress.not_before = None;
    }

    /// Tells counts, unless they were told last, and to everybody.
    fn tell(&self, counts: LiveCounts, is_new_to_somebody: bool) {
        // Held while they are told: see `tell_stale`.
        let mut progress = self.progress();
        progress.is_incomplete = !counts.are_complete;
        let was_stale = std::mem::take(&mut progress.is_stale);
        self.told.send_if_modified(|told| {
            if !was_stale
                && !is_new_to_somebody
                && matches!(told, Some(Told::Counts(last)) if **last == counts)
            {
                return false;
            }
            *told = Some(Told::Counts(Arc::new(counts)));
            true
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;
    use tokio::time::sleep;

    use super::*;
    use crate::callback::ProviderName;
    use crate::callback::ids::AppName;
    use crate::store::{Store, StoreSettings};
    use crate::subscriptions::{CountQuestions, LiveQuestion, StreamSettings, Subscriptions};

    /// How a count of the tests goes.
    type Outcome = fn(usize) -> Result<u64, CountFailure>;

    /// What the tests see of the counts.
    #[derive(Default)]
    struct Seen {
        counts: AtomicUsize,
        running: AtomicUsize,
        most_running: AtomicUsize,
    }

    /// Counts in so much time.
    struct Counter(Arc<Seen>, Duration, Outcome);

    impl CountQuestions<u32> for Counter {
        fn count<'c>(
            &'c self,
            _: &'c LiveQuestion<u32>,
        ) -> BoxFuture<'c, Result<LiveCounts, CountFailure>> {
            async {
                let number = self.0.counts.fetch_add(1, Ordering::Relaxed);
                let running = self.0.running.fetch_add(1, Ordering::Relaxed) + 1;
                self.0.most_running.fetch_max(running, Ordering::Relaxed);
                sleep(self.1).await;
                self.0.running.fetch_sub(1, Ordering::Relaxed);
                let digest = (self.2)(number)?.to_string();
                Ok(LiveCounts {
                    event: digest.clone().into(),
                    digest,
                    are_complete: true,
                })
            }
            .boxed()
        }

        fn is_costly(&self, question: &LiveQuestion<u32>) -> bool {
            !question.teams.is_empty()
        }

        fn is_complete(&self) -> BoxFuture<'_, bool> {
            async { true }.boxed()
        }

        fn is_away(&self) -> bool {
            false
        }
    }

    fn subscriptions(took: Duration, outcome: Outcome) -> (Subscriptions<u32>, Arc<Seen>) {
        let store = StoreSettings {
            database: "none".to_owned(),
            commit_timeout: Duration::from_secs(1),
            query_timeout: Duration::from_secs(1),
            state_delay: Duration::from_secs(1),
            analyst_indexes: false,
        };
        let settings = StreamSettings {
            max_per_user: 10,
            max_subscribers: 1000,
            heartbeat: Duration::from_secs(15),
            slow_reader_timeout: Duration::from_secs(15),
            recount_every: Duration::from_secs(86_400),
        };
        let store = Store::new(store, Arc::default());
        let subscriptions = Subscriptions::new(settings, store, Arc::default());
        let seen = Arc::new(Seen::default());
        subscriptions.begin(Box::new(Counter(seen.clone(), took, outcome)));
        (subscriptions, seen)
    }

    fn join(subscriptions: &Subscriptions<u32>, reader: u32, teams: &[&str]) -> Arc<Asked<u32>> {
        let question = LiveQuestion {
            app: AppName::new("otc").unwrap(),
            reader: ProviderName::Netease.account(&reader.to_string()),
            teams: teams.iter().map(|team| (*team).to_owned()).collect(),
            asked: 0,
            bytes: 1,
        };
        let (asked, _) = subscriptions.0.questions.join(question).ok().unwrap();
        tokio::spawn(subscriptions.0.clone().keep_counting(asked.clone()));
        asked
    }

    fn digest(asked: &Asked<u32>) -> Option<String> {
        match &*asked.told.borrow() {
            Some(Told::Counts(counts)) => Some(counts.digest.clone()),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_panics_is_tried_again() {
        let (subscriptions, seen) = subscriptions(Duration::from_millis(10), |number| {
            assert!(number > 0, "a bug");
            Ok(7)
        });
        let asked = join(&subscriptions, 0, &[]);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(*asked.told.borrow(), Some(Told::Stale));
        asked.make_due();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(digest(&asked).as_deref(), Some("7"));
        assert_eq!(seen.counts.load(Ordering::Relaxed), 2);
    }

    /// The lists of others share their queries, so those run at once.
    #[tokio::test(start_paused = true)]
    async fn few_costly_counts_run_at_once() {
        for (teams, most) in [(&["t1"][..], super::super::COSTLY_RECOUNTS), (&[], 50)] {
            let (subscriptions, seen) = subscriptions(Duration::from_millis(100), |_| Ok(7));
            let all: Vec<_> = (0..50).map(|n| join(&subscriptions, n, teams)).collect();
            sleep(Duration::from_secs(5)).await;
            assert!(all.iter().all(|asked| digest(asked).is_some()));
            assert_eq!(seen.most_running.load(Ordering::Relaxed), most);
        }
    }

    /// Counts in a minute, of a question that is due all the time.
    async fn counts_in_a_minute(took: Duration, outcome: Outcome) -> usize {
        let (subscriptions, seen) = subscriptions(took, outcome);
        let asked = join(&subscriptions, 0, &[]);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(10)).await;
            asked.make_due();
        }
        seen.counts.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn counts_that_take_long_or_fail_become_fewer() {
        let (fast, slow) = (Duration::from_millis(1), Duration::from_millis(500));
        let counted = counts_in_a_minute(fast, |_| Ok(7)).await;
        assert!((300..=400).contains(&counted), "{counted}");
        let counted = counts_in_a_minute(slow, |_| Ok(7)).await;
        assert!((10..=12).contains(&counted), "{counted}");
        // After 1, 2, 4, 8, 16 and 30 s.
        let counted = counts_in_a_minute(fast, |_| Err(CountFailure::Unavailable)).await;
        assert!((5..=7).contains(&counted), "{counted}");
    }

    /// One that waits for its turn is made due once more, which its count sees.
    #[tokio::test(start_paused = true)]
    async fn what_is_counted_already_is_not_counted_again() {
        let (subscriptions, seen) = subscriptions(Duration::from_millis(10), |_| Ok(7));
        let turns = subscriptions.0.recounts.acquire_many(256).await.unwrap();
        let asked = join(&subscriptions, 0, &[]);
        sleep(Duration::from_millis(10)).await;
        asked.make_due();
        drop(turns);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(seen.counts.load(Ordering::Relaxed), 1);
    }
}
