//! What differs between the indexes that are there and those that the configuration asks for, and how that is mended.

use std::fmt;
use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::doc;

use super::analysts::analyst_indexes;
use super::retention::{Ask, Deletion, Retention, span};
use super::{RETENTION, WantedIndex, is_hidden, is_named, name_of, query_indexes, rival};
use crate::store::Store;
use crate::store::error::{StoreError, UNAUTHORIZED, code};

/// One difference between MongoDB and the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexChange {
    /// The collection.
    pub collection: &'static str,
    /// The index's name.
    pub index: &'static str,
    /// What is done about it.
    pub change: ChangeToIndex,
}

/// What becomes of an index.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeToIndex {
    /// It is missing.
    Make,
    /// One of its name is another index.
    Replace {
        /// In what, in words.
        differs: &'static str,
    },
    /// One of its name is there and hidden from queries.
    Unhide,
    /// Somebody's own index has the same keys, and MongoDB makes no second one. Nothing is done about it here: the
    /// queries of others may name it.
    Conflict {
        /// That index.
        with: String,
    },
    /// Documents are kept for another time than configured.
    Retain {
        /// The field that a document's age is counted from.
        field: &'static str,
        /// The time in MongoDB; `None` for ever.
        before: Option<Duration>,
        /// The time in the configuration; `None` for ever.
        after: Option<Duration>,
        /// What that deletes at once.
        deletes: Option<Deletion>,
    },
}

impl IndexChange {
    /// Whether a person must say yes to it: it deletes documents at once, or ends a retention, so that documents pile up
    /// that were to be deleted.
    pub fn needs_yes(&self) -> bool {
        match &self.change {
            ChangeToIndex::Retain { after, deletes, .. } => after.is_none() || deletes.is_some(),
            _ => false,
        }
    }

    /// Whether it is about how long documents are kept.
    pub fn is_retention(&self) -> bool {
        self.index == RETENTION
    }

    /// Whether only analysts' queries are slow without it.
    pub fn is_for_analysts(&self) -> bool {
        analyst_indexes()
            .iter()
            .any(|wanted| wanted.name == self.index)
    }

    /// Whether somebody else's index is in the way.
    pub fn is_conflict(&self) -> bool {
        matches!(self.change, ChangeToIndex::Conflict { .. })
    }

    /// Whether it is made in one pass over the collection with the change before it. Analysts' indexes are made apart:
    /// queries wait for the others.
    fn is_made_with(&self, other: &Self) -> bool {
        let is_made = |change: &Self| change.change == ChangeToIndex::Make;
        is_made(self)
            && is_made(other)
            && self.collection == other.collection
            && self.is_for_analysts() == other.is_for_analysts()
    }

    /// Whether the service does it by itself.
    fn is_harmless(&self) -> bool {
        !self.needs_yes() && !self.is_conflict()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, [make, replace, unhide]: [&str; 3]) -> fmt::Result {
        let Self {
            collection, index, ..
        } = self;
        match &self.change {
            ChangeToIndex::Make => write!(f, "{make} {index} on {collection}"),
            ChangeToIndex::Unhide => write!(f, "{unhide} {index} on {collection}"),
            ChangeToIndex::Replace { differs } => {
                write!(f, "{replace} {index} on {collection}: {differs}")
            }
            ChangeToIndex::Conflict { with } => {
                write!(
                    f,
                    "{index} on {collection} cannot be made beside the index `{with}`, which has the same keys: drop that one"
                )?;
                match self.is_retention() {
                    true => write!(f, ", or set its expireAfterSeconds by collMod"),
                    false => Ok(()),
                }
            }
            ChangeToIndex::Retain {
                before,
                after,
                deletes,
                ..
            } => {
                let (from, to) = (span(*before), span(*after));
                write!(f, "{collection}: retention {from} → {to}")?;
                match deletes {
                    Some(deletion) => write!(f, ": deletes {deletion}"),
                    None if after.is_none() => write!(f, ": documents are no longer deleted"),
                    None => Ok(()),
                }
            }
        }
    }

    fn of(wanted: &WantedIndex, change: ChangeToIndex) -> Self {
        Self {
            collection: wanted.collection,
            index: wanted.name,
            change,
        }
    }
}

/// What is to be done, such as `make unread_by_peer on messages`.
impl fmt::Display for IndexChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, ["make", "replace", "unhide"])
    }
}

/// What was done, such as `made unread_by_peer on messages`.
#[derive(Debug)]
pub struct ChangeMade<'c>(pub &'c IndexChange);

impl fmt::Display for ChangeMade<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, ["made", "replaced", "unhid"])
    }
}

impl Store {
    /// Compares the indexes in MongoDB with the configuration, and counts what a retention would delete, which may take
    /// long. Writes nothing.
    ///
    /// # Errors
    /// When MongoDB is unavailable or does not list its indexes.
    pub async fn index_plan(&self, retention: Retention) -> Result<Vec<IndexChange>, StoreError> {
        let mut changes = self.plan_of_indexes(&self.wanted_indexes()).await?;
        changes.extend(self.plan_of_retention(retention, Ask::HowMany).await?);
        Ok(changes)
    }

