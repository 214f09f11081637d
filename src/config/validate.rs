//! Turns the raw configuration into [`Config`]. Checks what the type of a single value cannot express, and goes on
//! after a problem, so that all problems are reported at once. Apps are in `apps`, query keys in `keys`, those of users'
//! tokens in `tokens`.

use std::env::VarError;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use figment::Figment;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use url::{Origin, Url};

use super::mongodb_uri;
use super::raw;
use super::{Config, ConfigError, ConfigProblem, Http, Log};
use crate::ingest::group;
use crate::spool::{self, SpoolSettings};
use crate::store::StoreSettings;
use crate::store::indexes::Retention;
use crate::store::presence::PresenceSettings;
use crate::store::reconcile::ReconcileSettings;
use crate::subscriptions::StreamSettings;
use crate::words::without_os_codes;

const MIB: u64 = 1024 * 1024;
const IS_NO_ORIGIN: &str = "is no origin of a page; write one such as https://shop.example";

/// Whether secrets are read from their files and variables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Read,
    /// They are on another machine. Each has a stand-in that no check refuses.
    Elsewhere,
}

/// Collects problems on the way.
pub(super) struct Validation<'l> {
    layers: &'l Figment,
    secrets: Secrets,
    problems: Vec<ConfigProblem>,
    /// The variables that secrets were read from.
    secret_variables: Vec<String>,
    /// The keys of secrets that were not read.
    unread: Vec<String>,
}

