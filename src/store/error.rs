//! Whose fault a failure is: MongoDB's for now, or the document's for good.

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// MongoDB is away, busy, changing its primary, or cannot confirm the write: trying again helps,
    /// now or later. The outcome of a write is unknown.
    #[error("MongoDB is not available: {0}")]
    Unavailable(String),
    /// As [`StoreError::Unavailable`], and it did not even say so in time.
    #[error("MongoDB did not answer in time")]
    TimedOut,
    /// MongoDB refuses what it was asked, and would again.
    #[error("MongoDB refuses the command: {0}")]
    Refused(String),
}

/// The code of a duplicate `_id`.
pub const DUPLICATE_KEY: i32 = 11000;

/// Server error codes that blame what was sent: a document or a statement that MongoDB would refuse again.
/// Every other code, known today or not, speaks of the server, and then trying again is right: to call a
/// good message bad would lose it from a badge for good.
const DOCUMENT_CODES: &[i32] = &[
    2,     // BadValue
    9,     // FailedToParse
    14,    // TypeMismatch
    15,    // Overflow, such as too many levels of nesting
    16,    // InvalidLength
    22,    // InvalidBSON
    52,    // DollarPrefixedFieldName
    56,    // EmptyFieldName
    57,    // DottedFieldName
    66,    // ImmutableField
    121,   // DocumentValidationFailure
    10334, // BSONObjectTooLarge
    17280, // KeyTooLong
    17419, // the document would become too large
    17420, // the same, by an update
];

/// Whether an error of this code is the document's fault.
pub fn blames_the_document(code: i32) -> bool {
    DOCUMENT_CODES.contains(&code)
}

/// Whether an error of this code says nothing but that the server is starting, stopping, or no primary.
pub fn is_for_now(code: i32) -> bool {
    // MaxTimeMSExpired, ShutdownInProgress, PrimarySteppedDown, NotWritablePrimary, InterruptedAtShutdown,
    // InterruptedDueToReplStateChange, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary
    [50, 91, 189, 10107, 11600, 11602, 13435, 13436].contains(&code)
}

impl StoreError {
    /// The same error where no document can be at fault.
    pub fn as_of_state(self) -> Self {
        match self {
            Self::Refused(why) => Self::Unavailable(why),
            Self::Unavailable(_) | Self::TimedOut => self,
        }
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error.kind.as_ref() {
            ErrorKind::Command(command) if blames_the_document(command.code) => {
                Self::Refused(format!("{} ({})", command.code_name, command.code))
            }
            ErrorKind::BsonSerialization { .. } | ErrorKind::InvalidArgument { .. } => {
                Self::Refused("the document cannot be sent".to_owned())
            }
            // Only the code of a command's error, or a write's: the text may quote a document.
            ErrorKind::Command(command) => {
                Self::Unavailable(format!("{} ({})", command.code_name, command.code))
            }
            ErrorKind::Write(WriteFailure::WriteError(error)) => {
                Self::Unavailable(format!("write error {}", error.code))
            }
            ErrorKind::Write(_) | ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) => {
                Self::Unavailable("a write failed".to_owned())
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
