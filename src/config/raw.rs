//! The configuration as the file has it. Shapes only; `validate` checks what values mean together.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;
use secrecy::SecretString;
use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::auth::Scope;
use crate::callback::ids::AppName;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    pub http: RawHttp,
    pub mongodb: Mongodb,
    pub ingest: Ingest,
    pub log: RawLog,
    pub stream: RawStream,
    #[serde(default)]
    pub retention: RawRetention,
    pub presence: RawPresence,
    pub reconcile: Reconcile,
    pub spool: RawSpool,
    #[serde(default, deserialize_with = "list")]
    pub apps: Vec<RawApp>,
    pub auth: Auth,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHttp {
    pub listen: Listen,
    pub max_body: Size,
    pub max_ids: u64,
    pub max_id_length: u64,
    pub max_team_unread: u64,
    pub max_connections: u64,
    pub header_timeout: Time,
    pub keep_alive: Time,
    pub body_timeout: Time,
    pub min_body_rate: Size,
    pub bytes_reading: Size,
    pub trusted_proxies: Vec<String>,
    pub cors_origins: Vec<String>,
    pub open_metrics: bool,
    pub shutdown_timeout: Time,
    pub shutdown_delay: Time,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mongodb {
    pub uri: Secret,
    pub database: String,
    pub commit_timeout: Time,
    pub query_timeout: Time,
    pub analyst_indexes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    pub commits_in_flight: u64,
    pub batch_callbacks: u64,
    pub batch_bytes: Size,
    pub callbacks_in_flight: u64,
    pub bytes_in_flight: Size,
    pub linger: Time,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStream {
    pub max_subscribers: Option<u64>,
    pub heartbeat: Time,
    pub slow_reader_timeout: Time,
    pub recount_every: Time,
    pub max_per_user: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLog {
    pub filter: String,
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct RawRetention {
    pub messages: Option<Time>,
    pub events: Option<Time>,
    pub dead_letters: Option<Time>,
    pub presence: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPresence {
    pub unknown_after: Time,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    pub delay: Time,
    pub every: Time,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSpool {
    pub path: PathBuf,
    pub max_bytes: Size,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApp {
    pub name: AppName,
    pub provider: RawProvider,
    pub app_key: Option<String>,
    #[serde(default, deserialize_with = "list")]
    pub app_secrets: Vec<Secret>,
    #[serde(default)]
    pub allow: Vec<String>,
    pub callback_path: Option<String>,
    pub order_id: Option<OrderId>,
    pub freshness: Option<Time>,
    pub count_tips: Option<bool>,
    pub custom_types: Option<BTreeMap<String, RawWeight>>,
    pub line: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawProvider {
    Netease,
    Rongcloud,
    Wildfire,
    Yuntongxun,
}

/// What becomes of RongCloud's messages of a type.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub enum RawWeight {
    Counted,
    Stored,
    Status,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderId {
    pub field: String,
    pub pointer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    #[serde(default, deserialize_with = "list")]
    pub keys: Vec<RawKey>,
    #[serde(default, deserialize_with = "list")]
    pub token_keys: Vec<RawTokenKey>,
    pub max_token_age: Time,
    pub token_rate: RawRate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKey {
    pub name: String,
    pub secret: Secret,
    #[serde(deserialize_with = "list")]
    pub scopes: Vec<Scope>,
    #[serde(default, deserialize_with = "some_list")]
    pub apps: Option<Vec<String>>,
    pub rate: Option<RawRate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTokenKey {
    pub name: String,
    pub algorithm: TokenAlgorithm,
    pub secret: Option<Secret>,
    /// No secret, but it, too, may be in a file.
    pub public_key: Option<Secret>,
    #[serde(default, deserialize_with = "some_list")]
    pub apps: Option<Vec<String>>,
}

/// By their names in tokens.
#[derive(Deserialize, Clone, Copy)]
pub enum TokenAlgorithm {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRate {
    pub per_second: u64,
    pub burst: u64,
}

/// A secret, or where it is kept.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "is no secret; write a text, { file = \"…\" } or { env = \"…\" }"
)]
pub enum Secret {
    Value(SecretString),
    File(SecretFile),
    Env(SecretEnv),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    pub file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretEnv {
    pub env: String,
}

/// An address to listen on.
pub struct Listen(pub SocketAddr);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let address = String::deserialize(deserializer)?.parse();
        address
            .map(Self)
            .map_err(|_| D::Error::custom("is no socket address; write one such as 127.0.0.1:8080"))
    }
}

/// Reads a list, and calls it so in errors, where serde says "a sequence".
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}

/// A list that may be absent, which is not the same as an empty one.
fn some_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list(deserializer).map(Some)
}

/// A number of bytes, such as `1MiB`.
#[derive(Clone, Copy)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size")
            }
            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                let size = u64::try_from(bytes).map(Size);
                size.map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                let size = text.parse::<ByteSize>();
                size.map(|size| Size(size.as_u64()))
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

/// A length of time above zero, such as `30s`.
#[derive(Clone, Copy)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Length;
        impl Visitor<'_> for Length {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time above zero")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                length_of_time(text)
                    .filter(|time| !time.is_zero())
                    .map(Time)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Length)
    }
}

/// Reads `30s`, `1h30m` or `365d`. A configured day has 24 hours; jiff refuses days where it would have to guess that.
fn length_of_time(text: &str) -> Option<Duration> {
    let whole_days = text
        .trim()
        .strip_suffix('d')
        .and_then(|n| n.trim().parse::<i64>().ok());
    let time = match whole_days {
        Some(days) => days
            .checked_mul(24)
            .and_then(SignedDuration::try_from_hours),
        None => text.parse::<SignedDuration>().ok(),
    };
    Duration::try_from(time?).ok()
}
