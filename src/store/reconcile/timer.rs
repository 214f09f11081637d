//! The service reconciles at its start, and then from time to time.

use std::time::Duration;

use super::{Report, Scope};
use crate::store::Store;

/// How soon it is tried again when MongoDB is away.
const PAUSE: Duration = Duration::from_secs(30);

/// How often the service reconciles, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The time from the end of one run to the start of the next.
    pub every: Duration,
    /// How many messages of the history each run looks at.
    pub messages_per_run: usize,
}

/// The service's runs.
pub struct Timer {
    /// Where the messages are.
    pub store: Store,
    /// How often, and how much.
    pub settings: Settings,
}

impl Timer {
    /// Runs without end. A run that is cut short is as good as one that was not begun.
    pub async fn run(&self) {
        let scope = Scope::Slice(self.settings.messages_per_run);
        let mut is_failing = false;
        loop {
            let mut report = Report::default();
            let result = self.store.reconcile(scope, &mut report).await;
            if result.is_ok() || report.disagreed > 0 {
                log(report);
            }
            let pause = match result {
                Ok(()) => {
                    is_failing = false;
                    self.settings.every
                }
                // An outage is logged once, however often it is met.
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(%error, "reconciling failed, and is tried again later");
                    }
                    is_failing = true;
                    self.settings.every.min(PAUSE)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

fn log(report: Report) {
    let Report {
        looked_at,
        disagreed,
        repaired,
    } = report;
    if disagreed > 0 {
        tracing::warn!(
            looked_at,
            disagreed,
            repaired,
            "messages disagreed with their read mark or recall"
        );
    } else {
        tracing::info!(looked_at, disagreed, "reconciled");
    }
}
