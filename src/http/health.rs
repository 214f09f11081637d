//! `GET /livez` and `GET /readyz`: for balancers and orchestrators, without a key.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Service;

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
    let (mongodb, indexes) = if durable.outage.is_known() {
        ("down", "unknown")
    } else {
        match durable.store.has_indexes().await {
            Ok(true) => ("up", "present"),
            Ok(false) => ("up", "missing"),
            Err(_) => ("down", "unknown"),
        }
    };
    let spool = durable.spool.status();
    let stopping = service.stopping.is_cancelled();
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
