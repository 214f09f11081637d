//! Keys of messages and read marks.

use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};

use crate::callback::event::MessageRef;
use crate::callback::ids::AppName;

/// A reader and the peer whose messages are counted or read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The app's name.
    pub app: String,
    /// The account that reads.
    pub reader: String,
    /// The account that wrote.
    pub peer: String,
}

impl Pair {
    /// The `_id` of the pair's read mark. The order of its fields matters in an `_id`.
    pub fn mark_id(&self) -> RawDocumentBuf {
        rawdoc! { "app": &*self.app, "reader": &*self.reader, "peer": &*self.peer }
    }
}

/// A message's key. Every write to a message names all three, so that the collection can be sharded by `{app,
/// to}`.
#[derive(Debug, Clone)]
pub struct MessageKey {
    /// `{app}/{class}/{msgidServer}`
    pub id: String,
    /// The app's name.
    pub app: String,
    /// The receiving account, or the team's id.
    pub to: String,
}

impl MessageKey {
    /// The key of the message in a reference.
    pub fn new(app: &AppName, message: &MessageRef) -> Self {
        Self {
            id: format!("{app}/{}/{}", message.class.as_str(), message.id),
            app: app.to_string(),
            to: message.to.clone(),
        }
    }

    /// The filter that finds the message.
    pub fn filter(&self) -> Document {
        doc! { "_id": &self.id, "app": &self.app, "to": &self.to }
    }
}
