//! Operations on dead letters: list them without their bodies, read, relabel and remove them.
//!
//! They are written by `commit`, and retried by `ingest::dead_letters`.

use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};

use super::error::StoreError;
use super::{Store, collection};
use crate::callback::ids::{AppName, Millis};
use crate::callback::{Envelope, Origin, ProviderName, Received};

/// A dead letter without its body.
#[derive(Debug, Clone)]
pub struct Heading {
    /// `{app}/{sha256}`: the digest of the body, or, if there is a route, of the route, a newline and the body.
    pub id: String,
    /// Its app, which may no longer be configured.
    pub app: String,
    /// Its provider's name.
    pub provider: String,
    /// The reason's code, perhaps one of another version.
    pub code: String,
    /// The reason as text.
    pub reason: String,
    /// The place in the body, as a JSON path.
    pub path: String,
    /// What decoding needs besides the body.
    pub envelope: Envelope,
    /// When its callback was received.
    pub received_at: DateTime,
}

/// A complete dead letter. Not `Debug`: it contains a message's text.
pub struct DeadLetter {
    /// All but the body.
    pub heading: Heading,
    /// The callback.
    pub received: Received,
}

/// A filter for dead letters.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Only of these apps; `None` is of all, also of those that are no longer configured.
    pub apps: Option<Vec<String>>,
    /// Only with this code.
    pub code: Option<String>,
}

/// A position in the list of dead letters, newest first. It stays valid if that dead letter is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    received_at: DateTime,
    id: String,
}

impl Place {
    /// The position of a dead letter.
    pub fn of(dead_letter: &Heading) -> Self {
        Self {
            received_at: dead_letter.received_at,
            id: dead_letter.id.clone(),
        }
    }

    /// Parses a position from its `Display` form.
    pub fn parse(text: &str) -> Option<Self> {
        let (millis, id) = text.split_once('.')?;
        Some(Self {
            received_at: DateTime::from_millis(millis.parse().ok()?),
            id: id.to_owned(),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.received_at.timestamp_millis(), self.id)
    }
}

impl Store {
    /// Lists at most `limit` dead letters, newest first, after a position.
    ///
    /// # Errors
    /// If MongoDB does not answer in time.
    pub async fn dead_letters(
        &self,
        which: &Which,
        after: Option<&Place>,
        limit: u32,
    ) -> Result<Vec<Heading>, StoreError> {
        let dead_letters = self.collection(collection::DEAD_LETTERS)?;
        let find = dead_letters
            .find(filter(which, after))
            .sort(doc! { "receivedAt": -1, "_id": -1 })
            .projection(doc! { "body": 0 })
            .limit(i64::from(limit))
            .max_time(self.settings.query_timeout);
        let found: Vec<Document> = self
            .within_query_timeout(async move { find.await?.try_collect().await })
            .await?;
        found.iter().map(heading).collect()
    }

    /// Reads a dead letter; `None` if none has this id.
    ///
    /// # Errors
    /// If MongoDB does not answer in time.
    pub async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, StoreError> {
        let dead_letters = self.collection(collection::DEAD_LETTERS)?;
        let find = dead_letters.find_one(doc! { "_id": id });
        let found = self.within_query_timeout(async move { find.await }).await?;
        let Some(found) = found else { return Ok(None) };
        let body = match found.get("body") {
            Some(Bson::String(text)) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Bson::Binary(Binary { bytes, .. })) => Bytes::copy_from_slice(bytes),
            _ => return Err(unreadable()),
        };
        let heading = heading(&found)?;
        let provider = found.get_str("provider").ok().and_then(ProviderName::parse);
        let (Ok(app), Some(provider)) = (AppName::new(&*heading.app), provider) else {
            return Err(unreadable());
        };
        let received = Received {
            origin: Origin {
                app,
                provider,
                received_at: Millis::nearest(heading.received_at.timestamp_millis()),
            },
            envelope: heading.envelope.clone(),
            body,
        };
        Ok(Some(DeadLetter { heading, received }))
    }

    /// Replaces the reason of a dead letter. Has no effect if it was removed in the meantime.
    ///
    /// # Errors
    /// If MongoDB does not confirm in time.
    pub async fn relabel_dead_letter(
        &self,
        id: &str,
        code: &str,
        reason: &str,
        path: &str,
    ) -> Result<(), StoreError> {
        let label = doc! { "$set": { "code": code, "reason": reason, "path": path } };
        let dead_letters = self.collection(collection::DEAD_LETTERS)?;
        let update = dead_letters
            .update_one(doc! { "_id": id }, label)
            .write_concern(confirmed());
        self.within_query_timeout(async move { update.await })
            .await?;
        Ok(())
    }

    /// Removes a dead letter permanently. Returns its code; `None` if there was none.
    ///
    /// # Errors
    /// If MongoDB does not confirm in time. It may have been removed nevertheless.
    pub async fn remove_dead_letter(&self, id: &str) -> Result<Option<String>, StoreError> {
        let dead_letters = self.collection(collection::DEAD_LETTERS)?;
        let delete = dead_letters
            .find_one_and_delete(doc! { "_id": id })
            .projection(doc! { "code": 1 })
            .write_concern(confirmed());
        let deleted = self
            .within_query_timeout(async move { delete.await })
            .await?;
        let code = |deleted: Document| deleted.get_str("code").unwrap_or_default().to_owned();
        Ok(deleted.map(code))
    }
}

fn confirmed() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

fn filter(which: &Which, after: Option<&Place>) -> Document {
    let mut filter = Document::new();
    if let Some(apps) = &which.apps {
        filter.insert("app", doc! { "$in": apps });
    }
    if let Some(code) = &which.code {
        filter.insert("code", code);
    }
    if let Some(Place { received_at, id }) = after {
        // Implied by the second condition, but it bounds the scan of the index.
        filter.insert("receivedAt", doc! { "$lte": received_at });
        filter.insert(
            "$or",
            [
                doc! { "receivedAt": { "$lt": received_at } },
                doc! { "_id": { "$lt": id } },
            ]
            .to_vec(),
        );
    }
    filter
}

fn heading(dead_letter: &Document) -> Result<Heading, StoreError> {
    let text = |name: &str| dead_letter.get_str(name).map(str::to_owned);
    let (Ok(id), Ok(app), Ok(received_at)) = (
        text("_id"),
        text("app"),
        dead_letter.get_datetime("receivedAt"),
    ) else {
        return Err(unreadable());
    };
    Ok(Heading {
        id,
        app,
        provider: text("provider").unwrap_or_default(),
        code: text("code").unwrap_or_default(),
        reason: text("reason").unwrap_or_default(),
        path: text("path").unwrap_or_default(),
        envelope: envelope(dead_letter),
        received_at: *received_at,
    })
}

fn envelope(dead_letter: &Document) -> Envelope {
    let text = |name: &str| dead_letter.get_str(name).unwrap_or_default().into();
    // Older versions stored only this one header.
    let product = dead_letter.get_str("product").ok();
    let headers = dead_letter.get_document("headers").into_iter().flatten();
    let headers = headers.filter_map(|(name, value)| Some((&**name, value.as_str()?)));
    Envelope {
        route: text("route"),
        query: text("query"),
        headers: headers
            .chain(product.map(|product| ("type", product)))
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("a dead letter is unreadable".to_owned())
}
