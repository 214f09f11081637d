//! Whose fault a failure is: MongoDB's for now, or the document's for good.

use mongodb::error::{Error, ErrorKind};

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

/// Server error codes that speak of the server's state and not of the document: the retryable ones of
/// the driver specifications (`retryable-writes`), and those of an account, a licence to write or a
/// disk that is missing.
const STATE_CODES: &[i32] = &[
    6,     // HostUnreachable
    7,     // HostNotFound
    13,    // Unauthorized
    18,    // AuthenticationFailed
    24,    // LockTimeout
    50,    // MaxTimeMSExpired
    64,    // WriteConcernTimeout
    79,    // UnknownReplWriteConcern
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    100,   // UnsatisfiableWriteConcern
    112,   // WriteConflict
    134,   // ReadConcernMajorityNotAvailableYet
    189,   // PrimarySteppedDown
    262,   // ExceededTimeLimit
    317,   // ConnectionPoolExpired
    8000,  // Atlas: too many requests, or no right
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

/// Whether an error of this code may pass by itself.
pub fn is_of_state(code: i32) -> bool {
    STATE_CODES.contains(&code)
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error.kind.as_ref() {
            ErrorKind::Command(command) if !is_of_state(command.code) => {
                Self::Refused(format!("{} ({})", command.code_name, command.code))
            }
            ErrorKind::BsonSerialization { .. } | ErrorKind::InvalidArgument { .. } => {
                Self::Refused("the document cannot be sent".to_owned())
            }
            // Only the code of a command error: its text may quote a document.
            ErrorKind::Command(command) => {
                Self::Unavailable(format!("{} ({})", command.code_name, command.code))
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
