//! Logs, to standard error, so that standard output stays data; and traces, with the feature `otel`.
//!
//! Messages are constant and values are fields. No secret, no body and no message text is ever logged.

#[cfg(feature = "otel")]
mod otel;

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{Log, LogFormat};

/// The target of access log lines, for `log.filter`.
pub const ACCESS: &str = "im_callback::access";

/// The variables that say where traces go.
/// The exporter prefers the first.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// What runs beside the service until it ends.
#[must_use = "spans that are not exported yet are lost without `end`"]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    export: Option<otel::TraceExport>,
}

/// Starts logging for the process, and the export of traces if the environment asks for it. A second call changes
/// nothing.
pub fn init(log: &Log) -> Telemetry {
    let logs = tracing_subscriber::registry().with(logs(log));
    #[cfg(feature = "otel")]
    {
        let (layer, export) = otel::start(export_asked_by());
        drop(logs.with(layer).try_init());
        export.report();
        Telemetry {
            export: export.running(),
        }
    }
    #[cfg(not(feature = "otel"))]
    {
        drop(logs.try_init());
        if let Some(variable) = export_asked_by() {
            tracing::warn!(
                variable,
                "traces are asked for, but this program exports none; build it with `--features otel`"
            );
        }
        Telemetry {}
    }
}

impl Telemetry {
    /// Exports the last spans, for a second at most.
    pub async fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(export) = self.export {
            export.end().await;
        }
    }
}

/// The variable that says where traces go, unless another one says that none are wanted. An empty variable counts as
/// absent.
fn export_asked_by() -> Option<&'static str> {
    let has = |name: &str, word: &str| {
        std::env::var(name).is_ok_and(|value| value.trim().eq_ignore_ascii_case(word))
    };
    if has("OTEL_SDK_DISABLED", "true") || has("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    ENDPOINTS.into_iter().find(is_set)
}

/// The layer that writes log lines.
fn logs<S>(log: &Log) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    // The filter was checked with the configuration.
    let mut filter = EnvFilter::builder().parse_lossy(&log.filter);
    // actix logs an error for each broken request, so any stranger could fill the disk. Name actix_http in the
    // filter to see them.
    if !log.filter.contains("actix_http")
        && let Ok(none) = "actix_http=off".parse()
    {
        filter = filter.add_directive(none);
    }
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // The reader of the log may close its pipe. Writing an error about that to the same pipe would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match log.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}
