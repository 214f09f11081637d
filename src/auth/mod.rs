//! Who may query: bearer keys with scopes, and users whose tokens the site has signed. Both perhaps for some apps
//! only, and apart from the provider's secrets.

mod claims;
mod keys;
mod new_token;
mod ring_provider;
#[cfg(test)]
mod tests;
mod tokens;

use std::num::NonZeroU32;
use std::sync::Arc;

use serde::Deserialize;

use crate::callback::ids::AppName;

pub use claims::TokenFault;
pub use keys::{Key, Keys};
pub use new_token::{NewToken, SignError};
pub use tokens::{
    AUDIENCE, LONGEST_TOKEN, TokenKey, TokenKeys, TokenSecret, UserToken, looks_like_token,
};

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
    /// Reads metrics, where these are not open.
    Metrics,
}

impl Scope {
    /// The scope's name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

/// How many requests a caller may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run, each second.
    pub per_second: NonZeroU32,
    /// At once, after a pause.
    pub burst: NonZeroU32,
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A configured key.
    Key(Arc<Key>),
    /// A user, by a token.
    User(UserToken),
}

impl Identity {
    /// The name of the key, or of the one that the user's token is signed with.
    pub fn key_name(&self) -> &str {
        match self {
            Self::Key(key) => key.name(),
            Self::User(token) => token.key().name(),
        }
    }

    /// The apps that it is limited to; `None` if it is not.
    pub fn apps(&self) -> Option<&[AppName]> {
        match self {
            Self::Key(key) => key.apps(),
            Self::User(token) => Some(std::slice::from_ref(token.app())),
        }
    }

    /// Checks that it may ask about this app. The answer is the same for apps that do not exist, so that nobody learns
    /// other apps' names.
    ///
    /// # Errors
    /// An [`AuthError`] if not.
    pub fn check_app(&self, app: &str) -> Result<(), AuthError> {
        match self {
            Self::Key(key) => key.check_app(app),
            Self::User(token) if token.app().as_str() == app => Ok(()),
            Self::User(token) => Err(AuthError::TokenOfOtherApp {
                key: token.key().name().to_owned(),
            }),
        }
    }

    /// Checks that it may ask about all apps.
    ///
    /// # Errors
    /// An [`AuthError`] if it is limited to some.
    pub fn check_all_apps(&self) -> Result<(), AuthError> {
        match self {
            Self::Key(key) => key.check_all_apps(),
            Self::User(token) => Err(AuthError::TokenOfOtherApp {
                key: token.key().name().to_owned(),
            }),
        }
    }
}

/// Why a query is not allowed. The text says what to do about it, and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No key is configured, so nobody may query.
    #[error("no key is configured; add an [[auth.keys]] section to the service's configuration")]
    NoKeys,
    /// The query has no bearer token.
    #[error("send the header `Authorization: Bearer <key>`")]
    MissingKey,
    /// The bearer is no key's secret, and no token.
    #[error("the bearer key is none of the configured keys")]
    UnknownKey,
    /// The key does not allow this query.
    #[error("the key `{key}` lacks the scope `{}`", scope.as_str())]
    MissingScope {
        /// The key's name.
        key: String,
        /// What it would have to allow.
        scope: Scope,
    },
    /// The key is limited to other apps.
    #[error("the key `{key}` is limited to some apps (auth.keys.apps), and not allowed this")]
    AppNotAllowed {
        /// The key's name.
        key: String,
    },
    /// The user's token is not valid.
    #[error("{fault}")]
    InvalidToken {
        /// What is wrong.
        fault: TokenFault,
        /// The name of the key that it is signed with, where that is known.
        key: Option<String>,
    },
    /// A user's token where only keys may ask.
    #[error("a user's token cannot ask for this; it needs a key")]
    TokenNotAllowed {
        /// The name of the token's key.
        key: String,
    },
    /// The token is for another app.
    #[error("the token is for another app")]
    TokenOfOtherApp {
        /// The name of the token's key.
        key: String,
    },
    /// The token is another user's.
    #[error("the token is another user's; a user may ask about themselves alone")]
    UserNotAllowed {
        /// The name of the token's key.
        key: String,
    },
    /// The token does not list the team.
    #[error("the team is not in the token's `teams`")]
    TeamNotAllowed {
        /// The name of the token's key.
        key: String,
    },
}

impl AuthError {
    /// The name of the key that lacks a right, or that the token is signed with.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::NoKeys | Self::MissingKey | Self::UnknownKey => None,
            Self::InvalidToken { key, .. } => key.as_deref(),
            Self::MissingScope { key, .. }
            | Self::AppNotAllowed { key }
            | Self::TokenNotAllowed { key }
            | Self::TokenOfOtherApp { key }
            | Self::UserNotAllowed { key }
            | Self::TeamNotAllowed { key } => Some(key),
        }
    }
}
