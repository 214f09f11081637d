//! `im-callback backfill`: what follows from stored messages is what it would be if they came today.

use std::process::Output;

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::dialect::Dialect;
use crate::support::trace::{Happening, Sort};
use crate::support::{TestApp, config_text, mongodb_uri};

/// Runs the command with the test's configuration, in which a part is replaced.
pub fn backfill(app: &TestApp, replace: (&str, &str), args: &[&str]) -> Output {
    let text = config_text("127.0.0.1:0", &mongodb_uri(), app.database.name(), "");
    assert!(text.contains(replace.0));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text.replace(replace.0, replace.1)).unwrap();
    std::process::Command::new(env!("CARGO_BIN_EXE_im-callback"))
        .args(["backfill", "--json", "--config"])
        .arg(file.path())
        .args(args)
        .output()
        .unwrap()
}

fn told(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn message(id: usize, more: Value) -> Vec<u8> {
    let mut message = json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "Ann", "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": 1_700_000_000_000_i64 + id as i64, "msgidServer": id,
        "ext": "{\"orderId\":\"o1\",\"other\":{\"id\":12345678901234567890}}",
    });
    let fields = message.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    message.to_string().into_bytes()
}

/// Messages of several kinds, one of them recalled, one edited, one read.
async fn fill(app: &TestApp) {
    let bodies = [
        message(1, json!({})),
        message(2, json!({ "msgType": "TIPS" })),
        message(3, json!({ "msgType": "TIPS" })),
        message(4, json!({ "convType": "TEAM", "to": "77" })),
        message(5, json!({ "body": "{\"orderId\":\"in the body\"}" })),
        message(6, json!({ "msgType": "TIPS" })),
        message(10, json!({ "convType": "TEAM", "to": "77" })),
        message(
            11,
            json!({ "convType": "TEAM", "to": "77", "msgType": "TIPS" }),
        ),
        message(
            12,
            json!({ "convType": "TEAM", "to": "77", "msgType": "NOTIFICATION",
                            "attach": { "id": 0, "data": { "ids": ["Bob", "dora"] } } }),
        ),
        json!({ "eventType": 8, "msgId": 10, "from": "ann", "to": "77", "deleteTime": 1 })
            .to_string()
            .into(),
        json!({ "eventType": 7, "msgId": 3, "from": "ann", "to": "bob", "deleteTime": 1 })
            .to_string()
            .into(),
        json!({ "eventType": 89, "msgId": 5, "to": "bob", "modifyTime": 1, "text": "changed" })
            .to_string()
            .into(),
        json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann",
                "timestamp": 1_700_000_000_002_i64 })
        .to_string()
        .into(),
        // A recall whose message has not come.
        json!({ "eventType": 7, "msgId": 9, "from": "ann", "to": "bob" })
            .to_string()
            .into(),
    ];
    for body in bodies {
        app.deliver(body).await.expect_ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backfill_brings_documents_of_an_older_version_up_to_date() {
    let app = TestApp::start().await;
    fill(&app).await;
    let today = app.dump().await;
    let messages = app.database.collection::<Document>("messages");
    let old =
        doc! { "$unset": { "conversation": "", "orderId": "", "countsInTeam": "", "joined": "" } };
    messages.update_many(doc! {}, old).await.unwrap();
    let aged = app.dump().await;

    let dry = told(&backfill(&app, ("", ""), &["--dry-run"]));
    assert_eq!(app.dump().await, aged, "a dry run writes");
    let done = told(&backfill(&app, ("", ""), &["--app", "otc"]));
    let expected = json!({
        "app": "otc", "looked_at": 9, "other_provider": 0, "conversations": 9, "orders": 9, "count_now": 0,
        "count_no_more": 0, "teams": 3, "changed": 9,
    });
    assert_eq!(done, expected);
    assert_eq!(dry["orders"], 9);
    assert_eq!(dry["changed"], 0);
    assert_eq!(app.dump().await, today);
    let again = told(&backfill(&app, ("", ""), &[]));
    assert_eq!(
        (&again["looked_at"], &again["changed"]),
        (&json!(9), &json!(0))
    );
    app.end().await;
}

/// A run after a change of the rules leaves what a service with these rules would have stored.
#[tokio::test(flavor = "multi_thread")]
async fn backfill_applies_changed_rules_to_stored_messages() {
    let rule = r#"order_id = { field = "ext", pointer = "/orderId" }"#;
    let changes = [
        format!("{rule}\ncount_tips = true"),
        r#"order_id = { field = "ext", pointer = "/other/id" }"#.to_owned(),
        r#"order_id = { field = "body", pointer = "/orderId" }"#.to_owned(),
        String::new(),
    ];
    let app = TestApp::start().await;
    for change in &changes {
        fill(&app).await;
        app.until_followed().await;
        told(&backfill(&app, (rule, change), &[]));
        let after = app.dump().await;
        let unread = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
        app.empty().await;

        let text = config_text("127.0.0.1:0", &mongodb_uri(), app.database.name(), "");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text.replace(rule, change)).unwrap();
        let config = im_callback::config::Config::load(Some(file.path()), &[]).unwrap();
        let fresh = TestApp {
            instance: crate::support::Instance::start(config),
            database: app.database.clone(),
            http: crate::support::http(),
        };
        fresh.until_ready().await;
        fill(&fresh).await;
        assert_eq!(fresh.dump().await, after, "{change}");
        let count = fresh.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
        assert_eq!(count.text, unread.text, "{change}");
        tokio::task::spawn_blocking(move || drop(fresh.instance))
            .await
            .unwrap();
        app.empty().await;
    }
    // And back: what no longer counts has no state.
    fill(&app).await;
    told(&backfill(&app, (rule, &changes[0]), &[]));
    let counts = told(&backfill(&app, ("", ""), &[]));
    assert_eq!(
        (&counts["count_no_more"], &counts["teams"]),
        (&json!(3), &json!(1))
    );
    app.empty().await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_not_configured_is_named() {
    let app = TestApp::start().await;
    let output = backfill(&app, ("", ""), &["--app", "nobody"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("`nobody`"), "{error}");
    app.end().await;
}

/// What another provider sent is none of the app's rules' business, and what the same one sent is as it would be.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_provider_are_left_alone() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let url = app.instance.url("");
    let trace = [Happening::Message {
        from: 0,
        to: 1,
        at: 0,
        sort: Sort::Text,
        order: Some(0),
    }];
    for dialect in Dialect::ALL {
        let callbacks = dialect.callbacks("c1", &trace);
        dialect.deliver(&app.http, &url, &callbacks[0][0]).await;
    }
    let stored = app.dump().await;
    let run = |text: String| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_im-callback"))
            .args(["backfill", "--json", "--config"])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let reports = lines.lines().map(|l| serde_json::from_str(l).unwrap());
        reports.collect::<Vec<Value>>()
    };
    let apps = Dialect::other_apps();
    let text = config_text("127.0.0.1:0", &mongodb_uri(), app.database.name(), &apps);
    // The names of the two other apps change places.
    let swapped = text
        .replace("name = \"wild\"", "name = \"x\"")
        .replace("name = \"rong\"", "name = \"wild\"")
        .replace("name = \"x\"", "name = \"rong\"");
    for (text, other_provider) in [(text, 0), (swapped, 1)] {
        for report in run(text) {
            let other_provider = if report["app"] == "otc" {
                0
            } else {
                other_provider
            };
            assert_eq!(report["other_provider"], other_provider, "{report}");
            assert_eq!(report["looked_at"], 1 - other_provider, "{report}");
            assert_eq!(report["changed"], 0, "{report}");
        }
        assert_eq!(app.dump().await, stored);
    }
    // Without what follows from their columns, each is given it again.
    let messages = app.database.collection::<Document>("messages");
    let old = doc! { "$unset": { "conversation": "", "orderId": "", "state": "" } };
    messages.update_many(doc! {}, old).await.unwrap();
    let text = config_text("127.0.0.1:0", &mongodb_uri(), app.database.name(), &apps);
    for report in run(text) {
        assert_eq!(
            (&report["changed"], &report["count_now"]),
            (&json!(1), &json!(1))
        );
    }
    assert_eq!(app.dump().await, stored);
    app.end().await;
}
