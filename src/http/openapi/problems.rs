//! The errors of each operation, from the table of codes in [`error`](crate::http::error).

use std::borrow::Cow;
use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{AllOfBuilder, Schema, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{Modify, PartialSchema, ToSchema};

use crate::http::callbacks;
use crate::http::error::{Code, PROBLEM_JSON, Problem, ProblemDocument, challenge, retry_after};

/// Of every operation that takes a key.
const KEY: &[Code] = &[
    Code::MissingKey,
    Code::UnknownKey,
    Code::MissingScope,
    Code::TooManyFailedKeys,
    Code::RateLimited,
    Code::NoKeys,
    Code::AppNotAllowed,
    Code::InvalidToken,
    Code::TokenExpired,
];
/// Of those that take no user's token.
const NO_TOKEN: &[Code] = &[Code::TokenNotAllowed];
/// Of those that take one.
const TOKEN: &[Code] = &[Code::UserNotAllowed];
/// Of those of them that ask about teams.
const TEAM: &[Code] = &[Code::TeamNotAllowed];
/// Of those that ask about an app.
const APP: &[Code] = &[Code::UnknownApp, Code::MissingField];
/// Of those that read a question by its fields.
const FIELDS: &[Code] = &[Code::InvalidField, Code::UnknownField, Code::InvalidUtf8];
/// Of those that read it from a body.
const BODY: &[Code] = &[
    Code::IncompleteBody,
    Code::SlowBody,
    Code::BodyTooLarge,
    Code::InvalidJson,
    Code::EmptyBody,
];
/// Of those that ask about an account, an order, a team or a message.
const ID: &[Code] = &[Code::EmptyId, Code::IdTooLong];
/// Of those that ask about several.
const IDS: &[Code] = &[Code::EmptyId, Code::IdTooLong, Code::TooManyIds];
/// Of those that answer pages.
const CURSOR: &[Code] = &[Code::InvalidCursor];
/// Of those that ask MongoDB.
const STORE: &[Code] = &[Code::Overloaded, Code::Unavailable];
const DEAD_LETTER: &[Code] = &[Code::UnknownDeadLetter];
const RETRY: &[Code] = &[Code::UnknownApp, Code::StillUndecodable, Code::StillRefused];
const UNREAD: &[Code] = &[Code::OrdersNotConfigured, Code::OverviewTooLarge];
const STREAM: &[Code] = &[Code::TooManyStreams, Code::NoChangeStreams];
const READ: &[Code] = &[Code::TimeAhead, Code::OrdersNotConfigured];
const PRESENCE: &[Code] = &[Code::NoList];

/// The name of the security scheme of users' tokens.
pub(super) const TOKEN_SCHEME: &str = "token";

/// The codes of each operation, by its id. One that is missing here fails the test of `docs/openapi.json`, and a code
/// that an operation answers without it fails the integration test that met it.
pub(super) const OPERATIONS: &[(&str, &[&[Code]])] = &[
    (
        "take_callback",
        &[&callbacks::REJECTIONS, &[Code::UnknownApp]],
    ),
    (
        "get_unread",
        &[KEY, TOKEN, TEAM, APP, FIELDS, IDS, CURSOR, STORE, UNREAD],
    ),
    (
        "post_unread",
        &[
            KEY, TOKEN, TEAM, APP, FIELDS, BODY, IDS, CURSOR, STORE, UNREAD,
        ],
    ),
    (
        "get_unread_stream",
        &[
            KEY, TOKEN, TEAM, APP, FIELDS, IDS, CURSOR, STORE, UNREAD, STREAM,
        ],
    ),
    (
        "post_unread_stream",
        &[
            KEY, TOKEN, TEAM, APP, FIELDS, BODY, IDS, CURSOR, STORE, UNREAD, STREAM,
        ],
    ),
    (
        "get_messages",
        &[KEY, TOKEN, TEAM, APP, FIELDS, ID, CURSOR, STORE],
    ),
    (
        "post_messages",
        &[KEY, TOKEN, TEAM, APP, FIELDS, BODY, ID, CURSOR, STORE],
    ),
    (
        "mark_read",
        &[KEY, NO_TOKEN, APP, FIELDS, BODY, IDS, STORE, READ],
    ),
    (
        "get_presence",
        &[KEY, TOKEN, APP, FIELDS, IDS, STORE, PRESENCE],
    ),
    (
        "post_presence",
        &[KEY, TOKEN, APP, FIELDS, BODY, IDS, STORE, PRESENCE],
    ),
    ("list_dead_letters", &[KEY, NO_TOKEN, FIELDS, STORE]),
    ("get_dead_letter", &[KEY, NO_TOKEN, STORE, DEAD_LETTER]),
    ("drop_dead_letter", &[KEY, NO_TOKEN, STORE, DEAD_LETTER]),
    (
        "retry_dead_letter",
        &[KEY, NO_TOKEN, STORE, DEAD_LETTER, RETRY],
    ),
    (
        "trace_message",
        &[
            KEY,
            NO_TOKEN,
            APP,
            FIELDS,
            IDS,
            STORE,
            &[Code::UnknownMessage],
        ],
    ),
    ("get_metrics", &[KEY, NO_TOKEN]),
    ("get_livez", &[]),
    ("get_readyz", &[]),
    ("get_openapi", &[]),
    ("show_docs", &[]),
    ("get_docs_file", &[&[Code::NotFound]]),
];

/// Adds them to the document.
pub(super) struct Documented;

impl Modify for Documented {
    fn modify(&self, document: &mut OpenApi) {
        for path in document.paths.paths.values_mut() {
            for operation in operations(path) {
                let id = operation.operation_id.as_deref().unwrap_or_default();
                let known = OPERATIONS.iter().find(|(known, _)| *known == id);
                let sets = known.map_or(&[][..], |(_, sets)| sets);
                if sets.contains(&TOKEN) {
                    let schemes = operation.security.get_or_insert_default();
                    schemes.push(SecurityRequirement::new::<_, [&str; 0], &str>(
                        TOKEN_SCHEME,
                        [],
                    ));
                    let description = operation.description.get_or_insert_default();
                    description.push_str(" A user's token may ask, too, about this user alone.");
                }
                for (status, codes) in by_status(sets) {
                    let described = RefOr::T(response(status, &codes));
                    let responses = &mut operation.responses.responses;
                    responses.insert(status.to_string(), described);
                }
            }
        }
    }
}

/// The operations of a path.
pub(super) fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get, post, delete, ..
    } = path;
    [get, post, delete].into_iter().filter_map(Option::as_mut)
}

