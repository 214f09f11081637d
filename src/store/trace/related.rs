//! What other collections have about a message: read marks, receipts, recalls and edits.

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::Hint;

use super::facts::Stored;
use super::{
    MOST_RECEIPTS, MOST_RECORDS, NotTraced, TraceQuestion, TracedMark, TracedMessage,
    TracedReceipt, TracedReceipts, TracedRecord, UnreadableDocument, by_id,
};
use crate::callback::event::{Class, Conversation};
use crate::callback::ids::{Account, AppName};
use crate::store::error::StoreError;
use crate::store::indexes::MARKS;
use crate::store::marks::marks_between;
use crate::store::read::site_read_key;
use crate::store::{Store, collection};

/// Queries of one trace at once. With 20 members there are as many ranges of receipts to read.
const QUERIES_AT_ONCE: usize = 4;

impl Store {
    /// What is stored about one message. Few of its queries run at once.
    pub(super) async fn traced(
        &self,
        question: &TraceQuestion<'_>,
        document: &RawDocument,
    ) -> Result<TracedMessage, NotTraced> {
        let Some(stored) = Stored::of(question, document) else {
            let unreadable = UnreadableDocument::of(collection::MESSAGES, document);
            return Err(NotTraced::Unreadable(unreadable));
        };
        let name = question.provider.name();
        let read_by = stored.read_by(question);
        // After the message: a `state` that is 1 because of a mark was set after the mark.
        let marks = self
            .traced_marks(question.app, stored.class(), &read_by)
            .await?;
        let receipts = self.receipts(question, &read_by, stored.sent_at).await?;
        let keys = name.change_keys(&stored.message);
        let changes = self.changes(question.app, keys).await?;
        Ok(stored.with(marks, receipts, changes))
    }

    /// The read marks of these readers, as counts find them.
    async fn traced_marks(
        &self,
        app: &AppName,
        class: Class,
        read_by: &[(Account, Conversation)],
    ) -> Result<Vec<TracedMark>, NotTraced> {
        if read_by.is_empty() {
            return Ok(Vec::new());
        }
        let marks = self.collection(collection::READ_MARKS)?;
        let (filter, hint) = match read_by {
            [(reader, Conversation::Peer(peer))] if class.is_to_account() => (
                marks_between(app, &[reader.as_str()], &[peer.as_str()]),
                Hint::Name(MARKS.to_owned()),
            ),
            _ => {
                let ids = read_by.iter().filter_map(|(reader, of)| match of {
                    Conversation::Team(team) => {
                        Some(doc! { "app": app.as_str(), "reader": reader.as_str(), "team": team })
                    }
                    Conversation::Peer(_) => None,
                });
                (doc! { "_id": { "$in": ids.collect::<Vec<_>>() } }, by_id())
            }
        };
        let find = marks
            .find(filter)
            .projection(doc! { "reader": 1, "readUpTo": 1, "updatedAt": 1 })
            .sort(doc! { "reader": 1 })
            .hint(hint)
            .max_time(self.settings.query_timeout);
        let found: Vec<RawDocumentBuf> = self
            .within_query_timeout(async move {
                find.await?
                    .with_type::<RawDocumentBuf>()
                    .try_collect()
                    .await
            })
            .await?;
        let marks = found.iter().map(|mark| {
            TracedMark::of(mark).ok_or_else(|| {
                let unreadable = UnreadableDocument::of(collection::READ_MARKS, mark);
                NotTraced::Unreadable(unreadable)
            })
        });
        marks.collect()
    }

    /// The records of receipts at or after a time, the earliest first, and of reads that the site reported. `None` if
    /// nobody's are looked for, or the site has reported none and the provider's cannot be found.
    async fn receipts(
        &self,
        question: &TraceQuestion<'_>,
        read_by: &[(Account, Conversation)],
        sent_at: Option<i64>,
    ) -> Result<Option<TracedReceipts>, StoreError> {
        let (Some(sent_at), false) = (sent_at, read_by.is_empty()) else {
            return Ok(None);
        };
        let (app, name) = (question.app, question.provider.name());
        let own = read_by
            .iter()
            .map(|(reader, of)| name.receipt_keys(reader, of));
        let own: Option<Vec<_>> = own.collect();
        let by_site_only = own.is_none();
        let own = own.into_iter().flatten().flatten();
        let by_site = read_by.iter().map(|(reader, of)| site_read_key(reader, of));
        let keys: Vec<String> = own.chain(by_site).collect();
        let found = keys.iter().map(|key| {
            let under = format!("{app}/{key}/");
            // Texts are in the order of the times as long as these have 13 digits, from 2001 to 2286.
            let first = match sent_at {
                1_000_000_000_000.. => format!("{under}{sent_at}"),
                _ => under.clone(),
            };
            let end = format!("{app}/{key}0");
            async move {
                let records = self.records(doc! { "$gte": first, "$lt": end }, MOST_RECEIPTS);
                let records = records.await?.into_iter();
                Ok::<_, StoreError>(
                    records
                        .filter_map(|record| TracedReceipt::of(record, &under))
                        .filter(|receipt| receipt.up_to >= sent_at)
                        .collect::<Vec<_>>(),
                )
            }
        });
        let found = stream::iter(found).buffered(QUERIES_AT_ONCE);
        let mut found = found.try_collect::<Vec<_>>().await?.concat();
        found.sort_by_key(|receipt| receipt.up_to);
        let more = found.len() > MOST_RECEIPTS;
        found.truncate(MOST_RECEIPTS);
        let is_known = !by_site_only || !found.is_empty();
        Ok(is_known.then_some(TracedReceipts {
            found,
            more,
            by_site_only,
        }))
    }

    /// The records with one of these keys, or a longer one.
    async fn changes(
        &self,
        app: &AppName,
        keys: Vec<String>,
    ) -> Result<Vec<TracedRecord>, StoreError> {
        let exact: Vec<String> = keys.iter().map(|key| format!("{app}/{key}")).collect();
        let exactly = doc! { "$in": &exact };
        let longer = exact
            .iter()
            .map(|id| doc! { "$gte": format!("{id}/"), "$lt": format!("{id}0") });
        let ids: Vec<Document> = std::iter::once(exactly).chain(longer).collect();
        let found = ids.into_iter().map(|id| self.records(id, MOST_RECORDS));
        let found = stream::iter(found).buffered(QUERIES_AT_ONCE);
        let mut records = found.try_collect::<Vec<_>>().await?.concat();
        records.sort_by_key(|record| record.received_at);
        records.truncate(MOST_RECORDS);
        Ok(records)
    }

    /// The first `most` events whose `_id` matches, and one more if there are more. Without their payloads.
    async fn records(&self, id: Document, most: usize) -> Result<Vec<TracedRecord>, StoreError> {
        if id.get_array("$in").is_ok_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let events = self.collection(collection::EVENTS)?;
        let find = events
            .find(doc! { "_id": id })
            .projection(doc! { "kind": 1, "at": 1, "receivedAt": 1 })
            .sort(doc! { "_id": 1 })
            .hint(by_id())
            .limit(most as i64 + 1)
            .max_time(self.settings.query_timeout);
        let found: Vec<Document> = self
            .within_query_timeout(async move { find.await?.try_collect().await })
            .await?;
        // Their ids are texts, as those that were asked for.
        Ok(found.iter().filter_map(TracedRecord::of).collect())
    }
}
