//! Keys: secrets with scopes. [`Keys`] has all callers that are configured, those with tokens, too.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::tokens::{TokenKeys, looks_like_token};
use super::{AuthError, Identity, Rate, Scope};
use crate::callback::ids::AppName;

/// A key that is configured.
#[derive(Debug)]
pub struct Key {
    name: String,
    secret: SecretString,
    scopes: Vec<Scope>,
    apps: Option<Vec<AppName>>,
    rate: Option<Rate>,
}

impl Key {
    /// A key of these scopes, for these apps; `None` is every app, also one that is configured later. It may ask at
    /// any rate.
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
            rate: None,
        }
    }

    /// The same key, limited to a rate.
    pub fn limited_to(self, rate: Option<Rate>) -> Self {
        Self { rate, ..self }
    }

    /// How many requests the key may send; `None` is any number.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
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

/// All callers that are configured.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Arc<Key>>,
    tokens: TokenKeys,
}

impl Keys {
    /// Takes the configured keys, and those of users' tokens.
    pub fn new(keys: Vec<Key>, tokens: TokenKeys) -> Self {
        Self {
            keys: keys.into_iter().map(Arc::new).collect(),
            tokens,
        }
    }

    /// What makes and limits users' tokens.
    pub fn tokens(&self) -> &TokenKeys {
        &self.tokens
    }

    /// Finds the key whose secret is `bearer`, if it allows `scope`. A user's token is never enough. `now` is in
    /// seconds since 1970.
    ///
    /// # Errors
    /// [`AuthError`], which says why not.
    pub fn authorize(
        &self,
        bearer: Option<&str>,
        scope: Scope,
        now: u64,
    ) -> Result<Arc<Key>, AuthError> {
        match self.identify(bearer, now)? {
            Identity::Key(key) if key.allows(scope) => Ok(key),
            Identity::Key(key) => Err(AuthError::MissingScope {
                key: key.name.clone(),
                scope,
            }),
            Identity::User(token) => Err(AuthError::TokenNotAllowed {
                key: token.key().name().to_owned(),
            }),
        }
    }

    /// Finds who may read: a key of the scope `read`, or a user.
    ///
    /// # Errors
    /// [`AuthError`], which says why not.
    pub fn authorize_reader(&self, bearer: Option<&str>, now: u64) -> Result<Identity, AuthError> {
        match self.identify(bearer, now)? {
            Identity::Key(key) if !key.allows(Scope::Read) => Err(AuthError::MissingScope {
                key: key.name.clone(),
                scope: Scope::Read,
            }),
            identity => Ok(identity),
        }
    }

    /// Whether a caller who was let in before a reload still may read what this app has. When a token expires is
    /// another matter.
    pub fn still_allow(&self, identity: &Identity, app: &AppName) -> bool {
        match identity {
            Identity::Key(before) => self.keys.iter().any(|key| {
                key.name == before.name
                    && key.secret.expose_secret() == before.secret.expose_secret()
                    && key.allows(Scope::Read)
                    && key.check_app(app.as_str()).is_ok()
            }),
            Identity::User(token) => self.tokens.still_allow(token.key(), app),
        }
    }

    fn identify(&self, bearer: Option<&str>, now: u64) -> Result<Identity, AuthError> {
        if self.keys.is_empty() && self.tokens.is_empty() {
            return Err(AuthError::NoKeys);
        }
        let bearer = bearer.ok_or(AuthError::MissingKey)?;
        // No key looks like a token where there are some, which the configuration sees to.
        if !self.tokens.is_empty() && looks_like_token(bearer) {
            return self.tokens.verify(bearer, now).map(Identity::User);
        }
        let key = self.find(bearer).ok_or(AuthError::UnknownKey)?;
        Ok(Identity::Key(key.clone()))
    }

    /// Compares digests in constant time, so that the time shows neither the length nor the place of a
    /// difference, and looks at every key for the same reason.
    fn find(&self, bearer: &str) -> Option<&Arc<Key>> {
        let sent = Sha256::digest(bearer);
        let mut found = None;
        for key in &self.keys {
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
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn no_tokens() -> TokenKeys {
        let one = NonZeroU32::MIN;
        let rate = Rate {
            per_second: one,
            burst: one,
        };
        TokenKeys::new(vec![], Duration::from_secs(60), rate)
    }

    #[test]
    fn a_token_is_a_whole_secret_with_the_scope() {
        let key = |name: &str, secret: &str, scopes: &[Scope]| {
            Key::new(name.to_owned(), secret.into(), scopes.to_vec(), None)
        };
        let all = vec![
            key("pages", "one", &[Scope::Read]),
            key("ops", "two", &[Scope::Read, Scope::Admin]),
        ];
        let keys = Keys::new(all, no_tokens());
        let name = |token, scope| {
            let key = keys.authorize(token, scope, 0);
            key.map(|key| key.name().to_owned())
        };
        assert_eq!(name(Some("one"), Scope::Read), Ok("pages".to_owned()));
        assert_eq!(name(Some("two"), Scope::Admin), Ok("ops".to_owned()));
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
        let none = Keys::new(vec![], no_tokens());
        for token in [None, Some("one")] {
            let refused = none.authorize(token, Scope::Read, 0).err();
            assert_eq!(refused, Some(AuthError::NoKeys));
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
