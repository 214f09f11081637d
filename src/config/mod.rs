//! The configuration: read in layers and validated as a whole, before anything else happens.
//!
//! `config/default.toml` (compiled in, and the reference of all keys) < the user's file < environment
//! < flags. `raw` has the shapes of the file, `validate`, `apps`, `keys` and `tokens` check them, [`Config`] is the result.
//! Every error names the key and the source of its value, never the value.

mod apps;
mod error;
mod hints;
mod keys;
mod layers;
mod look_alikes;
mod mongodb_uri;
mod raw;
mod tokens;
mod validate;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::auth::{Key, TokenKeys};
use crate::ingest::App;
use crate::ingest::group;
use crate::spool::SpoolSettings;
use crate::store::StoreSettings;
use crate::store::indexes::Retention;
use crate::store::presence::PresenceSettings;
use crate::store::reconcile::ReconcileSettings;
use crate::subscriptions::StreamSettings;

pub use error::{ConfigError, ConfigProblem};
pub use look_alikes::LookAlike;
pub use raw::LogFormat;
use validate::{Secrets, Validation};

/// The prefix of environment variables that set configuration keys.
pub const ENV_PREFIX: &str = "IM_CALLBACK__";

/// The name of the layer of environment variables. Its values are shown by their variables.
const ENVIRONMENT: &str = "the environment";

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The whole configuration, valid.
#[derive(Debug)]
pub struct Config {
    /// Limits and address of the HTTP side.
    pub http: Http,
    /// MongoDB's connection string. A secret, since it may hold a password.
    pub mongodb_uri: SecretString,
    /// The database and its timeouts.
    pub store: StoreSettings,
    /// The limits of group commits.
    pub ingest: group::Limits,
    /// How subscribers are told of changed counts.
    pub stream: StreamSettings,
    /// How long documents are kept.
    pub retention: Retention,
    /// When nobody knows any more whether a device is online.
    pub presence: PresenceSettings,
    /// How often the service checks all unread messages.
    pub reconcile: ReconcileSettings,
    /// What is logged.
    pub log: Log,
    /// The apps, with the second path of each.
    pub apps: Vec<ConfiguredApp>,
    /// The query keys.
    pub keys: Vec<Key>,
    /// The keys of users' tokens.
    pub tokens: TokenKeys,
    /// The local queue.
    pub spool: SpoolSettings,
    /// The environment variables that secrets are read from.
    pub secret_variables: Vec<String>,
}

/// An app and its addresses.
#[derive(Debug)]
pub struct ConfiguredApp {
    /// The app.
    pub app: App,
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
    /// The most messages of one team that are counted.
    pub max_team_unread: u64,
    /// The most connections at once.
    pub max_connections: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// The slowest allowed body, in bytes a second.
    pub min_body_rate: u64,
    /// The memory budget for heads and bodies that are being read, beyond what each has free.
    pub bytes_reading: usize,
    /// The proxies that say truly whom they forward for.
    pub trusted_proxies: Vec<IpNet>,
    /// The origins whose pages may ask, such as `https://shop.example`.
    pub cors_origins: Vec<String>,
    /// Whether `/metrics` needs no key.
    pub open_metrics: bool,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
    /// How long connections are still accepted during a stop.
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
        let (config, _) = Self::read(file, flags, Secrets::Read)?;
        Ok(config)
    }

    /// Checks all but the secrets in files and variables, which may be on another machine. Also gives the keys of
    /// these secrets; the configuration has stand-ins for them.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found.
    pub fn load_without_secrets(file: Option<&Path>) -> Result<(Self, Vec<String>), ConfigError> {
        Self::read(file, &[], Secrets::Elsewhere)
    }

    /// The address to listen on, whatever the rest of the configuration is like.
    ///
    /// # Errors
    /// When a layer cannot be read, or the address is none.
    pub fn listen(file: Option<&Path>) -> Result<SocketAddr, ConfigError> {
        let layers = layers::all(file, &[])?;
        let listen = layers.extract_inner::<raw::Listen>("http.listen");
        let listen = listen.map_err(|e| ConfigError::from_figment(e, &layers))?;
        Ok(listen.0)
    }

    fn read(
        file: Option<&Path>,
        flags: &[(&str, String)],
        secrets: Secrets,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let layers = layers::all(file, flags)?;
        let raw: raw::RawConfig = layers
            .extract()
            .map_err(|e| ConfigError::from_figment(e, &layers))?;
        Validation::new(&layers, secrets).config(raw)
    }
}

/// Environment variables that look like configuration keys and are not read. `used` are those that secrets are read from.
pub fn look_alikes(used: &[String]) -> Vec<LookAlike> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    look_alikes::among(names, layers::keys().into_iter(), used)
}

impl Config {
    /// The sections that need a restart, with their values as text to compare.
    pub fn fixed(&self) -> Vec<(&'static str, String)> {
        let uri = hex::encode(Sha256::digest(self.mongodb_uri.expose_secret()));
        vec![
            ("http", format!("{:?}", self.http)),
            ("mongodb", format!("{uri} {:?}", self.store)),
            ("ingest", format!("{:?}", self.ingest)),
            ("stream", format!("{:?}", self.stream)),
            ("spool", format!("{:?}", self.spool)),
            ("retention", format!("{:?}", self.retention)),
            ("presence", format!("{:?}", self.presence)),
            ("reconcile", format!("{:?}", self.reconcile)),
            ("log", format!("{:?}", self.log)),
        ]
    }
}
