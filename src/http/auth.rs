//! Reads the bearer token of a request and checks it against the configured keys.

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;

use super::error::Problem;
use crate::auth::{Keys, Scope};

/// Lets a request pass that carries a key of this scope. Handlers call it before they look at the query or the
/// body.
///
/// # Errors
/// A [`Problem`] of 401 or 403.
pub fn authorize(keys: &Keys, request: &HttpRequest, scope: Scope) -> Result<(), Problem> {
    keys.authorize(bearer_token(request), scope)?;
    Ok(())
}

/// The token, whatever the case of `Bearer` (RFC 9110, 11.1). `actix-web-httpauth` takes it in one case only.
fn bearer_token(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}
