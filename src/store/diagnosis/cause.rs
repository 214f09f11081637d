//! Why MongoDB does not take writes.

/// Why MongoDB does not take writes, in a word that is stable. `docs/doctor.md` lists all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageReason {
    /// A name of the connection string is not resolved.
    NameNotResolved,
    /// No server accepts a connection.
    Unreachable,
    /// What accepts the connection does not speak MongoDB's protocol.
    NotMongodb,
    /// The servers belong to another replica set.
    WrongSetName,
    /// The connection string names a replica set, and the server is in none.
    NoReplicaSet,
    /// The replica set is not initiated.
    NotInitiated,
    /// The replica set has no primary.
    NoPrimary,
    /// The user name or the password is wrong.
    AuthenticationFailed,
    /// MongoDB demands a login, and the connection string has none.
    AuthenticationRequired,
    /// The user lacks rights.
    Unauthorized,
    /// A write is not confirmed by a majority in time.
    NotConfirmed,
    /// MongoDB does not answer, and nothing more is known yet.
    NotAnswering,
}

impl OutageReason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::NameNotResolved,
        Self::Unreachable,
        Self::NotMongodb,
        Self::WrongSetName,
        Self::NoReplicaSet,
        Self::NotInitiated,
        Self::NoPrimary,
        Self::AuthenticationFailed,
        Self::AuthenticationRequired,
        Self::Unauthorized,
        Self::NotConfirmed,
        Self::NotAnswering,
    ];

    /// The word for it.
    pub fn code(self) -> &'static str {
        match self {
            Self::NameNotResolved => "name_not_resolved",
            Self::Unreachable => "unreachable",
            Self::NotMongodb => "not_mongodb",
            Self::WrongSetName => "wrong_set_name",
            Self::NoReplicaSet => "no_replica_set",
            Self::NotInitiated => "not_initiated",
            Self::NoPrimary => "no_primary",
            Self::AuthenticationFailed => "authentication_failed",
            Self::AuthenticationRequired => "authentication_required",
            Self::Unauthorized => "unauthorized",
            Self::NotConfirmed => "not_confirmed",
            Self::NotAnswering => "not_answering",
        }
    }

    /// A sentence for `/readyz`, which anybody may ask: it names no host.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NameNotResolved => "a name in mongodb.uri is not resolved",
            Self::Unreachable => "MongoDB accepts no connection",
            Self::NotMongodb => "what accepts the connection does not answer as MongoDB does",
            Self::WrongSetName => "mongodb.uri names another replica set than the servers' own",
            Self::NoReplicaSet => "mongodb.uri names a replica set, and the server is in none",
            Self::NotInitiated => "the replica set is not initiated",
            Self::NoPrimary => "the replica set has no primary now",
            Self::AuthenticationFailed => {
                "MongoDB refuses the user name or the password of mongodb.uri"
            }
            Self::AuthenticationRequired => "MongoDB demands a login, and mongodb.uri has none",
            Self::Unauthorized => "the user of mongodb.uri lacks rights",
            Self::NotConfirmed => "MongoDB does not confirm a write on a majority in time",
            Self::NotAnswering => "MongoDB does not answer in time",
        }
    }
}

/// Why MongoDB does not take writes, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The word for it.
    pub reason: OutageReason,
    /// What was found: places and names, never a secret.
    pub found: String,
    /// What to do about it.
    pub way_out: String,
    /// Whether MongoDB itself has said so, and only a person can change it. What an election, a start or an outage can
    /// look like is not.
    pub is_permanent: bool,
}

impl Cause {
    /// A cause that may pass by itself.
    pub fn passing(
        reason: OutageReason,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            reason,
            found: found.into(),
            way_out: way_out.into(),
            is_permanent: false,
        }
    }

    pub(super) fn permanent(self, is_permanent: bool) -> Self {
        Self {
            is_permanent,
            ..self
        }
    }
}

/// What was found and the way out, on one line.
impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.found, self.way_out)
    }
}
