//! `POST /callbacks/{app}` and an app's second path: the routes for providers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::FutureExt;
use mongodb::bson::DateTime;

use super::Service;
use super::body::body;
use super::client_address::client_address;
use super::error::{Code, Problem};
use super::lost_callbacks;
use super::request::{note_app, request_id};
use crate::callback::Head;
use crate::callback::ids::Millis;
use crate::ingest::{Acknowledged, App, IngestError, Rejection, ingest};
use crate::live::ReloadableConfig;
use crate::metrics::{AppLabel, CallbackLabels, NO_KIND, UNMATCHED};
use crate::store::Durability;

/// The codes of callbacks to no app's address.
pub const MISDIRECTED: [Code; 2] = [Code::UnknownApp, Code::NotFound];

/// The codes of rejected callbacks of an app that exists.
pub const REJECTIONS: [Code; 18] = [
    Code::MissingHeaderMd5,
    Code::MissingHeaderChecksum,
    Code::MissingHeaderCurtime,
    Code::MissingSignature,
    Code::IncompleteBody,
    Code::AppKeyMismatch,
    Code::Md5Mismatch,
    Code::ChecksumMismatch,
    Code::SignatureMismatch,
    Code::PathSecretMismatch,
    Code::NotFresh,
    Code::AddressNotAllowed,
    Code::NotFound,
    Code::MethodNotAllowed,
    Code::SlowBody,
    Code::BodyTooLarge,
    Code::Overloaded,
    Code::Unavailable,
];

/// The outcome of a callback whose client was gone before the answer. It may be stored nevertheless.
pub const CLIENT_GONE: &str = "client_gone";

