//! Why MongoDB does not take writes, found out by asking its servers one by one.
//!
//! The driver looks for a primary until its timeout, and then says that there is none; whether a name is misspelt, the
//! server is another replica set's or none's, or the password is wrong, its errors hardly tell. So the questions are
//! asked here, in the order in which one depends on the other: is the name resolved, is anybody there, is it MongoDB, is
//! it the replica set that is configured, has it a primary, may we log in, may we write, is a write confirmed.

mod cause;
mod checks;
mod further;
mod judge;
mod login;
mod servers;

use std::time::Duration;

use mongodb::options::{AuthMechanism, ClientOptions, ServerAddress};
use tokio::time::timeout;

use super::Store;
use super::error::StoreError;

pub use cause::{Cause, OutageReason};
pub use checks::{CHECKS, STANDALONE};
pub use login::Login;
use servers::{Hello, Server};

/// What MongoDB is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// A replica set.
    ReplicaSet,
    /// A server alone: when its disk is lost, so is everything, and while it restarts nothing is stored.
    Standalone,
    /// A sharded cluster.
    Sharded,
}

impl Deployment {
    /// The word for it in `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaSet => "replica_set",
            Self::Standalone => "standalone",
            Self::Sharded => "sharded",
        }
    }
}

/// What MongoDB's primary says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MongodbKind {
    /// What it is.
    pub deployment: Deployment,
    /// Whether it is older than 6.0, so that it refuses edits of messages.
    pub is_too_old: bool,
}

impl MongodbKind {
    fn of(hello: &Hello) -> Self {
        Self {
            deployment: if hello.is_mongos {
                Deployment::Sharded
            } else if hello.is_standalone() {
                Deployment::Standalone
            } else {
                Deployment::ReplicaSet
            },
            is_too_old: hello.is_too_old(),
        }
    }
}

/// What was found out about MongoDB.
#[derive(Debug)]
pub struct Diagnosis {
    /// The connection string, read and resolved; `None` where that failed.
    options: Option<ClientOptions>,
    /// The servers that were asked.
    servers: Vec<Server>,
    /// The position of the primary in `servers`.
    primary: Option<usize>,
    /// The login at the primary.
    login: Option<Login>,
    /// Why MongoDB does not take writes; `None` if it confirmed one.
    pub cause: Option<Cause>,
}

impl Diagnosis {
    /// What MongoDB is, if a primary was found.
    pub fn deployment(&self) -> Option<Deployment> {
        Some(self.kind()?.deployment)
    }

    /// What its primary says of itself.
    pub fn kind(&self) -> Option<MongodbKind> {
        Some(MongodbKind::of(self.primary()?.1))
    }

    fn primary(&self) -> Option<(&ServerAddress, &Hello)> {
        let server = self.servers.get(self.primary?)?;
        Some((&server.address, server.hello.as_ref().ok()?))
    }
}

impl Store {
    /// Finds out whether MongoDB confirms writes, and why not. Each question waits for an answer for `patience`. The last
    /// one is a write without effect, so nothing is changed.
    pub async fn diagnose(&self, uri: &str, patience: Duration) -> Diagnosis {
        let mut found = Diagnosis {
            options: None,
            servers: Vec::new(),
            primary: None,
            login: None,
            cause: None,
        };
        found.cause = self.find_cause(uri, patience, &mut found).await.err();
        found
    }

    async fn find_cause(
        &self,
        uri: &str,
        patience: Duration,
        found: &mut Diagnosis,
    ) -> Result<(), Cause> {
        let parsed = timeout(patience, ClientOptions::parse(uri)).await;
        // What else can be wrong with it is found by the validation of the configuration.
        let mut options = parsed.ok().and_then(Result::ok).ok_or_else(judge::no_srv)?;
        options.app_name.get_or_insert("im-callback".to_owned());
        found.servers = servers::ask_all(&options, patience).await;
        let expected = options.repl_set_name.clone();
        let options = found.options.insert(options);
        let is_direct = options.direct_connection == Some(true);
        let primary = judge::find_primary(&found.servers, expected.as_deref(), is_direct)?;
        found.primary = Some(primary);
        let Server { address, hello, .. } = &found.servers[primary];
        let Ok(hello) = hello else {
            return Err(judge::no_answer(address, "no answer in time"));
        };
        // Another member that is silent may be the primary by now, with other passwords and rights.
        let all_answer = found.servers.iter().all(|server| server.hello.is_ok());
        let unless_silent = |cause: Cause| {
            let is_permanent = cause.is_permanent && all_answer;
            cause.permanent(is_permanent)
        };
        let login = self.log_in(options, address, hello, patience).await;
        let login = found.login.insert(login.map_err(unless_silent)?);
        let Err(error) = self.probe().await else {
            return Ok(());
        };
        let refused = timeout(patience, login.refused_write()).await;
        Err(match refused.ok().flatten() {
            Some(lacking) => unless_silent(judge::unauthorized(address, &lacking, login)),
            None => judge::not_confirmed(&error),
        })
    }

    /// What MongoDB is, and whether it is older than 6.0, without a login: `None` where no primary answers.
    pub async fn look(&self, uri: &str, patience: Duration) -> Option<MongodbKind> {
        let options = timeout(patience, ClientOptions::parse(uri))
            .await
            .ok()?
            .ok()?;
        let servers = servers::ask_all(&options, patience).await;
        let is_direct = options.direct_connection == Some(true);
        let expected = options.repl_set_name.as_deref();
        let primary = judge::find_primary(&servers, expected, is_direct).ok()?;
        Some(MongodbKind::of(servers[primary].hello.as_ref().ok()?))
    }

    async fn log_in(
        &self,
        options: &ClientOptions,
        address: &ServerAddress,
        hello: &Hello,
        patience: Duration,
    ) -> Result<Login, Cause> {
        let client = servers::logged_in(options, address, patience);
        let client = client
            .map_err(|error| judge::no_answer(address, &StoreError::from(error).to_string()))?;
        let login = Login::try_with(client, &self.settings.database);
        match timeout(patience, login).await {
            Ok(Ok(login)) => Ok(login),
            Ok(Err(error)) => {
                let credential = options.credential.as_ref();
                let mechanism = credential.map(|c| c.mechanism.as_ref());
                Err(judge::no_login(address, hello, &error, mechanism))
            }
            Err(_) => Err(judge::no_answer(address, "no answer in time")),
        }
    }
}

/// Whether the server decides about this login by itself. An LDAP server that is away looks like a wrong password.
fn is_decided_by_mongodb(mechanism: Option<&AuthMechanism>) -> bool {
    use AuthMechanism::{MongoDbX509, ScramSha1, ScramSha256};
    mechanism.is_none_or(|m| matches!(m, ScramSha1 | ScramSha256 | MongoDbX509))
}
