//! Classifies failures: MongoDB's fault, which passes, or the document's, which stays.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::words::without_os_codes;

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// MongoDB is down, busy, electing a primary, or cannot confirm the write: a retry helps. The outcome of a write is
    /// unknown.
    #[error("MongoDB is not available: {0}")]
    Unavailable(String),
    /// Like [`StoreError::Unavailable`], and MongoDB did not answer in time.
    #[error("MongoDB did not answer in time")]
    TimedOut,
    /// MongoDB refuses the command, and would refuse it again.
    #[error("MongoDB refuses the command: {0}")]
    Refused(String),
    /// A limit of ours is reached. MongoDB was not asked.
    #[error("too many queries wait")]
    Overloaded,
    /// A member wrote so many of a team's messages itself that the others cannot be counted.
    #[error("too many of the messages are the user's own")]
    TooManyOwn,
}

/// Who is at fault, by an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The server: it is starting, stopping, electing a primary, busy or full. A retry helps.
    Server,
    /// The document or statement: MongoDB would refuse it again.
    Document,
    /// Unknown: the code is in no list here.
    Unknown,
}

/// The code of a right that is lacking, or a login that is.
pub const UNAUTHORIZED: i32 = 13;

/// The code of a duplicate key.
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

/// Says who is at fault. Blaming a good message would remove it from the counts, and blaming the server for one bad
/// document would stop all others, so an unlisted code blames neither.
pub fn blame(code: i32) -> Blame {
    if DOCUMENT_CODES.contains(&code) {
        Blame::Document
    } else if SERVER_CODES.contains(&code) {
        Blame::Server
    } else {
        Blame::Unknown
    }
}

/// The code in MongoDB's answer. The driver wraps the answer to a login.
pub fn code(error: &Error) -> Option<i32> {
    let of = |error: &Error| match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    };
    let inner = || {
        let source = std::error::Error::source(error)?;
        let boxed = || source.downcast_ref::<Box<Error>>().map(Box::as_ref);
        source.downcast_ref::<Error>().or_else(boxed)
    };
    of(error).or_else(|| of(inner()?))
}

/// Atlas's own code, for a wrong login as for a right that is lacking.
const ATLAS: i32 = 8000;

/// Whether MongoDB refuses the user name or the password.
pub fn is_login_refused(error: &Error) -> bool {
    const AUTHENTICATION_FAILED: i32 = 18;
    let is_login = matches!(error.kind.as_ref(), ErrorKind::Authentication { .. });
    match code(error) {
        Some(AUTHENTICATION_FAILED) => true,
        Some(ATLAS) => is_login,
        _ => false,
    }
}

/// Whether MongoDB refuses a command for the lack of a right, or of a login.
pub fn is_unauthorized(error: &Error) -> bool {
    match code(error) {
        Some(UNAUTHORIZED) => true,
        Some(ATLAS) => !is_login_refused(error),
        _ => false,
    }
}

impl StoreError {
    /// The same error, of a command in which no document can be at fault.
    pub fn as_of_state(self) -> Self {
        match self {
            Self::Refused(why) => Self::Unavailable(why),
            Self::Unavailable(_) | Self::TimedOut | Self::Overloaded | Self::TooManyOwn => self,
        }
    }

    /// The error of a command in which no document can be at fault.
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
            // Only codes: the text of an error may quote a document.
            ErrorKind::Command(command) => {
                Self::Unavailable(format!("{} ({})", command.code_name, command.code))
            }
            ErrorKind::Write(WriteFailure::WriteError(error)) => {
                Self::Unavailable(format!("write error {}", error.code))
            }
            ErrorKind::Write(_) | ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) => {
                Self::Unavailable("a write failed".to_owned())
            }
            ErrorKind::ServerSelection { message, .. } => Self::Unavailable(servers(message)),
            ErrorKind::ConnectionPoolCleared { .. } => {
                Self::Unavailable("a connection was closed after the error of another".to_owned())
            }
            // Not the whole error: its text has labels, in any order, and the server's response in it.
            kind => Self::Unavailable(without_os_codes(&kind.to_string())),
        }
    }
}

/// Which servers the driver tried, and what it knows of each, from its long account of all that it knows.
fn servers(message: &str) -> String {
    let servers = message.split("Address: ").skip(1).filter_map(|server| {
        let (address, rest) = server.split_once(", Type: ")?;
        let known = match rest.split_once("Error: Kind: ") {
            Some((_, error)) => error.split(", labels: ").next()?,
            None => rest.split([',', ' ']).next()?,
        };
        let known = known.strip_prefix("I/O error: ").unwrap_or(known);
        Some(format!("{address} ({known})"))
    });
    let servers: Vec<_> = servers.collect();
    match servers.is_empty() {
        true => "no server can be selected".to_owned(),
        false => without_os_codes(&format!(
            "no server can be selected of {}",
            servers.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_text_is_for_people() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let told = StoreError::from(Error::from(refused)).to_string();
        assert_eq!(
            told,
            "MongoDB is not available: I/O error: connection refused"
        );
    }

    #[test]
    fn servers_are_told_without_the_drivers_own_terms() {
        let refused = "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary, \
                       Set Name: rs0, Servers: [ { Address: a:27017, Type: Unknown, Error: Kind: I/O error: \
                       Connection refused (os error 111), labels: {\"RetryableError\"}, source: None, server \
                       response: None }, { Address: b:27018, Type: RsSecondary, Average RTT: 1ms } ] }";
        assert_eq!(
            servers(refused),
            "no server can be selected of a:27017 (Connection refused), b:27018 (RsSecondary)"
        );
        let none = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [] }";
        assert_eq!(servers(none), "no server can be selected");
    }
}
