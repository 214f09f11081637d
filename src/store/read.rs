//! A read that the site itself reports: it raises read marks by the same rule as a receipt, and leaves a record of each
//! in `events`.
//!
//! It is not a callback, so it does not go through the queue, becomes no dead letter, and never waits in the spool: the
//! site hears whether it is durable, and sends it again if not. All of it is a maximum or an insert with a natural key,
//! so that changes nothing.

use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, cstr, doc, rawdoc};
use mongodb::options::Hint;
use tokio::time::{Instant, timeout_at};

use super::bson::date;
use super::documents::{Submission, Write, mark_write};
use super::error::StoreError;
use super::indexes::UNREAD_BY_ORDER;
use super::marks::{covers, number};
use super::{Store, collection};
use crate::callback::event::{Conversation, Product, ReadMark};
use crate::callback::ids::{Account, AppName, Millis, natural_key};
use crate::callback::{Envelope, Origin, Received};

/// The kind of a record.
const KIND: &str = "site_read";

/// The connections that one read takes at once: for the marks, and for the records.
const CONNECTIONS: u32 = 2;

/// Reads at once, those that wait for their turn included. Each may be of a thousand conversations.
pub(super) const MOST_READS: usize = 64;

/// What the site reports. The same report has the same effect and the same records, however often it is sent.
#[derive(Debug, Clone)]
pub struct SiteRead {
    /// The app, its provider, and when the report came.
    pub origin: Origin,
    /// Who has read.
    pub reader: Account,
    /// What was read.
    pub of: Vec<Conversation>,
    /// Up to and including this time.
    pub up_to: Millis,
    /// The order by which the conversations were found, if they were.
    pub order: Option<String>,
    /// The name of the key that reported it.
    pub key: String,
}

/// Finds the records of a site's reads of a conversation: after this the key goes on with the time up to which it was
/// read.
pub fn site_read_key(reader: &Account, of: &Conversation) -> String {
    let (side, other) = match of {
        Conversation::Peer(peer) => ("peer", peer.as_str()),
        Conversation::Team(team) => ("team", team.as_str()),
    };
    natural_key([KIND, reader.as_str(), side, other])
}

/// The pipeline of [`Store::peers_unread_on`], whose `state` may be behind; public so that a test can ask for its plan. It
/// reads index keys alone.
pub fn peers_unread_on(
    app: &AppName,
    reader: &Account,
    order: &str,
    up_to: Millis,
    most: usize,
) -> [Document; 4] {
    [
        doc! { "$match": {
            "app": app.as_str(), "to": reader.as_str(), "state": 0, "orderId": { "$eq": order },
            "msgTimestamp": { "$lte": up_to.get() },
        } },
        doc! { "$group": { "_id": "$fromAccount", "newest": { "$max": "$msgTimestamp" } } },
        doc! { "$sort": { "_id": 1 } },
        doc! { "$limit": most as i64 },
    ]
}

impl SiteRead {
    fn submission(self) -> Submission {
        let Self { origin, reader, .. } = &self;
        let mut writes = Vec::with_capacity(self.of.len() * 2);
        for of in &self.of {
            writes.push(Write::Event(self.record(of)));
            let mark = ReadMark {
                reader: reader.clone(),
                of: of.clone(),
                up_to: self.up_to,
            };
            writes.push(Write::Mark(mark_write(origin, &mark)));
        }
        Submission {
            received: Received {
                origin: self.origin,
                envelope: Envelope::default(),
                body: Bytes::new(),
            },
            writes,
        }
    }

