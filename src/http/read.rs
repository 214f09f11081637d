//! `POST /v1/read`: the site itself says what a user has read. By the same rule as a receipt: everything up to and
//! including a time is read, and a read mark never falls.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::Service;
use super::asked::{AskedField, AskedFields, FieldKind};
use super::auth::{Caller, authorize};
use super::callbacks::now;
use super::error::{Code, Problem};
use super::moment::moment;
use super::unread::{check_id, no_orders};
use crate::auth::Scope;
use crate::callback::Origin;
use crate::callback::event::{Conversation, ReadMark};
use crate::callback::ids::{Account, Millis};
use crate::config::Http;
use crate::ingest::App;
use crate::live::ReloadableConfig;
use crate::store::read::SiteRead;

/// The most conversations that one order may have unread messages in: a read is one command.
const MOST_PEERS: usize = 1000;

/// What may be said.
pub(super) const FIELDS: &[AskedField] = &[
    ("app", FieldKind::Text),
    ("user", FieldKind::NeededText),
    ("peer", FieldKind::Text),
    ("order", FieldKind::Text),
    ("team", FieldKind::Text),
    ("up_to", FieldKind::Number),
];

/// What was read.
enum WhatWasRead<'a> {
    Peer(&'a str),
    Order(&'a str),
    Team(&'a str),
}

/// What a user has read: exactly one of `peer`, `order` and `team`.
#[derive(ToSchema)]
#[schema(example = json!({ "user": "bob", "peer": "ann" }))]
#[serde(deny_unknown_fields)]
pub(super) struct ReadReport {
    /// The app, where the caller may ask about several.
    app: Option<String>,
    /// Who has read.
    #[schema(min_length = 1)]
    user: String,
    /// What this account wrote to the user.
    #[schema(min_length = 1)]
    peer: Option<String>,
    /// What anybody wrote to the user about this order. For apps whose messages carry an order (`apps.order_id`).
    #[schema(min_length = 1)]
    order: Option<String>,
    /// What was written in this team.
    #[schema(min_length = 1)]
    team: Option<String>,
    /// Up to and including this time, in milliseconds since 1970; by default up to now. At most a day from now.
    up_to: Option<u64>,
}

impl From<AskedFields> for ReadReport {
    fn from(mut fields: AskedFields) -> Self {
        Self {
            app: fields.text("app"),
            user: fields.needed_text("user"),
            peer: fields.text("peer"),
            order: fields.text("order"),
            team: fields.text("team"),
            up_to: fields.number("up_to"),
        }
    }
}

impl ReadReport {
    /// What was read, where the report's ids are right.
    fn what(&self, limits: &Http) -> Result<WhatWasRead<'_>, Problem> {
        check_id("user", &self.user, limits)?;
        let ids = [
            ("peer", &self.peer),
            ("order", &self.order),
            ("team", &self.team),
        ];
        let mut what = None;
        for (name, id) in ids {
            let Some(id) = id else {
                continue;
            };
            check_id(name, id, limits)?;
            if what.is_some() {
                let detail = "give only one of `peer`, `order` and `team`";
                return Err(Problem::at(Code::InvalidField, name, detail));
            }
            what = Some(match name {
                "peer" => WhatWasRead::Peer(id),
                "order" => WhatWasRead::Order(id),
                _ => WhatWasRead::Team(id),
            });
        }
        what.ok_or_else(|| {
            let detail = "say what was read: `peer`, `order` or `team`";
            Problem::at(Code::MissingField, "peer", detail)
        })
    }

    /// Up to when: by default up to now.
    fn up_to(&self, now: Millis) -> Result<Millis, Problem> {
        let Some(up_to) = self.up_to else {
            return Ok(now);
        };
        let up_to = i64::try_from(up_to).ok().and_then(Millis::new);
        up_to
            .filter(|up_to| !ReadMark::is_ahead(*up_to, now))
            .ok_or_else(|| {
                let detail = "this is more than a day from now, and a read mark never falls; it is in milliseconds";
                Problem::at(Code::TimeAhead, "up_to", detail)
            })
    }
}

/// What is marked as read.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "user": "bob", "peers": ["ann"], "up_to": 1_789_500_000_000_i64, "up_to_at": "2026-09-15T19:20:00.000Z"
}))]
struct ReadAnswer<'a> {
    /// Who has read, as spelled in the question.
    user: &'a str,
    /// The accounts whose messages are read: the one that was named, as it was spelled, or those with unread messages on
    /// the order, as they are stored. Absent for a team.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    peers: Option<Vec<&'a str>>,
    /// The order, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order: Option<&'a str>,
    /// The team, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    team: Option<&'a str>,
    /// Up to and including this time, in milliseconds since 1970.
    up_to: i64,
    /// The same time, in RFC 3339. Absent at the end of the year 9999.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    up_to_at: Option<String>,
    /// Only if an order was named, and only where it is not so: acknowledged callbacks wait in a spool, and may be of
    /// accounts that are not among `peers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    complete: Option<bool>,
}

