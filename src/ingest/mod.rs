//! The path of a callback from received bytes to the acknowledgement that it is durable. Read this file first.
//!
//! ```text
//! RawCallback --verify--> VerifiedCallback --decode--> Decoded --write--> Vec<Write> --commit--> durable
//! ```
//!
//! Everything before the commit is pure and runs on the HTTP worker that received the request. The commit is shared
//! with other callbacks in flight ([`group`]). It goes to MongoDB, or to the spool while MongoDB is unavailable or
//! too slow ([`durable`]).

pub mod complete;
pub mod dead_letters;
pub mod drain;
pub mod durable;
pub mod group;
pub mod outage;

use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;

use crate::callback::event::{Event, Reason, Undecodable};
use crate::callback::ids::{AppName, Millis};
use crate::callback::{
    Decoded, Head, Origin, Provider, RawCallback, Received, VerifiedCallback, VerifyError,
};
use crate::store::documents::{self, Write};
use crate::store::{Durability, Submission};

pub use drain::Drain;
pub use durable::{Durable, Rejection};
pub use outage::Outage;

/// An app's settings for callbacks.
#[derive(Debug)]
pub struct App {
    /// Its name, in the callback address and in every `_id`.
    pub name: AppName,
    /// Its provider, which verifies and decodes callbacks.
    pub provider: Provider,
    /// The networks that callbacks may come from; an empty list allows all.
    pub allow: Vec<IpNet>,
}

impl App {
    /// Whether callbacks may come from this address. If there is a list, an unknown address is not allowed.
    pub fn allows(&self, from: Option<IpAddr>) -> bool {
        let listed = |from: IpAddr| {
            self.allow
                .iter()
                .any(|net| net.contains(&from.to_canonical()))
        };
        self.allow.is_empty() || from.is_some_and(listed)
    }
}

/// Why a callback is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// It failed verification.
    #[error(transparent)]
    NotVerified(#[from] VerifyError),
    /// It is not known to be durable.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// A callback that may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Where it is durable; `None` if it contains no event, as the provider's address probe.
    pub durability: Option<Durability>,
    /// The kind of its first event.
    pub kind: Option<&'static str>,
    /// When its first event happened at the provider, if known.
    pub at: Option<Millis>,
}

/// Takes one callback. `Ok` means that it is durable, and may be acknowledged.
///
/// # Errors
/// [`IngestError::NotVerified`]: nothing was stored. [`IngestError::Rejected`]: it may have been stored, and
/// should be redelivered.
pub async fn ingest<'h>(
    app: &App,
    durable: &Durable,
    head: Head<'h>,
    body: &'h Bytes,
    now: Millis,
) -> Result<Acknowledged, IngestError> {
    let (submission, kind, at) = {
        let verified = app.provider.verify(&RawCallback { head, body }, now)?;
        let received = Received {
            origin: Origin {
                app: app.name.clone(),
                provider: app.provider.name(),
                received_at: now,
            },
            envelope: verified.envelope().clone(),
            body: body.clone(),
        };
        let decoded = app.provider.decode(&verified, now);
        let (kind, at) = first_event(&decoded);
        (submission(received, &decoded), kind, at)
    };
    let dead_letter = submission.dead_letter();
    let durability = match submission.writes.as_slice() {
        [] => None,
        _ => Some(durable.commit(submission).await?),
    };
    let durability = match (durability, dead_letter) {
        (Some(Durability::Stored), Some(stored)) => {
            durable.dead_letter_lines.log(&app.name, &stored);
            Some(Durability::DeadLetter)
        }
        (durability, _) => durability,
    };
    Ok(Acknowledged {
        durability,
        kind,
        at,
    })
}

/// The kind of the first event, and when it happened.
fn first_event(decoded: &Decoded<'_>) -> (Option<&'static str>, Option<Millis>) {
    match decoded.events.first() {
        Some(Event::Message(message)) => (Some("message"), message.sent_at),
        Some(Event::Record(record)) => (Some(record.kind), record.at.map(|(_, at)| at)),
        None => (None, None),
    }
}

/// Decodes a callback from the spool or a dead letter, by the current decoder and the app's current rules. It was
/// verified when it was received.
pub fn replay(app: &App, received: Received) -> Submission {
    let kept = received.clone();
    if kept.origin.provider != app.provider.name() {
        let other = Undecodable {
            reason: Reason::OtherProvider,
            path: "$".to_owned(),
        };
        return submission(received, &other.into());
    }
    // The time it was received, not the time of the replay.
    let received_at = received.origin.received_at;
    let verified = VerifiedCallback::kept(&kept);
    let decoded = app.provider.decode(&verified, received_at);
    submission(received, &decoded)
}

/// The dead letter of a stored callback whose app is no longer configured. It can be retried once the app is
/// configured again.
pub fn without_app(received: Received) -> Submission {
    let reason = "no app of this name is configured";
    let dead_letter = documents::dead_letter(&received, documents::UNKNOWN_APP, reason, "$");
    Submission {
        received,
        writes: vec![Write::DeadLetter(dead_letter)],
    }
}

fn submission(received: Received, decoded: &Decoded<'_>) -> Submission {
    let writes = documents::writes(&received, decoded);
    Submission { received, writes }
}
