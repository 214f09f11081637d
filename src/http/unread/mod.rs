//! `GET` and `POST /v1/unread`: how many messages a user has not read.
//!
//! `question` is what may be asked, `answer` what is answered, and [`counts()`] gets from one to the other: by lists of
//! ids, or without them by `overview`, which is all of a user.

mod answer;
mod counts;
mod cursor;
pub mod live;
mod overview;
mod question;
pub(in crate::http) mod stream;

use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::asked::AskedFields;
use super::auth::{Caller, authorize_reader};
use super::error::Problem;
use crate::callback::ids::Account;
use crate::ingest::App;
use crate::live::ReloadableConfig;

pub use answer::{LastMessage, NewestLists, NewestOrder, NewestPeer, TotalOf, UnreadAnswer};
pub use counts::counts;
pub use question::{FIELDS, UnreadQuery, check, check_id, no_orders};

/// Counts unread messages
///
/// As `GET /v1/unread`, for lists that do not fit into an address. The key needs the scope `read`.
#[utoipa::path(
    post,
    path = "/v1/unread",
    operation_id = "post_unread",
    tag = "unread",
    security(("key" = ["read"])),
    request_body = UnreadQuery,
    responses((status = 200, description = "The counts", body = UnreadAnswer))
)]
pub(super) async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_body(&request, payload, &service, FIELDS).await?;
    answer(&service, &current, &caller, &asked.into()).await
}

/// Counts unread messages
///
/// By sender, by order, by team, or several of these: every id that is asked is in the answer, zeros too. Without a list:
/// all of a user, the newest first. After a callback is acknowledged, every count reflects it. A key needs the scope
/// `read`.
#[utoipa::path(
    get,
    path = "/v1/unread",
    operation_id = "get_unread",
    tag = "unread",
    security(("key" = ["read"])),
    params(UnreadQuery),
    responses((status = 200, description = "The counts", body = UnreadAnswer))
)]
pub(super) async fn get(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_query(request.query_string(), FIELDS)?;
    answer(&service, &current, &caller, &asked.into()).await
}

async fn answer(
    service: &Service,
    current: &ReloadableConfig,
    caller: &Caller<'_>,
    asked: &UnreadQuery,
) -> Result<HttpResponse, Problem> {
    let app = caller.app(current, asked.app.as_deref())?;
    let reader = reader(caller, app, asked)?;
    check(asked, app, &service.limits)?;
    service.check_reachable()?;
    let answer = counts(service, app, &reader, asked).await?;
    Ok(HttpResponse::Ok().json(answer))
}

/// The account that is asked about, if the caller may ask all of this about it.
fn reader(caller: &Caller<'_>, app: &App, asked: &UnreadQuery) -> Result<Account, Problem> {
    let reader = caller.account(app, &asked.user)?;
    for team in asked.teams.iter().flatten() {
        caller.team(team)?;
    }
    Ok(reader)
}