    async fn plan_of_indexes(
        &self,
        wanted: &[WantedIndex],
    ) -> Result<Vec<IndexChange>, StoreError> {
        let mut changes = Vec::new();
        let all = self.indexes_there(wanted)?.await?;
        for wanted in wanted {
            let there = &all[wanted.collection];
            let same = there.iter().find(|model| is_named(model, wanted.name));
            let differs = same.map(|model| (model, wanted.differs(model)));
            let rival = rival(there, wanted.name, &wanted.keys, wanted.filter.as_ref());
            let change = match (differs, rival.and_then(name_of)) {
                (Some((_, None)), _) => continue,
                (Some((model, Some(_))), _) if is_only_hidden(wanted, model) => {
                    ChangeToIndex::Unhide
                }
                (_, Some(with)) => {
                    let with = with.to_owned();
                    ChangeToIndex::Conflict { with }
                }
                (Some((_, Some(differs))), None) => ChangeToIndex::Replace { differs },
                (None, None) => ChangeToIndex::Make,
            };
            changes.push(IndexChange::of(wanted, change));
        }
        Ok(changes)
    }

    /// Makes the changes, and creates the collections with small pages before. Says each that is done.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses a change; those before it are made.
    pub async fn apply_index_changes(
        &self,
        changes: &[IndexChange],
        mut done: impl FnMut(&IndexChange),
    ) -> Result<(), StoreError> {
        self.ensure_collections().await?;
        // Queries do not find marks without these fields. Done again after the index is built, for marks that another
        // version wrote meanwhile.
        self.complete_marks().await?;
        let wanted = self.wanted_indexes();
        for group in changes.chunk_by(IndexChange::is_made_with) {
            let change = &group[0];
            match &change.change {
                ChangeToIndex::Conflict { .. } => continue,
                ChangeToIndex::Retain { field, after, .. } => {
                    self.set_retention(change.collection, field, *after).await?;
                }
                ChangeToIndex::Make => {
                    let is_it = |w: &&WantedIndex| group.iter().any(|c| w.name == c.index);
                    let models = wanted.iter().filter(is_it).map(WantedIndex::model);
                    self.build(change.collection, models.collect()).await?;
                }
                ChangeToIndex::Replace { .. } | ChangeToIndex::Unhide => {
                    let is_it = |w: &&WantedIndex| w.name == change.index;
                    if let Some(wanted) = wanted.iter().find(is_it) {
                        self.mend_index(wanted, &change.change).await?;
                    }
                }
            }
            group.iter().for_each(&mut done);
        }
        self.complete_marks().await
    }

    /// Makes the indexes that queries name and that are missing, and asks nothing that takes long before. Returns those
    /// that somebody else's index is in the way of.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses an index.
    pub async fn ensure_query_indexes(&self) -> Result<Vec<IndexChange>, StoreError> {
        let plan = self.plan_of_indexes(&query_indexes()).await?;
        self.make_harmless(plan).await
    }

    /// The same for those that nothing waits for, such as the analysts'.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses an index.
    pub async fn ensure_other_indexes(&self) -> Result<Vec<IndexChange>, StoreError> {
        let plan = self.plan_of_indexes(&self.wanted_beside_queries()).await?;
        self.make_harmless(plan).await
    }

    /// Adopts the retention where that neither deletes documents at once nor ends one. Returns the changes that are left.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses a change.
    pub async fn ensure_retention(
        &self,
        retention: Retention,
    ) -> Result<Vec<IndexChange>, StoreError> {
        let plan = self.plan_of_retention(retention, Ask::Whether).await?;
        self.make_harmless(plan).await
    }

    async fn make_harmless(&self, plan: Vec<IndexChange>) -> Result<Vec<IndexChange>, StoreError> {
        let (harmless, left): (Vec<_>, Vec<_>) =
            plan.into_iter().partition(IndexChange::is_harmless);
        self.apply_index_changes(&harmless, |change| {
            tracing::info!(change = %ChangeMade(change), "the indexes of MongoDB were changed");
        })
        .await?;
        Ok(left)
    }

    async fn mend_index(
        &self,
        wanted: &WantedIndex,
        change: &ChangeToIndex,
    ) -> Result<(), StoreError> {
        let documents = self.collection(wanted.collection)?;
        if *change == ChangeToIndex::Unhide {
            let shown = doc! {
                "collMod": wanted.collection,
                "index": { "name": wanted.name, "hidden": false },
            };
            match self.database()?.run_command(shown).await {
                // The role `readWrite` may make and drop indexes, and not change them.
                Err(error) if code(&error) == Some(UNAUTHORIZED) => {}
                changed => return Ok(changed.map(drop)?),
            }
        }
        documents.drop_index(wanted.name).await?;
        self.build(wanted.collection, vec![wanted.model()]).await
    }
}

fn is_only_hidden(wanted: &WantedIndex, model: &IndexModel) -> bool {
    let mut shown = model.clone();
    if let Some(options) = &mut shown.options {
        options.hidden = None;
    }
    is_hidden(model) && wanted.differs(&shown).is_none()
}
