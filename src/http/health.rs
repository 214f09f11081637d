//! `GET /livez` and `GET /readyz`: for balancers and orchestrators, without a key.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokio::time::timeout;

use super::Service;

/// How long MongoDB may take to say how it is. Orchestrators mostly wait for one second.
const PATIENCE: Duration = Duration::from_millis(700);

/// The process runs.
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

/// What of the service's work can be done now.
///
/// 200 as long as callbacks can be taken: a balancer that took the service out while MongoDB is away
/// would lose the callbacks that the spool is there for. Queries then are answered 503, and the body
/// says so. 503 when callbacks cannot be taken, while MongoDB is there without its indexes, as at a
/// first start, and from the moment on at which the service is told to stop.
pub async fn readyz(service: web::Data<Service>) -> HttpResponse {
    let durable = &service.durable;
    let spool = durable.spool.status();
    let stopping = service.stopping.is_cancelled();
    let (mongodb, indexes) = if stopping {
        ("unknown", "unknown")
    } else if durable.outage.is_known() {
        ("down", "unknown")
    } else {
        match timeout(PATIENCE, durable.store.has_indexes()).await {
            Ok(Ok(true)) => ("up", "present"),
            Ok(Ok(false)) => ("up", "missing"),
            Ok(Err(_)) | Err(_) => ("down", "unknown"),
        }
    };
    let queries = indexes == "present" && !stopping;
    let callbacks = (queries || (mongodb == "down" && spool.takes)) && !stopping;
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let mut response = if callbacks {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(json!({
        "status": match (callbacks, queries) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "not ready",
        },
        "callbacks": word(callbacks),
        "queries": word(queries),
        "checks": {
            "mongodb": mongodb,
            "indexes": indexes,
            "spool": if spool.takes { "up" } else { "down" },
            "stopping": stopping,
        },
        "spool": { "bytes": spool.bytes, "set_aside_bytes": spool.set_aside_bytes },
    }))
}
