//! `/v1/dead-letters`, for operators: callbacks that could not be decoded or stored.

pub mod view;

use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::auth::{Caller, authorize};
use super::error::{Code, Problem};
use super::query::parameters;
use super::request::{note_app, request_id};
use crate::auth::Scope;
use crate::callback::ids::AppName;
use crate::ingest::dead_letters::{Retried, retry as retry_dead_letter};
use crate::live::ReloadableConfig;
use crate::store::dead_letters::{Place, Which};
use view::{DeadLetterHead, DeadLetterOutcome, DeadLetterPage, WholeDeadLetter};

/// Dead letters per page: the default and the maximum.
const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

/// What the list is asked for.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The app; without it, all that the key may ask about.
    #[param(nullable = false, example = "otc")]
    app: Option<String>,
    /// Only those with this code, such as `not_json`.
    #[param(nullable = false, example = "not_json")]
    code: Option<String>,
    /// Where to go on: the `next` of the page before.
    #[param(value_type = Option<String>, nullable = false)]
    before: Option<Place>,
    /// The most dead letters of the page.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
}

impl ListQuery {
    fn parse(query: &str) -> Result<Self, Problem> {
        let (mut app, mut code, mut before, mut limit) = (None, None, None, None);
        for parameter in parameters(query) {
            let parameter = parameter?;
            let place = match parameter.name.as_str() {
                "app" => &mut app,
                "code" => &mut code,
                "before" => &mut before,
                "limit" => &mut limit,
                _ => {
                    let detail = "this field is not known";
                    let name = parameter.shown_name();
                    return Err(Problem::at(Code::UnknownField, name, detail));
                }
            };
            parameter.put(place)?;
        }
        let limit = match limit.map(|limit| limit.parse::<u32>()) {
            None => PAGE,
            Some(Ok(limit)) if (1..=LARGEST_PAGE).contains(&limit) => limit,
            Some(_) => {
                let detail = format!("must be between 1 and {LARGEST_PAGE}");
                return Err(invalid("limit", detail));
            }
        };
        let before = match before.as_deref().map(Place::parse) {
            Some(None) => return Err(invalid("before", "must be the `next` of a page")),
            Some(place) => place,
            None => None,
        };
        Ok(Self {
            app,
            code,
            before,
            limit,
        })
    }
}

fn invalid(path: &str, detail: impl Into<String>) -> Problem {
    Problem::at(Code::InvalidField, path, detail)
}

/// Lists dead letters
///
/// The newest first, of all apps that the key may ask about. The key needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    operation_id = "list_dead_letters",
    tag = "dead-letters",
    security(("key" = ["admin"])),
    params(ListQuery),
    responses((status = 200, description = "A page", body = DeadLetterPage))
)]
pub async fn list(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize(&service, &current.keys, &request, Scope::Admin)?;
    let asked = ListQuery::parse(request.query_string())?;
    let apps = match asked.app {
        Some(app) => {
            check_app(&caller, &request, &current, &app)?;
            Some(vec![app])
        }
        None => caller
            .apps()
            .map(|apps| apps.iter().map(AppName::to_string).collect()),
    };
    let which = Which {
        apps,
        code: asked.code,
    };
    let store = &service.durable.store;
    let found = store
        .dead_letters(&which, asked.before.as_ref(), asked.limit)
        .await?;
    let listed = found.len();
    tracing::info!(key = caller.key_name(), listed, "dead letters were listed");
    let is_full = listed == asked.limit as usize;
    let next = found.last().filter(|_| is_full);
    Ok(HttpResponse::Ok().json(DeadLetterPage {
        dead_letters: found.iter().map(DeadLetterHead::from).collect(),
        next: next.map(|last| Place::of(last).to_string()),
    }))
}

/// Shows a dead letter
///
/// With its body, which holds messages' texts. The key needs the scope `admin`, and the log has its name.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{app}/{digest}",
    operation_id = "get_dead_letter",
    tag = "dead-letters",
    security(("key" = ["admin"])),
    params(
        ("app" = String, Path, description = "The app that the callback was for", example = "otc"),
        ("digest" = String, Path, description = "The rest of the dead letter's id", example = "0a1b2c"),
    ),
    responses((status = 200, description = "The dead letter", body = WholeDeadLetter))
)]
pub async fn show(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let (caller, id) = authorized_id(&request, &service, &current)?;
    let Some(dead_letter) = service.durable.store.dead_letter(&id).await? else {
        return Err(not_there());
    };
    // It has a message's text, so who has read it is known.
    let code = &*dead_letter.heading.code;
    tracing::info!(id, code, key = caller.key_name(), "a dead letter was shown");
    Ok(HttpResponse::Ok().json(WholeDeadLetter::from(&dead_letter)))
}

