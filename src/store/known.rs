//! What was learned about MongoDB: what `/readyz` tells, and what need not be asked again.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mongodb::bson::DateTime;

use super::diagnosis::{Deployment, MongodbKind};
use crate::callback::ids::AppName;

/// What was learned about MongoDB.
#[derive(Debug)]
pub struct Known {
    facts: Mutex<Facts>,
    /// When this process began to learn.
    since: DateTime,
}

#[derive(Debug, Default)]
struct Facts {
    kind: Option<MongodbKind>,
    retention: Option<RetentionState>,
    /// The apps whose team messages can all be counted.
    team_counts: HashSet<AppName>,
    /// The apps that may have team messages of an older version.
    older_team_messages: HashSet<AppName>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            facts: Mutex::default(),
            since: DateTime::now(),
        }
    }
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
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// When this process began to learn.
    pub(super) fn since(&self) -> DateTime {
        self.since
    }

    pub(super) fn has_team_counts(&self, app: &AppName) -> bool {
        self.facts().team_counts.contains(app)
    }

    pub(super) fn learn_team_counts(&self, app: &AppName) {
        self.facts().team_counts.insert(app.clone());
    }

    pub(super) fn has_older_team_messages(&self, app: &AppName) -> bool {
        self.facts().older_team_messages.contains(app)
    }

    pub(super) fn learn_older_team_messages(&self, app: &AppName) {
        self.facts().older_team_messages.insert(app.clone());
    }
}
