//! `GET /livez` and `GET /readyz`: for balancers and orchestrators, without a key.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Service;

/// The process runs.
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

/// The service can do its work: MongoDB has a primary and the indexes are there.
pub async fn readyz(service: web::Data<Service>) -> HttpResponse {
    let (mongodb, indexes) = match service.store.has_indexes().await {
        Ok(true) => ("up", "present"),
        Ok(false) => ("up", "missing"),
        Err(_) => ("down", "unknown"),
    };
    let ready = indexes == "present";
    let mut response = if ready {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(json!({
        "status": if ready { "ready" } else { "not ready" },
        "checks": { "mongodb": mongodb, "indexes": indexes },
    }))
}
