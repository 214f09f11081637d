//! Reads the bearer token of a request and checks it against the configured keys.

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;

use super::Service;
use super::client_address::client_address;
use super::error::{Code, Problem};
use super::request::note_app;
use crate::auth::{AuthError, Key, Keys, Scope};
use crate::callback::ids::{Account, AppName};
use crate::ingest::App;
use crate::live::ReloadableConfig;

/// Who asks: a key that has the scope of the route.
pub struct Caller<'r> {
    key: &'r Key,
    request: &'r HttpRequest,
    service: &'r Service,
}

impl Caller<'_> {
    /// The key's name, for the log.
    pub fn key_name(&self) -> &str {
        self.key.name()
    }

    /// The apps that the key is limited to; `None` if it is not.
    pub fn apps(&self) -> Option<&[AppName]> {
        self.key.apps()
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
    /// A [`Problem`] of 403.
    pub fn account(&self, app: &App, user: &str) -> Result<Account, Problem> {
        Ok(app.provider.name().account(user))
    }

    /// Checks that the key may ask about this app, which need not exist.
    ///
    /// # Errors
    /// A [`Problem`] of 403.
    pub fn check_app(&self, app: &str) -> Result<(), Problem> {
        let checked = self.key.check_app(app);
        checked.map_err(|error| refuse(self.service, self.request, &error))
    }

    /// Checks that the key may ask about all apps.
    ///
    /// # Errors
    /// A [`Problem`] of 403.
    pub fn check_all_apps(&self) -> Result<(), Problem> {
        let checked = self.key.check_all_apps();
        checked.map_err(|error| refuse(self.service, self.request, &error))
    }
}

/// Lets a request pass that carries a key of this scope. Handlers call it before they look at the query or the
/// body, and then [`Caller::check_app`] before they look at anything of an app.
///
/// # Errors
/// A [`Problem`] of 401, 403 or 429.
pub fn authorize<'r>(
    service: &'r Service,
    keys: &'r Keys,
    request: &'r HttpRequest,
    scope: Scope,
) -> Result<Caller<'r>, Problem> {
    let key = keys.authorize(bearer_token(request), scope);
    let key = key.map_err(|error| refuse(service, request, &error))?;
    Ok(Caller {
        key,
        request,
        service,
    })
}

/// Lets a request pass that carries a key of the scope `read`. What the caller may see of a user is decided by
/// [`Caller::account`], which a handler asks before it looks anything up.
///
/// # Errors
/// A [`Problem`] of 401, 403 or 429.
pub fn authorize_reader<'r>(
    service: &'r Service,
    current: &'r ReloadableConfig,
    request: &'r HttpRequest,
) -> Result<Caller<'r>, Problem> {
    authorize(service, &current.keys, request, Scope::Read)
}

fn refuse(service: &Service, request: &HttpRequest, error: &AuthError) -> Problem {
    let client = client_address(request, &service.limits);
    service.key_failures.refuse(error, client)
}

/// The token, whatever the case of `Bearer` (RFC 9110, 11.1). `actix-web-httpauth` takes it in one case only.
fn bearer_token(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}
