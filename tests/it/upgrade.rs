//! A database written by an older version.

use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::backfill::backfill;
use crate::support::{Instance, TestApp, config, config_text, mongodb_uri};

fn doctor(app: &TestApp) -> String {
    let text = config_text("127.0.0.1:0", &mongodb_uri(), app.database.name(), "");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_im-callback"))
        .args(["doctor", "--config"])
        .arg(file.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn marks_and_indexes_of_an_older_version_are_brought_up_to_date() {
    const AT: i64 = 1_700_000_000_000;
    let mut app = TestApp::start().await;
    let old = app.instance;
    tokio::task::spawn_blocking(move || drop(old))
        .await
        .unwrap();
    let messages = app.database.collection::<Document>("messages");
    let marks = app.database.collection::<Document>("read_marks");
    for n in 1..=3 {
        let message = doc! {
            "_id": format!("otc/p2p/{n}"), "app": "otc", "to": "bob", "fromAccount": "ann", "state": 0,
            "msgTimestamp": AT + n, "orderId": "o",
        };
        messages.insert_one(message).await.unwrap();
    }
    marks.drop_index("marks").await.unwrap();
    let mark = doc! { "_id": { "app": "otc", "reader": "bob", "peer": "ann" }, "readUpTo": AT + 1 };
    let team = doc! { "_id": { "app": "otc", "reader": "bob", "team": "7" }, "readUpTo": AT };
    marks.insert_many([mark, team]).await.unwrap();
    messages.drop_index("unread_by_order").await.unwrap();
    let index = doc! { "createIndexes": "messages", "indexes": [{
        "key": { "app": 1, "to": 1, "state": 1, "orderId": 1 }, "name": "unread_by_order",
        "partialFilterExpression": { "state": 0, "orderId": { "$exists": true } },
    }] };
    app.database.run_command(index).await.unwrap();

    let delay = "reconcile.delay = \"1h\"";
    app.instance = Instance::start(config(&mongodb_uri(), app.database.name(), delay));
    app.until_ready().await;
    let question = json!({ "user": "bob", "peers": ["ann"], "orders": ["o"] });
    let answer = app.ask(&question).await.json();
    assert_eq!(
        (&answer["peers"]["ann"], &answer["orders"]["o"]),
        (&json!(2), &json!(2))
    );
    let receipt =
        json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": AT + 2 });
    app.deliver(receipt.to_string()).await.expect_ok();
    assert_eq!(app.ask(&question).await.json()["total"], 1);
    let team = app.documents("read_marks", doc! { "team": "7" }).await;
    assert_eq!(team[0].get_str("reader").ok(), Some("bob"));
    app.end().await;
}

/// What older versions stored does not count for teams until a backfill, and no answer pretends that it does.
#[tokio::test(flavor = "multi_thread")]
async fn team_counts_are_incomplete_until_a_backfill() {
    let mut app = TestApp::start().await;
    let message = |id: &str, class: &str| {
        json!({
            "eventType": 1, "convType": class, "to": "77", "fromAccount": "ann", "msgType": "TEXT", "body": "x",
            "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
        })
        .to_string()
    };
    let question = json!({ "user": "bob", "teams": ["77"] });
    app.deliver(message("1", "TEAM")).await.expect_ok();
    let answer = app.ask(&question).await.json();
    assert_eq!(
        answer,
        json!({ "user": "bob", "teams": { "77": 1 }, "total": 1, "total_of": "teams" })
    );

    // As an older version left it.
    let old = app.instance;
    tokio::task::spawn_blocking(move || drop(old))
        .await
        .unwrap();
    let progress = app.database.collection::<Document>("progress");
    let known = doc! { "_id": "team_counts/otc" };
    let deleted = progress.delete_one(known.clone()).await.unwrap();
    assert_eq!(deleted.deleted_count, 1);
    let messages = app.database.collection::<Document>("messages");
    let fields = doc! { "$unset": { "countsInTeam": "" } };
    messages.update_many(doc! {}, fields).await.unwrap();
    app.instance = Instance::start(config(&mongodb_uri(), app.database.name(), ""));
    app.until_ready().await;

    app.deliver(message("2", "SUPER_TEAM")).await.expect_ok();
    let lacking = json!({
        "user": "bob", "teams": { "77": 1 }, "total": 1, "total_of": "teams", "complete": false,
    });
    assert_eq!(app.ask(&question).await.json(), lacking);
    let others = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(app.ask(&others).await.json().get("complete"), None);
    assert!(backfill(&app, ("", ""), &["--dry-run"]).status.success());
    assert_eq!(app.ask(&question).await.json(), lacking);
    assert!(doctor(&app).contains("warning      team_counts "));
    assert!(backfill(&app, ("", ""), &[]).status.success());
    assert!(doctor(&app).contains("ok           team_counts "));
    let all = json!({ "user": "bob", "teams": { "77": 2 }, "total": 2, "total_of": "teams" });
    assert_eq!(app.ask(&question).await.json(), all);
    // It never goes back, so it is not asked again.
    progress.delete_one(known).await.unwrap();
    assert_eq!(app.ask(&question).await.json(), all);
    app.end().await;
}
