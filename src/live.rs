//! The part of the configuration that SIGHUP replaces while the service runs: the apps with their secrets, and the
//! keys of queries and of users' tokens.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::auth::{Key, Keys, TokenKeys};
use crate::config::ConfiguredApp;
use crate::ingest::App;

/// The reloadable part of the configuration. Replaced as a whole, so that apps and keys of two files never mix.
pub struct ReloadableConfig {
    /// The apps.
    pub apps: Vec<Arc<App>>,
    /// The second path of each app that has one, by position in `apps`.
    pub callback_paths: Vec<(String, usize)>,
    /// Who may query.
    pub keys: Keys,
}

impl ReloadableConfig {
    /// Takes the reloadable part of a configuration.
    pub fn new(configured: Vec<ConfiguredApp>, keys: Vec<Key>, tokens: TokenKeys) -> Self {
        let mut callback_paths = Vec::new();
        let mut apps = Vec::new();
        for (i, configured) in configured.into_iter().enumerate() {
            callback_paths.extend(configured.callback_path.map(|path| (path, i)));
            apps.push(Arc::new(configured.app));
        }
        Self {
            apps,
            callback_paths,
            keys: Keys::new(keys, tokens),
        }
    }

    /// The app that has this second path or one above it, and what of the path is below it.
    pub fn app_at<'p>(&self, path: &'p str) -> Option<(&Arc<App>, &'p str)> {
        let below = |(at, app): &(String, usize)| {
            let rest = path.strip_prefix(&**at)?;
            let is_below = rest.is_empty() || rest.starts_with('/') || at.ends_with('/');
            is_below.then_some((*app, rest))
        };
        let paths = self.callback_paths.iter().filter_map(below);
        let (app, rest) = paths.min_by_key(|(_, rest)| rest.len())?;
        Some((self.apps.get(app)?, rest))
    }

    /// The app of this name.
    pub fn app(&self, name: &str) -> Option<&Arc<App>> {
        self.apps.iter().find(|app| app.name.as_str() == name)
    }
}

/// The current [`ReloadableConfig`], shared by all who use it. Cheap to clone.
#[derive(Clone)]
pub struct Live(Arc<LiveState>);

struct LiveState {
    current: ArcSwap<ReloadableConfig>,
    replaced: watch::Sender<()>,
}

impl Live {
    /// Starts with a first configuration.
    pub fn new(config: ReloadableConfig) -> Self {
        Self(Arc::new(LiveState {
            current: ArcSwap::from_pointee(config),
            replaced: watch::Sender::new(()),
        }))
    }

    /// The current configuration. A request calls this once, so that a reload in the middle does not change it.
    pub fn current(&self) -> Arc<ReloadableConfig> {
        self.0.current.load_full()
    }

    /// Replaces the configuration, for requests that begin from now on.
    pub fn replace(&self, config: ReloadableConfig) {
        self.0.current.store(Arc::new(config));
        self.0.replaced.send_replace(());
    }

    /// Tells of each replacement, those whose answers go on.
    pub fn replacements(&self) -> watch::Receiver<()> {
        self.0.replaced.subscribe()
    }
}
