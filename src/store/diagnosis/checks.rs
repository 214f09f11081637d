//! A diagnosis as the doctor's lines.

use super::cause::OutageReason;
use super::further::{self, DISK, OPTIONS, VERSION};
use super::judge::{addresses, silent};
use super::{Deployment, Diagnosis};
use crate::check::Check;
use crate::words::counted;

/// The checks that one cause can fail, in the order in which one depends on the other.
const NAMES: &str = "mongodb.names";
const REACHABLE: &str = "mongodb.reachable";
const PROTOCOL: &str = "mongodb.protocol";
const REPLICA_SET: &str = "mongodb.replica_set";
const PRIMARY: &str = "mongodb.primary";
const LOGIN: &str = "mongodb.login";
const RIGHTS: &str = "mongodb.rights";
const MAJORITY: &str = "mongodb.majority";
const STAGES: [&str; 8] = [
    NAMES,
    REACHABLE,
    PROTOCOL,
    REPLICA_SET,
    PRIMARY,
    LOGIN,
    RIGHTS,
    MAJORITY,
];

const CLOCK: &str = "mongodb.clock";
const MEMBERS_CLOCKS: &str = "mongodb.members_clocks";

/// The names of all checks that [`Diagnosis::checks`] makes.
pub const CHECKS: [&str; 13] = [
    NAMES,
    REACHABLE,
    PROTOCOL,
    REPLICA_SET,
    PRIMARY,
    LOGIN,
    RIGHTS,
    MAJORITY,
    OPTIONS,
    VERSION,
    CLOCK,
    MEMBERS_CLOCKS,
    DISK,
];

/// The check that fails for this reason.
fn stage(reason: OutageReason) -> &'static str {
    match reason {
        OutageReason::NameNotResolved => NAMES,
        OutageReason::Unreachable => REACHABLE,
        OutageReason::NotMongodb => PROTOCOL,
        OutageReason::WrongSetName | OutageReason::NoReplicaSet | OutageReason::NotInitiated => {
            REPLICA_SET
        }
        OutageReason::NoPrimary => PRIMARY,
        OutageReason::AuthenticationFailed | OutageReason::AuthenticationRequired => LOGIN,
        OutageReason::Unauthorized => RIGHTS,
        OutageReason::NotConfirmed | OutageReason::NotAnswering => MAJORITY,
    }
}

/// How far the clocks may be apart.
const OUR_CLOCK: i64 = 1_000;
const OUR_CLOCK_AT_MOST: i64 = 60_000;
/// The margin of the leases by which counts are called complete.
const CLOCKS_OF_MEMBERS: i64 = 250;

impl Diagnosis {
    /// Every check of MongoDB: in its order those that decide whether it takes writes, then what else is to be known.
    pub async fn checks(&self) -> Vec<Check> {
        let failed = self.cause.as_ref().map(|cause| match stage(cause.reason) {
            MAJORITY if self.login.is_none() => LOGIN,
            stage => stage,
        });
        let at = failed.and_then(|name| STAGES.iter().position(|stage| *stage == name));
        let passed = at.unwrap_or(STAGES.len());
        let mut checks: Vec<Check> = STAGES[..passed]
            .iter()
            .map(|name| self.passed(name))
            .collect();
        if let (Some(cause), Some(failed)) = (&self.cause, failed) {
            checks.push(Check::error(failed, &cause.found, &cause.way_out));
            let later = &STAGES[passed + 1..];
            checks.extend(
                later
                    .iter()
                    .map(|name| Check::not_checked(name, format!("{failed} comes first"))),
            );
        }
        if let Some(options) = &self.options {
            checks.push(further::of_options(options));
        }
        match &self.login {
            Some(login) => checks.push(further::version(login).await),
            None => checks.push(Check::not_checked(VERSION, "there is no login")),
        }
        checks.extend(self.clocks());
        if let Some(login) = &self.login {
            checks.extend(further::disk(login).await);
        }
        checks
    }

    fn passed(&self, name: &'static str) -> Check {
        let configured = self.servers.iter().filter(|server| server.is_configured);
        match name {
            NAMES => Check::ok(
                name,
                format!("{} in mongodb.uri", counted(configured.count(), "server")),
            ),
            REACHABLE => {
                let open = addresses(&self.servers, |_| true);
                match silent(&self.servers) {
                    silent if silent.is_empty() => Check::ok(name, format!("{open} answers")),
                    silent => Check::warning(
                        name,
                        format!("{open} answers, but not {silent}"),
                        "the service works as long as a majority of the members does; members are found by their addresses in rs.conf(), so these must be resolved and reached from this machine",
                    ),
                }
            }
            PROTOCOL => Check::ok(name, "it answers as MongoDB does"),
            REPLICA_SET => self.replica_set(),
            PRIMARY => {
                let address = self.primary().map(|(address, _)| address.to_string());
                Check::ok(name, address.unwrap_or_default())
            }
            LOGIN
                if self
                    .login
                    .as_ref()
                    .is_some_and(|login| !login.is_somebody()) =>
            {
                Check::warning(
                    name,
                    "MongoDB asks for no login",
                    "anybody who reaches it can read and change everything: enable access control unless nobody else can reach it",
                )
            }
            LOGIN => Check::ok(name, "the login of mongodb.uri is accepted"),
            RIGHTS => self.rights(),
            _ => Check::ok(
                name,
                "a majority of the members confirms writes to its journal",
            ),
        }
    }

