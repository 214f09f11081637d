//! Traces over OTLP/HTTP, configured by OpenTelemetry's own variables.
//!
//! Only spans of this crate are exported, with the fields that log lines may have: no secret, no body, no raw path.
//! A collector that is slow or away holds up nothing: spans wait in a bounded queue (`OTEL_BSP_MAX_QUEUE_SIZE`) for a
//! thread that sends them, and beyond it they are dropped.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::ACCESS;
use crate::throttle::Throttle;

/// How long the end waits for the collector.
const FLUSH: Duration = Duration::from_secs(1);

/// The running export.
pub struct TraceExport(SdkTracerProvider);

/// What became of the wish to export traces.
pub enum Started {
    /// Nobody asked for it.
    NotAsked,
    /// Spans are exported.
    Running(TraceExport),
    /// The variables cannot be used; the field is the one that says where to.
    Misconfigured(&'static str),
}

impl Started {
    /// Logs it. Apart from [`start`], because the log starts after it.
    pub fn report(&self) {
        match self {
            Self::NotAsked => {}
            Self::Running(_) => tracing::info!("traces are exported over OTLP/HTTP"),
            // Without the library's text, which may quote the address and so a password.
            Self::Misconfigured(variable) => tracing::error!(
                variable,
                "no traces are exported: the variable must be an address such as http://127.0.0.1:4318, and \
                 OTEL_EXPORTER_OTLP_COMPRESSION must not be set"
            ),
        }
    }

    /// The export, if it runs.
    pub fn running(self) -> Option<TraceExport> {
        match self {
            Self::Running(export) => Some(export),
            Self::NotAsked | Self::Misconfigured(_) => None,
        }
    }
}

/// Makes the layer that turns our spans into OpenTelemetry's, if a variable asks for it.
pub fn start<S>(asked_by: Option<&'static str>) -> (Option<impl Layer<S>>, Started)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let Some(variable) = asked_by else {
        return (None, Started::NotAsked);
    };
    let exporter = OtlpExporter::builder()
        .with_http()
        // The only protocol that is built in, whatever OTEL_EXPORTER_OTLP_PROTOCOL says.
        .with_protocol(Protocol::HttpBinary)
        .build();
    let Ok(exporter) = exporter else {
        return (None, Started::Misconfigured(variable));
    };
    let exporter = LoggedExporter {
        exporter,
        lines: Throttle::default(),
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
        // Where a span is in the code says its name, and threads say nothing of an async program.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        // Apart from the log's filter: the log stays quiet while spans, which are at debug level, are exported. Other
        // crates' spans are not, since we do not know what is in them.
        // Access log lines are not either: they say what the span says, and without a reader they are not made.
        .with_filter(
            Targets::new()
                .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG)
                .with_target(ACCESS, LevelFilter::OFF),
        );
    (Some(layer), Started::Running(TraceExport(provider)))
}

impl TraceExport {
    /// Sends the spans that wait, for [`FLUSH`] at most, and ends the export.
    pub async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH)).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the last spans were not exported in time");
        }
    }
}

/// Who exports: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES over this program's name and version.
fn resource() -> Resource {
    let ours = [
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let mut resource = Resource::builder_empty()
        .with_attributes(ours)
        .with_detector(Box::new(EnvResourceDetector::new()));
    if let Ok(name) = std::env::var("OTEL_SERVICE_NAME")
        && !name.is_empty()
    {
        resource = resource.with_service_name(name);
    }
    resource.build()
}

/// Logs failures. The SDK could do it by its feature `internal-logs`, but its texts quote addresses and answers.
#[derive(Debug)]
struct LoggedExporter {
    exporter: OtlpExporter,
    lines: Throttle,
}

impl SpanExporter for LoggedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported
            && let Some(kept_back) = self.lines.pass(Instant::now())
        {
            tracing::warn!(spans, %error, kept_back, "spans are lost, because the collector did not take them");
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
