//! How the indexes are built and looked up.

use std::time::Duration;

use im_callback::app::connect;
use im_callback::store::indexes::Retention;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use tokio::time::timeout;

use crate::support::mongod::{Mongod, ReplicaSet};
use crate::support::{config, database_name, skip};

/// By default MongoDB waits for every member that votes, so the build would never end.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_built_while_a_member_is_down() {
    let Some(mut set) = ReplicaSet::start().await else {
        return skip("MONGOD names no program");
    };
    set.kill_secondary().await;
    let analysts = "mongodb.analyst_indexes = true";
    let config = config(&set.uri(), &database_name(), analysts);
    let store = connect(&config).await.unwrap();
    let retention = Retention {
        messages: Some(Duration::from_secs(86_400)),
        ..Retention::default()
    };
    let plan = store.index_plan(retention).await.unwrap();
    assert_eq!(plan.len(), 13, "{plan:?}");
    let mut made = Vec::new();
    let build = store.apply_index_changes(&plan, |change| made.push(change.clone()));
    timeout(Duration::from_secs(60), build)
        .await
        .expect("the build ends")
        .unwrap();
    assert_eq!(made, plan);
    assert!(store.has_indexes().await.unwrap());
    assert_eq!(store.index_plan(retention).await.unwrap(), []);
    store.close().await;
}

/// A server alone refuses to be told how many members must build.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_builds_indexes() {
    let Some(mongod) = Mongod::start(false).await else {
        return skip("MONGOD names no program");
    };
    mongod.until_it_answers().await;
    let store = connect(&config(&mongod.uri(), &database_name(), "")).await;
    let store = store.unwrap();
    assert_eq!(store.ensure_query_indexes().await.unwrap(), []);
    assert!(store.has_indexes().await.unwrap());
    store.close().await;
}

/// Each collection is read once for all its indexes, and whoever asks for readiness lists each collection once.
#[tokio::test(flavor = "multi_thread")]
async fn collections_are_scanned_and_listed_once() {
    let Some(mongod) = Mongod::start(true).await else {
        return skip("MONGOD names no program");
    };
    mongod.until_primary().await;
    let name = database_name();
    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    let database = client.database(&name);
    let store = connect(&config(&mongod.uri(), &name, "")).await.unwrap();
    database.run_command(doc! { "profile": 2 }).await.unwrap();
    let profile = database.collection::<Document>("system.profile");
    let commands = async |command: &str| {
        let seen = doc! { format!("command.{command}"): { "$exists": true }, "op": "command" };
        profile.count_documents(seen).await.unwrap()
    };
    assert_eq!(store.ensure_query_indexes().await.unwrap(), []);
    // One for messages, read marks and presence each.
    assert_eq!(commands("createIndexes").await, 3);
    let listed = commands("listIndexes").await;
    assert!(store.has_indexes().await.unwrap());
    assert_eq!(commands("listIndexes").await - listed, 3);
    let messages = database.collection::<Document>("messages");
    messages.drop_index("unread_by_team").await.unwrap();
    assert!(!store.has_indexes().await.unwrap());
    store.close().await;
}
