//! `GET /metrics`, for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::auth::authorize;
use super::callbacks::{CLIENT_GONE, MISDIRECTED, REJECTIONS};
use super::error::{Code, Problem};
use crate::auth::Scope;
use crate::callback::event::Reason;
use crate::metrics::{
    CONTENT_TYPE, CallbackLabels, DeadLetterLabels, NO_KIND, Overflow, QueueLabel, ReasonLabel,
    ReconcileLabel, UNMATCHED,
};
use crate::store::documents::OTHER_CODES;

/// All metrics: what is counted, and what is now
///
/// Without a key where `http.open_metrics` is set, as by default; else with one of the scope `metrics` that is not
/// limited to apps.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    tag = "operations",
    security((), ("key" = ["metrics"])),
    responses((
        status = 200, description = "In Prometheus' text format", body = String, content_type = "text/plain"
    ))
)]
pub async fn get(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    if !service.limits.open_metrics {
        let current = service.live.current();
        authorize(&service, &current.keys, &request, Scope::Metrics)?.check_all_apps()?;
    }
    begin_at_zero(&service);
    read_state(&service);
    let mut text = String::new();
    service
        .metrics
        .encode(&mut text)
        .expect("a string takes all text");
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text))
}

/// Makes the series that alerts watch, for the apps of today. Prometheus sees no increase in a series that begins
/// with its first event.
fn begin_at_zero(service: &Service) {
    let metrics = &service.metrics;
    let rejection = |app: Arc<str>, outcome: &'static str| {
        let labels = CallbackLabels {
            app,
            kind: NO_KIND,
            outcome,
        };
        drop(metrics.callbacks.get_or_create(&labels));
    };
    for code in MISDIRECTED {
        rejection(UNMATCHED.into(), code.as_str());
    }
    for app in &service.live.current().apps {
        let outcomes = REJECTIONS.map(Code::as_str);
        for outcome in outcomes.into_iter().chain([CLIENT_GONE]) {
            rejection(app.name.shared(), outcome);
        }
        for code in Reason::CODES.into_iter().chain(OTHER_CODES) {
            let app = app.name.shared();
            let labels = DeadLetterLabels { app, code };
            drop(metrics.dead_letters.get_or_create(&labels));
        }
    }
    for reason in Overflow::ALL.map(Overflow::as_str) {
        drop(metrics.overflows.get_or_create(&ReasonLabel { reason }));
    }
    for outcome in ReconcileLabel::OUTCOMES {
        drop(
            metrics
                .reconcile_runs
                .get_or_create(&ReconcileLabel { outcome }),
        );
    }
}

/// Reads what is now. Asks neither MongoDB nor the disk, so a scrape is answered in an outage, too.
fn read_state(service: &Service) {
    let (metrics, durable) = (&service.metrics, &service.durable);
    for queue in durable.queues() {
        let label = QueueLabel { queue: queue.name };
        let set = [
            (&metrics.queue_callbacks, queue.callbacks),
            (&metrics.queue_bytes, queue.bytes),
            (&metrics.queue_limit_bytes, queue.limit_bytes),
        ];
        for (gauge, value) in set {
            gauge.get_or_create(&label).set(number(value as u64));
        }
    }
    metrics.outage.set(durable.outage.is_known().into());
    let spool = durable.spool.status();
    metrics.spool_bytes.set(number(spool.bytes));
    metrics
        .spool_limit_bytes
        .set(number(durable.spool.max_bytes()));
    metrics
        .spool_quarantined_bytes
        .set(number(spool.quarantined_bytes));
    metrics.spool_writable.set(spool.is_writable.into());
    metrics
        .spool_oldest_age
        .set(seconds(durable.spool.oldest_age()));
    let lag = durable.store.lag();
    metrics.state_pairs.set(number(lag.pairs as u64));
    metrics.state_lag.set(seconds(lag.oldest));
    metrics.state_caught_up.set(lag.has_caught_up.into());
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
