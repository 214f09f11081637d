//! A callback's way, from the bytes that came to the word that they are durable. Read this page first.
//!
//! ```text
//! RawCallback --verify--> VerifiedCallback --decode--> Decoded --write--> Vec<Write> --commit--> durable
//! ```
//!
//! Everything before the commit is pure and runs on the HTTP worker that took the request; the commit
//! is shared with whatever other callbacks are in flight ([`group`]), and goes to MongoDB, or to the
//! spool while MongoDB cannot ([`durable`]), or cannot take all that comes.

pub mod complete;
pub mod dead_letters;
pub mod drain;
pub mod durable;
pub mod group;
pub mod outage;

use bytes::Bytes;
use mongodb::bson::DateTime;

use crate::callback::ids::{AppName, Millis};
use crate::callback::netease::{self, VerifyError};
use crate::callback::{RawCallback, VerifiedCallback};
use crate::store::documents::{self, Origin, Received, Write};
use crate::store::{Durability, Submission};

pub use drain::Drain;
pub use durable::{Durable, Rejection};
pub use outage::Outage;

/// What is needed to take callbacks of one app.
#[derive(Debug)]
pub struct App {
    /// Its name, in the callback's address and in every `_id`.
    pub name: AppName,
    /// Proves that callbacks are the provider's.
    pub verifier: netease::Verifier,
    /// Its settings for decoding.
    pub rules: netease::Rules,
}

/// Why a callback is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// It is not the provider's.
    #[error(transparent)]
    NotVerified(#[from] VerifyError),
    /// It is not known to be durable.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Takes one callback. `Ok` means that all it says is durable, and only then may it be acknowledged;
/// `None` that it says nothing, as the provider's address probe.
///
/// # Errors
/// [`IngestError::NotVerified`]: nothing was stored. [`IngestError::Rejected`]: perhaps it was, and a
/// redelivery is welcome.
pub async fn ingest<'h>(
    app: &App,
    durable: &Durable,
    body: &'h Bytes,
    header: &'h dyn Fn(&str) -> Option<&'h str>,
    now: DateTime,
) -> Result<Option<Durability>, IngestError> {
    let submission = {
        let raw = RawCallback { body, header };
        let verified = app.verifier.verify(&raw, now.timestamp_millis())?;
        let received = Received {
            origin: Origin::new(&app.name, now),
            product: verified.product().map(Box::from),
            body: body.clone(),
        };
        submission(app, &verified, received)
    };
    if submission.writes.is_empty() {
        return Ok(None);
    }
    Ok(Some(durable.commit(submission).await?))
}

/// Decodes a callback that was verified when it came and has been kept since, in the spool or as a dead
/// letter, by the decoder and the app's rules of today.
pub fn replay(app: &App, received: Received) -> Submission {
    let kept = received.clone();
    let verified = VerifiedCallback::kept(&kept.body, kept.product.as_deref());
    submission(app, &verified, received)
}

/// A kept callback whose app is no longer configured: a dead letter, to be retried when it is again.
pub fn without_app(received: Received) -> Submission {
    let reason = "no app of this name is configured";
    let letter = documents::dead_letter(&received, "unknown_app", reason, "$");
    Submission {
        received,
        writes: vec![Write::DeadLetter(letter)],
    }
}

fn submission(app: &App, verified: &VerifiedCallback<'_>, received: Received) -> Submission {
    // When it came, and not when it comes out of the spool or is retried.
    let arrived = Millis::nearest(received.origin.received_at.timestamp_millis());
    let decoded = netease::decode(verified, arrived, &app.rules);
    if let Some(undecodable) = &decoded.undecodable {
        let (reason, path) = (undecodable.reason.code(), &undecodable.path);
        tracing::warn!(app = %app.name, reason, path, "a verified body becomes a dead letter");
    }
    let writes = documents::writes(&received, &decoded);
    Submission { received, writes }
}
