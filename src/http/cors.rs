//! Lets pages of configured origins read the answers of the routes that users' tokens are for (CORS).
//!
//! Not by `actix-cors`: it is inside of what turns errors into documents, so an error's headers would be lost, and its
//! own refusals have no code. Here each answer passes once, whoever made it. Callbacks pay for the comparison of a route.

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderValue, ORIGIN, VARY,
};
use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::error::{Code, Problem};
use super::route::Route;

const METHODS: &str = "GET, POST";
const SENT_HEADERS: &str = "Authorization, Content-Type, Last-Event-ID, X-Request-Id";
const READ_HEADERS: &str = "X-Request-Id, Retry-After";

/// How many seconds a browser remembers the answer to a preflight request; most remember less.
const REMEMBERED: &str = "3600";

/// Answers a browser's question whether a page may send a request; `None` if it is another request. Needs no key, since
/// browsers send none with it.
pub(super) fn preflight(
    request: &ServiceRequest,
    route: Route,
) -> Option<Result<HttpResponse, Problem>> {
    if *request.method() != Method::OPTIONS || !is_open(request.request(), route) {
        return None;
    }
    let headers = request.headers();
    if !headers.contains_key(ORIGIN) || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    if allowed_origin(request.request()).is_none() {
        let detail = "the page's origin is not in http.cors_origins";
        return Some(Err(Problem::new(Code::OriginNotAllowed, detail)));
    }
    let mut answer = HttpResponse::NoContent();
    answer.insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS));
    answer.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, SENT_HEADERS));
    answer.insert_header((ACCESS_CONTROL_MAX_AGE, REMEMBERED));
    Some(Ok(answer.finish()))
}

/// Gives a finished answer, an error's too, the headers by which the page may read it.
pub(super) fn let_page_read(response: &mut ServiceResponse, route: Route) {
    if !is_open(response.request(), route) {
        return;
    }
    let origin = allowed_origin(response.request());
    let headers = response.headers_mut();
    // Also without an origin: a cache must not give that answer to a page.
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let read = HeaderValue::from_static(READ_HEADERS);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, read);
    }
}

/// Whether pages of any origin may ask on this route.
fn is_open(request: &HttpRequest, route: Route) -> bool {
    route.is_for_users() && !origins(request).is_empty()
}

/// The origin of the page, if it may read the answer.
fn allowed_origin(request: &HttpRequest) -> Option<HeaderValue> {
    let origin = request.headers().get(ORIGIN)?;
    let mut allowed = origins(request).iter();
    let is_allowed = allowed.any(|allowed| allowed.as_bytes() == origin.as_bytes());
    is_allowed.then(|| origin.clone())
}

fn origins(request: &HttpRequest) -> &[String] {
    let service = request.app_data::<web::Data<Service>>();
    service.map_or(&[], |service| &service.limits.cors_origins)
}
