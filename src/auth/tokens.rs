//! Users' tokens: short-lived JWTs that the site signs for its pages. One lets a page ask about its own user, in one app.
//!
//! The algorithm is the configured key's. A token names one in its head, too, and is refused if that is another: it
//! chooses neither what is checked nor how.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::claims::{Claims, TokenFault};
use super::{AuthError, Rate, ring_provider};
use crate::callback::ids::AppName;

/// What `aud` has to contain, so that the site's tokens for other services are none for this one.
pub const AUDIENCE: &str = "im-callback";

/// The longest token that is looked at, in bytes.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// How far the site's clock may be from ours, in seconds.
const LEEWAY: u64 = 30;

/// Whether a bearer has the form of a token: three parts in the letters of base64url. The last one, the signature, may
/// be empty, as that of an unsigned one is.
pub fn looks_like_token(bearer: &str) -> bool {
    let is_of_token = |part: &str| {
        let is_letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        part.bytes().all(is_letter)
    };
    let parts: Vec<&str> = bearer.splitn(4, '.').collect();
    let [head, claims, signature] = *parts else {
        return false;
    };
    let are_there = !head.is_empty() && !claims.is_empty();
    are_there && [head, claims, signature].into_iter().all(is_of_token)
}

/// What checks the signature of tokens.
#[derive(Debug, Clone)]
pub enum TokenSecret {
    /// A secret that the site and this service share.
    Hs256(SecretString),
    /// The public half of a key whose private half the site has: an Ed25519 key, as it is.
    EdDsa([u8; 32]),
}

/// A key of users' tokens.
#[derive(Debug)]
pub struct TokenKey {
    name: String,
    secret: TokenSecret,
    decoding: DecodingKey,
    apps: Option<Vec<AppName>>,
    /// The app of tokens that name none.
    only_app: Option<AppName>,
}

impl TokenKey {
    /// A key of tokens for these apps; `None` is every app. Tokens need not name an app if they can mean one only.
    pub fn new(
        name: String,
        secret: TokenSecret,
        apps: Option<Vec<AppName>>,
        only_app: Option<AppName>,
    ) -> Self {
        ring_provider::install();
        let decoding = match &secret {
            TokenSecret::Hs256(secret) => {
                DecodingKey::from_secret(secret.expose_secret().as_bytes())
            }
            TokenSecret::EdDsa(key) => DecodingKey::from_ed_der(key),
        };
        Self {
            name,
            secret,
            decoding,
            apps,
            only_app,
        }
    }

    /// The key's name, which a token may have as its `kid`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What checks a signature.
    pub fn secret(&self) -> &TokenSecret {
        &self.secret
    }

    /// The algorithm's name in the configuration.
    pub fn algorithm(&self) -> &'static str {
        match self.secret {
            TokenSecret::Hs256(_) => "HS256",
            TokenSecret::EdDsa(_) => "EdDSA",
        }
    }

    /// The apps that its tokens may be for; `None` is every app.
    pub fn apps(&self) -> Option<&[AppName]> {
        self.apps.as_deref()
    }

    /// The app of its tokens that name none, if they need not.
    pub fn only_app(&self) -> Option<&AppName> {
        self.only_app.as_ref()
    }

    /// Whether its tokens may be for this app.
    pub fn is_for(&self, app: &str) -> bool {
        let apps = self.apps.as_ref();
        apps.is_none_or(|apps| apps.iter().any(|allowed| allowed.as_str() == app))
    }

    fn jwt_algorithm(&self) -> Algorithm {
        match self.secret {
            TokenSecret::Hs256(_) => Algorithm::HS256,
            TokenSecret::EdDsa(_) => Algorithm::EdDSA,
        }
    }

    /// Whether the same tokens are signed with it.
    fn has_same_secret(&self, other: &Self) -> bool {
        match (&self.secret, &other.secret) {
            (TokenSecret::Hs256(a), TokenSecret::Hs256(b)) => {
                a.expose_secret() == b.expose_secret()
            }
            (TokenSecret::EdDsa(a), TokenSecret::EdDsa(b)) => a == b,
            _ => false,
        }
    }

    /// Checks what the token claims; its signature has been checked.
    pub(super) fn user(
        self: &Arc<Self>,
        claims: &Claims,
        now: u64,
        max_age: u64,
    ) -> Result<UserToken, TokenFault> {
        if !claims.audience()? {
            return Err(TokenFault::Audience);
        }
        let expires_at = claims.time("exp")?.ok_or(TokenFault::Claim("exp"))?;
        if expires_at <= now {
            return Err(TokenFault::Expired);
        }
        for (claim, fault) in [
            ("nbf", TokenFault::NotYet),
            ("iat", TokenFault::IssuedLater),
        ] {
            if claims.time(claim)?.is_some_and(|from| from > now + LEEWAY) {
                return Err(fault);
            }
        }
        if expires_at > now + max_age + LEEWAY {
            return Err(TokenFault::TooLongLived);
        }
        let user = claims.text("sub")?.filter(|sub| !sub.is_empty());
        let user = user.ok_or(TokenFault::Claim("sub"))?;
        let app = match claims.text("app")? {
            Some(app) if !self.is_for(app) => return Err(TokenFault::OtherApp),
            Some(app) => AppName::new(app).map_err(|_| TokenFault::Claim("app"))?,
            None => self.only_app.clone().ok_or(TokenFault::NoApp)?,
        };
        let teams = claims.texts("teams")?;
        Ok(UserToken::new(self.clone(), app, user, &teams, expires_at))
    }
}

