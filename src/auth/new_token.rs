//! Makes users' tokens, for tests: the site makes its own.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::ring_provider;
use super::tokens::{AUDIENCE, TokenKey, TokenSecret};

/// What a new token says.
#[derive(Debug)]
pub struct NewToken<'t> {
    /// The user's account.
    pub user: &'t str,
    /// The app that the user is of; `None` if tokens of the key need not name it.
    pub app: Option<&'t str>,
    /// The teams that the user may ask about.
    pub teams: &'t [String],
    /// Now, in seconds since 1970.
    pub issued_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

/// Why a token cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The key is one of EdDSA, whose private half is not configured.
    #[error("the token key is one of EdDSA, and its private half is not given")]
    NoPrivateKey,
    /// The private half is none that can be used.
    #[error("the private key is no Ed25519 key in PKCS #8")]
    BadPrivateKey,
}

#[derive(Serialize)]
struct NewClaims<'t> {
    aud: &'static str,
    sub: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'t str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    teams: &'t [String],
    iat: u64,
    exp: u64,
}

impl NewToken<'_> {
    /// The token, signed with a configured key. One of EdDSA takes its private half, in PKCS #8 as DER.
    ///
    /// # Errors
    /// [`SignError`] if the private half is missing or none.
    pub fn signed(&self, key: &TokenKey, private: Option<&[u8]>) -> Result<String, SignError> {
        ring_provider::install();
        let (algorithm, signing) = match (key.secret(), private) {
            (TokenSecret::Hs256(secret), _) => {
                let secret = secret.expose_secret().as_bytes();
                (Algorithm::HS256, EncodingKey::from_secret(secret))
            }
            (TokenSecret::EdDsa(_), Some(private)) => {
                (Algorithm::EdDSA, EncodingKey::from_ed_der(private))
            }
            (TokenSecret::EdDsa(_), None) => return Err(SignError::NoPrivateKey),
        };
        let head = Header {
            kid: Some(key.name().to_owned()),
            ..Header::new(algorithm)
        };
        let claims = NewClaims {
            aud: AUDIENCE,
            sub: self.user,
            app: self.app,
            teams: self.teams,
            iat: self.issued_at,
            exp: self.expires_at,
        };
        // Nothing else can fail: HMAC takes any secret, and the claims are JSON.
        encode(&head, &claims, &signing).map_err(|_| SignError::BadPrivateKey)
    }
}
