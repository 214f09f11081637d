//! Judges the answers of the servers: the first that is not as it should be is the cause.

use mongodb::error::Error;
use mongodb::options::{AuthMechanism, ServerAddress};

use super::cause::{Cause, OutageReason};
use super::is_decided_by_mongodb;
use super::login::Login;
use super::servers::{Hello, Server, Unanswered};
use crate::store::error::{StoreError, is_login_refused, is_unauthorized};

pub(super) fn no_srv() -> Cause {
    Cause::passing(
        OutageReason::NameNotResolved,
        "the name of the `mongodb+srv` address in mongodb.uri is not resolved",
        "check the name, and the name servers of this machine",
    )
}

/// The servers that did not answer, with why: `a:1 (connection refused), b:2 (name not resolved)`.
pub(super) fn silent(servers: &[Server]) -> String {
    let each = servers.iter().filter_map(|server| {
        let why = match server.hello.as_ref().err()? {
            Unanswered::Name => "name not resolved",
            Unanswered::Connection(why) => why,
            Unanswered::Protocol => "no answer as MongoDB's",
        };
        Some(format!("{} ({why})", server.address))
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The position of the primary of the replica set that is configured. `is_direct` is `directConnection` of the
/// connection string.
pub(super) fn find_primary(
    servers: &[Server],
    expected: Option<&str>,
    is_direct: bool,
) -> Result<usize, Cause> {
    let answered: Vec<&Hello> = servers
        .iter()
        .filter_map(|s| s.hello.as_ref().ok())
        .collect();
    if answered.is_empty() {
        return Err(nobody(servers));
    }
    let is_ours = |hello: &Hello| expected.is_none() || hello.set_name.as_deref() == expected;
    if let Some(expected) = expected
        && !answered
            .iter()
            .any(|hello| is_ours(hello) || hello.is_uninitiated)
    {
        // A server that did not answer might be of the right set.
        let all_said_so = answered.len() == servers.len();
        return Err(another_set(servers, expected).permanent(all_said_so));
    }
    let is_primary = |hello: &Hello| hello.is_primary && is_ours(hello);
    // One that is cut off from the others claims it for some seconds after they have elected another.
    let primaries = servers.iter().enumerate().filter_map(|(at, server)| {
        let hello = server.hello.as_ref().ok()?;
        is_primary(hello).then_some((hello.election, std::cmp::Reverse(at)))
    });
    let primary = primaries.max().map(|(_, at)| at.0);
    primary.ok_or_else(|| {
        if is_direct && answered.iter().any(|hello| hello.is_secondary) {
            return secondary(servers);
        }
        if answered.iter().any(|hello| hello.set_name.is_some() && is_ours(hello)) {
            return no_primary(servers);
        }
        let name = expected.unwrap_or("rs0");
        Cause::passing(
            OutageReason::NotInitiated,
            format!(
                "{} runs with --replSet, and its replica set is not initiated",
                addresses(servers, |hello| hello.is_uninitiated)
            ),
            format!("run rs.initiate({{_id: \"{name}\", members: [{{_id: 0, host: \"HOST:PORT\"}}]}}) in mongosh, with all members"),
        )
    })
}

fn nobody(servers: &[Server]) -> Cause {
    let are_all = |is: fn(&Unanswered) -> bool| {
        servers
            .iter()
            .all(|server| server.hello.as_ref().is_err_and(is))
    };
    let silent = silent(servers);
    if are_all(|why| *why == Unanswered::Name) {
        let way_out = "check the names in mongodb.uri, and the name servers of this machine";
        Cause::passing(
            OutageReason::NameNotResolved,
            format!("cannot reach {silent}"),
            way_out,
        )
    } else if servers.iter().any(|s| {
        s.hello
            .as_ref()
            .is_err_and(|why| *why == Unanswered::Protocol)
    }) {
        let way_out = "check the port; if MongoDB demands TLS, add tls=true to mongodb.uri, and if it has none, remove it";
        Cause::passing(
            OutageReason::NotMongodb,
            format!("cannot talk to {silent}"),
            way_out,
        )
    } else {
        let way_out = "start MongoDB, or check host and port in mongodb.uri and the firewall";
        Cause::passing(
            OutageReason::Unreachable,
            format!("cannot reach {silent}"),
            way_out,
        )
    }
}

fn another_set(servers: &[Server], expected: &str) -> Cause {
    let named = servers.iter().find_map(|server| {
        let set = server.hello.as_ref().ok()?.set_name.as_ref()?;
        Some((&server.address, set))
    });
    if let Some((address, set)) = named {
        return Cause::passing(
            OutageReason::WrongSetName,
            format!(
                "mongodb.uri names the replica set `{expected}`, and {address} is a member of `{set}`"
            ),
            format!("write replicaSet={set} in mongodb.uri, if that is the right server"),
        );
    }
    let address = addresses(servers, |_| true);
    if servers
        .iter()
        .any(|s| s.hello.as_ref().is_ok_and(|hello| hello.is_mongos))
    {
        return Cause::passing(
            OutageReason::NoReplicaSet,
            format!(
                "mongodb.uri names the replica set `{expected}`, and {address} is a mongos of a sharded cluster"
            ),
            "remove replicaSet from mongodb.uri",
        );
    }
    Cause::passing(
        OutageReason::NoReplicaSet,
        format!(
            "mongodb.uri names the replica set `{expected}`, and {address} is a STANDALONE mongod, in no replica set"
        ),
        format!("start mongod with --replSet {expected}, and run rs.initiate() once"),
    )
}

fn no_primary(servers: &[Server]) -> Cause {
    let silent = silent(servers);
    let others = if silent.is_empty() {
        String::new()
    } else {
        format!("; not answering: {silent}")
    };
    Cause::passing(
        OutageReason::NoPrimary,
        format!("the replica set has no primary now{others}"),
        "wait for the election; if it lasts, a majority of the members is down or apart: look at rs.status() in mongosh",
    )
}

/// The driver asks no other server than this one, so to wait for an election would not help.
fn secondary(servers: &[Server]) -> Cause {
    let address = addresses(servers, |hello| hello.is_secondary);
    let set = servers
        .iter()
        .find_map(|server| server.hello.as_ref().ok()?.set_name.as_deref());
    let set = set.unwrap_or("NAME");
    Cause::passing(
        OutageReason::NoPrimary,
        format!(
            "mongodb.uri has directConnection=true, and {address} is a SECONDARY of `{set}`, which takes no writes"
        ),
        format!(
            "write replicaSet={set} instead of directConnection=true, with all members' addresses"
        ),
    )
}

/// The addresses of the servers of which this is so.
pub(super) fn addresses(servers: &[Server], is_so: impl Fn(&Hello) -> bool) -> String {
    let found = servers
        .iter()
        .filter(|s| s.hello.as_ref().is_ok_and(&is_so));
    let found: Vec<_> = found.map(|server| server.address.to_string()).collect();
    found.join(", ")
}

/// Why the login failed. `mechanism` is that of the connection string's login, if there is one.
pub(super) fn no_login(
    address: &ServerAddress,
    hello: &Hello,
    error: &Error,
    mechanism: Option<Option<&AuthMechanism>>,
) -> Cause {
    if is_login_refused(error) {
        // A mongos knows users from its config servers, and says the same while these elect a primary.
        let is_final = is_decided_by_mongodb(mechanism.flatten()) && !hello.is_mongos;
        return Cause::passing(
            OutageReason::AuthenticationFailed,
            format!("{address} refuses the user name or the password of mongodb.uri (AuthenticationFailed, 18)"),
            "set the right ones, percent-encoded, and authSource=DATABASE if the user is not of `admin`",
        )
        .permanent(is_final);
    }
    if is_unauthorized(error) && mechanism.is_none() {
        return Cause::passing(
            OutageReason::AuthenticationRequired,
            format!("{address} demands a login (Unauthorized, 13), and mongodb.uri has none"),
            "write mongodb://USER:PASSWORD@HOST/?replicaSet=NAME, and give the user the role readWrite on the database",
        )
        .permanent(true);
    }
    no_answer(address, &StoreError::from(error.clone()).to_string())
}

/// The primary answered `hello`, and not to a login.
pub(super) fn no_answer(address: &ServerAddress, why: &str) -> Cause {
    Cause::passing(
        OutageReason::NotAnswering,
        format!("{address} does not answer a login: {why}"),
        "look at MongoDB's log, and try again",
    )
}

pub(super) fn unauthorized(address: &ServerAddress, lacking: &str, login: &Login) -> Cause {
    let roles = login.roles();
    Cause::passing(
        OutageReason::Unauthorized,
        format!("the user of mongodb.uri may log in at {address} and lacks the right to {lacking}; its roles: {roles}"),
        "give it the role readWrite on mongodb.database",
    )
    .permanent(true)
}

/// All is as it should be, and yet no write is confirmed.
pub(super) fn not_confirmed(error: &StoreError) -> Cause {
    let found = match error {
        StoreError::TimedOut => "MongoDB does not confirm a write on a majority in time".to_owned(),
        error => error.to_string(),
    };
    Cause::passing(
        OutageReason::NotConfirmed,
        found,
        "look at rs.status() in mongosh: a majority of the members must be up and keep up, and their addresses in rs.conf() must be reachable from this machine",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn server(hello: Result<Hello, Unanswered>) -> Server {
        Server {
            address: ServerAddress::parse("mongo:27017").unwrap(),
            is_configured: true,
            hello,
        }
    }

    fn member(set: &str, is_primary: bool) -> Result<Hello, Unanswered> {
        Ok(Hello {
            set_name: Some(set.to_owned()),
            is_primary,
            ..Hello::default()
        })
    }

    fn judged(
        expected: Option<&str>,
        hellos: Vec<Result<Hello, Unanswered>>,
    ) -> (OutageReason, bool) {
        let servers: Vec<_> = hellos.into_iter().map(server).collect();
        let cause = find_primary(&servers, expected, false).unwrap_err();
        (cause.reason, cause.is_permanent)
    }

    /// What an election, a start or a partition can look like must never end a service.
    #[test]
    fn only_what_every_server_has_said_is_permanent() {
        let alone = || {
            Ok(Hello {
                is_primary: true,
                ..Hello::default()
            })
        };
        let starting = || {
            Ok(Hello {
                is_uninitiated: true,
                ..Hello::default()
            })
        };
        let away = || Err(Unanswered::Connection("connection refused".to_owned()));
        let cases = [
            (vec![member("rs1", true)], OutageReason::WrongSetName, true),
            (
                vec![member("rs1", true), away()],
                OutageReason::WrongSetName,
                false,
            ),
            (vec![alone()], OutageReason::NoReplicaSet, true),
            (vec![alone(), away()], OutageReason::NoReplicaSet, false),
            (vec![alone(), starting()], OutageReason::NotInitiated, false),
            (vec![starting()], OutageReason::NotInitiated, false),
            (
                vec![member("rs0", false), member("rs0", false)],
                OutageReason::NoPrimary,
                false,
            ),
            (
                vec![member("rs0", false), member("rs1", true)],
                OutageReason::NoPrimary,
                false,
            ),
            (
                vec![member("rs0", false), away()],
                OutageReason::NoPrimary,
                false,
            ),
            (vec![away(), away()], OutageReason::Unreachable, false),
            (
                vec![Err(Unanswered::Protocol), away()],
                OutageReason::NotMongodb,
                false,
            ),
            (
                vec![Err(Unanswered::Name)],
                OutageReason::NameNotResolved,
                false,
            ),
        ];
        for (hellos, reason, is_permanent) in cases {
            let of = format!("{hellos:?}");
            assert_eq!(judged(Some("rs0"), hellos), (reason, is_permanent), "{of}");
        }
        // Without a set in the connection string any primary will do.
        assert_eq!(find_primary(&[server(alone())], None, false), Ok(0));
        assert_eq!(
            find_primary(&[server(member("rs1", true))], None, false),
            Ok(0)
        );
        assert_eq!(
            judged(None, vec![starting()]),
            (OutageReason::NotInitiated, false)
        );
    }

    /// One that is cut off may have old passwords.
    #[test]
    fn of_two_primaries_the_later_one_is_asked() {
        let elected = |second: u8, version| {
            let mut election = [0; 12];
            election[11] = second;
            server(member("rs0", true).map(|hello| Hello {
                election: Some((election, version)),
                ..hello
            }))
        };
        let found = |servers: &[Server]| find_primary(servers, Some("rs0"), false);
        assert_eq!(found(&[elected(1, 9), elected(2, 1)]), Ok(1));
        assert_eq!(found(&[elected(2, 1), elected(1, 9)]), Ok(0));
        assert_eq!(found(&[elected(1, 2), elected(1, 3)]), Ok(1));
    }

    #[test]
    fn a_direct_connection_to_a_secondary_is_named() {
        let secondary = || {
            server(member("rs0", false).map(|hello| Hello {
                is_secondary: true,
                ..hello
            }))
        };
        let cause = find_primary(&[secondary()], None, true).unwrap_err();
        assert_eq!(cause.reason, OutageReason::NoPrimary);
        for word in [
            "directConnection=true",
            "SECONDARY of `rs0`",
            "replicaSet=rs0",
        ] {
            assert!(cause.to_string().contains(word), "{cause}");
        }
        let cause = find_primary(&[secondary()], None, false).unwrap_err();
        assert!(cause.way_out.contains("wait for the election"), "{cause}");
    }
}
