//! Which traces run: few at once, and the others wait.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::store::error::StoreError;

/// Traces at once. Each is many queries, and operators are few.
const TRACES: usize = 2;

/// The turns that are free.
#[derive(Debug)]
pub struct TraceTurns(Semaphore);

impl Default for TraceTurns {
    fn default() -> Self {
        Self(Semaphore::new(TRACES))
    }
}

impl TraceTurns {
    /// Waits for a turn and runs a trace, both together within this time.
    pub(super) async fn take<T>(
        &self,
        within: Duration,
        trace: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let end = Instant::now() + within;
        // An error of the inner result would mean that the semaphore is closed, which never happens.
        let _turn = timeout_at(end, self.0.acquire())
            .await
            .map_err(|_| StoreError::Overloaded)?;
        timeout_at(end, trace)
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
    async fn a_third_trace_waits_for_a_turn_but_not_for_ever() {
        let turns = Arc::new(TraceTurns::default());
        let endless = |turns: Arc<TraceTurns>| {
            tokio::spawn(async move { turns.take::<()>(LONG, pending()).await })
        };
        let running = [endless(turns.clone()), endless(turns.clone())];
        tokio::task::yield_now().await;
        let quick = || async { Ok(1) };
        let refused = turns.take(SHORT, quick()).await;
        assert_eq!(refused, Err(StoreError::Overloaded));
        let waits = turns.take(2 * LONG, quick()).await;
        assert_eq!(waits, Ok(1));
        for ended in running {
            assert_eq!(ended.await.ok(), Some(Err(StoreError::TimedOut)));
        }
    }

    /// A client that goes away ends its trace.
    #[tokio::test(start_paused = true)]
    async fn a_trace_that_is_dropped_gives_its_turn_back() {
        let turns = TraceTurns::default();
        for _ in 0..5 {
            let dropped = tokio::time::timeout(SHORT, turns.take::<()>(LONG, pending()));
            assert!(dropped.await.is_err());
        }
        assert_eq!(turns.take(SHORT, async { Ok(1) }).await, Ok(1));
    }
}
