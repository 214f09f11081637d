//! `GET /livez` and `GET /readyz`: for balancers and orchestrators, without a key.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::Service;
use crate::store::RetentionState;
use crate::store::diagnosis::{Deployment, OutageReason};

/// How long a check may take. Most orchestrators wait for one second.
const TIMEOUT: Duration = Duration::from_millis(700);

/// The process runs.
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
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

/// What of the service's work can be done now.
///
/// 200 as long as callbacks can be taken: a balancer that took the service out while MongoDB is away
/// would lose the callbacks that the spool is there for. Queries then are answered 503, and the body
/// says so; the same holds while MongoDB is there without its indexes, as at a first start. 503 when
/// callbacks cannot be taken, and from the moment on at which the service is told to stop. Where MongoDB is down, `reason`
/// and `detail` say why, as far as is known; anybody may ask, so they name no host. `detail` alone names a MongoDB that is too
/// old.
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
    let mut report = json!({
        "status": match (callbacks, queries) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "not ready",
        },
        "callbacks": word(callbacks),
        "queries": word(queries),
        "checks": {
            "mongodb": mongodb,
            "mongodb_kind": kind,
            "indexes": indexes,
            "retention": known.retention().map_or("unknown", RetentionState::as_str),
            "spool": if spool.is_writable { "up" } else { "down" },
            "stopping": stopping,
        },
        "spool": { "bytes": spool.bytes, "quarantined_bytes": spool.quarantined_bytes },
        "state": {
            "pairs": lag.pairs,
            "lag_ms": lag.oldest.as_millis() as u64,
            "caught_up": lag.has_caught_up,
        },
    });
    if let Some(reason) = reason {
        report["reason"] = reason.code().into();
        report["detail"] = reason.sentence().into();
    } else if known.is_too_old() {
        report["detail"] = "MongoDB is older than 6.0 and refuses edits of messages".into();
    }
    response.json(report)
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
