//! `GET /livez` and `GET /readyz`: for balancers and orchestrators, without a key.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::Service;
use crate::store::RetentionState;
use crate::store::diagnosis::{Deployment, OutageReason};

/// How long a check may take. Most orchestrators wait for one second.
const TIMEOUT: Duration = Duration::from_millis(700);

/// That the process runs.
#[derive(Serialize, ToSchema)]
struct LivezAnswer {
    /// `alive`.
    status: &'static str,
}

/// Whether the process runs
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "get_livez",
    tag = "operations",
    security(()),
    responses((status = 200, description = "It does", body = LivezAnswer))
)]
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(LivezAnswer { status: "alive" })
}

/// What of the service's work can be done now.
#[derive(Serialize, ToSchema)]
struct ReadyzAnswer {
    /// `ready`; `degraded` if callbacks are taken and queries are not answered; `not ready` if callbacks are not taken.
    status: &'static str,
    /// `ready` or `not ready`.
    callbacks: &'static str,
    /// `ready` or `not ready`.
    queries: &'static str,
    /// What that follows from.
    checks: ReadyzChecks,
    /// The local queue for callbacks that MongoDB cannot take.
    spool: ReadyzSpool,
    /// How far `state` in `messages` is behind the read marks.
    state: ReadyzState,
    /// Why MongoDB is down, for programs, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'static str>,
    /// What is wrong with MongoDB, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<&'static str>,
}

/// What was found out.
#[derive(Serialize, ToSchema)]
struct ReadyzChecks {
    /// `up`, `down` or `unknown`.
    mongodb: &'static str,
    /// What kind of deployment MongoDB is, or `unknown`.
    mongodb_kind: &'static str,
    /// `present`, `missing` or `unknown`.
    indexes: &'static str,
    /// Whether documents are deleted as configured.
    retention: &'static str,
    /// `up` or `down`: whether the spool's disk takes callbacks.
    spool: &'static str,
    /// Whether the service was told to stop.
    stopping: bool,
}

/// The local queue.
#[derive(Serialize, ToSchema)]
struct ReadyzSpool {
    /// The size of what waits for MongoDB.
    bytes: u64,
    /// The size of what was set aside because it cannot be read.
    quarantined_bytes: u64,
}

/// How far `state` is behind.
#[derive(Serialize, ToSchema)]
struct ReadyzState {
    /// Pairs of reader and sender that wait.
    pairs: usize,
    /// How long the first of them has waited.
    lag_ms: u64,
    /// Whether what was left at the start is done.
    caught_up: bool,
}

/// What was found out when `/readyz` was asked last.
#[derive(Clone, Copy)]
pub struct Checked {
    at: Instant,
    mongodb: Result<&'static str, OutageReason>,
    indexes: &'static str,
}

/// How long that is not asked again: who asks often, with a key or without, costs MongoDB no more.
const FRESH: Duration = Duration::from_millis(500);

/// What of the service's work can be done now
///
/// 200 as long as callbacks can be taken: a balancer that took the service out while MongoDB is away
/// would lose the callbacks that the spool is there for. Queries then are answered 503, and the body
/// says so; the same holds while MongoDB is there without its indexes, as at a first start. 503 when
/// callbacks cannot be taken, and from the moment on at which the service is told to stop. Where MongoDB is down, `reason`
/// and `detail` say why, as far as is known; anybody may ask, so they name no host. `detail` alone names a MongoDB that is too
/// old.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "get_readyz",
    tag = "operations",
    security(()),
    responses(
        (status = 200, description = "Callbacks are taken", body = ReadyzAnswer),
        (status = 503, description = "Callbacks are not taken", body = ReadyzAnswer),
    )
)]
pub async fn readyz(service: web::Data<Service>) -> HttpResponse {
    let stopping = service.stopping.is_cancelled();
    let outage = &service.durable.outage;
    let (mongodb, indexes) = if stopping {
        (Ok("unknown"), "unknown")
    } else {
        let checked = checked(&service).await;
        if outage.is_known() {
            (Err(outage.reason()), "unknown")
        } else {
            (checked.mongodb, checked.indexes)
        }
    };
    let (mongodb, reason) = match mongodb {
        Ok(word) => (word, None),
        Err(reason) => ("down", Some(reason)),
    };
    let known = service.durable.store.known();
    let kind = known.deployment().map_or("unknown", Deployment::as_str);
    let spool = service.durable.spool.status();
    let lag = service.durable.store.lag();
    let queries = indexes == "present" && !stopping;
    let callbacks = (mongodb == "up" || spool.is_writable) && !stopping;
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let mut response = if callbacks {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    let detail = match reason {
        Some(reason) => Some(reason.sentence()),
        None if known.is_too_old() => {
            Some("MongoDB is older than 6.0 and refuses edits of messages")
        }
        None => None,
    };
    response.json(ReadyzAnswer {
        status: match (callbacks, queries) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "not ready",
        },
        callbacks: word(callbacks),
        queries: word(queries),
        checks: ReadyzChecks {
            mongodb,
            mongodb_kind: kind,
            indexes,
            retention: known.retention().map_or("unknown", RetentionState::as_str),
            spool: if spool.is_writable { "up" } else { "down" },
            stopping,
        },
        spool: ReadyzSpool {
            bytes: spool.bytes,
            quarantined_bytes: spool.quarantined_bytes,
        },
        state: ReadyzState {
            pairs: lag.pairs,
            lag_ms: lag.oldest.as_millis() as u64,
            caught_up: lag.has_caught_up,
        },
        reason: reason.map(OutageReason::code),
        detail,
    })
}

/// Asks MongoDB, and a disk that has refused something, how they are, unless that was just done.
async fn checked(service: &Service) -> Checked {
    let mut last = service.checked.lock().await;
    if let Some(checked) = *last
        && checked.at.elapsed() < FRESH
    {
        return checked;
    }
    let durable = &service.durable;
    if !durable.spool.status().is_writable {
        let spool = durable.spool.clone();
        let _ = timeout(TIMEOUT, spawn_blocking(move || spool.try_disk())).await;
    }
    let (mongodb, indexes) = if durable.outage.is_known() {
        (Err(durable.outage.reason()), "unknown")
    } else {
        match timeout(TIMEOUT, durable.store.has_indexes()).await {
            Ok(Ok(true)) => (Ok("up"), "present"),
            Ok(Ok(false)) => (Ok("up"), "missing"),
            Ok(Err(_)) | Err(_) => (Err(OutageReason::NotAnswering), "unknown"),
        }
    };
    let at = Instant::now();
    *last.insert(Checked {
        at,
        mongodb,
        indexes,
    })
}
