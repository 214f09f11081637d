//! The only place that decides the status of an error.
//!
//! Every error response is a problem document (RFC 9457) with a stable `code`. The codes are in the table below;
//! `docs/errors.md` explains each, and a test compares the two. Callback routes never answer 500: the provider
//! counts 500 as delivered.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::key_failures::SECONDS_EACH;
use super::use_instead;
use crate::callback::VerifyError;
use crate::ingest::{IngestError, Rejection};
use crate::store::StoreError;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)+) => {
        /// The kind of a problem, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The code in a response.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The status of the response.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// A description of the code, for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }
        }
    };
}

codes! {
    /// The `MD5` header is absent.
    MissingHeaderMd5 = "missing_header_md5", BAD_REQUEST, "The MD5 header is missing";
    /// The `CheckSum` header is absent.
    MissingHeaderChecksum = "missing_header_checksum", BAD_REQUEST, "The CheckSum header is missing";
    /// The `CurTime` header is absent.
    MissingHeaderCurtime = "missing_header_curtime", BAD_REQUEST, "The CurTime header is missing";
    /// Parameters of the signature are absent.
    MissingSignature = "missing_signature", BAD_REQUEST, "The signature is missing";
    /// The body did not arrive whole.
    IncompleteBody = "incomplete_body", BAD_REQUEST, "The body is incomplete";
    /// A query's body is not JSON.
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not JSON";
    /// A query without a body.
    EmptyBody = "empty_body", BAD_REQUEST, "The body is empty";
    /// A query that is not UTF-8.
    InvalidUtf8 = "invalid_utf8", BAD_REQUEST, "The query is not UTF-8";
    /// A query without a key.
    MissingKey = "missing_key", UNAUTHORIZED, "A key is required";
    /// A query with a key that is not configured.
    UnknownKey = "unknown_key", UNAUTHORIZED, "The key is not known";
    /// A query with a key that lacks the scope.
    MissingScope = "missing_scope", FORBIDDEN, "The key lacks a scope";
    /// A query about an app that the key is not for.
    AppNotAllowed = "app_not_allowed", FORBIDDEN, "The key or token is not for this app";
    /// A query with a user's token that has expired.
    TokenExpired = "token_expired", UNAUTHORIZED, "The token has expired";
    /// A query with a user's token that is not valid.
    InvalidToken = "invalid_token", UNAUTHORIZED, "The token is not valid";
    /// A query with a user's token where only keys may ask.
    TokenNotAllowed = "token_not_allowed", FORBIDDEN, "A key is required, not a token";
    /// A query about a user with the token of another.
    UserNotAllowed = "user_not_allowed", FORBIDDEN, "The token is another user's";
    /// A query about a team that the token does not list.
    TeamNotAllowed = "team_not_allowed", FORBIDDEN, "The token is not for this team";
    /// A query with an unknown key, after many others.
    TooManyFailedKeys = "too_many_failed_keys", TOO_MANY_REQUESTS, "Too many unknown keys were sent";
    /// A caller who sends more than its rate allows.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests were sent";
    /// A browser asks for a page of an origin that is not configured.
    OriginNotAllowed = "origin_not_allowed", FORBIDDEN, "The page's origin is not allowed";
    /// A query to a service without any key.
    NoKeys = "no_keys", FORBIDDEN, "Queries are closed";
    /// The app key is another app's.
    AppKeyMismatch = "app_key_mismatch", FORBIDDEN, "The app key is not this app's";
    /// `MD5` is not the digest of the body.
    Md5Mismatch = "md5_mismatch", FORBIDDEN, "The MD5 header is not the body's digest";
    /// `CheckSum` does not match any secret.
    ChecksumMismatch = "checksum_mismatch", FORBIDDEN, "The CheckSum header is wrong";
    /// The signature does not match any secret.
    SignatureMismatch = "signature_mismatch", FORBIDDEN, "The signature is wrong";
    /// The path does not contain the secret segment.
    PathSecretMismatch = "path_secret_mismatch", FORBIDDEN, "The path's secret is wrong";
    /// The time of signing is outside the app's freshness window.
    NotFresh = "not_fresh", FORBIDDEN, "The time of signing is outside the window";
    /// The app does not accept callbacks from this address.
    AddressNotAllowed = "address_not_allowed", FORBIDDEN, "Callbacks may not come from this address";
    /// No route has this path.
    NotFound = "not_found", NOT_FOUND, "There is nothing here";
    /// No app has this name.
    UnknownApp = "unknown_app", NOT_FOUND, "The app is not known";
    /// No dead letter has this id.
    UnknownDeadLetter = "unknown_dead_letter", NOT_FOUND, "The dead letter does not exist";
    /// No message is stored that is asked for.
    UnknownMessage = "unknown_message", NOT_FOUND, "The message is not stored";
    /// The route exists for other methods.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The body takes too long.
    SlowBody = "slow_body", REQUEST_TIMEOUT, "The body arrives too slowly";
    /// The body exceeds the limit.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// A field has a wrong type.
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY, "A field has a wrong type";
    /// A required field is absent.
    MissingField = "missing_field", UNPROCESSABLE_ENTITY, "A field is missing";
    /// An unknown field.
    UnknownField = "unknown_field", UNPROCESSABLE_ENTITY, "A field is not known";
    /// A query that asks for nothing.
    NoList = "no_list", UNPROCESSABLE_ENTITY, "No list of ids was given";
    /// An overview of more conversations than one may have.
    OverviewTooLarge = "overview_too_large", UNPROCESSABLE_ENTITY, "The overview is too large";
    /// A query by order to an app whose messages have none.
    OrdersNotConfigured = "orders_not_configured", UNPROCESSABLE_ENTITY, "The app has no orders";
    /// An id that is empty.
    EmptyId = "empty_id", UNPROCESSABLE_ENTITY, "An id is empty";
    /// An id exceeds the limit.
    IdTooLong = "id_too_long", UNPROCESSABLE_ENTITY, "An id is too long";
    /// More ids than one query may have.
    TooManyIds = "too_many_ids", UNPROCESSABLE_ENTITY, "Too many ids were asked for";
    /// A cursor that no answer contained, or one of another query.
    InvalidCursor = "invalid_cursor", UNPROCESSABLE_ENTITY, "The cursor is not one of ours";
    /// A read up to a time that has not come.
    TimeAhead = "time_ahead", UNPROCESSABLE_ENTITY, "The time is too far ahead";
    /// A dead letter that cannot be decoded by this version either.
    StillUndecodable = "still_undecodable", UNPROCESSABLE_ENTITY, "The dead letter still cannot be decoded";
    /// A dead letter whose events MongoDB refuses.
    StillRefused = "still_refused", UNPROCESSABLE_ENTITY, "The dead letter is still refused";
    /// MongoDB has no change streams for this service.
    NoChangeStreams = "no_change_streams", NOT_IMPLEMENTED, "MongoDB does not tell changes";
    /// As many streams as may be open at once.
    TooManyStreams = "too_many_streams", SERVICE_UNAVAILABLE, "Too many streams are open";
    /// Too much is in flight.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too much is in flight";
    /// The event cannot be stored durably, or the count cannot be trusted.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The service cannot do this now";
}

