//! Who may query: bearer keys with scopes, apart from the provider's secrets.

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::{Code, Problem};

/// What a key allows.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Counts, presence, messages.
    Read,
    /// Marks conversations read.
    Write,
    /// Operates the service.
    Admin,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// A key that is configured.
#[derive(Debug)]
pub struct Key {
    name: String,
    secret: SecretString,
    scopes: Vec<Scope>,
}

impl Key {
    /// A key of these scopes.
    pub fn new(name: String, secret: SecretString, scopes: Vec<Scope>) -> Self {
        Self {
            name,
            secret,
            scopes,
        }
    }

    /// The key's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secret itself, for the command line's own queries.
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// The scopes, for people.
    pub fn scopes(&self) -> String {
        let names: Vec<_> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        names.join(", ")
    }

    /// Whether the key allows this.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// All keys that are configured.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Takes the configured keys.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Lets a request pass that carries a key of this scope.
    ///
    /// # Errors
    /// A [`Problem`] of 401 or 403.
    pub fn authorize(&self, request: &HttpRequest, scope: Scope) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Err(Problem::new(
                Code::NoKeys,
                "no key is configured; add an [[auth.keys]] section to the service's configuration",
            ));
        }
        let token = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| {
                Problem::new(
                    Code::MissingKey,
                    "send the header `Authorization: Bearer <key>`",
                )
            })?;
        let key = self.find(token).ok_or_else(|| {
            Problem::new(
                Code::UnknownKey,
                "the bearer key is none of the configured keys",
            )
        })?;
        if key.allows(scope) {
            return Ok(());
        }
        let detail = format!(
            "the key `{}` lacks the scope `{}`",
            key.name,
            scope.as_str()
        );
        Err(Problem::new(Code::MissingScope, detail))
    }

    /// Compares digests, so that neither the length nor the place of a difference shows in the time,
    /// and looks at every key for the same reason.
    fn find(&self, token: &str) -> Option<&Key> {
        let sent = Sha256::digest(token);
        let mut found = None;
        for key in &self.0 {
            let known = Sha256::digest(key.secret.expose_secret());
            if bool::from(known.ct_eq(&sent)) {
                found = Some(key);
            }
        }
        found
    }
}
