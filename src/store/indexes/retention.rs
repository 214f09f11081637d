//! How long documents are kept, and what a new time would delete at once.

use std::fmt;
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::ErrorKind;

use crate::store::error::StoreError;
use crate::store::{Store, collection};

/// After how long documents are deleted; `None` keeps them forever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of `messages`.
    pub messages: Option<Duration>,
    /// Of `events`.
    pub events: Option<Duration>,
    /// Of `dead_letters`.
    pub dead_letters: Option<Duration>,
    /// Of `presence`, after the device's last event.
    pub presence: Option<Duration>,
}

impl Retention {
    /// The collections, with the field that a document's age is counted from.
    pub(super) fn by_collection(self) -> [(&'static str, &'static str, Option<Duration>); 4] {
        [
            (collection::MESSAGES, "receivedAt", self.messages),
            (collection::EVENTS, "receivedAt", self.events),
            (collection::DEAD_LETTERS, "receivedAt", self.dead_letters),
            (collection::PRESENCE, "lastEventAt", self.presence),
        ]
    }
}

/// What a shorter retention deletes within a minute of being set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// How many documents.
    pub documents: DocumentCount,
    /// The time of the oldest, where it could be found.
    pub oldest: Option<DateTime>,
}

/// How many documents, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentCount {
    /// There are some, or there may be: the question took too long.
    Some,
    /// Counting them took too long.
    TooMany,
    /// So many, up to a million and one.
    About(u64),
}

/// What is asked about the documents that a retention deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Whether there are any, for a start that must not wait for a scan.
    Whether,
    /// How many, and of when, for people.
    HowMany,
}

/// Enough to say that it is a lot.
const MOST_COUNTED: u64 = 1_000_000;

/// How long the documents may be counted. Without the index that is yet to be made it is a scan.
const COUNTING: Duration = Duration::from_secs(20);

/// How long one old document is looked for. Old ones come first in a scan, so they are found soon.
const LOOKING: Duration = Duration::from_secs(5);

impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.documents {
            DocumentCount::Some => write!(f, "documents")?,
            DocumentCount::TooMany => {
                write!(f, "documents, too many or too scattered to count in time")?;
            }
            DocumentCount::About(1) => write!(f, "1 document")?,
            DocumentCount::About(n) if n > MOST_COUNTED => {
                write!(f, "more than {} documents", grouped(MOST_COUNTED))?;
            }
            DocumentCount::About(n) => write!(f, "about {} documents", grouped(n))?,
        }
        let oldest = self.oldest.and_then(|at| at.try_to_rfc3339_string().ok());
        match oldest.as_deref().and_then(|at| at.get(..10)) {
            Some(day) => write!(f, ", the oldest of {day}"),
            None => Ok(()),
        }
    }
}

impl Store {
    /// What MongoDB would delete at once if it kept documents for this time; `None` for nothing. It bounds its work, and
    /// what it cannot find out in time counts as a deletion, since the answer decides about history.
    pub(super) async fn deletion(
        &self,
        collection: &str,
        field: &str,
        keep: Duration,
        ask: Ask,
    ) -> Result<Option<Deletion>, StoreError> {
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        // MongoDB deletes by its own clock.
        let now = self.server_time().await?.timestamp_millis();
        let before = DateTime::from_millis(now.saturating_sub(keep));
        let old = doc! { field: { "$lt": before } };
        let documents = self.collection(collection)?;
        if ask == Ask::Whether {
            let one = documents
                .find_one(old)
                .projection(doc! { "_id": 1 })
                .max_time(LOOKING)
                .await;
            let some = Deletion {
                documents: DocumentCount::Some,
                oldest: None,
            };
            return match one {
                Ok(found) => Ok(found.map(|_| some)),
                Err(error) if took_too_long(&error) => Ok(Some(some)),
                Err(error) => Err(error.into()),
            };
        }
        let counted = documents
            .count_documents(old.clone())
            .limit(MOST_COUNTED + 1)
            .max_time(COUNTING)
            .await;
        let counted = match counted {
            Ok(0) => return Ok(None),
            Ok(counted) => DocumentCount::About(counted),
            Err(error) if took_too_long(&error) => DocumentCount::TooMany,
            Err(error) => return Err(error.into()),
        };
        let oldest = documents
            .find_one(old)
            .sort(doc! { field: 1 })
            .projection(doc! { field: 1 })
            .max_time(COUNTING)
            .await;
        let at = |found: Option<Document>| found?.get_datetime(field).ok().copied();
        Ok(Some(Deletion {
            documents: counted,
            // Only to be told, so it is left out where it cannot be found.
            oldest: oldest.ok().and_then(at),
        }))
    }
}

fn took_too_long(error: &mongodb::error::Error) -> bool {
    const MAX_TIME_EXPIRED: i32 = 50;
    matches!(error.kind.as_ref(), ErrorKind::Command(c) if c.code == MAX_TIME_EXPIRED)
}

/// A length of time as it is configured; `None` is for ever.
pub(super) fn span(keep: Option<Duration>) -> String {
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;
    match keep.map(|keep| keep.as_secs()) {
        None => "for ever".to_owned(),
        Some(seconds) if seconds % DAY == 0 => format!("{}d", seconds / DAY),
        Some(seconds) if seconds % HOUR == 0 => format!("{}h", seconds / HOUR),
        Some(seconds) => format!("{seconds}s"),
    }
}

/// A number with its thousands apart.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_is_said_in_words() {
        let oldest = Some(DateTime::from_millis(1_704_153_600_000));
        let said = |documents, oldest| Deletion { documents, oldest }.to_string();
        assert_eq!(
            said(DocumentCount::About(12_345), oldest),
            "about 12,345 documents, the oldest of 2024-01-02"
        );
        assert_eq!(said(DocumentCount::About(1), None), "1 document");
        assert_eq!(
            said(DocumentCount::About(MOST_COUNTED + 1), None),
            "more than 1,000,000 documents"
        );
        assert!(said(DocumentCount::TooMany, None).contains("too many"));
        assert_eq!(said(DocumentCount::Some, None), "documents");
    }

    #[test]
    fn spans_are_written_as_in_the_configuration() {
        let hours = |n: u64| span(Some(Duration::from_secs(n * 3600)));
        assert_eq!((hours(48), hours(25)), ("2d".to_owned(), "25h".to_owned()));
        assert_eq!(span(Some(Duration::from_secs(3601))), "3601s");
        assert_eq!(span(None), "for ever");
    }
}
