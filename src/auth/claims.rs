//! What users' tokens claim, and what can be wrong with one.

use serde_json::{Map, Value};

use super::tokens::{AUDIENCE, LONGEST_TOKEN};

/// What a token claims. Read by hand, so that each fault names its claim.
pub(super) struct Claims(pub(super) Map<String, Value>);

impl Claims {
    /// A claim; one that is `null` is not there.
    fn claim(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A time in whole seconds since 1970, the earlier one where it has a fraction (RFC 7519, 2).
    pub(super) fn time(&self, name: &'static str) -> Result<Option<u64>, TokenFault> {
        let Some(value) = self.claim(name) else {
            return Ok(None);
        };
        let seconds = value
            .as_f64()
            .filter(|seconds| (0.0..1e12).contains(seconds));
        let seconds = seconds.ok_or(TokenFault::Claim(name))?;
        Ok(Some(seconds as u64))
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, TokenFault> {
        match self.claim(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or(TokenFault::Claim(name)),
        }
    }

    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<String>, TokenFault> {
        let wrong = TokenFault::Claim(name);
        let Some(value) = self.claim(name) else {
            return Ok(Vec::new());
        };
        let items = value.as_array().ok_or(wrong)?.iter();
        let texts = items.map(|item| item.as_str().map(str::to_owned).ok_or(wrong));
        texts.collect()
    }

    /// Whether `aud`, a text or a list of them, contains this service.
    pub(super) fn audience(&self) -> Result<bool, TokenFault> {
        match self.claim("aud") {
            Some(Value::String(audience)) => Ok(audience == AUDIENCE),
            Some(Value::Array(_)) => Ok(self.texts("aud")?.iter().any(|aud| aud == AUDIENCE)),
            _ => Err(TokenFault::Claim("aud")),
        }
    }
}

/// What is wrong with a token. The text names the check that failed, and nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is too long to be looked at.
    #[error("the token is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
    /// Its head cannot be read, or names an algorithm that does not exist, such as `none`.
    #[error("the token's head is not one of a JWT with `alg` HS256 or EdDSA")]
    Head,
    /// It demands that extensions are understood, and none is.
    #[error("the token's head has `crit`, which is not supported")]
    Critical,
    /// Its `kid` is no key's name.
    #[error("the token's `kid` is the name of no token key")]
    UnknownKid,
    /// Its algorithm is not its key's, or no key's.
    #[error("the token's `alg` is not the algorithm of its key")]
    Algorithm,
    /// No key has signed it.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its claims are no JSON object.
    #[error("the token's claims are not a JSON object")]
    Claims,
    /// A claim is missing or has a wrong type.
    #[error("the token's claim `{0}` is missing or has a wrong type")]
    Claim(&'static str),
    /// It is for another service.
    #[error("the token's `aud` does not contain `{AUDIENCE}`")]
    Audience,
    /// It has expired.
    #[error("the token has expired; fetch a new one")]
    Expired,
    /// It is for later.
    #[error("the token's `nbf` is in the future")]
    NotYet,
    /// It is from later, so a clock is wrong.
    #[error("the token's `iat` is in the future")]
    IssuedLater,
    /// It lives longer than tokens may.
    #[error("the token's `exp` is further away than auth.max_token_age")]
    TooLongLived,
    /// It names an app that its key is not for.
    #[error("the token's `app` is not one that its key is for")]
    OtherApp,
    /// It names no app, and its key is for several.
    #[error("the token names no `app`, and its key is for several")]
    NoApp,
}

impl TokenFault {
    /// The fault in a word, for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Head => "head",
            Self::Critical => "crit",
            Self::UnknownKid => "kid",
            Self::Algorithm => "alg",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Claim(name) => name,
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYet => "nbf_in_future",
            Self::IssuedLater => "iat_in_future",
            Self::TooLongLived => "too_long_lived",
            Self::OtherApp => "other_app",
            Self::NoApp => "no_app",
        }
    }
}
