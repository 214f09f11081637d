//! The answer of a trace as JSON.

use serde::Serialize;
use utoipa::ToSchema;

use super::words::{Completeness, agreement, lag, millis, time, why};
use crate::store::trace::{
    MOST_DEAD_LETTERS, MessageTrace, TracedChange, TracedMark, TracedMessage, TracedReceipts,
    TracedRecord,
};

/// What is known about some messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer<'t> {
    /// The app.
    app: &'t str,
    /// Whether all callbacks that were acknowledged are in MongoDB.
    complete: bool,
    /// Whether MongoDB is known not to confirm writes now; only the service knows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    outage: Option<bool>,
    /// The spools that may hold callbacks.
    spools: Vec<WaitingSpool<'t>>,
    /// The app's dead letters, whose bodies cannot be searched.
    dead_letters: DeadLetterCount,
    /// The messages with this id, of all classes.
    messages: Vec<MessageView<'t>>,
    /// Why messages that were found are not among them.
    unreadable: Vec<UnreadableView<'t>>,
}

/// A stored document that lacks what all of its collection have.
#[derive(Serialize, ToSchema)]
struct UnreadableView<'t> {
    /// Its collection.
    collection: &'static str,
    /// Its `_id`.
    id: &'t str,
}

/// A spool that may hold callbacks.
#[derive(Serialize, ToSchema)]
struct WaitingSpool<'t> {
    /// Its id.
    id: &'t str,
    /// The machine that it is on.
    host: &'t str,
    /// Its size.
    bytes: u64,
}

/// The number of an app's dead letters.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeadLetterCount {
    /// How many are known.
    count: u64,
    /// False if there may be more.
    is_exact: bool,
}

/// A message, and what happened to it. Never its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MessageView<'t> {
    /// Its `_id`.
    id: &'t str,
    /// The provider that sent it.
    provider: &'t str,
    /// Such as `p2p` or `team`.
    class: &'static str,
    /// The provider's id.
    msgid_server: &'t str,
    /// The id that the sending client gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_id: Option<&'t str>,
    /// Its type, in the provider's word.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message_type: Option<&'t str>,
    /// Its sender. `null` if only its recall or an edit has arrived.
    #[schema(required)]
    from: Option<&'t str>,
    /// Its receiver or team.
    to: &'t str,
    /// The same for both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    conversation: Option<&'t str>,
    /// Its order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order_id: Option<&'t str>,
    /// When the provider accepted it.
    #[schema(format = DateTime, required)]
    sent_at: Option<String>,
    /// When its callback arrived. `null` if only its recall or an edit has.
    #[schema(format = DateTime, required)]
    received_at: Option<String>,
    /// From sending to arrival, in milliseconds; negative if the clocks differ.
    #[schema(required)]
    lag_ms: Option<i64>,
    /// Whether it counts as unread, and why.
    verdict: VerdictView,
    /// `state` as it is stored.
    state: StateView,
    /// The read marks that decide.
    marks: Vec<MarkView<'t>>,
    /// `null` if they are not looked for: no reader was named, or this provider's cannot be found by conversation and
    /// the site reported none.
    #[schema(required)]
    receipts: Option<ReceiptsView<'t>>,
    /// Its recall.
    #[schema(required)]
    recall: Option<ChangeView<'t>>,
    /// Its edits.
    edits: EditsView<'t>,
    /// The stored events with the recall and the edits.
    records: Vec<RecordView<'t>>,
}

/// Whether a message counts as unread.
#[derive(Serialize, ToSchema)]
struct VerdictView {
    /// Whether it does.
    counts: bool,
    /// The rule that decides; `docs/trace.md` lists them.
    #[schema(example = "read")]
    rule: &'static str,
    /// The same for people.
    text: String,
}

/// `state` of a stored message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StateView {
    /// 0 unread, 1 read, `null` if it does not count.
    #[schema(required)]
    value: Option<i64>,
    /// When it became 1.
    #[schema(format = DateTime, required)]
    read_at: Option<String>,
    /// Whether it is as it should be; `docs/trace.md` lists the words.
    #[schema(example = "agrees")]
    agreement: &'static str,
    /// The same for people.
    text: &'static str,
}

/// A read mark.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MarkView<'t> {
    /// Whose it is.
    reader: &'t str,
    /// Up to when the reader has read.
    #[schema(format = DateTime, required)]
    read_up_to: Option<String>,
    /// When the last receipt arrived.
    #[schema(format = DateTime, required)]
    updated_at: Option<String>,
    /// Whether it covers the message.
    covers: bool,
}

/// The receipts of the message's pair with its time or a later one.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReceiptsView<'t> {
    /// The earliest of them.
    found: Vec<ReceiptView<'t>>,
    /// Whether there are more.
    more: bool,
    /// Whether only the site's own reads are among them; absent if the provider's are, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by_site_only: Option<bool>,
}

