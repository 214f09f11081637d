//! `GET` and `POST /v1/unread/stream`: the counts at once, and after every change, as Server-Sent Events.
//!
//! `docs/streams.md` has the events. What is counted and when is decided by [`crate::subscriptions`].

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use actix_web::http::Method;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{FIELDS, UnreadQuery, check, reader};
use crate::http::Service;
use crate::http::asked::AskedFields;
use crate::http::auth::{Caller, Grant, authorize_reader};
use crate::http::connection::ConnectionState;
use crate::http::error::{Code, Problem};
use crate::live::ReloadableConfig;
use crate::metrics::ReasonLabel;
use crate::subscriptions::{LiveQuestion, NotSubscribed, Subscription, Told};

/// When a client comes back after its stream has ended: within these milliseconds, so that not all come at once.
const RETRY: u64 = 2000;
const RETRY_SPREAD: u64 = 3000;

/// The most entries of an overview's lists, which every subscriber has in memory.
const MOST_ENTRIES: u64 = 100;

/// The longest `Last-Event-ID` that is compared.
const LONGEST_ID: usize = 64;

/// Tells unread counts live
///
/// As `GET /v1/unread/stream`, for lists that do not fit into an address.
#[utoipa::path(
    post,
    path = "/v1/unread/stream",
    operation_id = "post_unread_stream",
    tag = "unread",
    security(("key" = ["read"])),
    request_body = UnreadQuery,
    responses((status = 200, description = "Server-Sent Events, as of `GET`", body = String, content_type = "text/event-stream"))
)]
pub async fn post(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_body(&request, payload, &service, FIELDS).await?;
    open(&request, &service, &current, &caller, asked.into()).await
}

