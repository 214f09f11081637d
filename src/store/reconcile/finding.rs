//! Compares a message's `state` and `countsInTeam` with what they should be, and makes the update that repairs them.

use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};

use crate::store::bson::raw;
use crate::store::marks::covers;
use crate::store::place::{MessageKey, Pair};
use crate::store::statements::{derive, is_there};

/// The fields that decide whether a message is unread. Only of messages that count.
pub struct Seen {
    /// The message's `_id`.
    pub id: String,
    /// Its receiver and sender.
    pub pair: Pair,
    sent_at: i64,
    /// 0 unread, 1 read or recalled.
    state: i32,
    recalled: bool,
}

/// What a message is according to its facts.
enum Truth {
    Recalled,
    /// Covered by this mark.
    Read(i64),
    Unread,
}

/// A message whose `state` disagrees with the facts.
pub struct Finding {
    seen: Seen,
    truth: Truth,
}

/// Reads an entry of the index `unread_by_peer`: a pair and the time of one of its messages.
pub fn entry(document: &Document) -> Option<(Pair, i64)> {
    let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
    let pair = Pair {
        app: text("app")?,
        reader: text("to")?,
        peer: text("fromAccount")?,
    };
    Some((pair, document.get_i64("msgTimestamp").ok()?))
}

impl Seen {
    /// The fields to read.
    pub fn projection() -> Document {
        doc! {
            "app": 1, "to": 1, "fromAccount": 1, "msgTimestamp": 1, "state": 1,
            "recalled": is_there("$recall"), "countsInTeam": 1,
        }
    }

    /// Reads a message; `None` if it never counts, or has not arrived yet.
    pub fn of(document: &Document) -> Option<Self> {
        // Shells write other types of numbers.
        let state = match document.get("state")? {
            Bson::Int32(state) => *state,
            Bson::Int64(state) => i32::try_from(*state).ok()?,
            Bson::Double(state) => *state as i32,
            _ => return None,
        };
        let (pair, sent_at) = entry(document)?;
        Some(Self {
            id: document.get_str("_id").ok()?.to_owned(),
            pair,
            sent_at,
            state,
            recalled: document.get_bool("recalled").ok()?,
        })
    }

    /// Checks its `state` against its pair's mark.
    pub fn judge(self, mark: Option<i64>) -> Option<Finding> {
        let truth = match mark {
            _ if self.recalled => Truth::Recalled,
            Some(read_up_to) if covers(mark, self.sent_at) => Truth::Read(read_up_to),
            _ => Truth::Unread,
        };
        let is_right = (self.state == 0) == matches!(truth, Truth::Unread);
        (!is_right).then_some(Finding { seen: self, truth })
    }
}

/// A team's message that is recalled and still counts. A recall leaves it so that an instance of a version without team
/// counts has stored.
pub struct CountedRecall(MessageKey);

impl CountedRecall {
    /// Reads a message; `None` if it is not one.
    pub fn of(document: &Document) -> Option<Self> {
        let is = |name: &str| document.get_bool(name).unwrap_or_default();
        let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
        (is("countsInTeam") && is("recalled")).then_some(Self(MessageKey {
            id: text("_id")?,
            app: text("app")?,
            to: text("to")?,
        }))
    }

    /// The update that lets it count no more.
    pub fn repair(&self) -> RawDocumentBuf {
        let mut filter = self.0.filter();
        filter.extend(doc! { "countsInTeam": true, "recall": { "$exists": true } });
        raw(&doc! { "q": filter, "u": { "$set": { "countsInTeam": false } } })
    }
}

impl Finding {
    /// Whether it only lags behind its mark, as messages do for a while.
    pub fn is_behind(&self) -> bool {
        matches!(self.truth, Truth::Read(_))
    }

    /// The update that repairs its `state`, unless the message has changed meanwhile.
    pub fn repair(&self) -> RawDocumentBuf {
        let seen = &self.seen;
        let key = MessageKey {
            id: seen.id.clone(),
            app: seen.pair.app.clone(),
            to: seen.pair.reader.clone(),
        };
        let mut filter = key.filter();
        filter.extend(doc! {
            "fromAccount": &seen.pair.peer,
            "msgTimestamp": seen.sent_at,
            "state": seen.state,
            "recall": { "$exists": seen.recalled },
        });
        match self.truth {
            Truth::Recalled => raw(&doc! { "q": filter, "u": [derive()] }),
            Truth::Read(mark) => {
                let read = doc! { "state": 1, "readAt": DateTime::from_millis(mark) };
                raw(&doc! { "q": filter, "u": { "$set": read } })
            }
            Truth::Unread => raw(&doc! {
                "q": filter,
                "u": { "$set": { "state": 0 }, "$unset": { "readAt": "" } },
            }),
        }
    }
}
