//! What can never work is refused once MongoDB has said so, and nothing else is.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outage::question;
use crate::support::mongod::{Mongod, ReplicaSet};
use crate::support::process::{Process, try_deliver};
use crate::support::{TestApp, database_name, http, message, mongodb_uri, port, skip};

/// Longer than what is refused has to last, with the pauses between questions.
const LASTED: Duration = Duration::from_secs(36);

/// The services of all these connection strings end with exit code 2, and say these words.
fn expect_refused(database: &str, cases: &[(&str, &[&str])]) {
    std::thread::scope(|scope| {
        for (uri, words) in cases {
            scope.spawn(|| expect_one_refused(uri, database, words));
        }
    });
}

fn expect_one_refused(uri: &str, database: &str, words: &[&str]) {
    let (code, said) = Process::new(uri, database, "").serve_in_vain();
    assert_eq!(code, Some(2), "{said}");
    // As an event of the log, too, unless the configuration was refused before there was one.
    if !words.contains(&"w=0") {
        let event = "the service stops: MongoDB can never take writes with this configuration";
        assert!(said.contains(event), "{said}");
    }
    let error = said.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{said}"));
    for word in words {
        assert!(error.contains(word), "{word} in {error}");
    }
    for word in ["not-its-password", "Some("] {
        assert!(!said.contains(word), "{word} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_can_never_work_is_refused_at_the_start() {
    let name = database_name();
    let users = [("writer", "readWrite"), ("viewer", "read")];
    let Some(mongod) = Mongod::secured(&name, &users).await else {
        return skip("MONGOD names no program");
    };
    let uri = |login: &str| format!("mongodb://{login}{}/?replicaSet=rs0", mongod.host());
    let wrong: &[&str] = &["AuthenticationFailed, 18", "authSource", "nothing waits"];
    let (writer, nobody) = ("writer:not-its-password@", "nobody:not-its-password@");
    tokio::task::block_in_place(|| {
        expect_refused(
            &name,
            &[
                (&uri(writer), wrong),
                (&uri(nobody), wrong),
                (&uri(""), &["demands a login", "USER:PASSWORD"]),
                (
                    &uri("viewer:viewer@"),
                    &["lacks the right to insert", "role readWrite"],
                ),
            ],
        );
    });
}

/// Without access control a user's rights are not asked for, so they say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_writes_where_nobody_asks_for_them() {
    let port = port();
    let Some(mut mongod) = Mongod::launch_at(port, Some("rs0"), false) else {
        return skip("MONGOD names no program");
    };
    let name = database_name();
    mongod.initiate("rs0").await;
    mongod.make_users(&[("viewer", "read", &name)]).await;
    let uri = format!("mongodb://viewer:viewer@{}/?replicaSet=rs0", mongod.host());
    let mut process = Process::new(&uri, &name, "");
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    let taken = try_deliver(&http, &url, message(0).as_bytes()).await;
    assert_eq!(taken, Some(200));
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 1);
    assert!(!process.log().contains("unauthorized"), "{}", process.log());
    // And says so after an outage.
    tokio::task::block_in_place(|| mongod.kill());
    mongod.restart();
    process.until_drained(&http).await;
}

/// A user may be made some seconds after the service has started, as images do.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_made_after_the_start_is_waited_for() {
    let name = database_name();
    let Some(mongod) = Mongod::secured(&name, &[]).await else {
        return skip("MONGOD names no program");
    };
    let uri = format!("mongodb://writer:writer@{}/?replicaSet=rs0", mongod.host());
    let mut process = Process::new(&uri, &name, "");
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    until_reason(&process, &http, "authentication_failed").await;
    let taken = try_deliver(&http, &url, message(0).as_bytes()).await;
    assert_eq!(taken, Some(200));
    sleep(Duration::from_secs(5)).await;
    mongod.make_user("writer", "readWrite", &name).await;
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_set_or_none_is_refused_at_the_start() {
    let Some(theirs) = Mongod::launch(Some("theirs")) else {
        return skip("MONGOD names no program");
    };
    theirs.until_it_answers().await;
    theirs.initiate("theirs").await;
    let uri = format!("{}?replicaSet=ours", theirs.uri());
    let alone = Mongod::launch(None).unwrap();
    alone.until_it_answers().await;
    let in_none = format!("{}?replicaSet=rs0", alone.uri());
    let unconfirmed = format!("{}&w=0", mongodb_uri());
    tokio::task::block_in_place(|| {
        expect_refused(
            "im",
            &[
                (&uri, &["`ours`", "`theirs`", "replicaSet=theirs"]),
                (&in_none, &["STANDALONE", "--replSet rs0", "rs.initiate()"]),
                (&unconfirmed, &["mongodb.uri", "w=0"]),
            ],
        );
    });
}

