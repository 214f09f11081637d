//! Metrics, for Prometheus. Each service has its own registry, so services in one process do not share counts.
//!
//! Names and labels are an interface: dashboards and alerts (`ops/`) use them, and `docs/operations.md` lists them. The
//! values of a label are few: apps that are configured, codes, words of the enums here. Nothing that a stranger sends
//! becomes a label.
//!
//! What happens is counted where it happens. What *is* (queues, the spool, lag) is read when somebody asks for the
//! metrics, by `http::metrics`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The content type of [`Metrics::encode`].
pub use prometheus_text::CONTENT_TYPE;

/// The prefix of every name.
const PREFIX: &str = "im_callback";

/// The app of a callback whose address belongs to no app.
pub const UNMATCHED: &str = "unmatched";

/// The kind of a callback that was rejected before it was decoded, or that has no event.
pub const NO_KIND: &str = "none";

/// A gauge of fractions, such as seconds.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// A family of histograms.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Makes the struct of all metrics. A metric's documentation is its help text.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal, $metric:expr;)+) => {
        /// All metrics of a service.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Metrics {
            /// All metrics, at zero.
            pub fn new() -> Self {
                let mut registry = Registry::default();
                registry.register(
                    "process_start_time_seconds",
                    "When the process started, in seconds since 1970",
                    ConstGauge::new(seconds_since_1970()),
                );
                let ours = registry.sub_registry_with_prefix(PREFIX);
                let version = [("version", env!("CARGO_PKG_VERSION"))];
                ours.register("build", "The version that runs", Info::new(version));
                $(let $field: $kind = $metric;
                ours.register($name, help(&[$($help),+]), $field.clone());)+
                Self { registry, $($field,)+ }
            }
        }
    };
}

metrics! {
    /// Callbacks, by app, kind of the first event (`none` if it was rejected or has none) and outcome:
    /// `stored`, `spooled`, `dead_letter`, `empty`, `client_gone` or the code of the rejection
    callbacks: Family<CallbackLabels, Counter> = "callbacks", Family::default();
    /// The time from the head of a callback to its acknowledgement
    ack_duration: Histograms<AppLabel> = "ack_duration_seconds",
        Family::new_with_constructor(durations);
    /// The time from an event at the provider to its callback, zero if the clocks disagree
    provider_lag: Histograms<AppLabel> = "provider_lag_seconds",
        Family::new_with_constructor(lags);
    /// The time that MongoDB takes for a commit, retries included
    commit_duration: Histogram = "commit_duration_seconds", durations();
    /// The callbacks in a commit
    commit_callbacks: Histogram = "commit_callbacks",
        Histogram::new(exponential_buckets(1.0, 2.0, 10));
    /// Attempts of commits that were repeated, because MongoDB was at fault
    commit_retries: Counter = "commit_retries", Counter::default();
    /// Documents that were stored already: redeliveries, and repeated attempts
    duplicates: Family<CollectionLabel, Counter> = "duplicates", Family::default();
    /// Callbacks that wait, by what they wait for
    queue_callbacks: Family<QueueLabel, Gauge> = "queue_callbacks", Family::default();
    /// Bytes of callbacks that wait or are being written
    queue_bytes: Family<QueueLabel, Gauge> = "queue_bytes", Family::default();
    /// The most bytes that may wait or be written
    queue_limit_bytes: Family<QueueLabel, Gauge> = "queue_limit_bytes", Family::default();
    /// Callbacks that went to the spool instead of MongoDB, by reason
    overflows: Family<ReasonLabel, Counter> = "overflows", Family::default();
    /// Whether an outage of MongoDB is known
    outage: Gauge = "outage", Gauge::default();
    /// Outages of MongoDB that have begun
    outages: Counter = "outages", Counter::default();
    /// Bytes in the spool on their way into MongoDB
    spool_bytes: Gauge = "spool_bytes", Gauge::default();
    /// The most bytes in the spool, quarantined ones included
    spool_limit_bytes: Gauge = "spool_limit_bytes", Gauge::default();
    /// Bytes of the spool that wait for somebody to look at them
    spool_quarantined_bytes: Gauge = "spool_quarantined_bytes", Gauge::default();
    /// Whether the spool takes callbacks
    spool_writable: Gauge = "spool_writable", Gauge::default();
    /// How long the oldest segment of the spool has been waiting, zero if the spool is empty
    spool_oldest_age: FloatGauge = "spool_oldest_age_seconds", Gauge::default();
    /// The time that the disk takes for a batch
    spool_append_duration: Histogram = "spool_append_duration_seconds", durations();
    /// Callbacks that were written to the spool
    spool_appended: Counter = "spool_appended_callbacks", Counter::default();
    /// Callbacks that were moved from the spool to MongoDB; after an interruption some are counted again
    spool_drained: Counter = "spool_drained_callbacks", Counter::default();
    /// Callbacks that became dead letters, redeliveries included
    dead_letters: Family<DeadLetterLabels, Counter> = "dead_letters", Family::default();
    /// Pairs of reader and peer whose `state` lags behind their read mark
    state_pairs: Gauge = "state_pairs", Gauge::default();
    /// How long the first of these pairs has waited
    state_lag: FloatGauge = "state_lag_seconds", Gauge::default();
    /// Whether the first walk over all unread messages is done
    state_caught_up: Gauge = "state_caught_up", Gauge::default();
    /// Walks over all unread messages, by outcome
    reconcile_runs: Family<ReconcileLabel, Counter> = "reconcile_runs", Family::default();
    /// Messages whose `state` a walk repaired
    reconcile_repaired: Counter = "reconcile_repaired", Counter::default();
    /// Requests, by route (`unmatched` for all others), method and status; without a response it is 499 if the
    /// client was gone, 500 if a handler panicked
    http_requests: Family<RequestLabels, Counter> = "http_requests", Family::default();
    /// The time that requests take, by route
    http_request_duration: Histograms<RouteLabel> = "http_request_duration_seconds",
        Family::new_with_constructor(durations);
    /// Subscribers of live counts
    streams: Gauge = "streams", Gauge::default();
    /// Streams of live counts that have ended, by reason
    streams_ended: Family<ReasonLabel, Counter> = "streams_ended", Family::default();
    /// The time from a change, as MongoDB tells it, until its recount is told to subscribers
    stream_delay: Histogram = "stream_delay_seconds", durations();
    /// Counts of live questions
    stream_recounts: Counter = "stream_recounts", Counter::default();
    /// Change streams of MongoDB that were opened; each change of who is watched opens another
    change_streams_opened: Counter = "change_streams_opened", Counter::default();
    /// Requests that a key was refused for, by reason
    rejected_keys: Family<ReasonLabel, Counter> = "rejected_keys", Family::default();
    /// Requests that were refused because their caller sends too many, by its kind (`key` or `user`) and the name of its
    /// key
    limited_requests: Family<CallerLabels, Counter> = "limited_requests", Family::default();
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Writes all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Only if the writer fails.
    pub fn encode(&self, to: &mut impl fmt::Write) -> fmt::Result {
        prometheus_text::encode(to, &self.registry)
    }
}

