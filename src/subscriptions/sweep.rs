//! Makes due what no change does.

use std::hash::Hash;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Following, Shared};

/// How often all questions are looked over.
const INTERVAL: Duration = Duration::from_millis(500);

impl<Q: Eq + Hash + Send + Sync + 'static> Shared<Q> {
    /// Looks over all questions from time to time.
    pub(super) async fn sweep(&self) {
        loop {
            sleep(INTERVAL).await;
            if !self.questions.is_empty()
                && let Some(counter) = self.counter.get()
            {
                let all = self.questions.all();
                if counter.is_away() {
                    for asked in all {
                        asked.tell_stale();
                        asked.forget_failures();
                    }
                    continue;
                }
                let is_followed = *self.following.borrow() == Following::Yes;
                // Not known where MongoDB does not answer, for which nobody here must wait.
                let is_complete = timeout(INTERVAL, counter.is_complete()).await.ok();
                let now = Instant::now();
                for asked in all {
                    let every = self.settings.recount_every;
                    // Not all in the same moment, after they were counted together.
                    let every = every.mul_f64(1.0 - asked.spread() / 4.0);
                    let progress = asked.progress();
                    let is_old = progress.counted_at.is_some_and(|at| now > at + every);
                    // A callback that goes to a spool changes nothing in MongoDB, and neither does an empty spool.
                    let was_told = progress.counted_at.is_some() && !progress.is_stale;
                    let is_other = was_told && is_complete == Some(progress.is_incomplete);
                    let is_due = is_old || progress.is_stale && is_followed || is_other;
                    drop(progress);
                    if is_due {
                        asked.make_due();
                    }
                }
            }
        }
    }
}
