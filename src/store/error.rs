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
    /// As much is being asked as may be. Nothing was asked of MongoDB.
    #[error("too many queries wait")]
    Overloaded,
}

/// What an error code blames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The server, which is starting, stopping, changing its primary, busy or full. Trying again helps.
    Server,
    /// What was sent: a document or a statement that MongoDB would refuse again.
    Document,
    /// A code that is in no list here.
    Unknown,
}

/// The code of a key that is taken.
pub const DUPLICATE_KEY: i32 = 11000;

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
    11000, // DuplicateKey
    17280, // KeyTooLong
    17419, // the document would become too large
    17420, // the same, by an update
];

/// The driver's retryable codes, and those of a server that is busy or full.
const SERVER_CODES: &[i32] = &[
    6,     // HostUnreachable
    7,     // HostNotFound
    24,    // LockTimeout
    46,    // LockBusy
    50,    // MaxTimeMSExpired
    63,    // StaleShardVersion
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    112,   // WriteConflict
    133,   // FailedToSatisfyReadPreference
    134,   // ReadConcernMajorityNotAvailableYet
    150,   // StaleEpoch
    189,   // PrimarySteppedDown
    202,   // NetworkInterfaceExceededTimeLimit
    262,   // ExceededTimeLimit
    314,   // ObjectIsBusy
    365,   // TemporarilyUnavailable
    9001,  // SocketException
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11601, // Interrupted
    11602, // InterruptedDueToReplStateChange
    13388, // StaleConfig
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
    14031, // OutOfDiskSpace
];

/// Whom an error code blames. To call a good message bad would lose it from a badge for good, and to call the
/// server bad for one document would stop all others; so a code that is in no list blames nobody yet.
pub fn blame(code: i32) -> Blame {
    if DOCUMENT_CODES.contains(&code) {
        Blame::Document
    } else if SERVER_CODES.contains(&code) {
        Blame::Server
    } else {
        Blame::Unknown
    }
}

impl StoreError {
    /// The same error where no document can be at fault.
    pub fn as_of_state(self) -> Self {
        match self {
            Self::Refused(why) => Self::Unavailable(why),
            Self::Unavailable(_) | Self::TimedOut | Self::Overloaded => self,
        }
    }

    /// An error of a command in which no document can be at fault.
    pub fn of_state(error: Error) -> Self {
        Self::from(error).as_of_state()
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error.kind.as_ref() {
            ErrorKind::Command(command) if blame(command.code) == Blame::Document => {
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
