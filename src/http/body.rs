//! Reads request bodies within limits on size, time, rate and the memory of all bodies together.

use std::rc::Rc;
use std::time::Duration;

use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::Service;
use super::connection::ConnectionState;
use super::error::{Code, Problem};
use super::memory_budget::FREE;
use crate::config::Http;

/// How long a body may take before `min_body_rate` applies.
const GRACE: Duration = Duration::from_secs(2);

/// Reads a body. Before more than [`FREE`] bytes are read, `may_be_large` decides whether this sender may send
/// that much.
///
/// # Errors
/// That of `may_be_large`, [`Code::BodyTooLarge`], [`Code::SlowBody`], [`Code::Overloaded`] or
/// [`Code::IncompleteBody`]. After each of them the connection is closed, since the rest of the body would come
/// before the next request.
pub async fn body(
    request: &HttpRequest,
    payload: web::Payload,
    service: &Service,
    may_be_large: &dyn Fn() -> Result<(), Problem>,
) -> Result<Bytes, Problem> {
    let connection = request.conn_data::<Rc<ConnectionState>>();
    if let Some(connection) = connection {
        connection.begin_body();
    }
    let body = read(request, payload, service, may_be_large).await;
    match (connection, &body) {
        (Some(connection), Ok(_)) => connection.end_body(),
        (Some(connection), Err(_)) => connection.abandon_body(),
        (None, _) => {}
    }
    body
}

async fn read(
    request: &HttpRequest,
    mut payload: web::Payload,
    service: &Service,
    may_be_large: &dyn Fn() -> Result<(), Problem>,
) -> Result<Bytes, Problem> {
    let limits = &service.limits;
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // Rejected before the body is sent.
    if announced.is_some_and(|length| length > limits.max_body) {
        return Err(too_large(limits));
    }
    let mut is_large = announced.is_some_and(|length| length > FREE);
    if is_large {
        may_be_large()?;
    }
    let started = Instant::now();
    let mut reservation = service.memory_budget.reservation();
    // An announced length alone allocates no more than what is free.
    let mut body = BytesMut::with_capacity(announced.unwrap_or(1024).min(FREE));
    loop {
        let by = started + time_for(body.len(), limits);
        let Ok(chunk) = timeout_at(by, payload.next()).await else {
            return Err(slow(limits));
        };
        let Some(chunk) = chunk else {
            return Ok(body.freeze());
        };
        let chunk = chunk.map_err(|_| incomplete())?;
        let bytes = body.len() + chunk.len();
        if bytes > limits.max_body {
            return Err(too_large(limits));
        }
        if !is_large && bytes > FREE {
            is_large = true;
            may_be_large()?;
        }
        if !reservation.grow_to(bytes) {
            return Err(out_of_memory());
        }
        body.extend_from_slice(&chunk);
    }
}

/// How long after its start a body may wait for more, once `bytes` of it have arrived.
fn time_for(bytes: usize, limits: &Http) -> Duration {
    let earned = bytes as u64 * 1000 / limits.min_body_rate;
    let earned = GRACE + Duration::from_millis(earned);
    earned.min(limits.body_timeout)
}

fn too_large(limits: &Http) -> Problem {
    let detail = format!("the limit is {} bytes (http.max_body)", limits.max_body);
    Problem::new(Code::BodyTooLarge, detail)
}

fn slow(limits: &Http) -> Problem {
    let detail = format!(
        "a body may take {} ms (http.body_timeout), and needs {} bytes a second (http.min_body_rate)",
        limits.body_timeout.as_millis(),
        limits.min_body_rate
    );
    Problem::new(Code::SlowBody, detail)
}

fn out_of_memory() -> Problem {
    let detail = "other bodies use all memory for bodies (http.bytes_reading); send it again";
    Problem::new(Code::Overloaded, detail)
}

fn incomplete() -> Problem {
    Problem::new(
        Code::IncompleteBody,
        "the connection ended, or the transfer encoding broke, before the body did",
    )
}
