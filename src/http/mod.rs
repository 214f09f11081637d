//! The HTTP side: routes here, one file per resource, errors in [`error`].

pub mod auth;
mod callbacks;
pub mod error;
mod health;
mod unread;

use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, Route};

use crate::config::Http;
use crate::ingest::{App, GroupCommit};
use crate::store::Store;

use auth::Keys;
use error::{Code, Problem};

/// What handlers share.
pub struct Service {
    /// The apps.
    pub apps: Vec<App>,
    /// The second path of each app that has one, by position in `apps`.
    pub callback_paths: Vec<(String, usize)>,
    /// Who may query.
    pub keys: Keys,
    /// The way to durability.
    pub commits: GroupCommit,
    /// The store, for queries.
    pub store: Store,
    /// Limits.
    pub limits: Http,
}

/// Registers every route.
pub fn routes(service: &web::Data<Service>, config: &mut ServiceConfig) {
    config.app_data(service.clone());
    config.service(
        web::resource("/callbacks/{app}")
            .route(web::post().to(callbacks::by_name))
            .default_service(only("POST")),
    );
    for (path, app) in &service.callback_paths {
        config.service(
            web::resource(path)
                .app_data(callbacks::AppAt(*app))
                .route(web::post().to(callbacks::by_path))
                .default_service(only("POST")),
        );
    }
    config.service(
        web::resource("/v1/unread")
            .route(web::get().to(unread::get))
            .route(web::head().to(unread::get))
            .route(web::post().to(unread::post))
            .default_service(only("GET, HEAD, POST")),
    );
    config.service(
        web::resource("/livez")
            .route(web::get().to(health::livez))
            .route(web::head().to(health::livez))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource("/readyz")
            .route(web::get().to(health::readyz))
            .route(web::head().to(health::readyz))
            .default_service(only("GET, HEAD")),
    );
    config.default_service(web::to(not_found));
}

fn only(methods: &'static str) -> Route {
    web::to(move || async move {
        let detail = format!("use {methods}");
        Err::<HttpResponse, _>(Problem {
            allow: Some(methods),
            ..Problem::new(Code::MethodNotAllowed, detail)
        })
    })
}

async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, "no route has this path"))
}

/// Reads a body up to the limit.
async fn body(
    request: &HttpRequest,
    payload: web::Payload,
    limit: usize,
) -> Result<web::Bytes, Problem> {
    let too_large = || {
        let detail = format!("the limit is {limit} bytes (http.max_body)");
        Problem::new(Code::BodyTooLarge, detail)
    };
    // Who announces too much need not send it.
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match payload.to_bytes_limited(limit).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Problem::new(
            Code::IncompleteBody,
            "the connection ended, or the transfer encoding broke, before the body did",
        )),
        Err(_) => Err(too_large()),
    }
}
