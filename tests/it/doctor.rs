//! `im-callback doctor` on real servers, each wrong in another way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mongodb::Client;
use serde_json::Value;

use crate::support::mongod::{Mongod, ReplicaSet};
use crate::support::process::Process;
use crate::support::{database_name, mongodb_uri, port, skip};

/// The doctor's checks by name; of several of one name, the last.
struct Examined {
    checks: BTreeMap<String, Value>,
    code: Option<i32>,
    text: String,
}

impl Examined {
    fn by(process: &Process) -> Self {
        let since = Instant::now();
        let output = process.run(&["doctor", "--json"]);
        // Whatever hangs, the doctor does not.
        assert!(since.elapsed() < Duration::from_secs(20));
        let text = String::from_utf8(output.stdout).unwrap();
        let mut checks = BTreeMap::new();
        for line in text.lines() {
            let check: Value = serde_json::from_str(line).unwrap();
            let name = check["check"].as_str().unwrap().to_owned();
            checks.insert(name, check);
        }
        Self {
            checks,
            code: output.status.code(),
            text,
        }
    }

    fn of(uri: &str) -> Self {
        Self::by(&Process::new(uri, &database_name(), ""))
    }

    #[track_caller]
    fn expect(&self, check: &str, result: &str, words: &[&str]) {
        let found = &self.checks[check];
        assert_eq!(found["result"], result, "{check} in {}", self.text);
        let said = format!("{} {}", found["found"], found["way_out"]);
        for word in words {
            assert!(said.contains(word), "{word} in {said}");
        }
    }

