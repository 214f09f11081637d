//! Asks each MongoDB server by itself what it is. `hello` needs no login and no primary, so it is answered where nothing
//! else is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, ServerAddress};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// The most members that are asked beyond those of the connection string; a replica set has up to 50.
const MOST_MEMBERS: usize = 50;

/// A server, and what it said.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: ServerAddress,
    /// Whether the connection string names it; otherwise another member did.
    pub is_configured: bool,
    /// Its answer to `hello`, or how far the question came.
    pub hello: Result<Hello, Unanswered>,
}

/// Why a server did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// Its name is not resolved.
    Name,
    /// It accepts no connection.
    Connection(String),
    /// It accepts connections, and does not answer in MongoDB's protocol.
    Protocol,
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// The name of its replica set.
    pub set_name: Option<String>,
    /// Whether it was started for a replica set that is not initiated, or that it does not know yet.
    pub is_uninitiated: bool,
    /// Whether it takes writes.
    pub is_primary: bool,
    /// Whether it is another member that holds data.
    pub is_secondary: bool,
    /// The election that made it the primary, and the version of the set's configuration: of two that claim to be the
    /// primary, the one with the higher pair is.
    pub election: Option<([u8; 12], i32)>,
    /// The newest version of the wire protocol that it speaks.
    pub wire_version: i32,
    /// Whether it is a `mongos`.
    pub is_mongos: bool,
    /// The members' addresses, as the set knows them.
    pub members: Vec<String>,
    /// Its clock minus this machine's, in milliseconds.
    pub ahead_ms: i64,
    /// How far off that may be, in milliseconds.
    pub within_ms: i64,
}

impl Hello {
    /// Whether it is a server alone, without a replica set.
    pub fn is_standalone(&self) -> bool {
        self.set_name.is_none() && !self.is_uninitiated && !self.is_mongos
    }

    /// Whether it is older than MongoDB 6.0.
    pub fn is_too_old(&self) -> bool {
        const OF_6_0: i32 = 17;
        self.wire_version < OF_6_0
    }

    fn read(reply: &Document, asked: SystemTime, took: Duration) -> Self {
        let flag = |name: &str| reply.get_bool(name).unwrap_or_default();
        let text = |name: &str| reply.get_str(name).ok().map(str::to_owned);
        let half = i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX);
        let asked = asked.duration_since(UNIX_EPOCH).unwrap_or_default();
        let asked = i64::try_from(asked.as_millis()).unwrap_or(i64::MAX);
        let told = reply.get_datetime("localTime");
        let told = told.map_or(asked, |at| at.timestamp_millis());
        let members = ["hosts", "passives"].map(|name| reply.get_array(name).ok());
        let members = members.into_iter().flatten().flatten();
        Self {
            set_name: text("setName"),
            is_uninitiated: flag("isreplicaset"),
            is_primary: flag("isWritablePrimary"),
            is_secondary: flag("secondary"),
            election: reply.get_object_id("electionId").ok().map(|id| {
                let version = reply.get_i32("setVersion").unwrap_or_default();
                (id.bytes(), version)
            }),
            wire_version: reply.get_i32("maxWireVersion").unwrap_or_default(),
            is_mongos: text("msg").is_some_and(|msg| msg == "isdbgrid"),
            members: members
                .filter_map(|member| member.as_str().map(str::to_owned))
                .collect(),
            ahead_ms: told.saturating_sub(asked.saturating_add(half)),
            within_ms: half.saturating_add(1),
        }
    }
}

/// Asks all servers of the connection string at once, then the members that these name, unless the connection is direct.
pub async fn ask_all(options: &ClientOptions, patience: Duration) -> Vec<Server> {
    let ask = |address: ServerAddress, is_configured| async move {
        Server {
            hello: ask(options, &address, patience).await,
            address,
            is_configured,
        }
    };
    let configured = options.hosts.iter();
    let mut servers = join_all(configured.map(|host| ask(host.clone(), true))).await;
    if options.direct_connection != Some(true) {
        let answers = servers
            .iter()
            .filter_map(|server| server.hello.as_ref().ok());
        let named = answers.flat_map(|hello| &hello.members);
        let mut others: Vec<ServerAddress> = Vec::new();
        for address in named.filter_map(|name| ServerAddress::parse(name).ok()) {
            let is_known = servers.iter().any(|server| server.address == address);
            if !is_known && !others.contains(&address) && others.len() < MOST_MEMBERS {
                others.push(address);
            }
        }
        servers.extend(join_all(others.into_iter().map(|host| ask(host, false))).await);
    }
    servers
}

