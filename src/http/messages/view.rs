//! The answer: messages as a site shows them.

use mongodb::bson::{Bson, DateTime};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::plain::json;
use crate::http::moment::moment;
use crate::store::messages::{MessagePage, StoredChange, StoredMessage};

/// A page of a conversation.
#[derive(Serialize, ToSchema)]
pub struct MessagesAnswer<'a> {
    /// Whose conversation it is, as spelled in the question.
    pub user: &'a str,
    /// The other person, as spelled in the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub peer: Option<&'a str>,
    /// The team, as in the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub team: Option<&'a str>,
    /// The messages, the newest first, by `timestamp`.
    pub messages: Vec<HistoryMessage>,
    /// The `before` of the next older page. Absent if there are no older messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub older: Option<String>,
    /// The `after` of what is newer than this page, now or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub newer: Option<String>,
    /// Only where it is not so: acknowledged callbacks wait in a spool, and may be of this conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub complete: Option<bool>,
}

/// A message of a conversation. What the provider did not send is absent.
#[derive(Serialize, ToSchema)]
pub struct HistoryMessage {
    /// The provider's id, unique in its class.
    id: String,
    /// `p2p`, `team` or `super_team`.
    #[schema(example = "p2p")]
    class: &'static str,
    /// The id that the sending client gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// The sender's account, as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    from: Option<String>,
    /// The receiver's account, as stored, or the team.
    to: String,
    /// The provider's word for its kind: NetEase's `msgType`, RongCloud's `objectName`, Wildfire IM's content type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message_type: Option<String>,
    /// The current text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// The text before the first edit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    original_text: Option<String>,
    /// NetEase: the attachment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    attach: Option<Value>,
    /// NetEase: the sender's own data.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    ext: Option<Value>,
    /// RongCloud's `content`, Wildfire IM's `payload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    content: Option<Value>,
    /// Its order, where the app's `order_id` finds one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order: Option<String>,
    /// When the provider accepted it, in milliseconds since 1970.
    timestamp: i64,
    /// The same time, in RFC 3339. Absent at the end of the year 9999 and later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    sent_at: Option<String>,
    /// When its callback arrived, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    received_at: Option<String>,
    /// The kind of client it was sent from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client: Option<String>,
    /// The sender's name when it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    nick: Option<String>,
    /// Whether its receiver has read it, by the read mark. Absent for a team.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    read: Option<bool>,
    /// Whether the provider did not deliver it to its receiver. Absent if it did. A user's token is sent such messages
    /// only of its user's own.
    #[serde(skip_serializing_if = "is_false")]
    held_back: bool,
    /// Its edits, the earliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edits: Vec<EditView>,
    /// Its recall.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    recall: Option<RecallView>,
    /// Whether it is recalled and its content therefore absent: all texts, `attach`, `ext` and `content`. A key with
    /// the scope `admin` is shown the content.
    #[serde(skip_serializing_if = "is_false")]
    withheld: bool,
}

/// An edit of a message.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageEdit)]
pub struct EditView {
    /// When, in RFC 3339.
    #[schema(format = DateTime, required)]
    at: Option<String>,
    /// By whom, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
    /// The new text, if the edit changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
}

/// A recall of a message.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageRecall)]
pub struct RecallView {
    /// When, in RFC 3339, if known.
    #[schema(format = DateTime, required)]
    at: Option<String>,
    /// By whom, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn time(at: Option<DateTime>) -> Option<String> {
    moment(at?.timestamp_millis())
}

/// The messages of a page.
pub fn messages(page: MessagePage, sees_recalled: bool) -> Vec<HistoryMessage> {
    let messages = page.messages.into_iter();
    messages
        .map(|message| HistoryMessage::of(message, sees_recalled))
        .collect()
}

impl HistoryMessage {
    fn of(mut stored: StoredMessage, sees_recalled: bool) -> Self {
        let withheld = stored.recall.is_some() && !sees_recalled;
        if withheld {
            stored.withhold();
        }
        Self {
            id: stored.id,
            class: stored.class.as_str(),
            client_id: stored.client_id,
            from: stored.from,
            to: stored.to,
            message_type: stored.message_type,
            text: text(stored.body),
            original_text: text(stored.original_body),
            attach: stored.attach.map(json),
            ext: stored.ext.map(json),
            content: stored.content.map(json),
            order: stored.order_id,
            timestamp: stored.sent_at,
            sent_at: moment(stored.sent_at),
            received_at: time(stored.received_at),
            client: stored.client,
            nick: stored.nick,
            read: stored.is_read,
            held_back: stored.is_held_back,
            edits: stored.edits.into_iter().map(EditView::from).collect(),
            recall: stored.recall.map(RecallView::from),
            withheld,
        }
    }
}

impl From<StoredChange> for EditView {
    fn from(edit: StoredChange) -> Self {
        Self {
            at: time(edit.at),
            by: edit.by,
            text: edit.text,
        }
    }
}

impl From<StoredChange> for RecallView {
    fn from(recall: StoredChange) -> Self {
        Self {
            at: time(recall.at),
            by: recall.by,
        }
    }
}

/// A text; what the provider sent in its place is shown as JSON.
fn text(stored: Option<Bson>) -> Option<String> {
    Some(match stored? {
        Bson::String(text) => text,
        other => json(other).to_string(),
    })
}
