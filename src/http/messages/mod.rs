//! `GET` and `POST /v1/messages`: a user's conversation with a peer or in a team, a page at a time, the newest message
//! first.

mod cursor;
mod plain;
mod view;

use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::asked::{AskedField, AskedFields, FieldKind};
use super::auth::{Caller, authorize_reader};
use super::body::body;
use super::error::{Code, Problem};
use super::unread::check_id;
use crate::auth::Scope;
use crate::callback::event::Conversation;
use crate::config::Http;
use crate::live::ReloadableConfig;
use crate::store::messages::{PageQuestion, WhichPage};
use view::MessagesAnswer;
pub use view::moment;

/// Messages per page: the default and the most.
const PAGE: u64 = 50;
const LARGEST_PAGE: u64 = 200;

/// What may be asked.
const FIELDS: &[AskedField] = &[
    ("app", FieldKind::Text),
    ("user", FieldKind::NeededText),
    ("peer", FieldKind::Text),
    ("team", FieldKind::Text),
    ("before", FieldKind::Text),
    ("after", FieldKind::Text),
    ("limit", FieldKind::Number),
];

/// What is asked.
struct MessagesQuery {
    app: Option<String>,
    user: String,
    with: With,
    before: Option<String>,
    after: Option<String>,
    limit: usize,
}

/// With whom the conversation is.
enum With {
    Peer(String),
    Team(String),
}

impl MessagesQuery {
    fn of(mut fields: AskedFields, limits: &Http) -> Result<Self, Problem> {
        let user = fields.needed_text("user");
        check_id("user", &user, limits)?;
        let with = match (fields.text("peer"), fields.text("team")) {
            (Some(peer), None) => {
                check_id("peer", &peer, limits)?;
                With::Peer(peer)
            }
            (None, Some(team)) => {
                check_id("team", &team, limits)?;
                With::Team(team)
            }
            (None, None) => {
                let detail = "say whose conversation: `peer` or `team`";
                return Err(Problem::at(Code::MissingField, "peer", detail));
            }
            (Some(_), Some(_)) => {
                let detail = "give either `peer` or `team`";
                return Err(Problem::at(Code::InvalidField, "team", detail));
            }
        };
        let (before, after) = (fields.text("before"), fields.text("after"));
        if before.is_some() && after.is_some() {
            let detail = "give either `before` or `after`";
            return Err(Problem::at(Code::InvalidField, "after", detail));
        }
        let limit = fields.number("limit").unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let detail = format!("must be between 1 and {LARGEST_PAGE}");
            return Err(Problem::at(Code::InvalidField, "limit", detail));
        }
        Ok(Self {
            app: fields.text("app"),
            user,
            with,
            before,
            after,
            limit: limit as usize,
        })
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

pub async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let body = body(&request, payload, &service, &|| Ok(())).await?;
    let asked = AskedFields::from_json(&body, FIELDS)?;
    answer(&service, &current, &caller, asked).await
}

pub async fn get(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_query(request.query_string(), FIELDS)?;
    answer(&service, &current, &caller, asked).await
}

async fn answer(
    service: &Service,
    current: &ReloadableConfig,
    caller: &Caller<'_>,
    asked: AskedFields,
) -> Result<HttpResponse, Problem> {
    let asked = MessagesQuery::of(asked, &service.limits)?;
    let app = caller.app(current, asked.app.as_deref())?;
    let reader = caller.account(app, &asked.user)?;
    let of = match &asked.with {
        With::Peer(peer) => Conversation::Peer(app.provider.name().account(peer)),
        With::Team(team) => {
            caller.team(team)?;
            Conversation::Team(team.clone())
        }
    };
    let which = asked.which(&of)?;
    let durable = &service.durable;
    if durable.outage.is_known() {
        let detail = "MongoDB is away, so no message can be read now; ask again";
        return Err(Problem::new(Code::Unavailable, detail));
    }
    // Before the messages: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let complete = durable.complete.is_known().await?;
    let question = PageQuestion {
        app: &app.name,
        reader: &reader,
        of: &of,
        conversations: &app.provider.conversations(&reader, &of),
        which: &which,
        limit: asked.limit,
    };
    let page = durable.store.message_page(&question).await?;
    let sees_recalled = caller.allows(Scope::Admin);
    let recalled = page.messages.iter().filter(|m| m.recall.is_some()).count();
    if sees_recalled && recalled > 0 {
        // What was taken back, so who has read it is known.
        let key = caller.key_name();
        tracing::info!(app = %app.name, key, recalled, "recalled messages were shown");
    }
    let (peer, team) = match &asked.with {
        With::Peer(peer) => (Some(peer.as_str()), None),
        With::Team(team) => (None, Some(team.as_str())),
    };
    let answer = MessagesAnswer {
        user: &asked.user,
        peer,
        team,
        older: cursor::older(&page, &which),
        newer: cursor::newer(&page, &which),
        messages: view::messages(page, sees_recalled),
        complete: (!complete).then_some(false),
    };
    Ok(HttpResponse::Ok().json(answer))
}
