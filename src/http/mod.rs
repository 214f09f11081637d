//! The HTTP side: routes here, one file per resource, errors in [`error`].

mod asked;
mod auth;
mod body;
mod callbacks;
mod client_address;
pub mod connection;
mod cors;
pub(crate) mod dead_letters;
mod docs;
pub mod error;
mod fixed;
pub mod health;
pub mod key_failures;
mod lost_callbacks;
pub mod memory_budget;
mod messages;
mod metrics;
mod moment;
pub mod openapi;
mod presence;
mod query;
pub mod rate_limits;
mod read;
pub mod rejections;
mod request;
pub mod route;
pub mod server;
pub(crate) mod trace;
pub mod unread;

use std::sync::Arc;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Route as Handled};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::Http;
use crate::ingest::Durable;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::store::indexes::Retention;
use crate::store::presence::PresenceSettings;
use crate::subscriptions::Subscriptions;

use error::{Code, Problem};
use health::Checked;
use key_failures::KeyFailures;
use memory_budget::MemoryBudget;
use rate_limits::RateLimits;
use rejections::RejectionLog;
use route::Route;
use unread::UnreadQuery;

/// What handlers share.
pub struct Service {
    /// The apps and the keys.
    pub live: Live,
    /// The way to durability, and the store, for queries.
    pub durable: Durable,
    /// Cancelled from the moment on at which the service is told to stop.
    pub stopping: CancellationToken,
    /// Limits.
    pub limits: Http,
    /// How long documents are kept, as configured.
    pub retention: Retention,
    /// When nobody knows any more whether a device is online.
    pub presence: PresenceSettings,
    /// Memory for heads and bodies that are still arriving.
    pub memory_budget: Arc<MemoryBudget>,
    /// Rejected callbacks, logged at a limited rate.
    pub rejection_log: RejectionLog,
    /// Refused keys: counted, logged and limited.
    pub key_failures: KeyFailures,
    /// How many requests each caller may send.
    pub rate_limits: RateLimits,
    /// How MongoDB was when it was asked last.
    pub checked: Mutex<Option<Checked>>,
    /// Who is told of changed counts.
    pub subscriptions: Subscriptions<UnreadQuery>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Service {
    /// Lets a query pass unless MongoDB is known to be away. A primary without its majority might still answer, and know
    /// nothing of what is in the spool.
    ///
    /// # Errors
    /// A [`Problem`] of 503.
    fn check_reachable(&self) -> Result<(), Problem> {
        if self.durable.outage.is_known() {
            let detail = "MongoDB is away, so this cannot be answered now; ask again";
            return Err(Problem::new(Code::Unavailable, detail));
        }
        Ok(())
    }
}

/// Registers every route.
pub fn routes(service: &web::Data<Service>, config: &mut ServiceConfig) {
    config.app_data(service.clone());
    // A scope and no pattern, since to match a pattern takes a regular expression, for every callback.
    let callbacks = web::scope(Route::Callbacks.pattern());
    config.service(callbacks.default_service(web::to(callbacks::by_name)));
    config.service(
        web::resource(Route::Unread.pattern())
            .route(web::get().to(unread::get))
            .route(web::head().to(unread::get))
            .route(web::post().to(unread::post))
            .default_service(only("GET, HEAD, POST")),
    );
    config.service(
        web::resource(Route::Messages.pattern())
            .route(web::get().to(messages::get))
            .route(web::head().to(messages::get))
            .route(web::post().to(messages::post))
            .default_service(only("GET, HEAD, POST")),
    );
    config.service(
        web::resource(Route::Read.pattern())
            .route(web::post().to(read::post))
            .default_service(only("POST")),
    );
    config.service(
        web::resource(Route::Presence.pattern())
            .route(web::get().to(presence::get))
            .route(web::head().to(presence::get))
            .route(web::post().to(presence::post))
            .default_service(only("GET, HEAD, POST")),
    );
    config.service(
        web::resource(Route::UnreadStream.pattern())
            .route(web::get().to(unread::stream::get))
            .route(web::head().to(unread::stream::get))
            .route(web::post().to(unread::stream::post))
            .default_service(only("GET, HEAD, POST")),
    );
    config.service(
        web::resource(Route::DeadLetters.pattern())
            .route(web::get().to(dead_letters::list))
            .route(web::head().to(dead_letters::list))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource(Route::DeadLetter.pattern())
            .route(web::get().to(dead_letters::show))
            .route(web::head().to(dead_letters::show))
            .route(web::delete().to(dead_letters::remove))
            .default_service(only("GET, HEAD, DELETE")),
    );
    config.service(
        web::resource(Route::DeadLetterRetry.pattern())
            .route(web::post().to(dead_letters::retry))
            .default_service(only("POST")),
    );
    config.service(
        web::resource(Route::Trace.pattern())
            .route(web::get().to(trace::show))
            .route(web::head().to(trace::show))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource(Route::Livez.pattern())
            .route(web::get().to(health::livez))
            .route(web::head().to(health::livez))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource(Route::Readyz.pattern())
            .route(web::get().to(health::readyz))
            .route(web::head().to(health::readyz))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource(Route::Metrics.pattern())
            .route(web::get().to(metrics::get))
            .route(web::head().to(metrics::get))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource(Route::OpenApi.pattern())
            .route(web::get().to(openapi::get))
            .route(web::head().to(openapi::get))
            .default_service(only("GET, HEAD")),
    );
    let docs = Route::Docs.pattern();
    config.service(
        web::resource([docs, &format!("{docs}/")])
            .route(web::get().to(docs::page))
            .route(web::head().to(docs::page))
            .default_service(only("GET, HEAD")),
    );
    config.service(
        web::resource(format!("{docs}/{{file}}"))
            .route(web::get().to(docs::file))
            .route(web::head().to(docs::file))
            .default_service(only("GET, HEAD")),
    );
    // The apps' second paths change with a reload, so they are no routes of their own.
    config.default_service(web::to(callbacks::by_path));
}

fn only(methods: &'static str) -> Handled {
    web::to(move || async move { Err::<HttpResponse, _>(use_instead(methods)) })
}

fn use_instead(methods: &'static str) -> Problem {
    Problem {
        allow: Some(methods),
        ..Problem::new(Code::MethodNotAllowed, format!("use {methods}"))
    }
}
