//! Reads a page of a conversation from the index `conversation`, in the order of the provider's time and, at equal times,
//! of `_id`.
//!
//! A page may lack messages that were read for it: those that the reader may not see are left out after that, so its ends
//! and cursors are the same for everybody.
//!
//! A page's queries are bounded: MongoDB walks the index from the page's place, in either direction, and reads about as
//! many documents as the page has. A team has two conversations, of a team and of a super team, whose index entries it
//! merges in their order. The filters compare times with numbers, so a message whose time is absent or is no number, which has no
//! place in the order, is on no page.

mod stored;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::Hint;

use super::error::StoreError;
use super::indexes::CONVERSATION;
use super::{Store, collection};
use crate::callback::event::{Class, Conversation};
use crate::callback::ids::{Account, AppName};
use stored::{BothMarks, fields};
pub use stored::{StoredChange, StoredMessage};

/// The most bytes of one page, as MongoDB stores them. A page that would be larger ends before, with at least one message.
pub const MOST_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The documents that MongoDB sends at once: the last of them may be beyond the bytes of a page.
const BATCH: usize = 16;

/// Which page of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichPage {
    /// The newest messages.
    Newest,
    /// The newest of those before a place.
    Before(MessagePlace),
    /// The oldest of those after a place.
    After(MessagePlace),
}

/// A place in a conversation. It stays where it is if its message is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessagePlace {
    /// A time in milliseconds. Before it is what was sent earlier, after it what was sent later.
    Time(i64),
    /// A message.
    Message {
        /// Its time, in milliseconds.
        sent_at: i64,
        /// Its class.
        class: Class,
        /// Its id in the class.
        id: String,
    },
}

/// A question for a page.
pub struct PageQuestion<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Whose conversation it is.
    pub reader: &'a Account,
    /// With whom.
    pub of: &'a Conversation,
    /// The stored `conversation`s.
    pub conversations: &'a [String],
    /// Which page.
    pub which: &'a WhichPage,
    /// The most messages.
    pub limit: usize,
    /// Whether messages of others that the provider did not deliver are left out.
    pub withholds_held_back: bool,
}

/// A page of a conversation.
#[derive(Default)]
pub struct MessagePage {
    /// The messages that the reader may see, the newest first.
    pub messages: Vec<StoredMessage>,
    /// The places of the newest and the oldest message that was read; `None` if there was none.
    pub ends: Option<(MessagePlace, MessagePlace)>,
    /// Whether there are more in the direction that was asked for.
    pub more: bool,
}

impl WhichPage {
    /// The direction in which the index is walked.
    fn direction(&self) -> i32 {
        match self {
            Self::Newest | Self::Before(_) => -1,
            Self::After(_) => 1,
        }
    }

    /// The filter of the page's query; public so that a test can ask for its plan. Each of its alternatives is one range
    /// of the index. MongoDB merges ranges in their order, but sorts what a list of conversations beside an alternative
    /// would find.
    pub fn filter(&self, app: &AppName, conversations: &[String]) -> Document {
        let (beyond, place) = match self {
            Self::Newest => ("$lte", &MessagePlace::Time(i64::MAX)),
            Self::Before(place) => ("$lt", place),
            Self::After(place) => ("$gt", place),
        };
        let mut ranges = Vec::new();
        for conversation in conversations {
            let range = |time: Document| {
                doc! { "app": app.as_str(), "conversation": conversation, "msgTimestamp": time }
            };
            match place {
                MessagePlace::Time(at) => ranges.push(range(doc! { beyond: at })),
                MessagePlace::Message { sent_at, class, id } => {
                    let mut at_once = range(doc! { "$eq": sent_at });
                    let id = format!("{app}/{}/{id}", class.as_str());
                    at_once.insert("_id", doc! { beyond: id });
                    ranges.extend([at_once, range(doc! { beyond: sent_at })]);
                }
            }
        }
        doc! { "$or": ranges }
    }

    /// The order of the page's query.
    pub fn sort(&self) -> Document {
        let direction = self.direction();
        doc! { "msgTimestamp": direction, "_id": direction }
    }
}

impl Store {
    /// Reads a page of a conversation.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or an index is not there yet.
    pub async fn message_page(
        &self,
        question: &PageQuestion<'_>,
    ) -> Result<MessagePage, StoreError> {
        let within = self.settings.query_timeout;
        let read =
            async { tokio::try_join!(self.both_marks(question), self.page_documents(question)) };
        let (marks, (documents, more)) = self.page_turns.take(within, read).await?;
        let mut messages = Vec::with_capacity(documents.len());
        let mut places = Vec::with_capacity(documents.len());
        for document in &documents {
            let unreadable = || StoreError::Unavailable("a message is unreadable".to_owned());
            let message = StoredMessage::of(question.app, document, marks.as_ref());
            let message = message.ok_or_else(unreadable)?;
            places.push(message.place());
            let is_withheld = question.withholds_held_back && message.is_held_back;
            let is_shown = message.is_from(question.reader)
                || (!is_withheld && message.is_for(question.reader, document));
            if is_shown {
                messages.push(message);
            }
        }
        if question.which.direction() > 0 {
            messages.reverse();
            places.reverse();
        }
        let ends = places.first().cloned().zip(places.pop());
        Ok(MessagePage {
            messages,
            ends,
            more,
        })
    }

    /// The documents of a page in the order of its query, and whether there are more.
    pub(super) async fn page_documents(
        &self,
        question: &PageQuestion<'_>,
    ) -> Result<(Vec<RawDocumentBuf>, bool), StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let messages = messages.clone_with_type::<RawDocumentBuf>();
        let PageQuestion { which, limit, .. } = question;
        let find = messages
            .find(which.filter(question.app, question.conversations))
            .projection(fields())
            .sort(which.sort())
            .limit(*limit as i64 + 1)
            .batch_size((*limit + 2).min(BATCH) as u32)
            .hint(Hint::Name(CONVERSATION.to_owned()))
            .max_time(self.settings.query_timeout);
        self.within_query_timeout(async move {
            let mut cursor = find.await?;
            let (mut page, mut bytes) = (Vec::new(), 0);
            while let Some(document) = cursor.try_next().await? {
                bytes += document.as_bytes().len();
                let is_full = page.len() == *limit || bytes > MOST_PAGE_BYTES;
                if is_full && !page.is_empty() {
                    return Ok((page, true));
                }
                page.push(document);
            }
            Ok((page, false))
        })
        .await
    }

    /// The read marks of a reader and a peer for each other; `None` for a team.
    async fn both_marks(
        &self,
        question: &PageQuestion<'_>,
    ) -> Result<Option<BothMarks>, StoreError> {
        let Conversation::Peer(peer) = question.of else {
            return Ok(None);
        };
        let (reader, peer) = (question.reader.as_str(), peer.as_str());
        let both = [reader, peer];
        let marks = self.marks_between(question.app, &both, &both).await?;
        let marks = marks.by_pair()?;
        Ok(Some(BothMarks {
            reader: reader.to_owned(),
            of_reader: marks.get(&(reader, peer)).copied(),
            of_peer: marks.get(&(peer, reader)).copied(),
        }))
    }
}
