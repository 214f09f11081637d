//! `GET` and `POST /v1/presence`: which users are online, on which kinds of devices, and when they were last seen.

use std::time::SystemTime;

use actix_web::{HttpRequest, HttpResponse, web};
use indexmap::IndexMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::Service;
use super::asked::{AskedField, AskedFields, FieldKind};
use super::auth::{Caller, authorize_reader};
use super::error::{Code, Problem};
use super::moment::moment;
use super::unread::check_id;
use crate::callback::ids::{Account, Millis};
use crate::config::Http;
use crate::live::ReloadableConfig;
use crate::store::presence::{DevicePresence, PresenceState, UserPresence};

/// What may be asked.
pub(super) const FIELDS: &[AskedField] = &[("app", FieldKind::Text), ("users", FieldKind::Texts)];

/// Whom is asked about.
#[derive(utoipa::IntoParams, ToSchema)]
#[into_params(parameter_in = Query, style = Form)]
#[serde(deny_unknown_fields)]
pub(super) struct PresenceQuery {
    /// The app, where the caller may ask about several.
    #[param(nullable = false, example = "otc")]
    #[schema(example = "otc")]
    app: Option<String>,
    /// The users. A user's token may ask about its own alone.
    #[param(explode = false, min_items = 1, example = json!(["ann", "bob"]))]
    #[schema(min_items = 1, example = json!(["ann", "bob"]))]
    users: Vec<String>,
}

impl From<AskedFields> for PresenceQuery {
    fn from(mut fields: AskedFields) -> Self {
        Self {
            app: fields.text("app"),
            users: fields.texts("users").unwrap_or_default(),
        }
    }
}

/// Who is online.
#[derive(Serialize, ToSchema)]
struct PresenceAnswer {
    /// Every user that was asked for, spelled as asked.
    users: IndexMap<String, UserPresenceAnswer>,
    /// `false` if acknowledged callbacks wait in a spool and may change the answer; otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    complete: Option<bool>,
}

/// What is known of a user.
#[derive(Serialize, Clone, ToSchema)]
#[schema(as = UserPresence)]
struct UserPresenceAnswer {
    /// `online` if a device is. Otherwise `unknown` if a device is, or none was ever seen. Otherwise `offline`.
    state: PresenceWord,
    /// Since when the user is online, or offline, in RFC 3339. Absent if the state is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    since: Option<String>,
    /// The time of the last event of any device, in RFC 3339. Absent if none was ever seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    last_seen: Option<String>,
    /// At most 20 devices: those online first, then the unknown ones, and of each the last seen first.
    devices: Vec<DevicePresenceAnswer>,
}

/// What is known of a device.
#[derive(Serialize, Clone, ToSchema)]
#[schema(as = DevicePresence)]
struct DevicePresenceAnswer {
    /// The kind of client, such as `IOS`. Absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_type: Option<String>,
    /// The provider's id of the device, or of its connection. Absent if the provider sent none: then this is about all
    /// devices of the kind whose ids are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    device_id: Option<String>,
    /// Whether it is online. `unknown` if it was last seen online too long ago.
    state: PresenceWord,
    /// Since when it is online, or offline, in RFC 3339. Absent if the state is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    since: Option<String>,
    /// The time of its last event, in RFC 3339. Absent at the end of the year 9999.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    last_seen: Option<String>,
    /// Why it went offline: `logout`, `disconnected`, `kicked_by_device`, `kicked_by_policy`, or a number of the
    /// provider's that is not documented. Absent unless it is offline and the provider said why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    logout_reason: Option<String>,
}

/// A state.
#[derive(Serialize, Clone, Copy, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = PresenceState)]
enum PresenceWord {
    /// Online.
    Online,
    /// Not online.
    Offline,
    /// Never seen, or last seen online too long ago.
    Unknown,
}

/// Tells who is online
///
/// As `GET /v1/presence`, for lists that do not fit into an address. The key needs the scope `read`.
#[utoipa::path(
    post,
    path = "/v1/presence",
    operation_id = "post_presence",
    tag = "presence",
    security(("key" = ["read"])),
    request_body = PresenceQuery,
    responses((status = 200, description = "Every user that was asked for", body = PresenceAnswer))
)]
pub async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_body(&request, payload, &service, FIELDS).await?;
    answer(&service, &current, &caller, asked.into()).await
}