/// Marks as read
///
/// What one account wrote to a user, what anybody wrote about an order, or a team: everything up to and including a
/// time, as by a receipt of the provider. A read mark never falls, so the same report may be sent again. Once it is
/// answered, every count reflects it. The key needs the scope `write`.
#[utoipa::path(
    post,
    path = "/v1/read",
    operation_id = "mark_read",
    tag = "read",
    security(("key" = ["write"])),
    request_body = ReadReport,
    responses((status = 200, description = "It is marked", body = ReadAnswer))
)]
pub async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize(&service, &current.keys, &request, Scope::Write)?;
    let report = AskedFields::from_body(&request, payload, &service, FIELDS).await?;
    mark(&service, &current, &caller, &report.into()).await
}

async fn mark(
    service: &Service,
    current: &ReloadableConfig,
    caller: &Caller<'_>,
    report: &ReadReport,
) -> Result<HttpResponse, Problem> {
    let what = report.what(&service.limits)?;
    let app = caller.app(current, report.app.as_deref())?;
    let received_at = now();
    let up_to = report.up_to(received_at)?;
    let reader = caller.account(app, &report.user)?;
    service.check_reachable()?;
    let (mut found, mut order, mut complete) = (Vec::new(), None, true);
    let of = match what {
        WhatWasRead::Peer(peer) => vec![Conversation::Peer(app.provider.name().account(peer))],
        WhatWasRead::Team(team) => vec![Conversation::Team(team.to_owned())],
        WhatWasRead::Order(asked) => {
            order = Some(asked.to_owned());
            (found, complete) = peers_on(service, app, &reader, asked, up_to).await?;
            found.iter().cloned().map(Conversation::Peer).collect()
        }
    };
    let read = SiteRead {
        origin: Origin {
            app: app.name.clone(),
            provider: app.provider.name(),
            received_at,
        },
        reader,
        of,
        up_to,
        order,
        key: caller.key_name().to_owned(),
    };
    service.durable.store.mark_read(read).await?;
    let (peers, order, team) = match what {
        WhatWasRead::Peer(peer) => (Some(vec![peer]), None, None),
        WhatWasRead::Team(team) => (None, None, Some(team)),
        WhatWasRead::Order(order) => {
            let peers = found.iter().map(Account::as_str).collect();
            (Some(peers), Some(order), None)
        }
    };
    Ok(HttpResponse::Ok().json(ReadAnswer {
        user: &report.user,
        peers,
        order,
        team,
        up_to: up_to.get(),
        up_to_at: moment(up_to.get()),
        complete: (!complete).then_some(false),
    }))
}

/// The peers from whom a reader has unread messages on an order, and whether these are all.
async fn peers_on(
    service: &Service,
    app: &App,
    reader: &Account,
    order: &str,
    up_to: Millis,
) -> Result<(Vec<Account>, bool), Problem> {
    if app.provider.order_id().is_none() {
        return Err(no_orders(app, "order"));
    }
    let durable = &service.durable;
    // Before the look-up: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let complete = durable.complete.is_known().await?;
    let store = &durable.store;
    let peers = store
        .peers_unread_on(&app.name, reader, order, up_to, MOST_PEERS)
        .await?;
    let peers = peers.ok_or_else(|| {
        let detail = format!(
            "more than {MOST_PEERS} accounts may have unread messages on this order; mark them by `peer`"
        );
        Problem::at(Code::TooManyIds, "order", detail)
    })?;
    Ok((peers, complete))
}
