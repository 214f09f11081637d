//! The part of the configuration that may change while the service runs: apps with their secrets, and
//! query keys. SIGHUP replaces it as a whole.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::ConfiguredApp;
use crate::http::auth::{Key, Keys};
use crate::ingest::App;

/// What is in force.
pub struct Current {
    /// The apps.
    pub apps: Vec<App>,
    /// The second path of each app that has one, by position in `apps`.
    pub callback_paths: Vec<(String, usize)>,
    /// Who may query.
    pub keys: Keys,
}

impl Current {
    /// What a configuration says.
    pub fn new(configured: Vec<ConfiguredApp>, keys: Vec<Key>) -> Self {
        let mut callback_paths = Vec::new();
        let mut apps = Vec::new();
        for (i, configured) in configured.into_iter().enumerate() {
            callback_paths.extend(configured.callback_path.map(|path| (path, i)));
            apps.push(configured.app);
        }
        Self {
            apps,
            callback_paths,
            keys: Keys::new(keys),
        }
    }

    /// The app that has this second path.
    pub fn app_at(&self, path: &str) -> Option<&App> {
        let (_, app) = self.callback_paths.iter().find(|(at, _)| at == path)?;
        self.apps.get(*app)
    }

    /// The app of this name.
    pub fn app(&self, name: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.name.as_str() == name)
    }
}

/// The way to what is in force. Cheap to clone.
#[derive(Clone)]
pub struct Live(Arc<RwLock<Arc<Current>>>);

impl Live {
    /// Puts a first state in force.
    pub fn new(current: Current) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(current))))
    }

    /// What is in force now. A request takes it once, so that it meets one state from start to end.
    pub fn current(&self) -> Arc<Current> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts another state in force for requests that begin from now on.
    pub fn replace(&self, current: Current) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }
}
