//! Dead letters, for whoever looks after them: listed without their bodies, read, relabelled, removed.
//!
//! They are written by `commit`, and retried by `ingest::dead_letters`.

use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};

use super::error::StoreError;
use super::{Store, collection};

/// What is said of a letter, without what it says.
#[derive(Debug, Clone)]
pub struct Heading {
    /// `{app}/{sha256 of the body}`
    pub id: String,
    /// The app it was sent to, which need not be configured any more.
    pub app: String,
    /// Why it is dead, for programs; one of today's codes or of another version's.
    pub code: String,
    /// The same in words.
    pub reason: String,
    /// Where in the body, as a JSON path.
    pub path: String,
    /// The header by which products that share an address tell themselves apart, where it was sent.
    pub product: Option<String>,
    /// When its callback came.
    pub received_at: DateTime,
}

/// A letter, whole. Not `Debug`: it holds a message's text.
pub struct DeadLetter {
    /// What is said of it.
    pub heading: Heading,
    /// The body, byte for byte as it was signed.
    pub body: Bytes,
}

/// Which letters.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Those of this app.
    pub app: Option<String>,
    /// Those of this code.
    pub code: Option<String>,
}

/// A place in the order of letters, newest first. It stays right when its letter goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    received_at: DateTime,
    id: String,
}

impl Place {
    /// The place of a letter.
    pub fn of(letter: &Heading) -> Self {
        Self {
            received_at: letter.received_at,
            id: letter.id.clone(),
        }
    }

    /// Reads a place as its `Display` writes it.
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
    /// Lists letters, newest first: at most `limit` of those that come after a place.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn dead_letters(
        &self,
        which: &Which,
        after: Option<&Place>,
        limit: u32,
    ) -> Result<Vec<Heading>, StoreError> {
        let letters = self.collection(collection::DEAD_LETTERS)?;
        let find = letters
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

    /// Reads a letter; `None` where there is none of this id.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, StoreError> {
        let letters = self.collection(collection::DEAD_LETTERS)?;
        let find = letters.find_one(doc! { "_id": id });
        let found = self.within_query_timeout(async move { find.await }).await?;
        let Some(found) = found else { return Ok(None) };
        let body = match found.get("body") {
            Some(Bson::String(text)) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Bson::Binary(Binary { bytes, .. })) => Bytes::copy_from_slice(bytes),
            _ => return Err(unreadable()),
        };
        let heading = heading(&found)?;
        Ok(Some(DeadLetter { heading, body }))
    }

    /// Says anew why a letter is dead. Does nothing where it has gone meanwhile.
    ///
    /// # Errors
    /// When MongoDB does not confirm it in time.
    pub async fn relabel_dead_letter(
        &self,
        id: &str,
        code: &str,
        reason: &str,
        path: &str,
    ) -> Result<(), StoreError> {
        let label = doc! { "$set": { "code": code, "reason": reason, "path": path } };
        let letters = self.collection(collection::DEAD_LETTERS)?;
        let update = letters
            .update_one(doc! { "_id": id }, label)
            .write_concern(confirmed());
        self.within_query_timeout(async move { update.await })
            .await?;
        Ok(())
    }

    /// Removes a letter for good; whether there was one.
    ///
    /// # Errors
    /// When MongoDB does not confirm it in time. It may have gone all the same.
    pub async fn remove_dead_letter(&self, id: &str) -> Result<bool, StoreError> {
        let letters = self.collection(collection::DEAD_LETTERS)?;
        let delete = letters
            .delete_one(doc! { "_id": id })
            .write_concern(confirmed());
        let deleted = self
            .within_query_timeout(async move { delete.await })
            .await?;
        Ok(deleted.deleted_count > 0)
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
    if let Some(app) = &which.app {
        filter.insert("app", app);
    }
    if let Some(code) = &which.code {
        filter.insert("code", code);
    }
    if let Some(Place { received_at, id }) = after {
        // The first condition says nothing that the second does not; it is a bound of the index.
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

fn heading(letter: &Document) -> Result<Heading, StoreError> {
    let text = |name: &str| letter.get_str(name).map(str::to_owned);
    let (Ok(id), Ok(app), Ok(received_at)) =
        (text("_id"), text("app"), letter.get_datetime("receivedAt"))
    else {
        return Err(unreadable());
    };
    Ok(Heading {
        id,
        app,
        code: text("code").unwrap_or_default(),
        reason: text("reason").unwrap_or_default(),
        path: text("path").unwrap_or_default(),
        product: text("product").ok(),
        received_at: *received_at,
    })
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("a dead letter is unreadable".to_owned())
}