    /// One check fails, and those that depend on it say that they were not made.
    #[track_caller]
    fn expect_error(&self, check: &str, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        self.expect(check, "error", words);
        self.expect("mongodb.majority", "not_checked", &[check]);
        self.expect("indexes", "not_checked", &["MongoDB does not take writes"]);
        self.expect("retention", "not_checked", &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_the_doctor_says_so_and_changes_nothing() {
    let name = database_name();
    let process = Process::new(&mongodb_uri(), &name, "");
    let found = Examined::by(&process);
    assert_eq!(found.code, Some(0), "{}", found.text);
    for check in [
        "configuration",
        "environment",
        "open_files",
        "spool.space",
        "spool.contents",
        "mongodb.names",
        "mongodb.reachable",
        "mongodb.protocol",
        "mongodb.primary",
        "mongodb.rights",
        "mongodb.majority",
        "mongodb.options",
        "mongodb.version",
        "mongodb.clock",
        "retention",
    ] {
        found.expect(check, "ok", &[]);
    }
    found.expect("mongodb.replica_set", "ok", &["`rs0`", "1 member"]);
    found.expect("mongodb.login", "warning", &["no login"]);
    let missing = ["make unread_by_peer on messages", "im-callback indexes"];
    found.expect("indexes", "warning", &missing);
    found.expect("service", "ok", &["does not run", "is free"]);
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let left = client.database(&name).list_collection_names().await;
    assert_eq!(left.unwrap(), Vec::<String>::new());
    let spool = process.config_file().with_file_name("data");
    assert!(!spool.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_told_from_one_that_is_another() {
    let found = Examined::of("mongodb://im:hunter2hunter2@nowhere.invalid/");
    found.expect_error("mongodb.names", &["nowhere.invalid:27017", "name servers"]);
    assert!(!found.text.contains("hunter2"), "{}", found.text);

    let found = Examined::of("mongodb+srv://im:hunter2hunter2@nowhere.invalid/");
    found.expect_error("mongodb.names", &["mongodb+srv"]);
    assert!(!found.text.contains("hunter2"), "{}", found.text);

    let port = port();
    let found = Examined::of(&format!("mongodb://127.0.0.1:{port}/"));
    let refused = format!("127.0.0.1:{port} (connection refused)");
    found.expect_error("mongodb.reachable", &[&refused, "start MongoDB"]);

    // It accepts connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("mongodb://{}/", silent.local_addr().unwrap());
    Examined::of(&uri).expect_error("mongodb.protocol", &["tls=true"]);
    // Plain, where TLS is asked for.
    let secure = mongodb_uri().replace("/?", "/?tls=true&");
    Examined::of(&secure).expect_error("mongodb.protocol", &["TLS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_is_named_as_such() {
    let Some(mongod) = Mongod::launch(None) else {
        return skip("MONGOD names no program");
    };
    mongod.until_it_answers().await;
    let found = Examined::of(&mongod.uri());
    assert_eq!(found.code, Some(0), "{}", found.text);
    let way_out = ["STANDALONE", "--replSet rs0", "rs.initiate()"];
    found.expect("mongodb.replica_set", "warning", &way_out);
    found.expect("mongodb.majority", "ok", &[]);
    found.expect("change_streams", "warning", &["501", "--replSet rs0"]);
    let found = Examined::of(&format!("{}?replicaSet=rs0", mongod.uri()));
    found.expect_error("mongodb.replica_set", &way_out);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_set_and_one_that_is_not_initiated_are_told() {
    let Some(mongod) = Mongod::launch(Some("theirs")) else {
        return skip("MONGOD names no program");
    };
    mongod.until_it_answers().await;
    for uri in [mongod.uri(), format!("{}?replicaSet=theirs", mongod.uri())] {
        let found = Examined::of(&uri);
        found.expect_error("mongodb.replica_set", &["not initiated", "rs.initiate("]);
    }
    mongod.initiate("theirs").await;
    mongod.until_primary().await;
    let found = Examined::of(&format!("{}?replicaSet=ours", mongod.uri()));
    let both = ["`ours`", "`theirs`", "replicaSet=theirs"];
    found.expect_error("mongodb.replica_set", &both);
    let found = Examined::of(&format!("{}?replicaSet=theirs", mongod.uri()));
    found.expect("mongodb.replica_set", "ok", &["`theirs`, 1 member"]);
    assert_eq!(found.code, Some(0), "{}", found.text);
    // A member that does not answer might be of the right set; the doctor says so all the same.
    let with_another = format!("mongodb://{},127.0.0.1:1/?replicaSet=ours", mongod.host());
    Examined::of(&with_another).expect_error("mongodb.replica_set", &both);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_rights_are_told_apart() {
    let name = database_name();
    let users = [("writer", "readWrite"), ("viewer", "read")];
    let Some(mongod) = Mongod::secured(&name, &users).await else {
        return skip("MONGOD names no program");
    };
    let examined = |login: &str| {
        let uri = format!("mongodb://{login}{}/?replicaSet=rs0", mongod.host());
        Examined::by(&Process::new(&uri, &name, ""))
    };
    examined("").expect_error("mongodb.login", &["demands a login", "USER:PASSWORD"]);
    for login in ["writer:not-its-password@", "nobody:not-its-password@"] {
        let found = examined(login);
        found.expect_error("mongodb.login", &["AuthenticationFailed, 18", "authSource"]);
        assert!(!found.text.contains("not-its"), "{}", found.text);
    }
    let read = format!("read@{name}");
    let found = examined("viewer:viewer@");
    found.expect_error("mongodb.rights", &["insert", &read, "readWrite"]);
    let found = examined("writer:writer@");
    assert_eq!(found.code, Some(0), "{}", found.text);
    found.expect("mongodb.login", "ok", &[]);
    found.expect("mongodb.rights", "ok", &[&format!("readWrite@{name}")]);
    found.expect("change_streams", "ok", &[]);
    // It lacks `collMod`, and a retention can be changed all the same.
    for hours in [2, 3] {
        let uri = format!("mongodb://writer:writer@{}/?replicaSet=rs0", mongod.host());
        let more = format!("retention.events = \"{hours}h\"");
        let made = Process::new(&uri, &name, &more).run(&["indexes"]);
        let said = String::from_utf8(made.stdout).unwrap();
        let change = format!("→ {hours}h\n");
        assert!(made.status.success() && said.contains(&change), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_without_a_primary_or_a_member_is_told() {
    let Some(mut set) = ReplicaSet::start().await else {
        return skip("MONGOD names no program");
    };
    let found = Examined::of(&set.uri());
    found.expect("mongodb.replica_set", "ok", &["3 members"]);
    found.expect("mongodb.members_clocks", "ok", &[]);
    set.lose_majority().await;
    let found = Examined::of(&set.uri());
    found.expect_error("mongodb.primary", &["connection refused", "rs.status()"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_contradict_the_service_are_told() {
    for (option, word) in [
        ("w=1", "write concern"),
        ("journal=false", "write concern"),
        ("directConnection=true", "directConnection"),
    ] {
        let uri = format!("{}&{option}", mongodb_uri());
        let found = Examined::of(&uri);
        assert_eq!(found.code, Some(0), "{}", found.text);
        found.expect("mongodb.options", "warning", &[word]);
    }
    let found = Examined::of(&format!("{}&w=0", mongodb_uri()));
    assert_eq!(found.code, Some(1), "{}", found.text);
    found.expect("configuration", "error", &["mongodb.uri", "w=0"]);
    found.expect("mongodb.majority", "not_checked", &[]);
}