    /// The record of one conversation. All but `receivedAt` is in its key, so that reports in any order leave the same
    /// records.
    fn record(&self, of: &Conversation) -> RawDocumentBuf {
        let app = self.origin.app.as_str();
        let up_to = self.up_to.get().to_string();
        let order = self.order.as_deref();
        let rest = natural_key([&*up_to, &self.key, order.unwrap_or_default()]);
        let (side, other) = match of {
            Conversation::Peer(peer) => (cstr!("peer"), peer.as_str()),
            Conversation::Team(team) => (cstr!("team"), team.as_str()),
        };
        let mut record = rawdoc! {
            "_id": format!("{app}/{}/{rest}", site_read_key(&self.reader, of)),
            "app": app,
            "provider": self.origin.provider.as_str(),
            "product": Product::Im.as_str(),
            "eventType": KIND,
            "kind": KIND,
            "reader": self.reader.as_str(),
        };
        record.append(side, other);
        record.append(cstr!("readUpTo"), self.up_to.get());
        record.append(cstr!("at"), date(self.up_to));
        record.append(cstr!("receivedAt"), date(self.origin.received_at));
        let mut payload = rawdoc! { "key": &*self.key };
        if let Some(order) = order {
            payload.append(cstr!("order"), order);
        }
        record.append(cstr!("payload"), payload);
        record
    }
}

impl Store {
    /// Raises the read marks of what the site reports as read. `Ok` means that it is journaled on a majority, so every
    /// later count has it; `state` follows in the background, as for a receipt.
    ///
    /// # Errors
    /// If MongoDB did not confirm all of it in time, or too many reads wait for it. A part may be stored; to send it
    /// again is always safe.
    pub async fn mark_read(&self, read: SiteRead) -> Result<(), StoreError> {
        // Held until the task ends, whether or not its client still waits.
        let waiting = self.reads.clone().try_acquire_owned();
        let waiting = waiting.map_err(|_| StoreError::Overloaded)?;
        let store = self.clone();
        let deadline = Instant::now() + self.settings.commit_timeout;
        let marked = async move {
            let _waiting = waiting;
            // Out of those that queries share, so that commits always find a free connection.
            let turn = store.queries.acquire_many(CONNECTIONS);
            let turn = timeout_at(deadline, turn).await;
            let _turn = turn.map_err(|_elapsed| StoreError::TimedOut)?;
            let submission = read.submission();
            let _busy = store.busy();
            let again =
                |error: &StoreError| tracing::warn!(%error, "marking as read is tried again");
            let refused = store.retry_until(&[&submission], deadline, again).await?;
            if let Some(refusal) = refused.first() {
                return Err(StoreError::Refused(format!("error {}", refusal.code)));
            }
            let delay = store.settings.state_delay;
            store.behind.add(submission.writes.iter(), delay);
            Ok(())
        };
        // A task of its own: who marks a page read may well leave it, and `state` should follow nevertheless.
        let marked = self.runtime.spawn(marked);
        let ended = |_| StoreError::Unavailable("the write ended".to_owned());
        marked.await.map_err(ended)?
    }

    /// The peers from whom a reader has unread messages on an order that were sent up to a time, by their accounts. The
    /// read marks decide, and not `state`. `None` if there may be more than `most`.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or an index is not there yet.
    pub async fn peers_unread_on(
        &self,
        app: &AppName,
        reader: &Account,
        order: &str,
        up_to: Millis,
        most: usize,
    ) -> Result<Option<Vec<Account>>, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let pipeline = peers_unread_on(app, reader, order, up_to, most + 1);
        let find = messages
            .aggregate(pipeline)
            .hint(Hint::Name(UNREAD_BY_ORDER.to_owned()))
            .max_time(self.settings.query_timeout)
            .with_type::<RawDocumentBuf>();
        let found: Vec<RawDocumentBuf> = self
            .within_query_timeout(async move { find.await?.try_collect().await })
            .await?;
        if found.len() > most {
            return Ok(None);
        }
        let newest = found
            .iter()
            .filter_map(|found| Some((found.get_str("_id").ok()?, number(found, "newest")?)));
        let newest: Vec<(&str, i64)> = newest.collect();
        let peers: Vec<&str> = newest.iter().map(|(peer, _)| *peer).collect();
        let reader = reader.as_str();
        // After the messages: a mark that rises in between makes nobody unread.
        let marks = self.marks_between(app, &[reader], &peers).await?;
        let marks = marks.by_pair()?;
        let unread = newest.into_iter().filter(|(peer, sent_at)| {
            let mark = marks.get(&(reader, *peer)).copied();
            !covers(mark, *sent_at)
        });
        Ok(Some(unread.map(|(peer, _)| Account::new(peer)).collect()))
    }
}
