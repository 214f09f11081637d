//! What every request has: an id, a span, and a line in the access log.
//!
//! Not by `tracing-actix-web`, which makes an id and a span for each request, whether or not anybody sees them: at
//! the usual level a callback pays here for two looks at the clock and one for a header.

use std::fmt;
use std::time::{Duration, Instant};

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, web};
use tracing::Span;

use super::Service;
use super::client_address::client_address;
use super::error::{Code, Problem};
use super::route::Route;
use crate::callback::ids::AppName;
use crate::metrics::{Metrics, RequestLabels, RouteLabel};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a caller.
const LONGEST_ID: usize = 64;

/// The target of access log lines, for `log.filter`.
const ACCESS: &str = "im_callback::access";

/// The id of a request: the caller's `X-Request-Id`, or a random one. Always letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// Takes a caller's id, unless it could break a log line or is too long for one.
    fn sent(value: &HeaderValue) -> Option<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let bytes = value.as_bytes();
        let fits = (1..=LONGEST_ID).contains(&bytes.len()) && bytes.iter().all(plain);
        fits.then(|| Self(value.clone()))
    }

    fn random() -> Self {
        let mut random = [0; 16];
        // Without random bytes an id is not unique, which is no reason to fail a request.
        let _ = getrandom::fill(&mut random);
        let text = HeaderValue::try_from(hex::encode(random));
        Self(text.expect("hexadecimal digits are a header's value"))
    }

    /// The id as text.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The id of a request. Made when it is first asked for; later calls return the same.
pub(super) fn request_id(request: &HttpRequest) -> RequestId {
    if let Some(known) = known_id(request) {
        return known;
    }
    let made = RequestId::random();
    request.extensions_mut().insert(made.clone());
    made
}

/// The id that the caller sent, or that was made before.
fn known_id(request: &HttpRequest) -> Option<RequestId> {
    let sent = request.headers().get(&REQUEST_ID);
    sent.and_then(RequestId::sent)
        .or_else(|| request.extensions().get::<RequestId>().cloned())
}

/// Notes for the access log whose request this is.
pub(super) fn note_app(request: &HttpRequest, app: &AppName) {
    if is_access_logged() {
        request.extensions_mut().insert(app.clone());
    }
}

fn is_access_logged() -> bool {
    tracing::enabled!(target: ACCESS, tracing::Level::DEBUG)
}

/// A request that is being handled.
pub(super) struct Observed {
    route: Route,
    started: Instant,
    /// The handler's log lines are in it. Disabled unless the level is `debug`.
    pub(super) span: Span,
}

impl Observed {
    /// Begins with the head of a request.
    pub(super) fn begin(request: &ServiceRequest) -> Self {
        let route = Route::of(request);
        let span = tracing::debug_span!(
            "request",
            request_id = %request_id(request.request()),
            method = method_label(request.method()),
            route = route.as_str(),
        );
        Self {
            route,
            started: Instant::now(),
            span,
        }
    }

    /// Gives a response the request's id, and logs it. An error gets an id in any case, since people ask about
    /// errors; a success returns the caller's, or the one that is in the log.
    pub(super) fn finish(self, mut response: ServiceResponse) -> ServiceResponse {
        let _entered = self.span.enter();
        let request = response.request();
        let status = response.status().as_u16();
        let id = match status >= 400 || is_access_logged() {
            true => Some(request_id(request)),
            false => known_id(request),
        };
        let problem = response.response().error();
        let problem = problem.and_then(|error| error.as_error::<Problem>());
        finished(&Finished {
            route: self.route,
            method: method_label(request.method()),
            status,
            code: problem.map(|problem| problem.code),
            took: self.started.elapsed(),
            request,
        });
        if let Some(problem) = problem {
            log_cause(problem, self.route, request);
            let id = id.as_ref().map(RequestId::as_str);
            let document = problem.document(id);
            response = response.into_response(document);
        }
        if let Some(RequestId(id)) = id {
            response.headers_mut().insert(REQUEST_ID.clone(), id);
        }
        response
    }
}

