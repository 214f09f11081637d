//! What every request has: an id, a span, a count in the metrics, and a line in the access log. Also one that is not
//! answered, because its client went away or its handler panicked.
//!
//! Not by `tracing-actix-web`, which makes an id and a span for each request, whether or not anybody sees them. At
//! the usual level a callback pays here for two looks at the clock, one for a header, a counter and a histogram.

use std::cell::OnceCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, web};
use tracing::Span;

use super::Service;
use super::client_address::client_address;
use super::cors;
use super::error::{Code, Problem};
use super::route::Route;
use crate::callback::ids::AppName;
use crate::metrics::{Metrics, RequestLabels, RouteLabel};
use crate::telemetry::ACCESS;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a caller.
const LONGEST_ID: usize = 64;

/// The statuses of requests that got no response, for metrics and logs: the client was gone, as other servers name it,
/// or the handler panicked.
const CLIENT_GONE: u16 = 499;
const PANICKED: u16 = 500;

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

/// What the access log says of a request besides what [`Observed`] knows. Kept apart from the request, which is gone
/// when its connection is.
struct AccessNotes {
    id: RequestId,
    client: Option<IpAddr>,
    app: OnceCell<AppName>,
}

impl AccessNotes {
    /// `None` while the access log is off.
    fn begin(request: &HttpRequest, service: Option<&Service>) -> Option<Rc<Self>> {
        if !tracing::enabled!(target: ACCESS, tracing::Level::DEBUG) {
            return None;
        }
        let notes = Rc::new(Self {
            id: request_id(request),
            client: service.and_then(|service| client_address(request, &service.limits)),
            app: OnceCell::new(),
        });
        request.extensions_mut().insert(notes.clone());
        Some(notes)
    }
}

/// Notes for the access log whose request this is.
pub(super) fn note_app(request: &HttpRequest, app: &AppName) {
    if let Some(notes) = request.extensions().get::<Rc<AccessNotes>>() {
        // The first one is the one that was asked for.
        let _ = notes.app.set(app.clone());
    }
}

/// A request that is being handled. Whatever becomes of it, it is counted and logged once.
pub(super) struct Observed {
    pub(super) route: Route,
    /// One of the known methods, or `other`.
    method: &'static str,
    started: Instant,
    /// Not the request itself, of which actix needs the only reference.
    metrics: Option<Arc<Metrics>>,
    notes: Option<Rc<AccessNotes>>,
    is_finished: bool,
    /// The handler's log lines are in it. Disabled unless the level is `debug` or traces are exported.
    pub(super) span: Span,
}

impl Observed {
    /// Begins with the head of a request.
    pub(super) fn begin(request: &ServiceRequest) -> Self {
        let (route, method) = (Route::of(request), method_label(request.method()));
        let service = request.app_data::<web::Data<Service>>();
        let pattern = Some(route.pattern()).filter(|pattern| !pattern.is_empty());
        // By the names of OpenTelemetry's conventions.
        let span = tracing::debug_span!(
            "request",
            request_id = %request_id(request.request()),
            otel.kind = "server",
            http.request.method = method,
            http.route = pattern,
            http.response.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
        );
        Self {
            route,
            method,
            started: Instant::now(),
            metrics: service.map(|service| service.metrics.clone()),
            notes: AccessNotes::begin(request.request(), service.map(|service| &***service)),
            is_finished: false,
            span,
        }
    }

