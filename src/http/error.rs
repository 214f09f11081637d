//! The only place that turns an error into a status.
//!
//! Every answer that is no success is a problem document (RFC 9457) with a stable `code`. The codes are
//! the table below; `docs/errors.md` explains each, and a test holds the two together. On callback
//! routes there is no 500 ever: the provider counts 500 as delivered.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::auth::AuthError;
use crate::callback::netease::{VerifyError, signature};
use crate::ingest::{IngestError, Rejection};
use crate::store::StoreError;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)+) => {
        /// What is wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The code as it is sent.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The status it is sent with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// The same for every occurrence, for people.
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
    /// The body did not arrive whole.
    IncompleteBody = "incomplete_body", BAD_REQUEST, "The body did not arrive whole";
    /// A query's body is not JSON.
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not JSON";
    /// A query without a key.
    MissingKey = "missing_key", UNAUTHORIZED, "A key is needed";
    /// A query with a key that is not configured.
    UnknownKey = "unknown_key", FORBIDDEN, "The key is not known";
    /// A query with a key that may not ask this.
    MissingScope = "missing_scope", FORBIDDEN, "The key lacks a scope";
    /// A query to a service without any key.
    NoKeys = "no_keys", FORBIDDEN, "Queries are closed";
    /// `AppKey` is another app's.
    AppKeyMismatch = "app_key_mismatch", FORBIDDEN, "The AppKey header is not this app's";
    /// `MD5` is not the body's.
    Md5Mismatch = "md5_mismatch", FORBIDDEN, "The MD5 header is not the body's digest";
    /// `CheckSum` was made with another secret.
    ChecksumMismatch = "checksum_mismatch", FORBIDDEN, "The CheckSum header is wrong";
    /// `CurTime` is outside the app's window.
    NotFresh = "not_fresh", FORBIDDEN, "The CurTime header is too far off";
    /// No route of this path.
    NotFound = "not_found", NOT_FOUND, "There is nothing here";
    /// No app of this name.
    UnknownApp = "unknown_app", NOT_FOUND, "The app is not known";
    /// No dead letter of this id.
    UnknownDeadLetter = "unknown_dead_letter", NOT_FOUND, "The dead letter is not there";
    /// A route of this path, for other methods.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The body takes too long.
    SlowBody = "slow_body", REQUEST_TIMEOUT, "The body comes too slowly";
    /// The body is over the limit.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// A field of a wrong type.
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY, "A field has a wrong type";
    /// A field that is needed is absent.
    MissingField = "missing_field", UNPROCESSABLE_ENTITY, "A field is missing";
    /// A field that the route does not have.
    UnknownField = "unknown_field", UNPROCESSABLE_ENTITY, "A field is not known";
    /// A query that asks for nothing.
    NoList = "no_list", UNPROCESSABLE_ENTITY, "No list of ids was given";
    /// An id that is empty.
    EmptyId = "empty_id", UNPROCESSABLE_ENTITY, "An id is empty";
    /// An id over the limit.
    IdTooLong = "id_too_long", UNPROCESSABLE_ENTITY, "An id is too long";
    /// More ids than one query may have.
    TooManyIds = "too_many_ids", UNPROCESSABLE_ENTITY, "Too many ids were asked for";
    /// A dead letter that cannot be decoded by this version either.
    StillUndecodable = "still_undecodable", UNPROCESSABLE_ENTITY, "The dead letter still cannot be decoded";
    /// A dead letter whose events MongoDB refuses.
    StillRefused = "still_refused", UNPROCESSABLE_ENTITY, "The dead letter is still refused";
    /// As much is in flight as may be.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too much is in flight";
    /// Nothing durable to put the event in, or no count that could be trusted.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The service cannot do this now";
}

/// Seconds after which a refused callback or query is welcome again. An election takes some ten.
const RETRY_AFTER_SECONDS: u32 = 5;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// What is wrong, for programs.
    pub code: Code,
    /// What is wrong here and the way out, for people. Never a secret, never a message's text.
    pub detail: String,
    /// Where in the query, such as `peers[1]`.
    pub path: Option<String>,
    /// The methods that the path has, where the method is what is wrong.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem without a place.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            path: None,
            allow: None,
        }
    }

    /// A problem with a place in the query.
    pub fn at(code: Code, path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::new(code, detail)
        }
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut body = json!({
            "type": format!("urn:im-callback:error:{}", self.code.as_str()),
            "title": self.code.title(),
            "status": status.as_u16(),
            "detail": self.detail,
            "code": self.code.as_str(),
        });
        if let Some(path) = &self.path {
            body["path"] = path.as_str().into();
        }
        let mut response = HttpResponse::build(status);
        response.content_type("application/problem+json");
        if let Some(methods) = self.allow {
            response.insert_header((ALLOW, methods));
        }
        match self.code {
            Code::Unavailable => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS.to_string()));
            }
            Code::Overloaded => {
                response.insert_header((RETRY_AFTER, "1"));
            }
            Code::MissingKey => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer"));
            }
            _ => {}
        }
        response.body(body.to_string())
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::NoKeys => Code::NoKeys,
            AuthError::MissingKey => Code::MissingKey,
            AuthError::UnknownKey => Code::UnknownKey,
            AuthError::MissingScope { .. } => Code::MissingScope,
        };
        Self::new(code, error.to_string())
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
            VerifyError::MissingHeader(signature::MD5) => Code::MissingHeaderMd5,
            VerifyError::MissingHeader(signature::CHECKSUM) => Code::MissingHeaderChecksum,
            VerifyError::MissingHeader(_) => Code::MissingHeaderCurtime,
            VerifyError::AppKeyDiffers => Code::AppKeyMismatch,
            VerifyError::Md5Differs => Code::Md5Mismatch,
            VerifyError::CheckSumDiffers => Code::ChecksumMismatch,
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
        // Even a refused query is 503: its ids are checked, so what is refused is the service's own
        // doing, such as an index that is not there yet.
        tracing::error!(%error, "a query failed");
        Self::new(
            Code::Unavailable,
            "MongoDB cannot answer this now; ask again",
        )
    }
}