/// Waits until `/readyz` gives this reason.
async fn until_reason(process: &Process, http: &reqwest::Client, reason: &str) -> Value {
    process.until(http, |ready| ready["reason"] == reason).await
}

/// A MongoDB that turns out to be the wrong one ends the service, and what it took is stored at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_started_before_the_wrong_mongodb_stops_and_loses_nothing() {
    if std::env::var("MONGOD").is_err() {
        return skip("MONGOD names no program");
    }
    let port = port();
    let uri = format!("mongodb://127.0.0.1:{port}/?replicaSet=ours");
    let mut process = Process::new(&uri, &database_name(), "");
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    for n in 0..3 {
        let taken = try_deliver(&http, &url, message(n).as_bytes()).await;
        assert_eq!(taken, Some(200));
    }
    let ready = until_reason(&process, &http, "unreachable").await;
    assert_eq!(ready["checks"]["mongodb"], "down", "{ready}");

    let mongod = Mongod::launch_at(port, Some("theirs"), false).unwrap();
    mongod.until_it_answers().await;
    // Not the end yet: it might become ours.
    until_reason(&process, &http, "not_initiated").await;
    mongod.initiate("theirs").await;
    let code = tokio::task::block_in_place(|| process.wait());
    let log = process.log();
    assert_eq!(code, Some(2), "{log}");
    let said = log.lines().find(|line| line.starts_with("error: "));
    let said = said.unwrap_or_else(|| panic!("{log}"));
    for word in ["`ours`", "`theirs`", "are in the spool"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert!(!log.contains("Some("), "{log}");

    let text = std::fs::read_to_string(process.config_file()).unwrap();
    std::fs::write(process.config_file(), text.replace("=ours", "=theirs")).unwrap();
    tokio::task::block_in_place(|| process.start());
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 3);
}

/// Once MongoDB has confirmed a write, a password that is changed under the service ends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_has_stored_goes_on_when_its_password_is_changed() {
    let name = database_name();
    let Some(mut mongod) = Mongod::secured(&name, &[("writer", "readWrite")]).await else {
        return skip("MONGOD names no program");
    };
    let uri = format!("mongodb://writer:writer@{}/?replicaSet=rs0", mongod.host());
    let mut process = Process::new(&uri, &name, "");
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    let deliver = async |n| {
        let taken = try_deliver(&http, &url, message(n).as_bytes()).await;
        assert_eq!(taken, Some(200));
    };
    deliver(0).await;
    process.until_drained(&http).await;

    let password = |password: &str| {
        mongodb::bson::doc! { "updateUser": "writer", "pwd": password }
    };
    mongod.as_root(password("rotated")).await;
    // Ends the connections that are logged in.
    tokio::task::block_in_place(|| mongod.kill());
    mongod.restart();
    mongod.until_primary().await;
    for n in 1..4 {
        deliver(n).await;
    }
    let ready = until_reason(&process, &http, "authentication_failed").await;
    assert_eq!(
        (&ready["status"], &ready["checks"]["mongodb"]),
        (&json!("degraded"), &json!("down"))
    );
    assert!(ready["detail"].as_str().unwrap().contains("password"));
    // It does not forget that at a restart, as when it is rolled out with the new password too late.
    process.kill();
    tokio::task::block_in_place(|| process.start());
    until_reason(&process, &http, "authentication_failed").await;
    sleep(LASTED).await;
    deliver(4).await;
    let log = process.log();
    let told = log.matches("reason=\"authentication_failed\"").count();
    // Once by each process.
    assert_eq!(told, 2, "{log}");
    assert!(!log.contains("Some("), "{log}");

    mongod.as_root(password("writer")).await;
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 5);
    assert!(process.ready(&http).await.get("reason").is_none());
    process.signal("-TERM");
    assert_eq!(process.wait(), Some(0));
}

