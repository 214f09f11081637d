//! The answer of a trace as JSON.

use serde::Serialize;

use super::words::{Completeness, agreement, lag, millis, time, why};
use crate::store::trace::{
    MOST_DEAD_LETTERS, MessageTrace, TracedChange, TracedMark, TracedMessage, TracedReceipts,
    TracedRecord,
};

/// What is known about some messages.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer<'t> {
    app: &'t str,
    /// Whether all callbacks that were acknowledged are in MongoDB.
    complete: bool,
    /// Whether MongoDB is known not to confirm writes now; only the service knows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    outage: Option<bool>,
    /// The spools that may hold callbacks.
    spools: Vec<WaitingSpool<'t>>,
    /// The app's dead letters, whose bodies cannot be searched.
    dead_letters: DeadLetterCount,
    messages: Vec<MessageView<'t>>,
    /// Why messages that were found are not among them.
    unreadable: Vec<UnreadableView<'t>>,
}

#[derive(Serialize)]
struct UnreadableView<'t> {
    collection: &'static str,
    id: &'t str,
}

#[derive(Serialize)]
struct WaitingSpool<'t> {
    id: &'t str,
    host: &'t str,
    bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetterCount {
    count: u64,
    /// False if there may be more.
    is_exact: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageView<'t> {
    id: &'t str,
    provider: &'t str,
    class: &'static str,
    msgid_server: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'t str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    message_type: Option<&'t str>,
    from: Option<&'t str>,
    to: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<&'t str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<&'t str>,
    sent_at: Option<String>,
    received_at: Option<String>,
    /// From sending to arrival; negative if the clocks differ.
    lag_ms: Option<i64>,
    verdict: VerdictView,
    state: StateView,
    marks: Vec<MarkView<'t>>,
    /// `None` if they are not looked for: this provider's cannot be found by conversation, or no reader was named.
    receipts: Option<ReceiptsView<'t>>,
    recall: Option<ChangeView<'t>>,
    edits: EditsView<'t>,
    records: Vec<RecordView<'t>>,
}

#[derive(Serialize)]
struct VerdictView {
    counts: bool,
    rule: &'static str,
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateView {
    value: Option<i64>,
    read_at: Option<String>,
    agreement: &'static str,
    text: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MarkView<'t> {
    reader: &'t str,
    read_up_to: Option<String>,
    updated_at: Option<String>,
    covers: bool,
}

#[derive(Serialize)]
struct ReceiptsView<'t> {
    found: Vec<ReceiptView<'t>>,
    more: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptView<'t> {
    read_up_to: Option<String>,
    #[serde(flatten)]
    record: RecordView<'t>,
}

#[derive(Serialize)]
struct ChangeView<'t> {
    at: Option<String>,
    by: Option<&'t str>,
}

#[derive(Serialize)]
struct EditsView<'t> {
    count: usize,
    first: Vec<ChangeView<'t>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordView<'t> {
    id: &'t str,
    kind: &'t str,
    at: Option<String>,
    received_at: Option<String>,
    /// Whether it arrived before the message; `None` if only one of the two is known.
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