/// A receipt.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReceiptView<'t> {
    /// Up to when the reader had read.
    #[schema(format = DateTime, required)]
    read_up_to: Option<String>,
    /// Its event.
    #[serde(flatten)]
    record: RecordView<'t>,
}

/// A recall or an edit.
#[derive(Serialize, ToSchema)]
struct ChangeView<'t> {
    /// When it happened.
    #[schema(format = DateTime, required)]
    at: Option<String>,
    /// Who did it.
    #[schema(required)]
    by: Option<&'t str>,
}

/// The edits of a message.
#[derive(Serialize, ToSchema)]
struct EditsView<'t> {
    /// How many there are.
    count: usize,
    /// The earliest of them.
    first: Vec<ChangeView<'t>>,
}

/// A stored event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RecordView<'t> {
    /// Its `_id`.
    id: &'t str,
    /// What happened.
    kind: &'t str,
    /// When it happened.
    #[schema(format = DateTime, required)]
    at: Option<String>,
    /// When its callback arrived.
    #[schema(format = DateTime, required)]
    received_at: Option<String>,
    /// Whether it arrived before the message; `null` if only one of the two is known.
    #[schema(required)]
    before_message: Option<bool>,
}

impl<'t> TraceAnswer<'t> {
    /// The answer of one app.
    pub fn of(app: &'t str, completeness: &'t Completeness, trace: &'t MessageTrace) -> Self {
        let spools = completeness.waiting().map(|spool| WaitingSpool {
            id: &spool.state.id,
            host: &spool.state.host,
            bytes: spool.state.bytes,
        });
        Self {
            app,
            complete: completeness.is_complete,
            outage: completeness.outage,
            spools: spools.collect(),
            dead_letters: DeadLetterCount {
                count: trace.dead_letters,
                is_exact: trace.dead_letters < MOST_DEAD_LETTERS,
            },
            messages: trace.messages.iter().map(MessageView::of).collect(),
            unreadable: trace
                .unreadable
                .iter()
                .map(|document| UnreadableView {
                    collection: document.collection,
                    id: &document.id,
                })
                .collect(),
        }
    }
}

impl<'t> MessageView<'t> {
    fn of(message: &'t TracedMessage) -> Self {
        Self {
            id: &message.id,
            provider: &message.provider,
            class: message.message.class.as_str(),
            msgid_server: &message.message.id,
            client_id: message.client_id.as_deref(),
            message_type: message.message_type.as_deref(),
            from: message.from.as_deref(),
            to: &message.message.to,
            conversation: message.conversation.as_deref(),
            order_id: message.order_id.as_deref(),
            sent_at: message.sent_at.and_then(millis),
            received_at: time(message.received_at),
            lag_ms: lag(message),
            verdict: VerdictView {
                counts: message.verdict.counts,
                rule: message.verdict.rule.code(),
                text: why(message),
            },
            state: StateView {
                value: message.state,
                read_at: time(message.read_at),
                agreement: message.verdict.agreement.code(),
                text: agreement(message.verdict.agreement),
            },
            marks: message
                .marks
                .iter()
                .map(|m| MarkView::of(message, m))
                .collect(),
            receipts: message
                .receipts
                .as_ref()
                .map(|r| ReceiptsView::of(message, r)),
            recall: message.recall.as_ref().map(ChangeView::of),
            edits: EditsView {
                count: message.edit_count,
                first: message.edits.iter().map(ChangeView::of).collect(),
            },
            records: message
                .records
                .iter()
                .map(|r| RecordView::of(message, r))
                .collect(),
        }
    }
}

impl<'t> MarkView<'t> {
    fn of(message: &TracedMessage, mark: &'t TracedMark) -> Self {
        Self {
            reader: &mark.reader,
            read_up_to: millis(mark.read_up_to),
            updated_at: time(mark.updated_at),
            covers: mark.covers(message),
        }
    }
}

impl<'t> ReceiptsView<'t> {
    fn of(message: &TracedMessage, receipts: &'t TracedReceipts) -> Self {
        let found = receipts.found.iter().map(|receipt| ReceiptView {
            read_up_to: millis(receipt.up_to),
            record: RecordView::of(message, &receipt.record),
        });
        Self {
            found: found.collect(),
            more: receipts.more,
            by_site_only: receipts.by_site_only.then_some(true),
        }
    }
}

impl<'t> ChangeView<'t> {
    fn of(change: &'t TracedChange) -> Self {
        Self {
            at: time(change.at),
            by: change.by.as_deref(),
        }
    }
}

impl<'t> RecordView<'t> {
    fn of(message: &TracedMessage, record: &'t TracedRecord) -> Self {
        Self {
            id: &record.id,
            kind: &record.kind,
            at: time(record.at),
            received_at: time(record.received_at),
            before_message: record.is_before(message),
        }
    }
}