/// A replica set that is initiated later, and one that has lost its majority, are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_waited_for() {
    let Some(mongod) = Mongod::launch(Some("rs0")) else {
        return skip("MONGOD names no program");
    };
    let http = http();
    mongod.until_it_answers().await;
    let uri = format!("{}?replicaSet=rs0", mongod.uri());
    let mut process = Process::new(&uri, &database_name(), "");
    tokio::task::block_in_place(|| process.start());
    let url = format!("http://{}", process.address);
    let taken = try_deliver(&http, &url, message(0).as_bytes()).await;
    assert_eq!(taken, Some(200));
    until_reason(&process, &http, "not_initiated").await;
    sleep(LASTED).await;
    mongod.initiate("rs0").await;
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 1);
    let is_set = |ready: &Value| ready["checks"]["mongodb_kind"] == "replica_set";
    process.until(&http, is_set).await;

    let mut set = ReplicaSet::start().await.unwrap();
    let lost = set.lose_majority().await;
    let mut process = Process::new(&set.uri(), &database_name(), "");
    tokio::task::block_in_place(|| process.start());
    until_reason(&process, &http, "no_primary").await;
    let url = format!("http://{}", process.address);
    let taken = try_deliver(&http, &url, message(0).as_bytes()).await;
    assert_eq!(taken, Some(200));
    sleep(LASTED).await;
    for node in lost {
        set.restart(node);
    }
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 1);
}

/// It stores, so it is not refused; but nobody shall take it for a replica set.
#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_used_and_named_loudly() {
    let Some(mongod) = Mongod::launch(None) else {
        return skip("MONGOD names no program");
    };
    mongod.until_it_answers().await;
    let mut process = Process::new(&mongod.uri(), &database_name(), "");
    tokio::task::block_in_place(|| process.start());
    let http = http();
    process.until_drained(&http).await;
    let is_alone = |ready: &Value| ready["checks"]["mongodb_kind"] == "standalone";
    process.until(&http, is_alone).await;
    let log = process.log();
    let line = log
        .lines()
        .find(|line| line.contains("MongoDB is a standalone server"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for word in ["WARN", "STANDALONE", "--replSet rs0", "rs.initiate()"] {
        assert!(line.contains(word), "{word} in {line}");
    }
}

/// Even if no callback comes meanwhile, so that nobody has seen an outage.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_is_restarted_as_a_standalone_server_is_named_loudly() {
    let Some(mut mongod) = Mongod::start(true).await else {
        return skip("MONGOD names no program");
    };
    mongod.until_primary().await;
    let mut process = Process::new(&mongod.uri(), &database_name(), "");
    tokio::task::block_in_place(|| process.start());
    let http = http();
    let is = |kind| move |ready: &Value| ready["checks"]["mongodb_kind"] == kind;
    process.until(&http, is("replica_set")).await;
    tokio::task::block_in_place(|| mongod.kill());
    mongod.restart_alone();
    process.until(&http, is("standalone")).await;
    let log = process.log();
    assert!(log.contains("has become a standalone server"), "{log}");
}

#[tokio::test]
async fn a_service_that_is_well_says_nothing_of_reasons() {
    let app = TestApp::start().await;
    app.until(|ready| {
        let checks = &ready["checks"];
        checks["retention"] == "applied" && checks["mongodb_kind"] == "replica_set"
    })
    .await;
    let ready = app.get("/readyz", &[]).await.json();
    assert_eq!((ready.get("reason"), ready.get("detail")), (None, None));
    app.end().await;
}