/// Seconds after which a rejected callback or query may be retried. An election takes about ten.
const RETRY_AFTER_SECONDS: u32 = 5;

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// Its kind, for programs.
    pub code: Code,
    /// The cause and the way out, for people. Never contains a secret or a message's text.
    pub detail: String,
    /// The place in the query, such as `peers[1]`.
    pub path: Option<String>,
    /// The methods that the path supports, if the method is the error.
    pub allow: Option<&'static str>,
    /// After how many seconds to ask again, where that is known for this one.
    pub retry_after: Option<u32>,
    /// What the service itself failed at. For the log alone.
    pub(super) cause: Option<String>,
}

impl Problem {
    /// A problem without a path.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            path: None,
            allow: None,
            retry_after: None,
            cause: None,
        }
    }

    /// A problem at a place in the query.
    pub fn at(code: Code, path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::new(code, detail)
        }
    }

    /// The response, with the id of its request.
    pub(super) fn document(&self, request_id: Option<&str>) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        if let Some(methods) = self.allow {
            response.insert_header((ALLOW, methods));
        }
        if let Some(seconds) = self.retry_after.or_else(|| retry_after(self.code)) {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if let Some(challenge) = challenge(self.code) {
            response.insert_header((WWW_AUTHENTICATE, challenge));
        }
        let document = ProblemDocument::of(self, request_id);
        let body = serde_json::to_string(&document).expect("strings and numbers are JSON");
        response.content_type(PROBLEM_JSON).body(body)
    }
}

