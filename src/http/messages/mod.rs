//! `GET` and `POST /v1/messages`: a user's conversation with a peer or in a team, a page at a time, the newest message
//! first.

mod cursor;
mod plain;
mod view;

use actix_web::{HttpRequest, HttpResponse, web};
use utoipa::ToSchema;

use super::Service;
use super::asked::{AskedField, AskedFields, FieldKind};
use super::auth::{Caller, authorize_reader};
use super::error::{Code, Problem};
use super::unread::check_id;
use crate::auth::Scope;
use crate::callback::event::Conversation;
use crate::config::Http;
use crate::live::ReloadableConfig;
use crate::store::messages::{PageQuestion, WhichPage};
use view::MessagesAnswer;

/// Messages per page: the default and the most.
const PAGE: u64 = 50;
const LARGEST_PAGE: u64 = 200;

/// What may be asked.
pub(super) const FIELDS: &[AskedField] = &[
    ("app", FieldKind::Text),
    ("user", FieldKind::NeededText),
    ("peer", FieldKind::Text),
    ("team", FieldKind::Text),
    ("before", FieldKind::Text),
    ("after", FieldKind::Text),
    ("limit", FieldKind::Number),
];

/// Which page of a user's conversation is asked for: with a `peer` or in a `team`.
#[derive(utoipa::IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct MessagesQuery {
    /// The app, where the caller may ask about several.
    #[param(nullable = false, example = "otc")]
    #[schema(example = "otc")]
    app: Option<String>,
    /// Whose conversation it is.
    #[param(min_length = 1, example = "bob")]
    #[schema(min_length = 1, example = "bob")]
    user: String,
    /// The other person. Give either this or `team`.
    #[param(nullable = false, min_length = 1, example = "ann")]
    #[schema(min_length = 1, example = "ann")]
    peer: Option<String>,
    /// The team. A user's token has to list it.
    #[param(nullable = false, min_length = 1)]
    #[schema(min_length = 1)]
    team: Option<String>,
    /// What is older than this: the `older` of a page of this conversation, or a time in milliseconds since 1970. Give
    /// either this or `after`; without both, the newest messages are answered.
    #[param(nullable = false)]
    before: Option<String>,
    /// What is newer than this: the `newer` of a page of this conversation, or a time in milliseconds since 1970.
    #[param(nullable = false)]
    after: Option<String>,
    /// The most messages of the page.
    #[param(nullable = false, minimum = 1, maximum = 200, default = 50)]
    #[schema(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u64>,
}

/// With whom the conversation is.
enum With<'a> {
    Peer(&'a str),
    Team(&'a str),
}

impl From<AskedFields> for MessagesQuery {
    fn from(mut fields: AskedFields) -> Self {
        Self {
            app: fields.text("app"),
            user: fields.needed_text("user"),
            peer: fields.text("peer"),
            team: fields.text("team"),
            before: fields.text("before"),
            after: fields.text("after"),
            limit: fields.number("limit"),
        }
    }
}

impl MessagesQuery {
    /// With whom the conversation is, where the question's ids are right.
    fn with(&self, limits: &Http) -> Result<With<'_>, Problem> {
        check_id("user", &self.user, limits)?;
        match (&self.peer, &self.team) {
            (Some(peer), None) => {
                check_id("peer", peer, limits)?;
                Ok(With::Peer(peer))
            }
            (None, Some(team)) => {
                check_id("team", team, limits)?;
                Ok(With::Team(team))
            }
            (None, None) => {
                let detail = "say whose conversation: `peer` or `team`";
                Err(Problem::at(Code::MissingField, "peer", detail))
            }
            (Some(_), Some(_)) => {
                let detail = "give either `peer` or `team`";
                Err(Problem::at(Code::InvalidField, "team", detail))
            }
        }
    }

    /// The size of the page, and that it is asked for from one side alone.
    fn limit(&self) -> Result<usize, Problem> {
        if self.before.is_some() && self.after.is_some() {
            let detail = "give either `before` or `after`";
            return Err(Problem::at(Code::InvalidField, "after", detail));
        }
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let detail = format!("must be between 1 and {LARGEST_PAGE}");
            return Err(Problem::at(Code::InvalidField, "limit", detail));
        }
        Ok(limit as usize)
    }

    /// The page that is asked for.
    fn which(&self, of: &Conversation) -> Result<WhichPage, Problem> {
        let place = |name, text: &str| {
            let detail = "send the `older` or `newer` of a page of this conversation, or a time in milliseconds";
            let place = cursor::parse(text, of);
            place.ok_or_else(|| Problem::at(Code::InvalidCursor, name, detail))
        };
        Ok(match (&self.before, &self.after) {
            (Some(before), _) => WhichPage::Before(place("before", before)?),
            (None, Some(after)) => WhichPage::After(place("after", after)?),
            (None, None) => WhichPage::Newest,
        })
    }
}

/// Reads a conversation
///
/// As `GET /v1/messages`. The key needs the scope `read`.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "post_messages",
    tag = "messages",
    security(("key" = ["read"])),
    request_body = MessagesQuery,
    responses((status = 200, description = "A page of it", body = MessagesAnswer))
)]
pub async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_body(&request, payload, &service, FIELDS).await?;
    answer(&service, &current, &caller, &asked.into()).await
}

/// Reads a conversation
///
/// A user's messages with another person or in a team, a page at a time, the newest first. A cursor names a place and
/// not a page, so it stays right whatever comes. The content of recalled messages is withheld, unless the key has the
/// scope `admin`. A user's token is not sent messages that the provider did not deliver to its user. The key needs the
/// scope `read`.
#[utoipa::path(
    get,
    path = "/v1/messages",
    operation_id = "get_messages",
    tag = "messages",
    security(("key" = ["read"])),
    params(MessagesQuery),
    responses((status = 200, description = "A page of it", body = MessagesAnswer))
)]
pub async fn get(
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
    asked: &MessagesQuery,
) -> Result<HttpResponse, Problem> {
    let with = asked.with(&service.limits)?;
    let limit = asked.limit()?;
    let app = caller.app(current, asked.app.as_deref())?;
    let reader = caller.account(app, &asked.user)?;
    let of = match with {
        With::Peer(peer) => Conversation::Peer(app.provider.name().account(peer)),
        With::Team(team) => {
            caller.team(team)?;
            Conversation::Team(team.to_owned())
        }
    };
    let which = asked.which(&of)?;
    let durable = &service.durable;
    service.check_reachable()?;
    // Before the messages: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let complete = durable.complete.is_known().await?;
    let question = PageQuestion {
        app: &app.name,
        reader: &reader,
        of: &of,
        conversations: &app.provider.conversations(&reader, &of),
        which: &which,
        limit,
        withholds_held_back: caller.is_user(),
    };
    let page = durable.store.message_page(&question).await?;
    let sees_recalled = caller.allows(Scope::Admin);
    let recalled = page.messages.iter().filter(|m| m.recall.is_some()).count();
    if sees_recalled && recalled > 0 {
        // What was taken back, so who has read it is known.
        let key = caller.key_name();
        tracing::info!(app = %app.name, key, recalled, "recalled messages were shown");
    }
    let answer = MessagesAnswer {
        user: &asked.user,
        peer: asked.peer.as_deref(),
        team: asked.team.as_deref(),
        older: cursor::older(&page, &which),
        newer: cursor::newer(&page, &which),
        messages: view::messages(page, sees_recalled),
        complete: (!complete).then_some(false),
    };
    Ok(HttpResponse::Ok().json(answer))
}
