//! A trace in words, the same in the answer of the route and in the output of the command.

use std::fmt::Write;

use mongodb::bson::DateTime;

use crate::store::indexes::Retention;
use crate::store::spools::KnownSpool;
use crate::store::trace::verdict::{StateAgreement, UnreadRule};
use crate::store::trace::{MOST_DEAD_LETTERS, NEWEST_IN_CONVERSATION, TracedMessage, Wanted};

/// Whether what is in MongoDB is all there is.
pub struct Completeness {
    /// Whether all callbacks that were acknowledged are in MongoDB.
    pub is_complete: bool,
    /// Whether MongoDB is known not to confirm writes; `None` if that is not known.
    pub outage: Option<bool>,
    /// The spools that instances have reported.
    pub spools: Vec<KnownSpool>,
}

impl Completeness {
    /// The spools that may hold callbacks.
    pub fn waiting(&self) -> impl Iterator<Item = &KnownSpool> {
        let spools = self.spools.iter().filter(|_| !self.is_complete);
        spools.filter(|spool| !spool.is_empty)
    }
}

/// A time in RFC 3339.
pub fn time(at: Option<DateTime>) -> Option<String> {
    at?.try_to_rfc3339_string().ok()
}

/// The same of milliseconds.
pub fn millis(at: i64) -> Option<String> {
    time(Some(DateTime::from_millis(at)))
}

/// How long after it was sent a message arrived, in milliseconds.
pub fn lag(message: &TracedMessage) -> Option<i64> {
    Some(message.received_at?.timestamp_millis() - message.sent_at?)
}

/// Why a message counts as unread or does not, in one sentence.
pub fn why(message: &TracedMessage) -> String {
    let (verdict, to) = (message.verdict, &message.message.to);
    let from = message.from.as_deref().unwrap_or("an unknown account");
    let facts = match verdict.rule {
        UnreadRule::NotReceived if message.recall.is_some() => {
            "it has not been received, only its recall".to_owned()
        }
        UnreadRule::NotReceived => "it has not been received, only an edit of it".to_owned(),
        UnreadRule::OtherProvider => {
            "it is of another provider than the app's, and had no `state` from the start".to_owned()
        }
        UnreadRule::Never(rule) => rule.text().to_owned(),
        UnreadRule::Recalled => "it is recalled".to_owned(),
        UnreadRule::Read => {
            let mark = message.marks.first().and_then(|m| millis(m.read_up_to));
            let mark = mark.unwrap_or_default();
            format!("{to} has read what {from} sent up to {mark} (read mark)")
        }
        UnreadRule::Unread => {
            let mark = message.marks.first().and_then(|m| millis(m.read_up_to));
            match mark {
                Some(mark) => format!("it is later than {to}'s read mark for {from}, {mark}"),
                None => format!("{to} has no read mark for {from}"),
            }
        }
    };
    let is_right = verdict.counts == (verdict.rule == UnreadRule::Unread);
    let mut text = if verdict.counts {
        "counts as unread".to_owned()
    } else {
        "does not count as unread".to_owned()
    };
    let link = if is_right {
        ":"
    } else {
        ", because of its `state`, although"
    };
    // Writing to a string does not fail.
    let _ = write!(text, "{link} {facts}");
    text
}

/// Whether `state` agrees with that, and what to do about it.
pub fn agreement(agreement: StateAgreement) -> &'static str {
    match agreement {
        StateAgreement::Agrees => "is as it should be",
        StateAgreement::Behind => {
            "follows the read mark soon (reconcile.delay); the count is right already"
        }
        StateAgreement::Disagrees => {
            "disagrees with the facts, and counts follow it; `im-callback reconcile` repairs it"
        }
        StateAgreement::Missing => {
            "is absent although the message counts by the app's settings of today; `im-callback backfill` sets it"
        }
        StateAgreement::LeftOver => {
            "is there although the message does not count by the app's settings of today; \
             `im-callback backfill` removes it"
        }
        StateAgreement::Unexpected => {
            "is there although the message has not been received; somebody set it, and no command removes it"
        }
    }
}

/// Why there may be nothing about a message, for people.
pub fn absences(
    wanted: &Wanted,
    completeness: &Completeness,
    dead_letters: u64,
    retention: Retention,
) -> Vec<String> {
    let mut ways = Vec::new();
    if let Wanted::ClientId { .. } = wanted {
        ways.push(format!(
            "it is not among the newest {NEWEST_IN_CONVERSATION} messages of the conversation, or the provider \
             sends no id of the client"
        ));
    }
    if completeness.outage == Some(true) {
        ways.push(
            "MongoDB does not confirm writes now, so its callback waits in a spool".to_owned(),
        );
    }
    match completeness.waiting().count() {
        0 if completeness.is_complete => {}
        0 => ways.push("its callback waits in a spool (`im-callback spools`)".to_owned()),
        1 => ways.push(
            "its callback waits in a spool; 1 may hold callbacks (`im-callback spools`)".to_owned(),
        ),
        n => ways.push(format!(
            "its callback waits in a spool; {n} may hold callbacks (`im-callback spools`)"
        )),
    }
    match dead_letters {
        0 => {}
        1 => ways.push("it is the one dead letter (`im-callback dead-letters`)".to_owned()),
        MOST_DEAD_LETTERS.. => ways.push(format!(
            "it is one of {MOST_DEAD_LETTERS} dead letters or more (`im-callback dead-letters`)"
        )),
        n => ways.push(format!(
            "it is one of {n} dead letters (`im-callback dead-letters`)"
        )),
    }
    ways.extend(
        [
            "its callback was rejected (the log says `callback rejected`, with the app and the code)",
            "the provider has not sent it, or sent it to another app",
            "it is stored as an event: of a chatroom, a channel, or a kind that is no message",
        ]
        .map(str::to_owned),
    );
    if retention.messages.is_some() {
        ways.push("it was deleted by `retention.messages`".to_owned());
    }
    ways
}
