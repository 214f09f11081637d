//! `/openapi.json`: the API for programs, as OpenAPI 3.1. Made from the handlers, from the types that they answer with
//! and from the table of errors, and kept in `docs/openapi.json`, which a test compares.
//!
//! The integration tests hold each answer that they get against that file, so what is not documented fails them.

mod problems;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::OpenApi as OpenApiDocument;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::fixed::Fixed;
use problems::{Documented, TOKEN_SCHEME};

use super::{
    callbacks, dead_letters, docs, health, messages, metrics, presence, read, trace, unread,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "im-callback",
        description = include_str!("description.md"),
        license(name = "MIT", identifier = "MIT"),
    ),
    paths(
        callbacks::by_name,
        unread::get,
        unread::post,
        unread::stream::get,
        unread::stream::post,
        messages::get,
        messages::post,
        read::post,
        presence::get,
        presence::post,
        dead_letters::list,
        dead_letters::show,
        dead_letters::remove,
        dead_letters::retry,
        trace::show,
        metrics::get,
        health::livez,
        health::readyz,
        get,
        docs::page,
        docs::file,
    ),
    components(schemas(super::error::ProblemDocument)),
    tags(
        (name = "callbacks", description = "For the IM provider"),
        (name = "unread", description = "Unread counts; scope `read`"),
        (name = "messages", description = "Conversations; scope `read`"),
        (name = "read", description = "What the site itself marks as read; scope `write`"),
        (name = "presence", description = "Who is online; scope `read`"),
        (name = "dead-letters", description = "Callbacks that could not be decoded or stored; scope `admin`"),
        (name = "trace", description = "What happened to a message; scope `admin`"),
        (name = "operations", description = "For balancers, orchestrators and Prometheus"),
        (name = "documentation", description = "This API"),
    ),
    modifiers(&Bearers, &Documented),
)]
struct Api;

/// How a caller shows who it is. Which operations take tokens is known where their errors are.
struct Bearers;

impl Modify for Bearers {
    fn modify(&self, document: &mut OpenApiDocument) {
        let bearer = |description| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
            scheme.description(Some(description))
        };
        let key = bearer(
            "A key of the service's configuration (`auth.keys`). Its scopes decide what it may ask.",
        );
        let token = bearer(
            "A short-lived token that the site makes for one of its users (`auth.token_keys`): a JWT for the audience \
             `im-callback`, with `sub`, `exp` and perhaps `app` and `teams`. It may ask about this user, in this app \
             and in these teams alone.",
        );
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(key.build()));
        let token = token.bearer_format("JWT").build();
        components.add_security_scheme(TOKEN_SCHEME, SecurityScheme::Http(token));
    }
}

/// The document.
fn document() -> OpenApiDocument {
    Api::openapi()
}

static DOCUMENT: LazyLock<Fixed> = LazyLock::new(|| {
    let text = document().to_json().expect("the document is JSON");
    Fixed::new("application/json", text)
});

/// This API as OpenAPI 3.1
///
/// It is the same for every installation of this version.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "get_openapi",
    tag = "documentation",
    security(()),
    responses(
        (status = 200, description = "The document", body = serde_json::Value),
        (status = 304, description = "The client has it already (`If-None-Match`)"),
    )
)]
pub async fn get(request: HttpRequest) -> HttpResponse {
    DOCUMENT.answer(&request)
}