/// Takes a signed callback
///
/// An answer of 200 means that its events are durable. Any other means that they are not, and that the provider has to
/// send it again. The same is answered at the app's second path (`apps.callback_path`), and for Wildfire IM at paths
/// below this one, `/callbacks/{app}/{secret}/{event}`. A body over 16 KiB is read only if everything outside of it is
/// valid. A callback that is verified and cannot be decoded is kept as a dead letter, and answered 200.
#[utoipa::path(
    post,
    path = "/callbacks/{app}",
    operation_id = "take_callback",
    tag = "callbacks",
    security(()),
    params(
        ("app" = String, Path, description = "The app's name in the configuration", example = "otc"),
        ("MD5" = Option<String>, Header, nullable = false, description = "NetEase: the body's digest"),
        ("CurTime" = Option<String>, Header, nullable = false, description = "NetEase: the time of signing"),
        (
            "CheckSum" = Option<String>, Header, nullable = false,
            description = "NetEase: SHA-1 of the app secret, `MD5` and `CurTime`, in hexadecimal"
        ),
        ("AppKey" = Option<String>, Header, nullable = false, description = "NetEase: the app key, if it is sent"),
        (
            "signature" = Option<String>, Query, nullable = false,
            description = "RongCloud: SHA-1 of the app secret, `nonce` and `signTimestamp`, in hexadecimal"
        ),
        ("nonce" = Option<String>, Query, nullable = false, description = "RongCloud: a random number"),
        ("signTimestamp" = Option<String>, Query, nullable = false, description = "RongCloud: the time of signing"),
    ),
    request_body(
        content = serde_json::Value,
        description = "What the provider sends; of RongCloud some are forms. The content type is not looked at"
    ),
    responses((status = 200, description = "Its events are durable. The body is what the provider expects: for \
        Wildfire IM and Yuntongxun nothing", content(
            (serde_json::Value = "application/json", example = json!({ "code": 200 })),
            (String = "text/plain", example = json!("ok")),
        )
    ))
)]
pub async fn by_name(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let rest = request.match_info().unprocessed();
    let rest = rest.strip_prefix('/').unwrap_or_default();
    let (name, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let current = service.live.current();
    let Some(app) = current.app(name) else {
        let is_callback = lost_callbacks::log(&request, &service, &current);
        if name.is_empty() {
            return Err(no_route(&service, is_callback));
        }
        let code = Code::UnknownApp;
        count(&service, UNMATCHED.into(), NO_KIND, code.as_str());
        return Err(Problem::new(
            code,
            "no app of this name is configured; the service's log names the paths of its apps",
        ));
    };
    take(&request, payload, &service, &current, app, below).await
}

/// Any path without a route: it may be an app's second path.
pub async fn by_path(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let Some((app, below)) = current.app_at(request.path()) else {
        let is_callback = lost_callbacks::log(&request, &service, &current);
        return Err(no_route(&service, is_callback));
    };
    take(&request, payload, &service, &current, app, below).await
}

/// Counts what looks like a callback. All other requests are strangers', and are among all requests.
fn no_route(service: &Service, is_callback: bool) -> Problem {
    let code = Code::NotFound;
    if is_callback {
        count(service, UNMATCHED.into(), NO_KIND, code.as_str());
    }
    Problem::new(
        code,
        "no route has this path; a callback's is /callbacks/{app}, without a slash at the end",
    )
}

/// Takes a callback, and logs a rejection.
async fn take(
    request: &HttpRequest,
    payload: web::Payload,
    service: &Service,
    current: &ReloadableConfig,
    app: &App,
    below: &str,
) -> Result<HttpResponse, Problem> {
    note_app(request, &app.name);
    let started = Instant::now();
    let mut pending = PendingCallback {
        service,
        app,
        is_answered: false,
    };
    let taken = taken(request, payload, service, app, below).await;
    pending.is_answered = true;
    let name = || app.name.shared();
    match &taken {
        Ok((taken, received_at)) => {
            let metrics = &service.metrics;
            let outcome = outcome(taken.durability);
            count(service, name(), taken.kind.unwrap_or(NO_KIND), outcome);
            let label = AppLabel { app: name() };
            let took = started.elapsed().as_secs_f64();
            metrics.ack_duration.get_or_create(&label).observe(took);
            if let Some(at) = taken.at {
                let lag = received_at.get().saturating_sub(at.get()).max(0);
                let lag = Duration::from_millis(lag.unsigned_abs()).as_secs_f64();
                metrics.provider_lag.get_or_create(&label).observe(lag);
            }
        }
        Err(problem) => {
            let code = problem.code.as_str();
            debug_assert!(
                REJECTIONS.contains(&problem.code),
                "{code} does not begin at zero"
            );
            count(service, name(), NO_KIND, code);
            // Such as a slash behind the app's name.
            if problem.code == Code::NotFound {
                // It is counted above, for its app.
                lost_callbacks::log(request, service, current);
            } else if let Some(kept_back) = service.rejection_log.log(problem.code, Instant::now())
            {
                tracing::warn!(
                    app = %app.name,
                    code,
                    client = client_address(request, &service.limits).map(tracing::field::display),
                    request_id = %request_id(request),
                    kept_back,
                    "callback rejected"
                );
            }
        }
    }
    taken?;
    let reply = app.provider.name().reply();
    let mut answer = HttpResponse::Ok();
    if let Some(content_type) = reply.content_type {
        answer.content_type(content_type);
    }
    Ok(answer.body(reply.body))
}

fn count(service: &Service, app: Arc<str>, kind: &'static str, outcome: &'static str) {
    let labels = CallbackLabels { app, kind, outcome };
    service.metrics.callbacks.get_or_create(&labels).inc();
}

/// Counts a callback that nobody waits for any more: actix drops the handler's future when the connection ends.
struct PendingCallback<'c> {
    service: &'c Service,
    app: &'c App,
    is_answered: bool,
}

impl Drop for PendingCallback<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            count(self.service, self.app.name.shared(), NO_KIND, CLIENT_GONE);
        }
    }
}