    fn replica_set(&self) -> Check {
        let hello = self.primary().map(|(_, hello)| hello);
        let set = hello.and_then(|hello| hello.set_name.as_deref());
        let names_set = self
            .options
            .as_ref()
            .is_some_and(|o| o.repl_set_name.is_some());
        match (self.deployment(), set) {
            (Some(Deployment::Standalone), _) => {
                let (found, way_out) = STANDALONE;
                Check::warning(REPLICA_SET, found, way_out)
            }
            (Some(Deployment::Sharded), _) => Check::ok(REPLICA_SET, "a sharded cluster"),
            (_, Some(set)) if !names_set => Check::ok(
                REPLICA_SET,
                format!(
                    "`{set}`; mongodb.uri does not name it: with replicaSet={set} the service refuses to write to another"
                ),
            ),
            (_, set) => {
                let members = hello.map_or(0, |hello| hello.members.len());
                let set = set.unwrap_or_default();
                Check::ok(
                    REPLICA_SET,
                    format!("`{set}`, {}", counted(members, "member")),
                )
            }
        }
    }

    fn rights(&self) -> Check {
        let Some(login) = &self.login else {
            return Check::not_checked(RIGHTS, "there is no login");
        };
        if !login.is_somebody() {
            return Check::ok(RIGHTS, "without a login everything is allowed");
        }
        if !login.is_told_rights() {
            return Check::ok(
                RIGHTS,
                "MongoDB confirms writes, and does not tell the user's rights",
            );
        }
        let lacks = login.lacks(login.database.name());
        if !lacks.is_empty() {
            let lacking = format!("the user lacks {}", lacks.join("; "));
            return match login.consequence(login.database.name()) {
                Some(consequence) => Check::error(
                    RIGHTS,
                    format!("{lacking}: {consequence}"),
                    "give it the role readWrite on mongodb.database",
                ),
                None => Check::warning(
                    RIGHTS,
                    format!("the user may store and count; {lacking}"),
                    "give it the role readWrite on mongodb.database, or let another user run `im-callback indexes`",
                ),
            };
        }
        let found = format!(
            "find, insert, update, remove and indexes, by {}",
            login.roles()
        );
        Check::ok(RIGHTS, found)
    }

    fn clocks(&self) -> Vec<Check> {
        let Some((_, primary)) = self.primary() else {
            let why = "no primary answers";
            return vec![Check::not_checked(CLOCK, why)];
        };
        let (ahead, within) = (primary.ahead_ms, primary.within_ms);
        let apart = ahead.saturating_abs().saturating_sub(within).max(0);
        let word = if ahead > 0 { "behind" } else { "ahead of" };
        let found = format!(
            "this machine's clock is {} ms {word} MongoDB's",
            ahead.saturating_abs()
        );
        let way_out = "let both keep time by NTP: receivedAt, an app's `freshness` and the check for receipts of the future go by this machine's clock, retention and the leases of spools by MongoDB's";
        let ours = if apart >= OUR_CLOCK_AT_MOST {
            Check::error(CLOCK, found, way_out)
        } else if apart >= OUR_CLOCK {
            Check::warning(CLOCK, found, way_out)
        } else {
            Check::ok(
                CLOCK,
                format!("this machine's and MongoDB's differ by less than {OUR_CLOCK} ms"),
            )
        };
        let mut checks = vec![ours];
        let all: Vec<_> = self
            .servers
            .iter()
            .filter_map(|s| s.hello.as_ref().ok())
            .collect();
        if all.len() > 1 {
            let most = all
                .iter()
                .map(|hello| hello.ahead_ms - hello.within_ms)
                .max();
            let least = all
                .iter()
                .map(|hello| hello.ahead_ms + hello.within_ms)
                .min();
            let apart = most.unwrap_or_default() - least.unwrap_or_default();
            checks.push(if apart > CLOCKS_OF_MEMBERS {
                Check::warning(
                    MEMBERS_CLOCKS,
                    format!("the members' clocks are {apart} ms apart"),
                    format!("let them keep time by NTP: with more than {CLOCKS_OF_MEMBERS} ms a fail-over may make a count claim to be complete while callbacks wait in a spool"),
                )
            } else {
                Check::ok(MEMBERS_CLOCKS, format!("they differ by less than {CLOCKS_OF_MEMBERS} ms"))
            });
        }
        checks
    }
}

/// What is to be said of a server alone, by the doctor and at the start of the service.
pub const STANDALONE: (&str, &str) = (
    "this is a STANDALONE mongod: while it is down nothing is stored, and when its disk is lost so is everything",
    "start mongod with --replSet rs0, run rs.initiate() once in mongosh, and write replicaSet=rs0 in mongodb.uri; one node is enough",
);
