//! Reads the bearer of a request, a key or a user's token, and checks it against the configured ones.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;

use super::Service;
use super::client_address::client_address;
use super::error::{Code, Problem};
use super::request::note_app;
use crate::auth::{AuthError, Identity, Keys, Scope, UserToken};
use crate::callback::ids::{Account, AppName};
use crate::ingest::App;
use crate::live::ReloadableConfig;

/// Who asks: a key that has the scope of the route, or a user where users may ask.
pub struct Caller<'r> {
    identity: Identity,
    request: &'r HttpRequest,
    service: &'r Service,
}

impl Caller<'_> {
    /// The name of the key, or of the one that the user's token is signed with, for the log.
    pub fn key_name(&self) -> &str {
        self.identity.key_name()
    }

    /// Whether it has this scope, besides the one that the route needs. A user has none.
    pub fn allows(&self, scope: Scope) -> bool {
        match &self.identity {
            Identity::Key(key) => key.allows(scope),
            Identity::User(_) => false,
        }
    }

    /// The apps that the caller is limited to; `None` if it is not.
    pub fn apps(&self) -> Option<&[AppName]> {
        self.identity.apps()
    }

    /// Whether it is a user, who may ask about themselves alone.
    pub fn is_user(&self) -> bool {
        matches!(self.identity, Identity::User(_))
    }

    /// When a user's token ends, and with it every answer that goes on; a key has no end.
    pub fn expires_at(&self) -> Option<SystemTime> {
        match &self.identity {
            Identity::Key(_) => None,
            Identity::User(token) => Some(token.expires_at()),
        }
    }

    /// What an answer that goes on keeps of its caller, to ask after a reload.
    pub fn grant(&self, app: &App) -> Grant {
        Grant {
            identity: self.identity.clone(),
            app: app.name.clone(),
        }
    }

    /// The app that is asked about, also noted for the access log. A key that is limited to one app need not name
    /// it.
    ///
    /// # Errors
    /// A [`Problem`] if it is not named, unknown, or not the key's.
    pub fn app<'c>(
        &self,
        current: &'c ReloadableConfig,
        asked: Option<&str>,
    ) -> Result<&'c App, Problem> {
        let app = match (asked, self.apps(), current.apps.as_slice()) {
            (None, None, [only]) => Some(only),
            (Some(name), ..) => {
                self.check_app(name)?;
                current.app(name)
            }
            (None, Some([only]), _) => current.app(only.as_str()),
            (None, apps, _) => {
                let detail = match apps {
                    None => "several apps are configured; name one",
                    Some(_) => "the key is for several apps; name one",
                };
                return Err(Problem::at(Code::MissingField, "app", detail));
            }
        };
        let unknown = "no app of this name is configured";
        let app = app.ok_or_else(|| Problem::at(Code::UnknownApp, "app", unknown))?;
        note_app(self.request, &app.name);
        Ok(app)
    }

    /// The account of a user in this app that the caller may ask about, as the provider normalizes it.
    ///
    /// # Errors
    /// A [`Problem`] of 403 if the caller is another user.
    pub fn account(&self, app: &App, user: &str) -> Result<Account, Problem> {
        let provider = app.provider.name();
        let account = provider.account(user);
        match &self.identity {
            Identity::User(token) if provider.account(token.user()) != account => {
                let key = self.key_name().to_owned();
                Err(self.refuse(&AuthError::UserNotAllowed { key }))
            }
            _ => Ok(account),
        }
    }

    /// Checks that the caller may ask about a team: a user about those that the token lists.
    ///
    /// # Errors
    /// A [`Problem`] of 403.
    pub fn team(&self, team: &str) -> Result<(), Problem> {
        match &self.identity {
            Identity::User(token) if !token.has_team(team) => {
                let key = self.key_name().to_owned();
                Err(self.refuse(&AuthError::TeamNotAllowed { key }))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the caller may ask about this app, which need not exist.
    ///
    /// # Errors
    /// A [`Problem`] of 403.
    pub fn check_app(&self, app: &str) -> Result<(), Problem> {
        let checked = self.identity.check_app(app);
        checked.map_err(|error| self.refuse(&error))
    }

    /// Checks that the caller may ask about all apps.
    ///
    /// # Errors
    /// A [`Problem`] of 403.
    pub fn check_all_apps(&self) -> Result<(), Problem> {
        let checked = self.identity.check_all_apps();
        checked.map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &AuthError) -> Problem {
        refuse(self.service, self.request, error)
    }
}

/// What an answer that goes on, such as a stream, keeps of its caller.
#[derive(Clone)]
pub struct Grant {
    identity: Identity,
    app: AppName,
}

impl Grant {
    /// Whether the caller may still read, by the configuration of now: its key, and the app, are still there. When a
    /// token ends, [`Caller::expires_at`] says.
    pub fn still_allowed(&self, current: &ReloadableConfig) -> bool {
        let is_there = current.app(self.app.as_str()).is_some();
        is_there && current.keys.still_allow(&self.identity, &self.app)
    }
}

/// Lets a request pass that carries a key of this scope. Handlers call it before they look at the query or the
/// body, and then [`Caller::check_app`] before they look at anything of an app.
///
/// # Errors
/// A [`Problem`] of 401, 403 or 429.
pub fn authorize<'r>(
    service: &'r Service,
    keys: &Keys,
    request: &'r HttpRequest,
    scope: Scope,
) -> Result<Caller<'r>, Problem> {
    let key = keys.authorize(bearer(request), scope, now());
    let identity = key.map(Identity::Key);
    let_in(service, keys, request, identity, |_| None)
}

/// Lets a request pass that carries a key of the scope `read`, or a user's token. What the caller may see is decided by
/// [`Caller::app`], [`Caller::account`] and [`Caller::team`], which a handler asks before it looks anything up.
///
/// # Errors
/// A [`Problem`] of 401, 403 or 429.
pub fn authorize_reader<'r>(
    service: &'r Service,
    current: &ReloadableConfig,
    request: &'r HttpRequest,
) -> Result<Caller<'r>, Problem> {
    let keys = &current.keys;
    let identity = keys.authorize_reader(bearer(request), now());
    let_in(service, keys, request, identity, |token| {
        let app = current.app(token.app().as_str())?;
        Some(app.provider.name().account(token.user()))
    })
}

fn let_in<'r>(
    service: &'r Service,
    keys: &Keys,
    request: &'r HttpRequest,
    identity: Result<Identity, AuthError>,
    account: impl FnOnce(&UserToken) -> Option<Account>,
) -> Result<Caller<'r>, Problem> {
    let identity = identity.map_err(|error| refuse(service, request, &error))?;
    let account = match &identity {
        Identity::Key(_) => None,
        Identity::User(token) => account(token),
    };
    service
        .rate_limits
        .check(&identity, account.as_ref(), keys)?;
    Ok(Caller {
        identity,
        request,
        service,
    })
}

/// The clock of tokens, in seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn refuse(service: &Service, request: &HttpRequest, error: &AuthError) -> Problem {
    let client = client_address(request, &service.limits);
    service.key_failures.refuse(error, client)
}

/// The key or token, whatever the case of `Bearer` (RFC 9110, 11.1). `actix-web-httpauth` takes it in one case only.
fn bearer(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}
