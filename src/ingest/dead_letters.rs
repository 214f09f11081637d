//! Retries a dead letter: decodes it again, by the current decoder and the app's current rules, and stores its
//! events.
//!
//! # Promise
//! A dead letter is removed only when everything in its body is durable in the other collections. Otherwise it is
//! kept, with the new reason.
//!
//! # What can go wrong
//! After a crash, or the loss of MongoDB, between storing the events and removing the dead letter, both exist.
//! That is harmless: every write is idempotent, so the next retry changes nothing and removes the dead letter.

use std::sync::Arc;
use std::time::Instant;

use super::{App, replay};
use crate::callback::event::Reason;
use crate::callback::ids::AppName;
use crate::store::dead_letters::DeadLetter;
use crate::store::documents::{DeadLetterNote, OTHER_CODES, STORE_REFUSED, Write};
use crate::store::{Durability, Store, StoreError};
use crate::throttle::Throttle;

/// The log lines about new dead letters: at a limited rate, since a provider may change its format for every callback.
/// Each code has a limit of its own, so that a flood of one hides no other.
#[derive(Debug, Default)]
pub struct DeadLetterLines([Throttle; CODES]);

const CODES: usize = Reason::CODES.len() + OTHER_CODES.len();

impl DeadLetterLines {
    /// Logs a dead letter that is stored now.
    pub fn log(&self, app: &AppName, stored: &DeadLetterNote) {
        let DeadLetterNote { id, code, path } = stored;
        let mut codes = Reason::CODES.iter().chain(&OTHER_CODES);
        let throttle = codes.position(|known| known == code).map(|n| &self.0[n]);
        if let Some(kept_back) = throttle.and_then(|lines| lines.pass(Instant::now())) {
            tracing::warn!(%app, id, code, path, kept_back, "a verified body becomes a dead letter");
        }
    }
}

/// The outcome of a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// Everything in it is stored, and the dead letter is removed.
    Stored,
    /// All or a part of it still cannot be decoded. The rest is stored; the dead letter is kept.
    StillUndecodable {
        /// The reason's code, as in `docs/errors.md`.
        code: String,
        /// The reason as text.
        reason: String,
        /// The place in the body, as a JSON path.
        path: String,
    },
    /// It was decoded, but MongoDB refuses its documents. The dead letter is kept.
    StillRefused,
    /// The body contains no event, as the provider's address probe. The dead letter is kept: it is the only trace
    /// of the callback, so only a person may drop it.
    SaysNothing,
    /// Its app is not configured, so there are no rules for decoding it. The dead letter is kept.
    UnknownApp,
    /// No dead letter has this id.
    NotThere,
}

impl Retried {
    /// The outcome in a word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::StillUndecodable { .. } => "still_undecodable",
            Self::StillRefused => "still_refused",
            Self::SaysNothing => "says_nothing",
            Self::UnknownApp => "unknown_app",
            Self::NotThere => "not_there",
        }
    }
}

/// Retries a dead letter. May be repeated, also concurrently with anything else. `key` names who asked for it, for
/// the log.
///
/// # Errors
/// If MongoDB does not answer or does not confirm. The dead letter then still exists, or everything in it is
/// stored.
pub async fn retry(
    apps: &[Arc<App>],
    store: &Store,
    id: &str,
    key: Option<&str>,
) -> Result<Retried, StoreError> {
    let Some(dead_letter) = store.dead_letter(id).await? else {
        return Ok(Retried::NotThere);
    };
    let app = apps
        .iter()
        .find(|app| app.name.as_str() == dead_letter.heading.app);
    let retried = match app {
        Some(app) => decode_and_store(app, store, &dead_letter).await?,
        None => Retried::UnknownApp,
    };
    match &retried {
        Retried::Stored => {
            store.remove_dead_letter(id).await?;
        }
        Retried::StillUndecodable { code, reason, path } => {
            relabel(store, &dead_letter, code, reason, path).await?;
        }
        Retried::StillRefused if dead_letter.heading.code != STORE_REFUSED => {
            let reason = "MongoDB refused the document";
            relabel(store, &dead_letter, STORE_REFUSED, reason, "$").await?;
        }
        Retried::StillRefused | Retried::SaysNothing | Retried::UnknownApp | Retried::NotThere => {}
    }
    // Why it is a dead letter now, or, if it is stored, why it was one.
    let code = match &retried {
        Retried::StillUndecodable { code, .. } => code,
        Retried::StillRefused => STORE_REFUSED,
        _ => &dead_letter.heading.code,
    };
    let outcome = retried.as_str();
    tracing::info!(id, code, key, outcome, "a dead letter was retried");
    Ok(retried)
}

async fn decode_and_store(
    app: &App,
    store: &Store,
    dead_letter: &DeadLetter,
) -> Result<Retried, StoreError> {
    let mut submission = replay(app, dead_letter.received.clone());
    // The dead letter itself is not written again, because it may have been dropped in the meantime.
    let (again, writes): (Vec<_>, Vec<_>) = std::mem::take(&mut submission.writes)
        .into_iter()
        .partition(|write| matches!(write, Write::DeadLetter(_)));
    submission.writes = writes;
    let undecodable = again.iter().find_map(still_undecodable);
    if submission.writes.is_empty() {
        return Ok(undecodable.unwrap_or(Retried::SaysNothing));
    }
    let verdicts = store.commit_again(&[submission]).await;
    let unavailable = |why: &str| StoreError::Unavailable(why.to_owned());
    match verdicts.first() {
        Some(Ok(durability)) => Ok(undecodable.unwrap_or(match durability {
            Durability::Stored => Retried::Stored,
            Durability::DeadLetter => Retried::StillRefused,
            Durability::Spooled => {
                return Err(unavailable("the dead letter's events wait in the spool"));
            }
        })),
        Some(Err(error)) => Err(unavailable(&error.to_string())),
        None => Err(unavailable("a commit without a verdict")),
    }
}

fn still_undecodable(write: &Write) -> Option<Retried> {
    let Write::DeadLetter(dead_letter) = write else {
        return None;
    };
    let text = |name: &str| {
        dead_letter
            .get_str(name)
            .map(str::to_owned)
            .unwrap_or_default()
    };
    Some(Retried::StillUndecodable {
        code: text("code"),
        reason: text("reason"),
        path: text("path"),
    })
}

async fn relabel(
    store: &Store,
    dead_letter: &DeadLetter,
    code: &str,
    reason: &str,
    path: &str,
) -> Result<(), StoreError> {
    let heading = &dead_letter.heading;
    if (&*heading.code, &*heading.reason, &*heading.path) == (code, reason, path) {
        return Ok(());
    }
    store
        .relabel_dead_letter(&heading.id, code, reason, path)
        .await
}
