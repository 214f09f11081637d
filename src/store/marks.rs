//! Looks up read marks: of single pairs by `_id`, and between some readers and some peers from an index alone.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, RawBsonRef, RawDocument, doc};
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;

use super::error::StoreError;
use super::indexes::MARKS;
use super::place::Pair;
use super::{Store, collection};
use crate::callback::ids::AppName;

/// The most pairs of readers and peers in one query, and so the most marks it can return.
pub const MOST_PAIRS: usize = 16_384;

/// Read marks between some readers and some peers, as raw batches.
#[derive(Default)]
pub struct Marks(Vec<RawBatch>);

impl Marks {
    /// Adds other marks.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// By reader and peer; a pair without a mark is absent.
    pub fn by_pair(&self) -> Result<HashMap<(&str, &str), i64>, StoreError> {
        let mut marks = HashMap::new();
        for mark in documents(&self.0) {
            let (reader, peer, read_up_to) = mark.and_then(read_mark).ok_or_else(unreadable)?;
            marks.insert((reader, peer), read_up_to);
        }
        Ok(marks)
    }
}

/// Whether a read mark, if there is one, makes a message of this time read. The one place that compares the two, except
/// for MongoDB's own comparisons.
pub fn covers(mark: Option<i64>, sent_at: i64) -> bool {
    mark.is_some_and(|read_up_to| sent_at <= read_up_to)
}

/// The documents of some batches; `None` for an unreadable one.
pub fn documents(batches: &[RawBatch]) -> impl Iterator<Item = Option<&RawDocument>> {
    let of_batch = |batch| RawBatch::doc_slices(batch).into_iter().flatten();
    let documents = batches.iter().flat_map(of_batch);
    documents.map(|document| document.ok()?.as_document())
}

impl Store {
    /// The read marks of pairs; a pair without one is absent from the result.
    pub(super) async fn marks(&self, pairs: &[&Pair]) -> Result<HashMap<Pair, i64>, StoreError> {
        if pairs.is_empty() {
            return Ok(HashMap::new());
        }
        let id =
            |pair: &&Pair| doc! { "app": &pair.app, "reader": &pair.reader, "peer": &pair.peer };
        let ids: Vec<Document> = pairs.iter().map(id).collect();
        let marks = self.collection(collection::READ_MARKS)?;
        let find = marks
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "readUpTo": 1 })
            .batch_size(u32::MAX >> 1);
        let found = async { find.batch().await?.try_collect().await };
        let found: Vec<RawBatch> = tokio::time::timeout(super::reconcile::TIMEOUT, found)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::of_state)?;
        let marks = documents(&found).map(|mark| {
            let mark = mark?;
            let id = mark.get_document("_id").ok()?;
            let text = |name: &str| id.get_str(name).ok().map(str::to_owned);
            let pair = Pair {
                app: text("app")?,
                reader: text("reader")?,
                peer: text("peer")?,
            };
            Some((pair, number(mark, "readUpTo")?))
        });
        marks.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// The read marks between some readers and some peers: of every combination.
    pub(super) async fn marks_between(
        &self,
        app: &AppName,
        readers: &[&str],
        peers: &[&str],
    ) -> Result<Marks, StoreError> {
        let marks = self.collection(collection::READ_MARKS)?;
        let mut batches = Vec::new();
        if !peers.is_empty() {
            for readers in readers.chunks((MOST_PAIRS / peers.len()).max(1)) {
                let find = marks
                    .find(marks_between(app, readers, peers))
                    .projection(doc! { "_id": 0, "reader": 1, "peer": 1, "readUpTo": 1 })
                    .hint(Hint::Name(MARKS.to_owned()))
                    .batch_size(u32::MAX >> 1)
                    .max_time(self.settings.query_timeout);
                batches.extend(self.batches(find).await?);
            }
        }
        Ok(Marks(batches))
    }
}

/// The filter of [`Marks`]; public so that a test can ask for its plan.
pub fn marks_between(app: &AppName, readers: &[&str], peers: &[&str]) -> Document {
    doc! { "app": app.as_str(), "reader": { "$in": readers }, "peer": { "$in": peers } }
}

fn read_mark(mark: &RawDocument) -> Option<(&str, &str, i64)> {
    Some((
        mark.get_str("reader").ok()?,
        mark.get_str("peer").ok()?,
        number(mark, "readUpTo")?,
    ))
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("a read mark is unreadable".to_owned())
}

/// A number of any BSON type: a document may have been edited by hand.
pub fn number(document: &RawDocument, name: &str) -> Option<i64> {
    match document.get(name).ok()?? {
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Double(number) => Some(number as i64),
        _ => None,
    }
}
