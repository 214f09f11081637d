//! JSON Schema validators: MongoDB then warns in its log of a document whose fields have other types than documented.
//!
//! They are optional, and set by `im-callback validators` alone. Their action is always `warn`: with `error` MongoDB
//! would refuse a callback whose provider sends a field in a new type, and it would become a dead letter. Somebody
//! else's validator is never changed.

pub mod fields;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::results::CollectionSpecification;

use self::fields::{CollectionFields, FIELDS};
use super::Store;
use super::error::StoreError;

/// What validates a collection's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValidatorState {
    /// The collection does not exist yet.
    NoCollection,
    /// Nothing.
    Absent,
    /// The schema of this version, which warns.
    Ours,
    /// A schema of another version, or one that refuses documents.
    Outdated,
    /// Somebody else's validator.
    Foreign,
}

/// A collection's validator, as MongoDB takes it.
pub fn validator(of: &CollectionFields) -> Document {
    let mut required = Vec::new();
    let mut properties = Document::new();
    for field in of.fields {
        properties.insert(field.name, doc! { "bsonType": field.types });
        if field.is_required {
            required.push(field.name);
        }
    }
    doc! { "$jsonSchema": {
        "title": title(of.collection),
        "bsonType": "object",
        "required": required,
        "properties": properties,
    } }
}

/// By the title a validator is known to be ours.
fn title(collection: &str) -> String {
    format!("im-callback {collection}")
}

fn state(of: &CollectionFields, there: Option<&CollectionSpecification>) -> ValidatorState {
    let Some(there) = there else {
        return ValidatorState::NoCollection;
    };
    let options = &there.options;
    let Some(found) = options.validator.as_ref().filter(|v| !v.is_empty()) else {
        return ValidatorState::Absent;
    };
    let schema = found.get_document("$jsonSchema");
    let found_title = schema.and_then(|schema| schema.get_str("title"));
    if found_title.ok() != Some(title(of.collection).as_str()) {
        return ValidatorState::Foreign;
    }
    let warns = matches!(
        options.validation_action,
        Some(mongodb::options::ValidationAction::Warn)
    );
    match warns && *found == validator(of) {
        true => ValidatorState::Ours,
        false => ValidatorState::Outdated,
    }
}

impl Store {
    /// What validates each collection.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn validator_states(
        &self,
    ) -> Result<Vec<(&'static CollectionFields, ValidatorState)>, StoreError> {
        let database = self.database()?.clone();
        let there: Vec<CollectionSpecification> = self
            .within_query_timeout(
                async move { database.list_collections().await?.try_collect().await },
            )
            .await?;
        let states = FIELDS.iter().map(|of| {
            let found = there.iter().find(|found| found.name == of.collection);
            (of, state(of, found))
        });
        Ok(states.collect())
    }

    /// Sets our validator. It looks at documents that are inserted or changed from now on, except for those that did
    /// not match before.
    ///
    /// # Errors
    /// When MongoDB refuses it, such as for the lack of the right `collMod`.
    pub async fn set_validator(&self, of: &CollectionFields) -> Result<(), StoreError> {
        self.ensure_collection(of.collection).await?;
        self.change_validator(of.collection, validator(of)).await
    }

    /// Removes a validator.
    ///
    /// # Errors
    /// As [`Store::set_validator`].
    pub async fn remove_validator(&self, of: &CollectionFields) -> Result<(), StoreError> {
        self.change_validator(of.collection, Document::new()).await
    }

    async fn change_validator(
        &self,
        collection: &str,
        validator: Document,
    ) -> Result<(), StoreError> {
        // Without a validator these are MongoDB's defaults.
        let (level, action) = match validator.is_empty() {
            true => ("strict", "error"),
            false => ("moderate", "warn"),
        };
        let change = doc! {
            "collMod": collection,
            "validator": validator,
            "validationLevel": level,
            "validationAction": action,
        };
        let changed = self.database()?.run_command(change).await;
        changed.map(drop).map_err(StoreError::of_state)
    }
}