/// Tells who is online
///
/// On which kinds of devices, since when, and when each was last seen. By the times of the provider's logins, logouts
/// and heartbeats, in whatever order they arrive. The key needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/presence",
    operation_id = "get_presence",
    tag = "presence",
    security(("key" = ["read"])),
    params(PresenceQuery),
    responses((status = 200, description = "Every user that was asked for", body = PresenceAnswer))
)]
pub async fn get(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_query(request.query_string(), FIELDS)?;
    answer(&service, &current, &caller, asked.into()).await
}

async fn answer(
    service: &Service,
    current: &ReloadableConfig,
    caller: &Caller<'_>,
    asked: PresenceQuery,
) -> Result<HttpResponse, Problem> {
    let app = caller.app(current, asked.app.as_deref())?;
    check(&asked.users, &service.limits)?;
    let accounts = asked.users.iter().map(|user| caller.account(app, user));
    let accounts: Vec<Account> = accounts.collect::<Result<_, _>>()?;
    let durable = &service.durable;
    service.check_reachable()?;
    let mut distinct: Vec<&str> = accounts.iter().map(Account::as_str).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let _reserved = durable.store.reserve(distinct.iter().copied())?;
    // Before the devices: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let complete = durable.complete.is_known().await?;
    let found = durable
        .store
        .presence(&app.name, &distinct, now(), service.presence)
        .await?;
    let known = |account: &Account| found.get(account.as_str()).map(UserPresenceAnswer::of);
    let users = asked.users.into_iter().zip(&accounts);
    let users = users.map(|(user, account)| {
        let known = known(account).unwrap_or_else(UserPresenceAnswer::never_seen);
        (user, known)
    });
    Ok(HttpResponse::Ok().json(PresenceAnswer {
        users: users.collect(),
        complete: (!complete).then_some(false),
    }))
}

fn check(users: &[String], limits: &Http) -> Result<(), Problem> {
    if users.is_empty() {
        return Err(Problem::at(Code::NoList, "users", "give at least one user"));
    }
    if users.len() > limits.max_ids {
        let most = limits.max_ids;
        let detail = format!("the limit is {most} ids (http.max_ids); split the query");
        return Err(Problem::at(Code::TooManyIds, "users", detail));
    }
    let mut users = users.iter().enumerate();
    users.try_for_each(|(i, user)| check_id(&format!("users[{i}]"), user, limits))
}

fn now() -> Millis {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since_1970.unwrap_or_default().as_millis();
    Millis::nearest(i64::try_from(millis).unwrap_or(i64::MAX))
}

impl UserPresenceAnswer {
    fn of(user: &UserPresence) -> Self {
        Self {
            state: user.state.into(),
            since: user.since.and_then(time),
            last_seen: user.last_seen.and_then(time),
            devices: user.devices.iter().map(DevicePresenceAnswer::of).collect(),
        }
    }

    fn never_seen() -> Self {
        Self {
            state: PresenceWord::Unknown,
            since: None,
            last_seen: None,
            devices: Vec::new(),
        }
    }
}

impl DevicePresenceAnswer {
    fn of(device: &DevicePresence) -> Self {
        let client_type = Some(device.client_type.clone());
        Self {
            client_type: client_type.filter(|name| !name.is_empty()),
            device_id: device.device_id.clone(),
            state: device.state.into(),
            since: device.since.and_then(time),
            last_seen: time(device.last_seen),
            logout_reason: device.logout_reason.clone(),
        }
    }
}

impl From<PresenceState> for PresenceWord {
    fn from(state: PresenceState) -> Self {
        match state {
            PresenceState::Online => Self::Online,
            PresenceState::Unknown => Self::Unknown,
            PresenceState::Offline => Self::Offline,
        }
    }
}

fn time(at: Millis) -> Option<String> {
    moment(at.get())
}