/// The outcome of a callback that is acknowledged.
fn outcome(durability: Option<Durability>) -> &'static str {
    match durability {
        Some(Durability::Stored) => "stored",
        Some(Durability::DeadLetter) => "dead_letter",
        Some(Durability::Spooled) => "spooled",
        None => "empty",
    }
}

async fn taken(
    request: &HttpRequest,
    payload: web::Payload,
    service: &Service,
    app: &App,
    below: &str,
) -> Result<(Acknowledged, Millis), Problem> {
    if !app.allow.is_empty() && !app.allows(client_address(request, &service.limits)) {
        let detail = "the app does not accept callbacks from this address (apps.allow)";
        return Err(Problem::new(Code::AddressNotAllowed, detail));
    }
    let header = |name: &str| {
        let mut values = request.headers().get_all(name);
        let value = values.next()?;
        // A header that is not text or is sent twice counts as present, but equals no expected value.
        let readable = value.to_str().ok().filter(|_| values.next().is_none());
        Some(readable.unwrap_or("\u{fffd}"))
    };
    let head = Head {
        method: request.method().as_str(),
        path: below,
        query: request.query_string(),
        header: &header,
    };
    let refused = |error| Problem::from(IngestError::from(error));
    app.provider.check_route(&head).map_err(refused)?;
    let is_signed = || app.provider.verify_head(&head, now()).map_err(refused);
    let body = body(request, payload, service, &is_signed).await?;
    let now = now();
    let taken = ingest(app, &service.durable, head, &body, now);
    Ok((or_unavailable(taken).await?, now))
}

/// This machine's time.
pub(super) fn now() -> Millis {
    Millis::nearest(DateTime::now().timestamp_millis())
}

/// A panic must cause neither a 500 nor a closed connection: only after 503 does the provider keep the event.
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
    use crate::callback::VerifyError;

    /// Otherwise its series would begin with its first event, in which Prometheus sees no increase.
    #[test]
    fn every_rejection_begins_at_zero() {
        let not_verified = [
            VerifyError::Method,
            VerifyError::NoSuchRoute,
            VerifyError::PathSecretDiffers,
            VerifyError::MissingHeader("MD5"),
            VerifyError::MissingHeader("CheckSum"),
            VerifyError::MissingHeader("CurTime"),
            VerifyError::MissingSignature,
            VerifyError::AppKeyDiffers,
            VerifyError::Md5Differs,
            VerifyError::ChecksumDiffers,
            VerifyError::SignatureDiffers,
            VerifyError::NotFresh,
        ];
        for error in &not_verified {
            // A new one does not compile here, and belongs into the list above.
            match error {
                VerifyError::Method
                | VerifyError::NoSuchRoute
                | VerifyError::PathSecretDiffers
                | VerifyError::MissingHeader(_)
                | VerifyError::MissingSignature
                | VerifyError::AppKeyDiffers
                | VerifyError::Md5Differs
                | VerifyError::ChecksumDiffers
                | VerifyError::SignatureDiffers
                | VerifyError::NotFresh => {}
            }
        }
        let rejected = [Rejection::Overloaded, Rejection::NotDurable];
        for error in &rejected {
            match error {
                Rejection::Overloaded | Rejection::NotDurable => {}
            }
        }
        // Those of `body` and of the address; `take` checks in each test that there is no other.
        let others = [
            Code::IncompleteBody,
            Code::SlowBody,
            Code::BodyTooLarge,
            Code::AddressNotAllowed,
        ];
        let not_verified = not_verified.map(|error| Problem::from(error).code);
        let rejected = rejected.map(|error| Problem::from(error).code);
        let codes = not_verified.into_iter().chain(rejected).chain(others);
        let mut codes: Vec<_> = codes.map(Code::as_str).collect();
        codes.sort_unstable();
        codes.dedup();
        let mut listed = REJECTIONS.map(Code::as_str);
        listed.sort_unstable();
        assert_eq!(codes, listed);
    }

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
