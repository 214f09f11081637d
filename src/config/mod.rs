//! The configuration: read in layers, validated whole, before anything else happens.
//!
//! `config/default.toml` (compiled in, and the reference of all keys) < the user's file < environment
//! < flags. `written` has the shapes as they are written, [`Config`] is what the program uses, and
//! every error names the key and where its value came from, never the value.

mod error;
mod written;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use mongodb::options::ConnectionString;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::callback::netease::{OrderIdAt, Rules, Verifier};
use crate::http::auth::Key;
use crate::ingest::App;
use crate::ingest::group;
use crate::spool;
use crate::store;
use crate::store::indexes::Retention;
use crate::store::reconcile;

pub use error::{ConfigError, Problem};
pub use written::LogFormat;

/// The prefix of environment variables that set configuration keys.
pub const ENV_PREFIX: &str = "IM_CALLBACK__";

const MIB: u64 = 1024 * 1024;

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Paths that apps cannot have as their `callback_path`, because they are or will be the service's own.
const OWN_PATHS: &[&str] = &[
    "callbacks",
    "v1",
    "livez",
    "readyz",
    "metrics",
    "openapi.json",
    "docs",
    "console",
];

/// The whole configuration, valid.
#[derive(Debug)]
pub struct Config {
    /// Limits and address of the HTTP side.
    pub http: Http,
    /// Where MongoDB is. A secret, since it may hold a password.
    pub mongodb_uri: SecretString,
    /// How MongoDB is used.
    pub store: store::Settings,
    /// How callbacks share commits.
    pub ingest: group::Limits,
    /// How long documents are kept.
    pub retention: Retention,
    /// How the service looks for messages whose `state` is wrong.
    pub reconcile: reconcile::Settings,
    /// What is logged.
    pub log: Log,
    /// The apps, with the second path of each.
    pub apps: Vec<ConfiguredApp>,
    /// Who may query.
    pub keys: Vec<Key>,
    /// The local queue for times without MongoDB.
    pub spool: spool::Settings,
}

/// An app and its addresses.
#[derive(Debug)]
pub struct ConfiguredApp {
    /// The app.
    pub app: App,
    /// The app's key at the provider, as `sign` and `send` need it.
    pub app_key: String,
    /// The path beside `/callbacks/{app}`.
    pub callback_path: Option<String>,
}

/// Address and limits of the HTTP side.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// The most ids in one query.
    pub max_ids: usize,
    /// The longest id in a query, in bytes.
    pub max_id_length: usize,
    /// The most connections at once.
    pub max_connections: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// The slowest that a body may come, in bytes a second.
    pub min_body_rate: u64,
    /// The most bytes of heads and bodies that are still being read, beyond what each has free.
    pub bytes_reading: usize,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
    /// How much of it passes before nothing more is accepted.
    pub shutdown_delay: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// A filter in the syntax of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// The lines' form.
    pub format: LogFormat,
}

impl Config {
    /// Reads and validates all layers. `flags` are keys and values given on the command line.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found.
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        let mut layers = Figment::from(Toml::string(DEFAULTS));
        if let Some(path) = file {
            if let Err(e) = std::fs::read_to_string(path) {
                return Err(ConfigError::unreadable(path, &e));
            }
            layers = layers.merge(Toml::file_exact(path));
        }
        layers = layers.merge(Env::prefixed(ENV_PREFIX).split("__"));
        for (key, value) in flags {
            layers = layers.merge((*key, value));
        }
        let written: written::Config = layers.extract().map_err(ConfigError::from_figment)?;
        Validation::new(&layers).config(written)
    }
}

impl Config {
    /// What cannot change while the service runs: each section and its values, as text to compare.
    pub fn fixed(&self) -> Vec<(&'static str, String)> {
        let uri = hex::encode(Sha256::digest(self.mongodb_uri.expose_secret()));
        vec![
            ("http", format!("{:?}", self.http)),
            ("mongodb", format!("{uri} {:?}", self.store)),
            ("ingest", format!("{:?}", self.ingest)),
            ("spool", format!("{:?}", self.spool)),
            ("retention", format!("{:?}", self.retention)),
            ("reconcile", format!("{:?}", self.reconcile)),
            ("log", format!("{:?}", self.log)),
        ]
    }
}

