//! How far the passes have come, kept in MongoDB: in the collection `progress`, one document for each pass of
//! the service, which all its instances share, and one for each of the command.

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::{ErrorKind, WriteFailure};

use super::patiently;
use crate::store::error::{DUPLICATE_KEY, StoreError};
use crate::store::{Store, collection};

/// A position in what a pass walks. The empty one is the start.
pub struct Progress<'s> {
    store: &'s Store,
    id: String,
    /// Whether others may move it too.
    is_shared: bool,
    after: String,
}

impl<'s> Progress<'s> {
    /// Where the service's instances have come to in a pass.
    pub async fn shared(store: &'s Store, pass: &str) -> Result<Self, StoreError> {
        Self {
            store,
            id: format!("reconcile/service/{pass}"),
            is_shared: true,
            after: String::new(),
        }
        .read()
        .await
    }

    /// The start, or where the last run of the command was interrupted in a pass.
    pub async fn of_command(
        store: &'s Store,
        pass: &str,
        resumes: bool,
    ) -> Result<Self, StoreError> {
        let mut last = Self {
            store,
            id: format!("reconcile/command/{pass}"),
            is_shared: false,
            after: String::new(),
        }
        .read()
        .await?;
        if !resumes {
            last.save("").await?;
        }
        Ok(last)
    }

    /// What was looked at last: a message's `_id`, or a pair in the index.
    pub fn after(&self) -> &str {
        &self.after
    }

    /// Moves on. The answer is no where it is shared and another instance has moved it since: then that
    /// one is at work on what comes next.
    pub async fn save(&mut self, after: &str) -> Result<bool, StoreError> {
        if self.after == after {
            return Ok(true);
        }
        let mut filter = doc! { "_id": &self.id };
        if self.is_shared {
            filter.insert("after", &self.after);
        }
        let moved = doc! { "$set": { "after": after, "updatedAt": DateTime::now() } };
        let progress = self
            .store
            .database()?
            .collection::<Document>(collection::PROGRESS);
        let saved = progress.update_one(filter, moved).upsert(true);
        let saved = patiently(async {
            match saved.await {
                Ok(_) => Ok(true),
                // The document is there and says something else.
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await?;
        after.clone_into(&mut self.after);
        Ok(saved)
    }

    async fn read(mut self) -> Result<Self, StoreError> {
        let progress = self
            .store
            .database()?
            .collection::<Document>(collection::PROGRESS);
        let found = progress.find_one(doc! { "_id": &self.id });
        if let Some(found) = patiently(async { found.await }).await? {
            self.after = found.get_str("after").unwrap_or_default().to_owned();
        }
        Ok(self)
    }
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE_KEY
    )
}
