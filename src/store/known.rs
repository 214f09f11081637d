//! What was learned about MongoDB and is told by `/readyz`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::diagnosis::{Deployment, MongodbKind};

/// What was learned about MongoDB.
#[derive(Debug, Default)]
pub struct Known(Mutex<Facts>);

#[derive(Debug, Default, Clone, Copy)]
struct Facts {
    kind: Option<MongodbKind>,
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
        Some(self.facts().kind?.deployment)
    }

    /// Whether MongoDB is older than the service needs.
    pub fn is_too_old(&self) -> bool {
        self.facts().kind.is_some_and(|kind| kind.is_too_old)
    }

    /// Records what MongoDB is, and returns what was known of it before.
    pub fn learn(&self, kind: MongodbKind) -> Option<MongodbKind> {
        self.facts().kind.replace(kind)
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
