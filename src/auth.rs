//! Who may query: bearer keys with scopes, and perhaps for some apps only, apart from the provider's secrets.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::callback::ids::AppName;

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

/// A key that is configured.
#[derive(Debug)]
pub struct Key {
    name: String,
    secret: SecretString,
    scopes: Vec<Scope>,
    apps: Option<Vec<AppName>>,
}

impl Key {
    /// A key of these scopes, for these apps; `None` is every app, also one that is configured later.
    pub fn new(
        name: String,
        secret: SecretString,
        scopes: Vec<Scope>,
        apps: Option<Vec<AppName>>,
    ) -> Self {
        Self {
            name,
            secret,
            scopes,
            apps,
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

    /// Whether the key allows this. Who operates the service may also read its metrics.
    pub fn allows(&self, scope: Scope) -> bool {
        let by_admin = scope == Scope::Metrics && self.scopes.contains(&Scope::Admin);
        by_admin || self.scopes.contains(&scope)
    }

    /// The apps that the key is limited to; `None` if it is not.
    pub fn apps(&self) -> Option<&[AppName]> {
        self.apps.as_deref()
    }

    /// Checks that the key may ask about this app. The answer is the same for apps that do not exist, so that a key
    /// learns no other apps' names.
    ///
    /// # Errors
    /// [`AuthError::AppNotAllowed`] if not.
    pub fn check_app(&self, app: &str) -> Result<(), AuthError> {
        match &self.apps {
            Some(apps) if apps.iter().all(|allowed| allowed.as_str() != app) => {
                Err(AuthError::AppNotAllowed {
                    key: self.name.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the key may ask about all apps.
    ///
    /// # Errors
    /// [`AuthError::AppNotAllowed`] if it is limited to some.
    pub fn check_all_apps(&self) -> Result<(), AuthError> {
        match &self.apps {
            Some(_) => Err(AuthError::AppNotAllowed {
                key: self.name.clone(),
            }),
            None => Ok(()),
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
    /// The token is no key's secret.
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
}

impl AuthError {
    /// The name of the key that lacks a right.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::NoKeys | Self::MissingKey | Self::UnknownKey => None,
            Self::MissingScope { key, .. } | Self::AppNotAllowed { key } => Some(key),
        }
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

    /// Finds the key whose secret is `token`, if it allows `scope`.
    ///
    /// # Errors
    /// [`AuthError`], which says why not.
    pub fn authorize(&self, token: Option<&str>, scope: Scope) -> Result<&Key, AuthError> {
        if self.0.is_empty() {
            return Err(AuthError::NoKeys);
        }
        let token = token.ok_or(AuthError::MissingKey)?;
        let key = self.find(token).ok_or(AuthError::UnknownKey)?;
        if key.allows(scope) {
            return Ok(key);
        }
        Err(AuthError::MissingScope {
            key: key.name.clone(),
            scope,
        })
    }

    /// Compares digests in constant time, so that the time shows neither the length nor the place of a
    /// difference, and looks at every key for the same reason.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_whole_secret_with_the_scope() {
        let key = |name: &str, secret: &str, scopes: &[Scope]| {
            Key::new(name.to_owned(), secret.into(), scopes.to_vec(), None)
        };
        let keys = Keys::new(vec![
            key("pages", "one", &[Scope::Read]),
            key("ops", "two", &[Scope::Read, Scope::Admin]),
        ]);
        let name = |token, scope| keys.authorize(token, scope).map(Key::name);
        assert_eq!(name(Some("one"), Scope::Read), Ok("pages"));
        assert_eq!(name(Some("two"), Scope::Admin), Ok("ops"));
        assert_eq!(name(None, Scope::Read), Err(AuthError::MissingKey));
        for token in ["", "on", "one ", "ONE", "onetwo"] {
            let found = name(Some(token), Scope::Read);
            assert_eq!(found, Err(AuthError::UnknownKey), "{token}");
        }
        let lacking = AuthError::MissingScope {
            key: "pages".to_owned(),
            scope: Scope::Admin,
        };
        assert_eq!(name(Some("one"), Scope::Admin), Err(lacking));
        let none = Keys::new(vec![]);
        for token in [None, Some("one")] {
            let found = none.authorize(token, Scope::Read).map(Key::name);
            assert_eq!(found, Err(AuthError::NoKeys));
        }
    }

    #[test]
    fn a_limited_key_knows_no_other_app() {
        let key = |apps: Option<&[&str]>| {
            let app = |name: &&str| AppName::new(*name).expect("a name");
            let apps = apps.map(|apps| apps.iter().map(app).collect());
            Key::new("pages".to_owned(), "one".into(), vec![Scope::Read], apps)
        };
        let limited = key(Some(&["otc", "shop"]));
        for app in ["otc", "shop"] {
            assert_eq!(limited.check_app(app), Ok(()));
        }
        for app in ["", "ot", "otcx", "OTC", "other"] {
            let refused = limited.check_app(app);
            let error = refused.expect_err(app);
            assert_eq!(error.key(), Some("pages"));
            assert!(app.is_empty() || !error.to_string().contains(&format!("`{app}`")));
        }
        assert_eq!(key(None).check_app("other"), Ok(()));
        assert!(key(Some(&[])).check_app("otc").is_err());
    }
}