/// A user who may ask, by a valid token. Cheap to clone.
#[derive(Debug, Clone)]
pub struct UserToken {
    key: Arc<TokenKey>,
    app: AppName,
    user: Arc<str>,
    teams: Arc<[String]>,
    expires_at: u64,
}

impl UserToken {
    /// What a valid token says; `expires_at` is in seconds since 1970.
    pub fn new(
        key: Arc<TokenKey>,
        app: AppName,
        user: &str,
        teams: &[String],
        expires_at: u64,
    ) -> Self {
        Self {
            key,
            app,
            user: user.into(),
            teams: teams.into(),
            expires_at,
        }
    }

    /// The key that it is signed with.
    pub fn key(&self) -> &TokenKey {
        &self.key
    }

    /// The app that the user is of.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// The user's account, as the site spells it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether the user may ask about a team.
    pub fn has_team(&self, team: &str) -> bool {
        self.teams.iter().any(|listed| listed == team)
    }

    /// When it ends.
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires_at)
    }
}

/// The keys of users' tokens, and what their users may.
#[derive(Debug)]
pub struct TokenKeys {
    keys: Vec<Arc<TokenKey>>,
    max_age: Duration,
    rate: Rate,
}

impl TokenKeys {
    /// Takes the configured keys. `max_age` is how long a token may be valid yet, and `rate` is each user's.
    pub fn new(keys: Vec<TokenKey>, max_age: Duration, rate: Rate) -> Self {
        Self {
            keys: keys.into_iter().map(Arc::new).collect(),
            max_age,
            rate,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &TokenKey> {
        self.keys.iter().map(Arc::as_ref)
    }

    /// How long a token may be valid yet.
    pub fn max_age(&self) -> Duration {
        self.max_age
    }

    /// How many requests each user may send.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether a token that was signed with this key before a reload would still be taken for this app.
    pub(super) fn still_allow(&self, before: &TokenKey, app: &AppName) -> bool {
        let same = |key: &&Arc<TokenKey>| key.name == before.name && key.has_same_secret(before);
        let found = self.keys.iter().find(same);
        found.is_some_and(|key| key.is_for(app.as_str()))
    }

    /// Checks a token: first its signature, then what it claims. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`AuthError::InvalidToken`], which says what is wrong.
    pub fn verify(&self, token: &str, now: u64) -> Result<UserToken, AuthError> {
        let refuse = |key: Option<&TokenKey>, fault| AuthError::InvalidToken {
            fault,
            key: key.map(|key| key.name.clone()),
        };
        let (key, claims) = self.signed(token).map_err(|fault| refuse(None, fault))?;
        let claims = claims.ok_or_else(|| refuse(Some(key), TokenFault::Claims))?;
        let user = key.user(&claims, now, self.max_age.as_secs());
        user.map_err(|fault| refuse(Some(key), fault))
    }

    /// The key that a token is signed with, and what it claims, if that is a JSON object.
    fn signed(&self, token: &str) -> Result<(&Arc<TokenKey>, Option<Claims>), TokenFault> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenFault::TooLong);
        }
        let head = decode_header(token).map_err(|_| TokenFault::Head)?;
        if head.crit.is_some() {
            return Err(TokenFault::Critical);
        }
        for key in self.candidates(&head)? {
            let mut validation = Validation::new(key.jwt_algorithm());
            // The claims are checked here, by a clock that tests can set, and each with its own answer.
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            validation.validate_aud = false;
            match decode::<Map<String, Value>>(token, &key.decoding, &validation) {
                Ok(token) => return Ok((key, Some(Claims(token.claims)))),
                Err(error) => match error.kind() {
                    // The signature was checked before, and is right.
                    ErrorKind::Json(_) | ErrorKind::Utf8(_) => return Ok((key, None)),
                    // Perhaps another key's.
                    _ => {}
                },
            }
        }
        Err(TokenFault::Signature)
    }

    /// The keys that a token may be signed with, by its head.
    fn candidates(&self, head: &Header) -> Result<Vec<&Arc<TokenKey>>, TokenFault> {
        let is_named = |key: &&Arc<TokenKey>| head.kid.as_ref().is_none_or(|kid| *kid == key.name);
        let named: Vec<_> = self.keys.iter().filter(is_named).collect();
        if named.is_empty() {
            return Err(TokenFault::UnknownKid);
        }
        let fit = named
            .into_iter()
            .filter(|key| key.jwt_algorithm() == head.alg);
        let fit: Vec<_> = fit.collect();
        if fit.is_empty() {
            return Err(TokenFault::Algorithm);
        }
        Ok(fit)
    }
}
