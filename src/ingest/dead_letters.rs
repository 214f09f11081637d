//! A dead letter is retried: decoded once more, by the decoder and the app's rules of today, and stored.
//!
//! # Promise
//! A letter is removed only when all that its body says is durable in the other collections. In every other
//! case it stays, with the reason of today.
//!
//! # What can go wrong
//! A crash, or the loss of MongoDB, after the events were stored and before the letter was removed leaves
//! both. That is harmless: every write is idempotent, so the next retry changes nothing and removes it.

use super::{App, replay};
use crate::store::dead_letters::DeadLetter;
use crate::store::documents::{Origin, Received, STORE_REFUSED, Write};
use crate::store::{Durability, Store, StoreError};

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// All it says is stored, and the letter is gone.
    Stored,
    /// A part of it, or all, still cannot be decoded. What could is stored; the letter stays.
    StillUndecodable {
        /// Why, as in `docs/errors.md`.
        code: String,
        /// The same in words.
        reason: String,
        /// Where in the body, as a JSON path.
        path: String,
    },
    /// It was decoded, and MongoDB refuses what came of it. The letter stays.
    StillRefused,
    /// The body says nothing, as the provider's address probe. The letter stays: it is the only trace of
    /// the callback, and to drop it is a person's decision.
    SaysNothing,
    /// Its app is not configured, so there are no rules to decode it by. The letter stays.
    UnknownApp,
    /// No letter has this id.
    NotThere,
}

/// Retries a letter. May be repeated, and at the same time as anything else.
///
/// # Errors
/// When MongoDB cannot be asked or does not confirm. The letter is then still there, or all it says is
/// stored.
pub async fn retry(apps: &[App], store: &Store, id: &str) -> Result<Retried, StoreError> {
    let Some(letter) = store.dead_letter(id).await? else {
        return Ok(Retried::NotThere);
    };
    let app = apps
        .iter()
        .find(|app| app.name.as_str() == letter.heading.app);
    let Some(app) = app else {
        return Ok(Retried::UnknownApp);
    };
    let retried = decode_and_store(app, store, &letter).await?;
    match &retried {
        Retried::Stored => {
            store.remove_dead_letter(id).await?;
        }
        Retried::StillUndecodable { code, reason, path } => {
            relabel(store, &letter, code, reason, path).await?;
        }
        Retried::StillRefused if letter.heading.code != STORE_REFUSED => {
            let reason = "MongoDB refused the document";
            relabel(store, &letter, STORE_REFUSED, reason, "$").await?;
        }
        Retried::StillRefused | Retried::SaysNothing | Retried::UnknownApp | Retried::NotThere => {}
    }
    tracing::info!(id, outcome = ?retried, "a dead letter was retried");
    Ok(retried)
}

async fn decode_and_store(
    app: &App,
    store: &Store,
    letter: &DeadLetter,
) -> Result<Retried, StoreError> {
    let received = Received {
        origin: Origin::new(&app.name, letter.heading.received_at),
        product: letter.heading.product.as_deref().map(Box::from),
        body: letter.body.clone(),
    };
    let mut submission = replay(app, received);
    // The letter itself is not written again, or a retry could bring back one that is dropped meanwhile.
    let (again, writes): (Vec<_>, Vec<_>) = std::mem::take(&mut submission.writes)
        .into_iter()
        .partition(|write| matches!(write, Write::DeadLetter(_)));
    submission.writes = writes;
    let undecodable = again.iter().find_map(still_undecodable);
    if submission.writes.is_empty() {
        return Ok(undecodable.unwrap_or(Retried::SaysNothing));
    }
    let verdicts = store.commit(&[submission]).await;
    let unavailable = |why: &str| StoreError::Unavailable(why.to_owned());
    match verdicts.first() {
        Some(Ok(durability)) => Ok(undecodable.unwrap_or(match durability {
            Durability::Stored => Retried::Stored,
            Durability::DeadLetter => Retried::StillRefused,
            Durability::Spooled => {
                return Err(unavailable("the letter's events wait in the spool"));
            }
        })),
        Some(Err(error)) => Err(unavailable(&error.to_string())),
        None => Err(unavailable("a commit without a verdict")),
    }
}

fn still_undecodable(write: &Write) -> Option<Retried> {
    let Write::DeadLetter(letter) = write else {
        return None;
    };
    let text = |name: &str| letter.get_str(name).map(str::to_owned).unwrap_or_default();
    Some(Retried::StillUndecodable {
        code: text("code"),
        reason: text("reason"),
        path: text("path"),
    })
}

async fn relabel(
    store: &Store,
    letter: &DeadLetter,
    code: &str,
    reason: &str,
    path: &str,
) -> Result<(), StoreError> {
    let heading = &letter.heading;
    if (&*heading.code, &*heading.reason, &*heading.path) == (code, reason, path) {
        return Ok(());
    }
    store
        .relabel_dead_letter(&heading.id, code, reason, path)
        .await
}
