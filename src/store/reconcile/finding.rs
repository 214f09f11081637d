//! What a message's `state` is, what it should be, and the update that makes it so.

use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc};

use crate::store::documents::{MessageKey, Pair, raw};
use crate::store::statements::{derive, is_there};

/// What decides whether a message is unread, as it was read. Only of messages that count.
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

/// What a message is by its facts.
enum Truth {
    Recalled,
    /// At or under its mark, which is this.
    Read(i64),
    Unread,
}

/// A message whose `state` is not what the facts say.
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
    /// The part of a message that is read.
    pub fn projection() -> Document {
        doc! {
            "app": 1, "to": 1, "fromAccount": 1, "msgTimestamp": 1, "state": 1,
            "recalled": is_there("$recall"),
        }
    }

    /// Reads a message; `None` when it never counts, or is not there yet.
    pub fn of(document: &Document) -> Option<Self> {
        let state = document.get_i32("state").ok()?;
        let (pair, sent_at) = entry(document)?;
        Some(Self {
            id: document.get_str("_id").ok()?.to_owned(),
            pair,
            sent_at,
            state,
            recalled: document.get_bool("recalled").ok()?,
        })
    }

    /// Whether its `state` is wrong, its pair's mark being this.
    pub fn judge(self, mark: Option<i64>) -> Option<Finding> {
        let truth = match mark {
            _ if self.recalled => Truth::Recalled,
            Some(mark) if self.sent_at <= mark => Truth::Read(mark),
            _ => Truth::Unread,
        };
        let is_right = (self.state == 0) == matches!(truth, Truth::Unread);
        (!is_right).then_some(Finding { seen: self, truth })
    }
}

impl Finding {
    /// Whether it is only behind its mark, as any message is for a while.
    pub fn is_behind(&self) -> bool {
        matches!(self.truth, Truth::Read(_))
    }

    /// The update that makes its `state` right, and does nothing where the message has changed since.
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