/// A request whose response begins now.
pub(super) struct Finished<'r> {
    /// Where it went.
    pub(super) route: Route,
    /// One of the known methods, or `other`.
    pub(super) method: &'static str,
    /// The status of the response.
    pub(super) status: u16,
    /// The code, if the response is an error.
    pub(super) code: Option<Code>,
    /// From the end of its head to the start of its response.
    pub(super) took: Duration,
    request: &'r HttpRequest,
}

/// The one end of every request, whatever became of it.
fn finished(finished: &Finished<'_>) {
    if let Some(service) = finished.request.app_data::<web::Data<Service>>() {
        count(finished, &service.metrics);
    }
    if is_access_logged() {
        log_access(finished);
    }
}

fn count(finished: &Finished<'_>, metrics: &Metrics) {
    let route = finished.route.as_str();
    let labels = RequestLabels {
        route,
        method: finished.method,
        status: finished.status,
    };
    metrics.http_requests.get_or_create(&labels).inc();
    let durations = metrics
        .http_request_duration
        .get_or_create(&RouteLabel { route });
    durations.observe(finished.took.as_secs_f64());
}

/// Never the path or the query: they may hold a secret or a signature.
fn log_access(finished: &Finished<'_>) {
    let request = finished.request;
    let service = request.app_data::<web::Data<Service>>();
    let client = service.and_then(|service| client_address(request, &service.limits));
    let app = request.extensions().get::<AppName>().cloned();
    tracing::debug!(
        target: ACCESS,
        method = finished.method,
        route = finished.route.as_str(),
        status = finished.status,
        code = finished.code.map(Code::as_str),
        took_ms = finished.took.as_micros() as f64 / 1000.0,
        client = client.map(tracing::field::display),
        app = app.map(tracing::field::display),
        request_id = %request_id(request),
        "request"
    );
}

/// Logs what the service itself failed at. The response does not say it: it is of no use to a caller.
fn log_cause(problem: &Problem, route: Route, request: &HttpRequest) {
    let Some(cause) = &problem.cause else { return };
    let service = request.app_data::<web::Data<Service>>();
    let passed = service.map_or(Some(0), |service| {
        service.rejection_log.failures.pass(Instant::now())
    });
    if let Some(kept_back) = passed {
        let (code, route, error) = (problem.code.as_str(), route.as_str(), cause.as_str());
        let request_id = request_id(request);
        tracing::error!(route, code, error, %request_id, kept_back, "a query failed");
    }
}

/// A method by name. Anybody may invent one, so all that are unknown have one name.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_taken_if_it_is_short_and_plain() {
        let longest = "x".repeat(LONGEST_ID);
        for id in [
            "a",
            "0-9_A.z",
            "7d8c1b2e-3f4a-4b5c-8d6e-9f0a1b2c3d4e",
            &longest,
        ] {
            let taken = HeaderValue::from_str(id).ok();
            let taken = taken.as_ref().and_then(RequestId::sent);
            assert_eq!(taken.as_ref().map(RequestId::as_str), Some(id));
        }
        let too_long = "x".repeat(LONGEST_ID + 1);
        let others: [&[u8]; 8] = [
            b"",
            b" a",
            b"a b",
            b"a\"b",
            b"a=b",
            b"a/b",
            b"\xc3\xa9",
            too_long.as_bytes(),
        ];
        for id in others {
            let taken = HeaderValue::from_bytes(id).ok();
            assert_eq!(taken.as_ref().and_then(RequestId::sent), None, "{id:?}");
        }
    }

    #[test]
    fn made_ids_differ_and_could_be_sent() {
        let made = [RequestId::random(), RequestId::random()];
        assert_ne!(made[0], made[1]);
        for id in made {
            assert_eq!(id.as_str().len(), 32);
            assert_eq!(RequestId::sent(&id.0), Some(id));
        }
    }

    #[test]
    fn methods_have_a_bounded_number_of_names() {
        let invented = Method::from_bytes(b"BREW").expect("a method");
        assert_eq!(method_label(&invented), "other");
        assert_eq!(method_label(&Method::DELETE), "DELETE");
    }
}
