//! `GET /v1/trace`, for operators: what happened to one message, and why it counts as unread or does not.
//!
//! The command `im-callback trace` prints the same answer, from [`view`] and [`words`].

pub mod view;
pub mod words;

use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::auth::authorize;
use super::error::{Code, Problem};
use super::query::parameters;
use super::unread::check_id;
use crate::auth::Scope;
use crate::config::Http;
use crate::store::trace::{MOST_READERS, TraceQuestion, Wanted};
use view::TraceAnswer;
use words::{Completeness, absences};

/// Tells what happened to a message
///
/// Where it came from, who has read it, whether it was recalled or edited, and why it counts as unread or does not.
/// Never its text. Give `id`, or `clientId`, `from` and `to`. The key needs the scope `admin`.
#[utoipa::path(
    get,
    path = "/v1/trace",
    operation_id = "trace_message",
    tag = "trace",
    security(("key" = ["admin"])),
    params(
        ("app" = inline(Option<String>), Query, nullable = false, description = "The app", example = "otc"),
        (
            "id" = inline(Option<String>), Query, nullable = false, min_length = 1, example = "1",
            description = "The provider's id of the message, or its whole `_id`"
        ),
        (
            "clientId" = inline(Option<String>), Query, nullable = false, min_length = 1,
            description = "The id that the sending client gave it"
        ),
        ("from" = inline(Option<String>), Query, nullable = false, min_length = 1, description = "Its sender"),
        ("to" = inline(Option<String>), Query, nullable = false, min_length = 1, description = "Its receiver or team"),
        (
            "reader" = inline(Option<Vec<String>>), Query, nullable = false, max_items = 20, style = Form,
            explode = false, description = "Members of a team whose read marks to show"
        ),
    ),
    responses((status = 200, description = "What is known", body = TraceAnswer))
)]
pub async fn show(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize(&service, &current.keys, &request, Scope::Admin)?;
    let asked = TraceQuery::from_query(request.query_string(), &service.limits)?;
    let app = caller.app(&current, asked.app.as_deref())?;
    let durable = &service.durable;
    let outage = durable.outage.is_known();
    // Before the facts: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let completeness = Completeness {
        is_complete: !outage && durable.complete.is_known().await?,
        outage: Some(outage),
        spools: durable.store.known_spools().await?,
    };
    let question = TraceQuestion {
        app: &app.name,
        provider: &app.provider,
        wanted: asked.wanted,
        readers: asked.readers,
    };
    tracing::info!(app = %app.name, key = caller.key_name(), "a message was traced");
    let trace = durable.store.trace(&question).await?;
    if trace.is_empty() {
        let ways = absences(
            &question.wanted,
            &completeness,
            trace.dead_letters,
            service.retention,
        );
        let detail = format!("no such message is stored; perhaps: {}", ways.join("; "));
        return Err(Problem::new(Code::UnknownMessage, detail));
    }
    let answer = TraceAnswer::of(app.name.as_str(), &completeness, &trace);
    Ok(HttpResponse::Ok().json(answer))
}

/// The query string.
struct TraceQuery {
    app: Option<String>,
    wanted: Wanted,
    readers: Vec<String>,
}

impl TraceQuery {
    /// `id=M`, or `clientId=C&from=A&to=B`; both with `app=N` and any number of `reader=R`.
    fn from_query(query: &str, limits: &Http) -> Result<Self, Problem> {
        let mut app = None;
        let [mut id, mut client_id, mut from, mut to] = [const { None }; 4];
        let mut readers = Vec::new();
        for parameter in parameters(query) {
            let parameter = parameter?;
            let place = match parameter.name.as_str() {
                "app" => &mut app,
                "id" => &mut id,
                "clientId" => &mut client_id,
                "from" => &mut from,
                "to" => &mut to,
                "reader" | "reader[]" => {
                    parameter.add_to(&mut readers)?;
                    continue;
                }
                _ => {
                    let detail = "this field is not known";
                    let name = parameter.shown_name();
                    return Err(Problem::at(Code::UnknownField, name, detail));
                }
            };
            parameter.put(place)?;
        }
        for (n, reader) in readers.iter().enumerate() {
            check_id(&format!("reader[{n}]"), reader, limits)?;
        }
        if readers.len() > MOST_READERS {
            let detail = format!("the limit is {MOST_READERS} readers");
            return Err(Problem::at(Code::TooManyIds, "reader", detail));
        }
        for (name, value) in [
            ("id", &id),
            ("clientId", &client_id),
            ("from", &from),
            ("to", &to),
        ] {
            if let Some(value) = value {
                check_id(name, value, limits)?;
            }
        }
        let missing = |name: &str| {
            let detail = "give `id`, or `clientId`, `from` and `to`";
            Problem::at(Code::MissingField, name, detail)
        };
        let wanted = match (id, client_id, from, to) {
            (Some(id), None, None, None) => Wanted::Id(id),
            (None, Some(id), Some(from), Some(to)) => Wanted::ClientId { id, from, to },
            (None, None, ..) => return Err(missing("id")),
            (None, Some(_), None, _) => return Err(missing("from")),
            (None, Some(_), _, None) => return Err(missing("to")),
            (Some(_), ..) => {
                let detail = "give either `id`, or `clientId`, `from` and `to`";
                return Err(Problem::at(Code::InvalidField, "id", detail));
            }
        };
        Ok(Self {
            app,
            wanted,
            readers,
        })
    }
}