fn by_status(sets: &[&[Code]]) -> BTreeMap<u16, Vec<Code>> {
    let mut found: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in sets.iter().copied().flatten() {
        // The documented methods are those that a path supports.
        if *code != Code::MethodNotAllowed {
            let codes = found.entry(code.status().as_u16()).or_default();
            if !codes.contains(code) {
                codes.push(*code);
            }
        }
    }
    found
}

fn response(status: u16, codes: &[Code]) -> Response {
    let lines = codes
        .iter()
        .map(|code| format!("- `{}`: {}\n", code.as_str(), code.title()));
    let exact = ObjectBuilder::new()
        .property("status", one_of(Type::Integer, [status]))
        .property(
            "code",
            one_of(Type::String, codes.iter().map(|code| code.as_str())),
        );
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name(ProblemDocument::name()))
        .item(exact);
    let example = codes.first().map(|code| {
        let problem = Problem::new(*code, "the cause, and what to do about it");
        serde_json::to_value(ProblemDocument::of(&problem, Some("7d8c1b2e")))
    });
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .example(example.and_then(Result::ok));
    let mut response = ResponseBuilder::new()
        .description(lines.collect::<String>())
        .header(
            "X-Request-Id",
            header("The request's id, also in the document and in the log"),
        )
        .content(PROBLEM_JSON, content.build());
    if codes.iter().any(|code| retry_after(*code).is_some()) {
        let seconds = header("Seconds after which to ask again");
        response = response.header("Retry-After", seconds);
    }
    if codes.iter().any(|code| challenge(*code).is_some()) {
        let challenge = header("What is wrong with the key (RFC 6750)");
        response = response.header("WWW-Authenticate", challenge);
    }
    response.build()
}

fn one_of<V: Into<serde_json::Value>>(
    kind: Type,
    values: impl IntoIterator<Item = V>,
) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(kind)
        .enum_values(Some(values))
}

fn header(description: &str) -> utoipa::openapi::Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some(description))
        .build()
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let codes = Self::ALL.iter().map(|code| code.as_str());
        one_of(Type::String, codes)
            .description(Some("`docs/errors.md` explains each."))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "ErrorCode".into()
    }
}