/// A callback's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallbackLabels {
    /// The app's name, or [`UNMATCHED`].
    pub app: Arc<str>,
    /// The kind of the first event, or [`NO_KIND`].
    pub kind: &'static str,
    /// What became of it.
    pub outcome: &'static str,
}

/// The label of an app.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AppLabel {
    /// The app's name.
    pub app: Arc<str>,
}

/// The label of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CollectionLabel {
    /// The collection's name.
    pub collection: &'static str,
}

/// The label of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabel {
    /// What its callbacks wait for.
    pub queue: &'static str,
}

/// Why a callback goes to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// An outage is known.
    Outage,
    /// Too many callbacks or bytes wait for MongoDB.
    QueueFull,
    /// MongoDB did not answer in time.
    Slow,
    /// MongoDB answered, and did not confirm it.
    NotConfirmed,
}

impl Overflow {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::Outage,
        Self::QueueFull,
        Self::Slow,
        Self::NotConfirmed,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::QueueFull => "queue_full",
            Self::Slow => "slow",
            Self::NotConfirmed => "not_confirmed",
        }
    }
}

/// A dead letter's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeadLetterLabels {
    /// The app's name.
    pub app: Arc<str>,
    /// Why it is one.
    pub code: &'static str,
}

/// The label of a walk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabel {
    /// One of [`ReconcileLabel::OUTCOMES`].
    pub outcome: &'static str,
}

impl ReconcileLabel {
    /// How a walk can end.
    pub const OUTCOMES: [&'static str; 2] = ["ok", "failed"];
}

/// A request's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's name, or `unmatched`.
    pub route: &'static str,
    /// The method, or `other`.
    pub method: &'static str,
    /// The status, or what stands for it if there was no response.
    pub status: u16,
}

/// The label of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabel {
    /// The route's name, or `unmatched`.
    pub route: &'static str,
}

/// The label of a reason, for overflows and rejected keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Why.
    pub reason: &'static str,
}

/// The labels of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallerLabels {
    /// `key`, or `user`, who has a token.
    pub caller: &'static str,
    /// The name of the key, or of the one that tokens are signed with.
    pub key: String,
}

/// From half a millisecond to ten seconds: an acknowledgement takes up to five.
fn durations() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// From a tenth of a second to two days: providers redeliver for hours.
fn lags() -> Histogram {
    Histogram::new([
        0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21_600.0, 86_400.0,
        172_800.0,
    ])
}

fn seconds_since_1970() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// A help text of the lines of a documentation comment; the library adds the full stop.
fn help(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}
