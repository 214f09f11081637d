//! Which costly questions are answered: few of a kind at once, and the others wait.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::error::StoreError;

/// The turns that are free.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Turns {
    /// Lets so many run at once.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Semaphore::new(at_once))
    }

    /// Waits for a turn and answers a question, both together within this time.
    pub(super) async fn take<T, E: From<StoreError>>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let end = Instant::now() + within;
        // An error of the inner result would mean that the semaphore is closed, which never happens.
        let _turn = timeout_at(end, self.0.acquire())
            .await
            .map_err(|_| StoreError::Overloaded)?;
        timeout_at(end, answer)
            .await
            .map_err(|_| StoreError::TimedOut)?
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_third_question_waits_for_a_turn_but_not_for_ever() {
        let turns = Arc::new(Turns::new(2));
        let endless = |turns: Arc<Turns>| {
            tokio::spawn(async move { turns.take::<(), StoreError>(LONG, pending()).await })
        };
        let running = [endless(turns.clone()), endless(turns.clone())];
        tokio::task::yield_now().await;
        let quick = || async { Ok::<_, StoreError>(1) };
        let refused = turns.take(SHORT, quick()).await;
        assert_eq!(refused, Err(StoreError::Overloaded));
        let waits = turns.take(2 * LONG, quick()).await;
        assert_eq!(waits, Ok(1));
        for ended in running {
            assert_eq!(ended.await.ok(), Some(Err(StoreError::TimedOut)));
        }
    }

    /// A client that goes away ends its question.
    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_dropped_gives_its_turn_back() {
        let turns = Turns::new(2);
        for _ in 0..5 {
            let dropped =
                tokio::time::timeout(SHORT, turns.take::<(), StoreError>(LONG, pending()));
            assert!(dropped.await.is_err());
        }
        let quick = async { Ok::<_, StoreError>(1) };
        assert_eq!(turns.take(SHORT, quick).await, Ok(1));
    }
}