/// Tells unread counts live
///
/// Server-Sent Events. `counts` has what `GET /v1/unread` answers: at once, and again after every change, whichever instance
/// it came to. `stale` says that MongoDB is away, `end` why the stream ends. `docs/streams.md` has more. `after` is
/// refused.
#[utoipa::path(
    get,
    path = "/v1/unread/stream",
    operation_id = "get_unread_stream",
    tag = "unread",
    security(("key" = ["read"])),
    params(UnreadQuery, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event: counts that have not changed since are not told again")),
    responses((status = 200, description = "Server-Sent Events", body = String, content_type = "text/event-stream"))
)]
pub async fn get(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, Problem> {
    let current = service.live.current();
    let caller = authorize_reader(&service, &current, &request)?;
    let asked = AskedFields::from_query(request.query_string(), FIELDS)?;
    open(&request, &service, &current, &caller, asked.into()).await
}

async fn open(
    request: &HttpRequest,
    service: &web::Data<Service>,
    current: &ReloadableConfig,
    caller: &Caller<'_>,
    asked: UnreadQuery,
) -> Result<HttpResponse, Problem> {
    let app = caller.app(current, asked.app.as_deref())?;
    let reader = reader(caller, app, &asked)?;
    check(&asked, app, &service.limits)?;
    if asked.after.is_some() {
        let detail = "a stream begins with the newest; ask /v1/unread for what comes after";
        return Err(Problem::at(Code::InvalidField, "after", detail));
    }
    if asked.limit.is_some_and(|limit| limit > MOST_ENTRIES) {
        let detail = format!("a stream has at most {MOST_ENTRIES} entries of each list");
        return Err(Problem::at(Code::InvalidField, "limit", detail));
    }
    if service.stopping.is_cancelled() {
        return Err(is_stopping());
    }
    service.check_reachable()?;
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        // nginx would collect events before it passes them on.
        .insert_header(("X-Accel-Buffering", "no"));
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let question = LiveQuestion {
        app: app.name.clone(),
        reader,
        teams: asked.teams.clone().unwrap_or_default(),
        bytes: bytes_of(&asked),
        asked,
    };
    let subscriptions = &service.subscriptions;
    let subscription = subscriptions.subscribe(question, caller.is_user()).await;
    let mut subscription = subscription.map_err(|error| not_subscribed(error, caller))?;
    // A question that cannot be answered is refused as a query is, while there is still a status to say so.
    let first = tokio::select! {
        first = subscription.next() => first,
        // Nothing is counted any more.
        () = service.stopping.cancelled() => return Err(is_stopping()),
    };
    if let Told::Refused(code) = first {
        return Err(refused(code));
    }
    let connection = request.conn_data::<Rc<ConnectionState>>();
    let connection = connection.expect("every connection is a TimeoutStream");
    connection.begin_stream(service.subscriptions.settings().slow_reader_timeout);
    let last_id = request.headers().get("Last-Event-ID");
    let last_id = last_id.and_then(|id| id.to_str().ok());
    let stream = LiveStream {
        connection: connection.clone(),
        grant: caller.grant(app),
        expires: caller
            .expires_at()
            .map(|at| Box::pin(sleep_until(instant(at)))),
        replacements: service.live.replacements(),
        heartbeat: Box::pin(sleep(service.subscriptions.settings().heartbeat)),
        last_id: last_id
            .filter(|id| id.len() <= LONGEST_ID)
            .map(str::to_owned),
        service: service.clone(),
        subscription,
        began: Instant::now(),
        first: Some(first),
        next: Next::Begin,
        ended: None,
    };
    Ok(response.force_close().streaming(events(stream)))
}

/// The bytes of all ids.
fn bytes_of(asked: &UnreadQuery) -> usize {
    /// What an id takes beside its own bytes, in the question and in its answer.
    const ID_OVERHEAD: usize = 64;
    let lists = [&asked.peers, &asked.orders, &asked.teams];
    let ids = lists.into_iter().flatten().flatten();
    asked.user.len() + ids.map(|id| id.len() + ID_OVERHEAD).sum::<usize>()
}

fn is_stopping() -> Problem {
    let detail = "the service is stopping; ask again, another instance will answer";
    Problem::new(Code::Unavailable, detail)
}

/// What the first count said.
fn refused(code: &str) -> Problem {
    let known = Code::ALL.iter().find(|known| known.as_str() == code);
    let detail = "the counts were refused; /v1/unread, asked the same, says why";
    Problem::new(known.copied().unwrap_or(Code::Unavailable), detail)
}

fn not_subscribed(error: NotSubscribed, caller: &Caller<'_>) -> Problem {
    match error {
        NotSubscribed::TooManyOfUser => {
            let detail = "this user has as many streams open as one may have (stream.max_per_user); close one";
            Problem::new(Code::RateLimited, detail)
        }
        NotSubscribed::NoChanges(error) if error.is_lasting() && caller.is_user() => Problem {
            cause: Some(error.to_string()),
            ..Problem::new(
                Code::NoChangeStreams,
                "MongoDB does not tell changes; /v1/unread works without",
            )
        },
        NotSubscribed::TooMany => {
            let detail = "as many streams are open as may be (stream.max_subscribers), or their questions take all the memory; ask again";
            Problem::new(Code::TooManyStreams, detail)
        }
        NotSubscribed::NoChanges(error) if error.is_lasting() => {
            let detail = format!(
                "{error}; `im-callback doctor` says what to do, and /v1/unread works without"
            );
            Problem::new(Code::NoChangeStreams, detail)
        }
        NotSubscribed::NoChanges(error) => Problem {
            cause: Some(error.to_string()),
            ..Problem::new(
                Code::Unavailable,
                "MongoDB cannot tell changes now; ask again",
            )
        },
    }
}

/// The moment of a time by the clock. It does not move when the clock is set.
fn instant(at: SystemTime) -> Instant {
    let left = at.duration_since(SystemTime::now());
    Instant::now() + left.unwrap_or(Duration::ZERO)
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Begin,
    /// Nothing is told yet.
    FirstCounts,
    Changes,
    End,
}

/// One subscriber's stream.
struct LiveStream {
    subscription: Subscription<UnreadQuery>,
    service: web::Data<Service>,
    connection: Rc<ConnectionState>,
    grant: Grant,
    /// When the caller's right ends.
    expires: Option<Pin<Box<Sleep>>>,
    replacements: watch::Receiver<()>,
    heartbeat: Pin<Box<Sleep>>,
    /// The counts that the client has, from a stream before.
    last_id: Option<String>,
    began: Instant,
    /// What is told first, since it was waited for.
    first: Option<Told>,
    next: Next,
    /// Why it ended, if that was told.
    ended: Option<&'static str>,
}

fn events(stream: LiveStream) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(stream, async |mut stream| {
        let piece = stream.piece().await?;
        Some((Ok(piece), stream))
    })
}

