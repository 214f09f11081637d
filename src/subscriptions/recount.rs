//! Counts a question whenever it is due.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::questions::Asked;
use super::{CountFailure, LiveCounts, Shared, Told};

/// The least time between two counts of a question. What changes meanwhile costs one recount.
const PAUSE: Duration = Duration::from_millis(150);

impl<Q: Eq + Hash + Send + Sync + 'static> Shared<Q> {
    /// Keeps a question's counts up to date until nobody asks it any more.
    pub(super) async fn keep_counting(self: Arc<Self>, asked: Arc<Asked<Q>>) {
        let counting = async {
            loop {
                asked.due.notified().await;
                let counted_at = asked.progress().counted_at;
                if let Some(at) = counted_at {
                    sleep_until(at + PAUSE).await;
                }
                self.recount(&asked).await;
            }
        };
        tokio::select! {
            () = counting => {}
            () = asked.gone.cancelled() => {}
            () = self.ended.cancelled() => {}
        }
    }

    async fn recount(&self, asked: &Asked<Q>) {
        // An error would mean that the semaphore is closed, which never happens.
        let turn = self.recounts.acquire().await;
        let Some(counter) = self.counter.get() else {
            return;
        };
        // Before the count: a change that comes now may not be in it.
        let (due_since, is_new_to_somebody) = {
            let mut progress = asked.progress();
            let is_new = std::mem::take(&mut progress.is_new_to_somebody);
            (progress.due_since.take(), is_new)
        };
        let counted = counter.count(&asked.question).await;
        drop(turn);
        self.metrics.stream_recounts.inc();
        let now = Instant::now();
        asked.progress().counted_at = Some(now);
        match counted {
            Ok(counts) => {
                if self.questions.keep(asked, counts.event.len()).is_err() {
                    asked
                        .told
                        .send_replace(Some(Told::Refused("too_many_streams")));
                    return;
                }
                asked.tell(counts, is_new_to_somebody);
                if let Some(since) = due_since {
                    let took = (now - since).as_secs_f64();
                    self.metrics.stream_delay.observe(took);
                }
            }
            Err(CountFailure::Busy) => {
                sleep(PAUSE).await;
                asked.progress().is_new_to_somebody |= is_new_to_somebody;
                asked.make_due();
            }
            // It is due again when MongoDB is back.
            Err(CountFailure::Unavailable) => asked.tell_stale(),
            Err(CountFailure::Refused(code)) => {
                asked.told.send_replace(Some(Told::Refused(code)));
            }
        }
    }
}

impl<Q> Asked<Q> {
    /// Tells counts, unless they were told last, and to everybody.
    fn tell(&self, counts: LiveCounts, is_new_to_somebody: bool) {
        let was_stale = {
            let mut progress = self.progress();
            progress.is_incomplete = !counts.are_complete;
            std::mem::take(&mut progress.is_stale)
        };
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
