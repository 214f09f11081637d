//! `POST /callbacks/{app}`, and the second path that an app may have: the provider's side.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::FutureExt;
use mongodb::bson::DateTime;

use super::body::body;
use super::error::{Code, Problem};
use super::{Service, use_instead};
use crate::ingest::{App, IngestError, Rejection, ingest};

/// What the provider takes as delivered.
const DELIVERED: &str = r#"{"code":200}"#;

/// `/callbacks/{app}`
pub async fn by_name(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let rest = request.match_info().unprocessed();
    let name = rest.strip_prefix('/').unwrap_or_default();
    if name.is_empty() || name.contains('/') {
        return Err(no_route());
    }
    if request.method() != Method::POST {
        return Err(use_instead("POST"));
    }
    let current = service.live.current();
    let app = current
        .app(name)
        .ok_or_else(|| Problem::new(Code::UnknownApp, "no app of this name is configured"))?;
    take(&request, payload, &service, app).await
}

/// Any path that is no route: perhaps it is an app's second one.
pub async fn by_path(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let app = current.app_at(request.path()).ok_or_else(no_route)?;
    if request.method() != Method::POST {
        return Err(use_instead("POST"));
    }
    take(&request, payload, &service, app).await
}

fn no_route() -> Problem {
    Problem::new(Code::NotFound, "no route has this path")
}

/// Takes a callback, and logs why not.
async fn take(
    request: &HttpRequest,
    payload: web::Payload,
    service: &Service,
    app: &App,
) -> Result<HttpResponse, Problem> {
    let taken = taken(request, payload, service, app).await;
    if let Err(problem) = &taken
        && let Some(kept_back) = service.rejection_log.log(problem.code, Instant::now())
    {
        let (code, peer) = (problem.code.as_str(), request.peer_addr());
        tracing::warn!(app = %app.name, code, ?peer, kept_back, "callback refused");
    }
    taken
}

async fn taken(
    request: &HttpRequest,
    payload: web::Payload,
    service: &Service,
    app: &App,
) -> Result<HttpResponse, Problem> {
    let header = |name: &str| {
        let mut values = request.headers().get_all(name);
        let value = values.next()?;
        // A header that is no text, or is sent twice, is there all the same, and equals nothing that is
        // expected.
        let readable = value.to_str().ok().filter(|_| values.next().is_none());
        Some(readable.unwrap_or("\u{fffd}"))
    };
    let is_signed = || {
        let now = DateTime::now().timestamp_millis();
        let head = app.verifier.verify_head(&header, now);
        head.map_err(|error| IngestError::from(error).into())
    };
    let body = body(request, payload, service, &is_signed).await?;
    let taken = ingest(app, &service.durable, &body, &header, DateTime::now());
    or_unavailable(taken).await?;
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(DELIVERED))
}

/// A panic must be no 500 and no cut connection: only 503 makes the provider keep the event.
async fn or_unavailable<T>(
    taken: impl Future<Output = Result<T, IngestError>>,
) -> Result<T, IngestError> {
    let caught = AssertUnwindSafe(taken).catch_unwind().await;
    caught.unwrap_or(Err(IngestError::Rejected(Rejection::NotDurable)))
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::test::{TestRequest, call_service, init_service};

    use super::*;

    #[actix_web::test]
    async fn a_panic_is_answered_503_and_hurts_no_other_request() {
        let panicking = web::to(async || {
            let taken = or_unavailable::<()>(async { panic!("on purpose") }).await;
            taken.map(|()| HttpResponse::Ok()).map_err(Problem::from)
        });
        let fine = web::to(async || HttpResponse::Ok());
        let app = App::new().route("/panic", panicking).route("/fine", fine);
        let app = init_service(app).await;
        for (path, status) in [("/panic", 503), ("/fine", 200), ("/panic", 503)] {
            let answer = call_service(&app, TestRequest::post().uri(path).to_request()).await;
            assert_eq!(answer.status().as_u16(), status);
        }
    }
}