async fn ask(
    options: &ClientOptions,
    address: &ServerAddress,
    patience: Duration,
) -> Result<Hello, Unanswered> {
    connect(address, patience).await?;
    let options = alone(options, address, patience);
    let asking = async {
        let client = Client::with_options(options).ok()?;
        let admin = client.database("admin");
        let (at, since) = (SystemTime::now(), Instant::now());
        // The first question includes the connection, so the second one is timed.
        let first = admin.run_command(doc! { "hello": 1 }).await.ok()?;
        let first = Hello::read(&first, at, since.elapsed());
        let (at, since) = (SystemTime::now(), Instant::now());
        let second = admin.run_command(doc! { "hello": 1 }).await.ok();
        let hello = second.map_or(first, |reply| Hello::read(&reply, at, since.elapsed()));
        client.shutdown().immediate(true).await;
        Some(hello)
    };
    let answered = timeout(patience, asking).await;
    answered.ok().flatten().ok_or(Unanswered::Protocol)
}

/// Resolves the name and opens a connection, to tell these apart from a server that does not answer.
async fn connect(address: &ServerAddress, patience: Duration) -> Result<(), Unanswered> {
    let ServerAddress::Tcp { host, port } = address else {
        return Ok(());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let named = lookup_host((host, port.unwrap_or(27017)));
    let found = match timeout(patience, named).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(_)) | Err(_) => return Err(Unanswered::Name),
    };
    let mut why = Unanswered::Name;
    for address in found {
        why = match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => Unanswered::Connection(in_words(&error)),
            Err(_) => Unanswered::Connection("no answer in time".to_owned()),
        };
    }
    Err(why)
}

fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        kind => kind.to_string(),
    }
}

/// The same options for this server alone, and without a login.
fn alone(options: &ClientOptions, address: &ServerAddress, patience: Duration) -> ClientOptions {
    let mut options = options.clone();
    options.hosts = vec![address.clone()];
    options.direct_connection = Some(true);
    options.repl_set_name = None;
    options.load_balanced = None;
    options.credential = None;
    options.max_pool_size = Some(1);
    options.min_pool_size = None;
    options.connect_timeout = Some(patience);
    options.server_selection_timeout = Some(patience);
    options
}

/// A client of this server alone, with the connection string's login.
pub fn logged_in(
    options: &ClientOptions,
    address: &ServerAddress,
    patience: Duration,
) -> mongodb::error::Result<Client> {
    let mut one = alone(options, address, patience);
    one.credential.clone_from(&options.credential);
    Client::with_options(one)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;

    #[test]
    fn the_clock_is_compared_with_the_middle_of_the_question() {
        let asked = UNIX_EPOCH + Duration::from_millis(10_000);
        let reply = doc! { "localTime": DateTime::from_millis(12_100) };
        let hello = Hello::read(&reply, asked, Duration::from_millis(200));
        assert_eq!((hello.ahead_ms, hello.within_ms), (2_000, 101));
        assert!(hello.is_standalone());
    }

    #[tokio::test]
    async fn a_question_that_nobody_answers_says_how_far_it_came() {
        let patience = Duration::from_millis(500);
        let ask = async |uri: &str| {
            let options = ClientOptions::parse(uri).await.unwrap();
            let mut servers = ask_all(&options, patience).await;
            servers.remove(0).hello.unwrap_err()
        };
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let uri = format!("mongodb://{address}/");
        assert_eq!(ask(&uri).await, Unanswered::Protocol);
        drop(silent);
        let refused = Unanswered::Connection("connection refused".to_owned());
        assert_eq!(ask(&uri).await, refused);
        assert_eq!(ask("mongodb://nowhere.invalid/").await, Unanswered::Name);
    }
}