impl<'l> Validation<'l> {
    pub(super) fn new(layers: &'l Figment, secrets: Secrets) -> Self {
        Self {
            layers,
            secrets,
            problems: Vec::new(),
            secret_variables: Vec::new(),
            unread: Vec::new(),
        }
    }

    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems
            .push(ConfigProblem::new(self.layers, key, message.into()));
    }

    /// The configuration, and the keys of the secrets that were not read.
    pub(super) fn config(
        mut self,
        raw: raw::RawConfig,
    ) -> Result<(Config, Vec<String>), ConfigError> {
        let raw::RawConfig {
            http,
            mongodb,
            ingest,
            log,
            stream,
            retention,
            presence,
            reconcile,
            spool,
            apps,
            auth,
        } = raw;
        let uri = self.mongodb_uri(mongodb.uri);
        self.database(&mongodb.database);
        let in_time = Duration::from_millis(100)..=Duration::from_secs(3);
        if !in_time.contains(&mongodb.commit_timeout.0) {
            self.problem("mongodb.commit_timeout", "must be between 100ms and 3s");
        }
        if let Err(e) = tracing_subscriber::EnvFilter::builder().parse(&log.filter) {
            self.problem("log.filter", format!("is no log filter: {e}"));
        }
        let apps = self.apps(apps);
        let keys = self.keys(auth.keys, !auth.token_keys.is_empty(), &apps);
        let http = self.http(http);
        let tokens = self.tokens(auth.token_keys, auth.max_token_age, auth.token_rate, &apps);
        let config = Config {
            stream: self.stream(stream, &http),
            http,
            mongodb_uri: uri,
            store: StoreSettings {
                database: mongodb.database,
                commit_timeout: mongodb.commit_timeout.0,
                query_timeout: mongodb.query_timeout.0,
                state_delay: self.state_delay(&reconcile),
                analyst_indexes: mongodb.analyst_indexes,
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
                batch_bytes: self.up_to_bytes(64 * MIB, "ingest.batch_bytes", ingest.batch_bytes),
                callbacks_in_flight: self.up_to(
                    1_000_000,
                    "ingest.callbacks_in_flight",
                    ingest.callbacks_in_flight,
                ),
                bytes_in_flight: self.up_to_bytes(
                    1024 * MIB,
                    "ingest.bytes_in_flight",
                    ingest.bytes_in_flight,
                ),
                linger: self.linger(ingest.linger),
            },
            retention: Retention {
                messages: self.retention("retention.messages", retention.messages),
                events: self.retention("retention.events", retention.events),
                dead_letters: self.retention("retention.dead_letters", retention.dead_letters),
                presence: self.retention("retention.presence", retention.presence),
            },
            presence: self.presence(presence),
            reconcile: self.reconcile(reconcile),
            log: Log {
                filter: log.filter,
                format: log.format,
            },
            apps,
            keys,
            tokens,
            spool: self.spool(spool),
            secret_variables: std::mem::take(&mut self.secret_variables),
        };
        if self.problems.is_empty() {
            Ok((config, self.unread))
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }

    fn http(&mut self, raw: raw::RawHttp) -> Http {
        if raw.bytes_reading.0 < raw.max_body.0 {
            self.problem("http.bytes_reading", "must be at least http.max_body");
        }
        if raw.shutdown_delay.0 >= raw.shutdown_timeout.0 {
            self.problem("http.shutdown_delay", "must be below http.shutdown_timeout");
        }
        Http {
            listen: raw.listen.0,
            // A document is limited to 16 MiB, and a body grows when it becomes one.
            max_body: self.up_to_bytes(8 * MIB, "http.max_body", raw.max_body),
            max_ids: self.up_to(10_000, "http.max_ids", raw.max_ids),
            max_id_length: self.up_to(4096, "http.max_id_length", raw.max_id_length),
            max_team_unread: self.up_to(100_000, "http.max_team_unread", raw.max_team_unread)
                as u64,
            max_connections: self.up_to(100_000, "http.max_connections", raw.max_connections),
            header_timeout: self.up_to_a_minute("http.header_timeout", raw.header_timeout),
            keep_alive: self.up_to_a_minute("http.keep_alive", raw.keep_alive),
            body_timeout: self.up_to_a_minute("http.body_timeout", raw.body_timeout),
            min_body_rate: self.up_to_bytes(MIB, "http.min_body_rate", raw.min_body_rate) as u64,
            bytes_reading: self.up_to_bytes(1024 * MIB, "http.bytes_reading", raw.bytes_reading),
            trusted_proxies: self.networks("http.trusted_proxies", &raw.trusted_proxies),
            cors_origins: self.origins(raw.cors_origins),
            open_metrics: raw.open_metrics,
            shutdown_timeout: raw.shutdown_timeout.0,
            shutdown_delay: raw.shutdown_delay.0,
        }
    }

    /// Subscribers hold connections, of which callbacks need some.
    fn stream(&mut self, raw: raw::RawStream, http: &Http) -> StreamSettings {
        let most = http.max_connections;
        let max_subscribers = raw
            .max_subscribers
            .map(|n| n.try_into().unwrap_or(usize::MAX));
        if max_subscribers.is_some_and(|n| n == 0 || n >= most) {
            self.problem(
                "stream.max_subscribers",
                "must be at least 1 and below http.max_connections",
            );
        }
        let seconds = Duration::from_secs(1)..=Duration::from_secs(86_400);
        if !seconds.contains(&raw.recount_every.0) {
            self.problem("stream.recount_every", "must be between 1s and 1d");
        }
        if !(1..=1000).contains(&raw.max_per_user) {
            self.problem("stream.max_per_user", "must be between 1 and 1000");
        }
        StreamSettings {
            max_subscribers: max_subscribers.unwrap_or(most / 2),
            heartbeat: self.up_to_a_minute("stream.heartbeat", raw.heartbeat),
            slow_reader_timeout: self
                .up_to_a_minute("stream.slow_reader_timeout", raw.slow_reader_timeout),
            recount_every: raw.recount_every.0,
            max_per_user: raw.max_per_user.try_into().unwrap_or(usize::MAX),
        }
    }

    /// A silent client may hold its connection for this long, so it is limited.
    fn up_to_a_minute(&mut self, key: &str, raw: raw::Time) -> Duration {
        let some = Duration::from_millis(100)..=Duration::from_secs(60);
        if !some.contains(&raw.0) {
            self.problem(key, "must be between 100ms and 60s");
        }
        raw.0
    }

    /// Networks, each written `10.0.0.0/8`, or as a single address.
    pub(super) fn networks(&mut self, key: &str, raw: &[String]) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (n, text) in raw.iter().enumerate() {
            let address = || text.parse::<IpAddr>().map(|ip| ip.to_canonical().into());
            match text.parse::<IpNet>().or_else(|_| address()) {
                Ok(network) => networks.push(network),
                Err(_) => self.problem(
                    &format!("{key}.{n}"),
                    "is no network; write one such as 10.0.0.0/8 or 203.0.113.7",
                ),
            }
        }
        networks
    }

    /// Origins, each exactly as a browser sends it.
    fn origins(&mut self, raw: Vec<String>) -> Vec<String> {
        for (n, text) in raw.iter().enumerate() {
            let origin = Url::parse(text).ok().map(|url| url.origin());
            let sent = origin.filter(Origin::is_tuple);
            let sent = sent.map(|origin| origin.ascii_serialization());
            let fault = match sent {
                _ if text.contains('*') => {
                    "would let pages of others ask; list each origin of your own".to_owned()
                }
                Some(sent) if !sent.starts_with("http") => IS_NO_ORIGIN.to_owned(),
                Some(sent) if sent == *text => continue,
                Some(sent) => format!("is sent by browsers as `{sent}`; write it so"),
                None => IS_NO_ORIGIN.to_owned(),
            };
            self.problem(&format!("http.cors_origins.{n}"), fault);
        }
        raw
    }

    fn up_to(&mut self, most: u64, key: &str, value: u64) -> usize {
        if !(1..=most).contains(&value) {
            self.problem(key, format!("must be between 1 and {most}"));
        }
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    fn up_to_bytes(&mut self, most: u64, key: &str, value: raw::Size) -> usize {
        if !(1..=most).contains(&value.0) {
            self.problem(key, format!("must be between 1 and {}MiB", most / MIB));
        }
        usize::try_from(value.0).unwrap_or(usize::MAX)
    }

    fn spool(&mut self, raw: raw::RawSpool) -> SpoolSettings {
        if raw.path.as_os_str().is_empty() {
            self.problem("spool.path", "is empty; name a folder");
        }
        let max_bytes = raw.max_bytes.0;
        if max_bytes < spool::SEGMENT_BYTES {
            let least = spool::SEGMENT_BYTES / MIB;
            self.problem("spool.max_bytes", format!("must be at least {least}MiB"));
        }
        SpoolSettings {
            path: raw.path,
            max_bytes,
        }
    }

    fn presence(&mut self, raw: raw::RawPresence) -> PresenceSettings {
        let unknown_after = raw.unknown_after.0;
        let some = Duration::from_secs(60)..=Duration::from_secs(365 * 86_400);
        if !some.contains(&unknown_after) {
            self.problem("presence.unknown_after", "must be between 1m and 365d");
        }
        PresenceSettings { unknown_after }
    }

    fn reconcile(&mut self, raw: raw::Reconcile) -> ReconcileSettings {
        let every = raw.every.0;
        if !(1..=86_400).contains(&every.as_secs()) {
            self.problem("reconcile.every", "must be between 1s and 1d");
        }
        ReconcileSettings { every }
    }

    fn state_delay(&mut self, raw: &raw::Reconcile) -> Duration {
        if raw.delay.0 > Duration::from_secs(3600) {
            self.problem("reconcile.delay", "must be at most 1h");
        }
        raw.delay.0
    }

    /// Limited, or callbacks would wait longer for each other than for MongoDB.
    fn linger(&mut self, raw: raw::Time) -> Duration {
        if raw.0 > Duration::from_millis(100) {
            self.problem("ingest.linger", "must be at most 100ms");
        }
        raw.0
    }

    /// MongoDB's TTL is in whole seconds of 32 bits, and zero would delete everything.
    fn retention(&mut self, key: &str, raw: Option<raw::Time>) -> Option<Duration> {
        let keep = raw?.0;
        if !(3600..=i32::MAX as u64).contains(&keep.as_secs()) {
            self.problem(key, "must be between 1h and 24855d");
        }
        Some(keep)
    }

    fn mongodb_uri(&mut self, raw: raw::Secret) -> SecretString {
        const KEY: &str = "mongodb.uri";
        let uri = self.secret(KEY, raw);
        let is_known = !uri.expose_secret().is_empty() && self.is_read(KEY);
        if is_known && let Some(fault) = mongodb_uri::fault(uri.expose_secret()) {
            self.problem(KEY, fault);
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

    /// Whether a secret was read, and is not a stand-in.
    pub(super) fn is_read(&self, key: &str) -> bool {
        !self.unread.iter().any(|unread| unread == key)
    }

    /// Reads a secret from its file or variable.
    pub(super) fn secret(&mut self, key: &str, raw: raw::Secret) -> SecretString {
        if self.secrets == Secrets::Elsewhere && !matches!(raw, raw::Secret::Value(_)) {
            self.unread.push(key.to_owned());
            // Long enough, in letters that a path may have, and another one for each key.
            return SecretString::from(format!("not-read-{}", key.replace('.', "-")));
        }
        let found = match raw {
            raw::Secret::Value(secret) => Ok(secret),
            raw::Secret::File(raw::SecretFile { file }) => std::fs::read_to_string(&file)
                .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n'])))
                .map_err(|e| cannot_read(&file, &e)),
            raw::Secret::Env(raw::SecretEnv { env }) => {
                let found = std::env::var(&env).map(SecretString::from);
                let found = found.map_err(|error| {
                    let why = match error {
                        VarError::NotPresent => "not set",
                        VarError::NotUnicode(_) => "not UTF-8",
                    };
                    format!("is to come from the variable {env}, which is {why}")
                });
                self.secret_variables.push(env);
                found
            }
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
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    without_os_codes(&format!("cannot be read from {path}: {error}"))
}