    /// Gives a response the request's id, and logs it. An error gets an id in any case, since people ask about
    /// errors; a success returns the caller's, or the one that is in the log.
    pub(super) fn finish(mut self, mut response: ServiceResponse) -> ServiceResponse {
        self.is_finished = true;
        let _entered = self.span.enter();
        let request = response.request();
        let status = response.status().as_u16();
        let id = match status >= 400 {
            true => Some(request_id(request)),
            false => known_id(request),
        };
        let problem = response.response().error();
        let problem = problem.and_then(|error| error.as_error::<Problem>());
        self.end(status, problem.map(|problem| problem.code));
        if let Some(problem) = problem {
            log_cause(problem, self.route, request);
            let id = id.as_ref().map(RequestId::as_str);
            let document = problem.document(id);
            response = response.into_response(document);
        }
        if let Some(RequestId(id)) = id {
            response.headers_mut().insert(REQUEST_ID.clone(), id);
        }
        cors::let_page_read(&mut response, self.route);
        if self.route.is_for_users() && !response.headers().contains_key(CACHE_CONTROL) {
            // A browser may keep what has no such header, and show it to the next user of the machine.
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }

    /// The one end of every request.
    fn end(&self, status: u16, code: Option<Code>) {
        if !self.span.is_disabled() {
            self.span.record("http.response.status_code", status);
            if status >= 500 {
                self.span.record("otel.status_code", "ERROR");
            }
        }
        let took = self.started.elapsed().as_secs_f64();
        if let Some(metrics) = &self.metrics {
            let (route, method) = (self.route.as_str(), self.method);
            let labels = RequestLabels {
                route,
                method,
                status,
            };
            metrics.http_requests.get_or_create(&labels).inc();
            let durations = metrics
                .http_request_duration
                .get_or_create(&RouteLabel { route });
            durations.observe(took);
        }
        if let Some(notes) = &self.notes {
            self.log_access(notes, status, code, took);
        }
    }

    /// Never the path or the query: they may hold a secret or a signature.
    fn log_access(&self, notes: &AccessNotes, status: u16, code: Option<Code>, took: f64) {
        tracing::debug!(
            target: ACCESS,
            method = self.method,
            route = self.route.as_str(),
            status,
            code = code.map(Code::as_str),
            took_ms = (took * 1_000_000.0).round() / 1000.0,
            client = notes.client.map(tracing::field::display),
            app = notes.app.get().map(tracing::field::display),
            request_id = %notes.id,
            "request"
        );
    }
}

/// actix drops a handler's future when the connection ends, and a panic unwinds through it.
impl Drop for Observed {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let _entered = self.span.enter();
        let status = match std::thread::panicking() {
            true => PANICKED,
            false => CLIENT_GONE,
        };
        self.end(status, None);
    }
}

/// Logs what the service itself failed at. The response does not say it: it is of no use to a caller. A callback that is
/// not taken has a line of its own.
fn log_cause(problem: &Problem, route: Route, request: &HttpRequest) {
    if !problem.code.status().is_server_error() || route == Route::Callbacks {
        return;
    }
    let Some(service) = request.app_data::<web::Data<Service>>() else {
        return;
    };
    let limits = &service.rejection_log;
    let limit = match &problem.cause {
        Some(_) => &limits.failures,
        None => &limits.unanswered,
    };
    let Some(kept_back) = limit.pass(Instant::now()) else {
        return;
    };
    let (code, route, request_id) = (problem.code.as_str(), route.as_str(), request_id(request));
    if let Some(error) = &problem.cause {
        let error = error.as_str();
        tracing::error!(route, code, error, %request_id, kept_back, "a query failed");
    } else {
        let why = problem.detail.as_str();
        tracing::warn!(route, code, why, %request_id, kept_back, "a query was not answered");
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
    use std::panic::AssertUnwindSafe;

    use actix_web::HttpResponse;
    use actix_web::test::TestRequest;
    use futures_util::FutureExt;

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

    fn observed(metrics: &Arc<Metrics>) -> Observed {
        Observed {
            route: Route::Unread,
            method: "GET",
            started: Instant::now(),
            metrics: Some(metrics.clone()),
            notes: None,
            is_finished: false,
            span: Span::none(),
        }
    }

    fn counted(metrics: &Metrics, status: u16) -> u64 {
        let (route, method) = ("unread", "GET");
        let labels = RequestLabels {
            route,
            method,
            status,
        };
        metrics.http_requests.get_or_create(&labels).get()
    }

    #[tokio::test]
    async fn a_request_without_a_response_is_counted_once() {
        let metrics = Arc::new(Metrics::new());
        let abandoned = observed(&metrics);
        let handled = async move {
            let _abandoned = abandoned;
            std::future::pending::<()>().await;
        };
        assert!(handled.now_or_never().is_none());
        assert_eq!((counted(&metrics, 499), counted(&metrics, 500)), (1, 0));
        let panicking = observed(&metrics);
        let handled = async move {
            let _panicking = panicking;
            panic!("on purpose");
        };
        let handled: Result<(), _> = AssertUnwindSafe(handled).catch_unwind().await;
        assert!(handled.is_err());
        assert_eq!((counted(&metrics, 499), counted(&metrics, 500)), (1, 1));
        let response = TestRequest::default().to_srv_response(HttpResponse::Ok().finish());
        observed(&metrics).finish(response);
        assert_eq!(counted(&metrics, 200), 1);
        assert_eq!((counted(&metrics, 499), counted(&metrics, 500)), (1, 1));
    }

    #[test]
    fn no_id_is_made_for_a_caller_who_sent_one() {
        let request = TestRequest::default().insert_header(("X-Request-Id", "sent"));
        let request = request.to_http_request();
        assert_eq!(request_id(&request).as_str(), "sent");
        assert!(request.extensions().get::<RequestId>().is_none());
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
