//! What was learned about MongoDB and is told by `/readyz`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::diagnosis::Deployment;

/// What was learned about MongoDB.
#[derive(Debug, Default)]
pub struct Known(Mutex<Facts>);

#[derive(Debug, Default, Clone, Copy)]
struct Facts {
    deployment: Option<Deployment>,
    retention: Option<RetentionState>,
}

/// How the retention in MongoDB compares with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionState {
    /// It is as configured.
    Applied,
    /// The configured one deletes documents at once or ends one, so it waits for somebody's yes.
    Waits,
    /// It is another: another instance or somebody set it, or somebody's index is in the way.
    Differs,
}

impl RetentionState {
    /// The word in `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Waits => "waits",
            Self::Differs => "differs",
        }
    }
}

impl Known {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What MongoDB is, once that is known.
    pub fn deployment(&self) -> Option<Deployment> {
        self.facts().deployment
    }

    /// Records what MongoDB is, and returns whether that was not known.
    pub fn learn(&self, deployment: Deployment) -> bool {
        self.facts().deployment.replace(deployment) != Some(deployment)
    }

    /// How the retention in MongoDB compares with the configuration, once that is known.
    pub fn retention(&self) -> Option<RetentionState> {
        self.facts().retention
    }

    /// Records how the retention compares, and returns whether that is new.
    pub fn learn_retention(&self, state: RetentionState) -> bool {
        self.facts().retention.replace(state) != Some(state)
    }
}
