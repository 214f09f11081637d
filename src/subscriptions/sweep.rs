//! Makes due what no change does.

use std::hash::Hash;
use std::time::Duration;

use tokio::time::{Instant, sleep};

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
                    all.iter().for_each(|asked| asked.tell_stale());
                    continue;
                }
                let is_followed = *self.following.borrow() == Following::Yes;
                let has_incomplete = all.iter().any(|asked| asked.progress().is_incomplete);
                let is_complete = has_incomplete && counter.is_complete().await;
                let now = Instant::now();
                for asked in all {
                    let every = self.settings.recount_every;
                    // Not all in the same moment, after they were counted together.
                    let every = every.mul_f64(1.0 - asked.spread() / 4.0);
                    let progress = asked.progress();
                    let is_old = progress.counted_at.is_some_and(|at| now > at + every);
                    let is_due = is_old
                        || progress.is_stale && is_followed
                        || progress.is_incomplete && is_complete;
                    drop(progress);
                    if is_due {
                        asked.make_due();
                    }
                }
            }
        }
    }
}