/// Decodes and stores a dead letter again
///
/// After an upgrade, or after the app's settings were changed. It is kept unless its events are stored. The key needs
/// the scope `admin`.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{app}/{digest}/retry",
    operation_id = "retry_dead_letter",
    tag = "dead-letters",
    security(("key" = ["admin"])),
    params(
        ("app" = String, Path, description = "The app that the callback was for", example = "otc"),
        ("digest" = String, Path, description = "The rest of the dead letter's id", example = "0a1b2c"),
    ),
    responses((status = 200, description = "Its events are stored", body = DeadLetterOutcome))
)]
pub async fn retry(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let (caller, id) = authorized_id(&request, &service, &current)?;
    let (store, key) = (&service.durable.store, Some(caller.key_name()));
    let mut action = AdminAction::begin("retry", &id, &caller, &request);
    let retried = retry_dead_letter(&current.apps, store, &id, key).await?;
    action.is_confirmed = true;
    let done = DeadLetterOutcome {
        id: &id,
        outcome: outcome(retried)?,
    };
    Ok(HttpResponse::Ok().json(done))
}

fn outcome(retried: Retried) -> Result<&'static str, Problem> {
    let problem = match retried {
        Retried::Stored => return Ok("stored"),
        Retried::StillUndecodable { code, reason, path } => {
            let detail = format!("{code}: {reason}; the dead letter is kept");
            Problem::at(Code::StillUndecodable, path, detail)
        }
        Retried::StillRefused => Problem::new(
            Code::StillRefused,
            "MongoDB refuses its documents, or they contradict what is stored; the dead letter is kept",
        ),
        Retried::SaysNothing => Problem::new(
            Code::StillUndecodable,
            "its body contains no event; the dead letter is kept, drop it if it is not needed",
        ),
        Retried::UnknownApp => Problem::new(
            Code::UnknownApp,
            "its app is not configured, so it cannot be decoded; the dead letter is kept",
        ),
        Retried::NotThere => not_there(),
    };
    Err(problem)
}

/// Drops a dead letter
///
/// For good. The key needs the scope `admin`.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters/{app}/{digest}",
    operation_id = "drop_dead_letter",
    tag = "dead-letters",
    security(("key" = ["admin"])),
    params(
        ("app" = String, Path, description = "The app that the callback was for", example = "otc"),
        ("digest" = String, Path, description = "The rest of the dead letter's id", example = "0a1b2c"),
    ),
    responses((status = 200, description = "It is gone", body = DeadLetterOutcome))
)]
pub async fn remove(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let (caller, id) = authorized_id(&request, &service, &current)?;
    let mut action = AdminAction::begin("drop", &id, &caller, &request);
    let code = service.durable.store.remove_dead_letter(&id).await?;
    action.is_confirmed = true;
    let code = code.ok_or_else(not_there)?;
    tracing::warn!(
        id,
        code,
        key = caller.key_name(),
        "a dead letter was dropped"
    );
    let done = DeadLetterOutcome {
        id: &id,
        outcome: "dropped",
    };
    Ok(HttpResponse::Ok().json(done))
}

/// What an administrator asked to be done. It is logged unless its outcome is known, since it may have been done: if
/// MongoDB failed, and if the client is gone.
struct AdminAction<'r> {
    name: &'static str,
    id: &'r str,
    key: &'r str,
    request: &'r HttpRequest,
    is_confirmed: bool,
}

impl<'r> AdminAction<'r> {
    fn begin(
        name: &'static str,
        id: &'r str,
        caller: &'r Caller<'_>,
        request: &'r HttpRequest,
    ) -> Self {
        Self {
            name,
            id,
            key: caller.key_name(),
            request,
            is_confirmed: false,
        }
    }
}

impl Drop for AdminAction<'_> {
    fn drop(&mut self) {
        if self.is_confirmed {
            return;
        }
        tracing::warn!(
            action = self.name,
            id = self.id,
            key = self.key,
            outcome = "unknown",
            request_id = %request_id(self.request),
            "what was asked for a dead letter may have been done"
        );
    }
}

/// The id in the path, whose first part is the dead letter's app. Checks the key first; an extractor would run
/// before that check.
fn authorized_id<'r>(
    request: &'r HttpRequest,
    service: &'r Service,
    current: &'r ReloadableConfig,
) -> Result<(Caller<'r>, String), Problem> {
    let caller = authorize(service, &current.keys, request, Scope::Admin)?;
    let part = |name: &str| request.match_info().get(name).unwrap_or_default();
    check_app(&caller, request, current, part("app"))?;
    Ok((caller, format!("{}/{}", part("app"), part("digest"))))
}

/// Checks that the key may ask about an app, and notes it for the access log. The app of a dead letter need not be
/// configured.
fn check_app(
    caller: &Caller<'_>,
    request: &HttpRequest,
    current: &ReloadableConfig,
    name: &str,
) -> Result<(), Problem> {
    caller.check_app(name)?;
    if let Some(app) = current.app(name) {
        note_app(request, &app.name);
    }
    Ok(())
}

fn not_there() -> Problem {
    Problem::new(Code::UnknownDeadLetter, "no dead letter has this id")
}
