//! What was learned about MongoDB and is told by `/readyz`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::diagnosis::Deployment;

/// What was learned about MongoDB.
#[derive(Debug, Default)]
pub struct Known(Mutex<Facts>);

#[derive(Debug, Default, Clone, Copy)]
struct Facts {
    deployment: Option<Deployment>,
    retention_waits: Option<bool>,
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

    /// Whether the configured retention waits for somebody's yes, since it would delete documents.
    pub fn retention_waits(&self) -> Option<bool> {
        self.facts().retention_waits
    }

    /// Records whether the configured retention waits.
    pub fn set_retention_waits(&self, waits: bool) {
        self.facts().retention_waits = Some(waits);
    }
}