/// The content type of every error response.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// An error response, as RFC 9457 describes it.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument<'p> {
    /// `urn:im-callback:error:` and the code.
    #[serde(rename = "type")]
    uri: String,
    /// What the code means, for people.
    title: &'static str,
    /// The status of the response.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// The cause and the way out, for people. It contains no secret and no message's text.
    detail: &'p str,
    /// The kind of the error, for programs. A code keeps its meaning.
    #[schema(value_type = Code)]
    code: &'static str,
    /// The place in the query, such as `peers[1]`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path: Option<&'p str>,
    /// The request's `X-Request-Id`, or a made one. The service's log has it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<&'p str>,
}

impl<'p> ProblemDocument<'p> {
    /// The document of a problem.
    pub(super) fn of(problem: &'p Problem, request_id: Option<&'p str>) -> Self {
        let code = problem.code;
        Self {
            uri: format!("urn:im-callback:error:{}", code.as_str()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: &problem.detail,
            code: code.as_str(),
            path: problem.path.as_deref(),
            request_id,
        }
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// The status alone: `request` makes the document, with the id of the request.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// Seconds after which it is of use to ask again.
pub(super) fn retry_after(code: Code) -> Option<u32> {
    match code {
        Code::Unavailable | Code::TooManyStreams => Some(RETRY_AFTER_SECONDS),
        // A rate limit knows better.
        Code::Overloaded | Code::RateLimited => Some(1),
        Code::TooManyFailedKeys => Some(SECONDS_EACH),
        _ => None,
    }
}

/// What tells a client about its key (RFC 6750, 3). Without any configured key there is nothing to ask it for.
pub(super) fn challenge(code: Code) -> Option<&'static str> {
    match code {
        Code::MissingKey => Some("Bearer"),
        Code::UnknownKey | Code::TooManyFailedKeys | Code::TokenExpired | Code::InvalidToken => {
            Some(r#"Bearer error="invalid_token""#)
        }
        Code::MissingScope
        | Code::AppNotAllowed
        | Code::TokenNotAllowed
        | Code::UserNotAllowed
        | Code::TeamNotAllowed => Some(r#"Bearer error="insufficient_scope""#),
        _ => None,
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::NotVerified(error) => error.into(),
            IngestError::Rejected(error) => error.into(),
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        let code = match error {
            VerifyError::Method => return use_instead("POST"),
            VerifyError::NoSuchRoute => Code::NotFound,
            VerifyError::PathSecretDiffers => Code::PathSecretMismatch,
            VerifyError::MissingHeader("MD5") => Code::MissingHeaderMd5,
            VerifyError::MissingHeader("CheckSum") => Code::MissingHeaderChecksum,
            VerifyError::MissingHeader(_) => Code::MissingHeaderCurtime,
            VerifyError::MissingSignature => Code::MissingSignature,
            VerifyError::AppKeyDiffers => Code::AppKeyMismatch,
            VerifyError::Md5Differs => Code::Md5Mismatch,
            VerifyError::ChecksumDiffers => Code::ChecksumMismatch,
            VerifyError::SignatureDiffers => Code::SignatureMismatch,
            VerifyError::NotFresh => Code::NotFresh,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Rejection> for Problem {
    fn from(error: Rejection) -> Self {
        let code = match error {
            Rejection::Overloaded => Code::Overloaded,
            Rejection::NotDurable => Code::Unavailable,
        };
        Self::new(code, format!("{error}; send it again"))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error == StoreError::Overloaded {
            return Self::new(Code::Overloaded, "too many queries wait; ask again");
        }
        if error == StoreError::TooManyOwn {
            let detail = "too many messages of a team are the user's own; ask when the user has read it, or raise http.max_team_unread";
            return Self::at(Code::Unavailable, "teams", detail);
        }
        // Ids are checked before, so a refused query is the service's own fault, such as a missing index, and the
        // answer is 503.
        Self {
            cause: Some(error.to_string()),
            ..Self::new(
                Code::Unavailable,
                "MongoDB cannot answer this now; ask again",
            )
        }
    }
}