/// Collects problems while it turns what is written into what is used.
struct Validation<'l> {
    layers: &'l Figment,
    problems: Vec<Problem>,
}

impl<'l> Validation<'l> {
    fn new(layers: &'l Figment) -> Self {
        Self {
            layers,
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems
            .push(Problem::new(self.layers, key, message.into()));
    }

    fn config(mut self, written: written::Config) -> Result<Config, ConfigError> {
        let written::Config {
            http,
            mongodb,
            ingest,
            log,
            retention,
            reconcile,
            spool,
            apps,
            auth,
        } = written;
        let uri = self.mongodb_uri(mongodb.uri);
        self.database(&mongodb.database);
        let in_time = Duration::from_millis(100)..=Duration::from_secs(3);
        if !in_time.contains(&mongodb.commit_timeout.0) {
            self.problem("mongodb.commit_timeout", "must be between 100ms and 3s");
        }
        if let Err(e) = tracing_subscriber::EnvFilter::builder().parse(&log.filter) {
            self.problem("log.filter", format!("is no log filter: {e}"));
        }
        let config = Config {
            http: self.http(http),
            mongodb_uri: uri,
            store: store::Settings {
                database: mongodb.database,
                commit_timeout: mongodb.commit_timeout.0,
                query_timeout: mongodb.query_timeout.0,
                state_delay: self.state_delay(&reconcile),
            },
            ingest: group::Limits {
                commits_in_flight: self.up_to(
                    64,
                    "ingest.commits_in_flight",
                    ingest.commits_in_flight,
                ),
                batch_callbacks: self.up_to(
                    10_000,
                    "ingest.batch_callbacks",
                    ingest.batch_callbacks,
                ),
                batch_bytes: self.up_to(
                    64 * MIB,
                    "ingest.batch_bytes",
                    ingest.batch_bytes.as_u64(),
                ),
                callbacks_in_flight: self.up_to(
                    1_000_000,
                    "ingest.callbacks_in_flight",
                    ingest.callbacks_in_flight,
                ),
                bytes_in_flight: self.up_to(
                    1024 * MIB,
                    "ingest.bytes_in_flight",
                    ingest.bytes_in_flight.as_u64(),
                ),
                linger: self.linger(ingest.linger),
            },
            retention: Retention {
                messages: self.retention("retention.messages", retention.messages),
                events: self.retention("retention.events", retention.events),
                dead_letters: self.retention("retention.dead_letters", retention.dead_letters),
            },
            reconcile: self.reconcile(reconcile),
            log: Log {
                filter: log.filter,
                format: log.format,
            },
            apps: self.apps(apps),
            keys: self.keys(auth.keys),
            spool: self.spool(spool),
        };
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }

    fn http(&mut self, written: written::Http) -> Http {
        let bytes_reading = written.bytes_reading.as_u64();
        if bytes_reading < written.max_body.as_u64() {
            self.problem("http.bytes_reading", "must be at least http.max_body");
        }
        if written.shutdown_delay.0 >= written.shutdown_timeout.0 {
            self.problem("http.shutdown_delay", "must be below http.shutdown_timeout");
        }
        let rate = written.min_body_rate.as_u64();
        Http {
            listen: written.listen,
            // A document holds 16 MiB, and a body grows on its way into one.
            max_body: self.up_to(8 * MIB, "http.max_body", written.max_body.as_u64()),
            max_ids: self.up_to(10_000, "http.max_ids", written.max_ids),
            max_id_length: self.up_to(4096, "http.max_id_length", written.max_id_length),
            max_connections: self.up_to(100_000, "http.max_connections", written.max_connections),
            header_timeout: self.up_to_a_minute("http.header_timeout", written.header_timeout),
            keep_alive: self.up_to_a_minute("http.keep_alive", written.keep_alive),
            body_timeout: self.up_to_a_minute("http.body_timeout", written.body_timeout),
            min_body_rate: self.up_to(MIB, "http.min_body_rate", rate) as u64,
            bytes_reading: self.up_to(1024 * MIB, "http.bytes_reading", bytes_reading),
            shutdown_timeout: written.shutdown_timeout.0,
            shutdown_delay: written.shutdown_delay.0,
        }
    }

    /// Longer, and a client that does nothing would hold its connection for as long.
    fn up_to_a_minute(&mut self, key: &str, written: written::Time) -> Duration {
        let some = Duration::from_millis(100)..=Duration::from_secs(60);
        if !some.contains(&written.0) {
            self.problem(key, "must be between 100ms and 60s");
        }
        written.0
    }

    fn up_to(&mut self, most: u64, key: &str, value: u64) -> usize {
        if !(1..=most).contains(&value) {
            self.problem(key, format!("must be between 1 and {most}"));
        }
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    fn spool(&mut self, written: written::Spool) -> spool::Settings {
        if written.path.as_os_str().is_empty() {
            self.problem("spool.path", "is empty; name a folder");
        }
        let max_bytes = written.max_bytes.as_u64();
        if max_bytes < spool::SEGMENT_BYTES {
            let least = spool::SEGMENT_BYTES;
            self.problem("spool.max_bytes", format!("must be at least {least}"));
        }
        spool::Settings {
            path: written.path,
            max_bytes,
        }
    }

    fn reconcile(&mut self, written: written::Reconcile) -> reconcile::Settings {
        let every = written.every.0;
        if !(1..=86_400).contains(&every.as_secs()) {
            self.problem("reconcile.every", "must be between 1s and 1d");
        }
        reconcile::Settings { every }
    }

    fn state_delay(&mut self, written: &written::Reconcile) -> Duration {
        if written.delay.0 > Duration::from_secs(3600) {
            self.problem("reconcile.delay", "must be at most 1h");
        }
        written.delay.0
    }

    /// Longer, and callbacks would wait for others more than for MongoDB.
    fn linger(&mut self, written: written::Time) -> Duration {
        if written.0 > Duration::from_millis(100) {
            self.problem("ingest.linger", "must be at most 100ms");
        }
        written.0
    }

    /// MongoDB counts in whole seconds, in 32 bits; zero would delete everything.
    fn retention(&mut self, key: &str, written: Option<written::Time>) -> Option<Duration> {
        let keep = written?.0;
        if !(3600..=i32::MAX as u64).contains(&keep.as_secs()) {
            self.problem(key, "must be between 1h and 24855d");
        }
        Some(keep)
    }

    fn mongodb_uri(&mut self, written: written::Secret) -> SecretString {
        let uri = self.secret("mongodb.uri", written);
        // The driver's own message may quote a part of the string, which may hold a password.
        if !uri.expose_secret().is_empty() && ConnectionString::parse(uri.expose_secret()).is_err()
        {
            self.problem(
                "mongodb.uri",
                "is no MongoDB connection string; write mongodb://host:port/?replicaSet=name",
            );
        }
        uri
    }

    fn database(&mut self, name: &str) {
        if name.is_empty()
            || name.len() > 63
            || name.contains(['/', '\\', '.', ' ', '"', '$', '\0'])
        {
            self.problem(
                "mongodb.database",
                "is no database name: 1 to 63 bytes without / \\ . \" $ or space",
            );
        }
    }

    /// Follows a secret to where it is kept.
    fn secret(&mut self, key: &str, written: written::Secret) -> SecretString {
        let found = match written {
            written::Secret::Value(secret) => Ok(secret),
            written::Secret::File(written::SecretFile { file }) => std::fs::read_to_string(&file)
                .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n'])))
                .map_err(|e| format!("cannot read {}: {e}", file.display())),
            written::Secret::Env(written::SecretEnv { env }) => std::env::var(&env)
                .map(SecretString::from)
                .map_err(|_| format!("the environment has no variable {env}")),
        };
        match found {
            Ok(secret) if secret.expose_secret().is_empty() => {
                self.problem(key, "is empty");
                secret
            }
            Ok(secret) => secret,
            Err(message) => {
                self.problem(key, message);
                SecretString::default()
            }
        }
    }

    fn apps(&mut self, written: Vec<written::App>) -> Vec<ConfiguredApp> {
        if written.is_empty() {
            self.problem(
                "apps",
                "is empty; add an [[apps]] section for each application at the provider",
            );
        }
        let mut names = HashSet::new();
        let mut paths = HashSet::new();
        let mut apps = Vec::new();
        for (i, app) in written.into_iter().enumerate() {
            let key = |field: &str| format!("apps.{i}.{field}");
            if !names.insert(app.name.clone()) {
                self.problem(
                    &key("name"),
                    format!("another app is named `{}` too", app.name),
                );
            }
            if let Some(path) = &app.callback_path {
                self.callback_path(&key("callback_path"), path);
                if !paths.insert(path.clone()) {
                    self.problem(&key("callback_path"), "another app has the same path");
                }
            }
            apps.push(self.app(i, app));
        }
        apps
    }

    fn callback_path(&mut self, key: &str, path: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~".contains(c);
        let first = path.split('/').nth(1).unwrap_or_default();
        if !path.starts_with('/') || first.is_empty() || !path.chars().all(plain) {
            self.problem(key, "must be a path such as /receiveMsg.action");
        } else if OWN_PATHS.contains(&first) {
            self.problem(key, format!("/{first} is the service's own path"));
        }
    }

    fn app(&mut self, i: usize, app: written::App) -> ConfiguredApp {
        let written::Provider::Netease = app.provider;
        let key = |field: &str| format!("apps.{i}.{field}");
        if app.app_key.is_empty() {
            self.problem(&key("app_key"), "is empty");
        }
        if app.app_secrets.is_empty() {
            self.problem(&key("app_secrets"), "is empty; list every live secret");
        }
        let secrets = app
            .app_secrets
            .into_iter()
            .enumerate()
            .map(|(n, secret)| self.secret(&format!("apps.{i}.app_secrets.{n}"), secret));
        let verifier = Verifier {
            app_key: app.app_key.clone(),
            secrets: secrets.collect(),
            freshness: app.freshness.map(|t| t.0),
        };
        let order_id = app.order_id.map(|at| {
            if !at.pointer.is_empty() && !at.pointer.starts_with('/') {
                self.problem(
                    &key("order_id.pointer"),
                    "is no JSON pointer; write /orderId",
                );
            }
            OrderIdAt {
                field: at.field.as_str(),
                pointer: at.pointer,
            }
        });
        ConfiguredApp {
            app: App {
                name: app.name,
                verifier,
                rules: Rules {
                    count_tips: app.count_tips,
                    order_id,
                },
            },
            app_key: app.app_key,
            callback_path: app.callback_path,
        }
    }

    fn keys(&mut self, written: Vec<written::Key>) -> Vec<Key> {
        let mut names = HashSet::new();
        let mut secrets = HashSet::new();
        let mut keys = Vec::new();
        for (i, key) in written.into_iter().enumerate() {
            if key.name.is_empty() || !names.insert(key.name.clone()) {
                self.problem(
                    &format!("auth.keys.{i}.name"),
                    "is empty or another key's name",
                );
            }
            if key.scopes.is_empty() {
                self.problem(
                    &format!("auth.keys.{i}.scopes"),
                    "is empty; list read, write or admin",
                );
            }
            let at = format!("auth.keys.{i}.secret");
            let secret = self.secret(&at, key.secret);
            let known = !secret.expose_secret().is_empty();
            if known && !secrets.insert(secret.expose_secret().to_owned()) {
                self.problem(&at, "is another key's secret too");
            }
            keys.push(Key::new(key.name, secret, key.scopes));
        }
        keys
    }
}