impl LiveStream {
    /// The next piece of the response, `None` at its end.
    async fn piece(&mut self) -> Option<Bytes> {
        match self.next {
            Next::Begin => {
                self.next = Next::FirstCounts;
                return Some(retry());
            }
            Next::End => return None,
            Next::FirstCounts | Next::Changes => {}
        }
        loop {
            let told = match self.first.take() {
                Some(first) => first,
                None => tokio::select! {
                    biased;
                    code = until_over(
                        &self.service,
                        &self.grant,
                        &mut self.expires,
                        &mut self.replacements,
                    ) => return Some(self.end(code)),
                    told = self.subscription.next() => told,
                    () = &mut self.heartbeat => {
                        self.beat_later();
                        return Some(Bytes::from_static(b": ping\n\n"));
                    }
                },
            };
            if let Some(piece) = self.piece_of(told) {
                self.beat_later();
                return Some(piece);
            }
        }
    }

    /// What is sent of what is told; `None` if the client has it.
    fn piece_of(&mut self, told: Told) -> Option<Bytes> {
        let is_first = self.next == Next::FirstCounts;
        self.next = Next::Changes;
        match told {
            Told::Counts(counts) => {
                let has_it = self.last_id.as_ref() == Some(&counts.digest);
                self.last_id = Some(counts.digest.clone());
                match (has_it, is_first) {
                    (false, _) => Some(counts.event.clone()),
                    (true, true) => Some(Bytes::from_static(b": unchanged\n\n")),
                    // They were told again since somebody else came.
                    (true, false) => None,
                }
            }
            Told::Stale => {
                // After this even the same counts are news.
                self.last_id = None;
                let stale = b"event: stale\ndata: {\"code\":\"unavailable\"}\n\n";
                Some(Bytes::from_static(stale))
            }
            Told::Refused(code) => Some(self.end(code)),
        }
    }

    fn beat_later(&mut self) {
        let heartbeat = self.service.subscriptions.settings().heartbeat;
        self.heartbeat.as_mut().reset(Instant::now() + heartbeat);
    }

    fn end(&mut self, code: &'static str) -> Bytes {
        self.next = Next::End;
        self.ended = Some(code);
        Bytes::from(format!("event: end\ndata: {{\"code\":\"{code}\"}}\n\n"))
    }
}

/// The time after which a client comes back.
fn retry() -> Bytes {
    let mut random = [0; 2];
    // Without random bytes all come back at the same time, which is no reason to fail.
    let _ = getrandom::fill(&mut random);
    let millis = RETRY + u64::from(u16::from_le_bytes(random)) % RETRY_SPREAD;
    Bytes::from(format!("retry: {millis}\n\n"))
}

/// Waits until the stream must end, and says why.
async fn until_over(
    service: &Service,
    grant: &Grant,
    expires: &mut Option<Pin<Box<Sleep>>>,
    replacements: &mut watch::Receiver<()>,
) -> &'static str {
    let expired = async {
        match expires {
            Some(expires) => expires.await,
            None => std::future::pending().await,
        }
    };
    let forbidden = async {
        // A reload between the handler's look at the configuration and this one is seen, too.
        while grant.still_allowed(&service.live.current()) {
            if replacements.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = service.stopping.cancelled() => "stopping",
        () = expired => "token_expired",
        () = forbidden => "key_removed",
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let reason = match self.ended {
            Some(told) => told,
            None if self.connection.is_stalled() => "slow_reader",
            None => "client_gone",
        };
        let ended = &self.service.metrics.streams_ended;
        ended.get_or_create(&ReasonLabel { reason }).inc();
        let app = self.subscription.question().app.as_str();
        let seconds = self.began.elapsed().as_secs();
        if reason == "slow_reader"
            && let Some(kept_back) = {
                let lines = &self.service.rejection_log.slow_readers;
                lines.pass(std::time::Instant::now())
            }
        {
            tracing::info!(
                app,
                seconds,
                kept_back,
                "a stream was cut, its client did not read"
            );
        }
        tracing::debug!(app, reason, seconds, "a stream ended");
    }
}
