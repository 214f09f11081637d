//! Several providers, several apps, one database: each app has its own data and nothing of another's, whatever
//! they have in common, and what a spool holds of all of them comes out of it as it went in.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use im_callback::callback::ProviderName;
use im_callback::http::error::Code;
use mongodb::Client;
use mongodb::bson::doc;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::oracle::{check_counts, found};
use crate::support::dialect::{Dialect, Unsigned};
use crate::support::process::Process;
use crate::support::proxy::{Line, Proxy};
use crate::support::trace::{ACCOUNTS, Happening, outcome, trace};
use crate::support::{
    ADMIN_KEY, APP_KEY, SECRET, TestApp, database_name, documents, http, mongodb_uri, send, signed,
};

/// A trace of many happenings.
fn long_trace() -> Vec<Happening> {
    let mut runner = TestRunner::default();
    loop {
        let trace = trace().new_tree(&mut runner).unwrap().current();
        if trace.len() > 12 {
            return trace;
        }
    }
}

/// What the store holds, by app. Without the payloads of events: of two receipts that say the same in other
/// spellings, the one that comes first is kept.
fn by_app(dump: BTreeMap<String, Vec<Value>>) -> BTreeMap<String, BTreeMap<String, Vec<Value>>> {
    let mut apps: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    for (collection, documents) in dump {
        for mut document in documents {
            if collection == "events" {
                document.as_object_mut().unwrap().remove("payload");
            }
            let app = document["app"].as_str().unwrap().to_owned();
            let of_app = apps.entry(app).or_default();
            of_app.entry(collection.clone()).or_default().push(document);
        }
    }
    apps
}

async fn deliver_all(app: &TestApp, dialect: Dialect, callbacks: &[Vec<Unsigned>]) {
    let url = app.instance.url("");
    let sent = callbacks.iter().flatten();
    join_all(sent.map(|callback| dialect.deliver(&app.http, &url, callback))).await;
}

/// The same accounts, orders, devices and, where they can be, message ids in three apps: what is stored of each
/// is what is stored when it is alone.
#[tokio::test(flavor = "multi_thread")]
async fn apps_of_several_providers_share_a_database_and_nothing_else() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    for _ in 0..5 {
        let traces = Dialect::ALL.map(|dialect| (dialect, dialect.heard(&long_trace())));
        let mut alone = BTreeMap::new();
        for (dialect, trace) in &traces {
            deliver_all(&app, *dialect, &dialect.callbacks("c1", trace)).await;
            let dump = by_app(app.dump().await);
            assert_eq!(dump.keys().collect::<Vec<_>>(), [dialect.app()]);
            alone.extend(dump);
            app.empty().await;
        }
        let together = traces.iter().map(|(dialect, trace)| async {
            deliver_all(&app, *dialect, &dialect.callbacks("c1", trace)).await;
        });
        join_all(together).await;
        for (dialect, trace) in &traces {
            let (http, url) = (&app.http, app.instance.url(""));
            let expected = outcome("c1", trace);
            for reader in 0..ACCOUNTS {
                check_counts(*dialect, http, &url, "c1", reader, &expected).await;
            }
        }
        let stored = by_app(app.dump().await);
        for (name, of_app) in &alone {
            for (collection, documents) in of_app {
                let now = &stored[name][collection];
                let other = documents.iter().zip(now).find(|(a, b)| a != b);
                assert_eq!(now.len(), documents.len(), "{name} {collection}");
                assert!(other.is_none(), "{name} {collection}: {other:?}");
            }
            assert_eq!(stored[name].len(), of_app.len(), "{name}");
        }
        assert_eq!(stored.len(), alone.len());
        app.empty().await;
    }
    app.end().await;
}

/// A callback of one app or provider passes as no other's.
#[tokio::test]
async fn no_app_takes_anothers_callback() {
    let more = format!(
        r#"{}
        [[apps]]
        name = "second"
        provider = "netease"
        app_key = "{APP_KEY}"
        app_secrets = ["another-secret"]
        [[apps]]
        name = "yun"
        provider = "yuntongxun"
        app_key = "{APP_KEY}"
        app_secrets = ["{SECRET}"]
        "#,
        Dialect::other_apps()
    );
    let app = TestApp::with(&more).await;
    let message = crate::support::message(1);
    let headers = signed(message.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    for (path, status, code) in [
        ("/callbacks/second", 403, "checksum_mismatch"),
        ("/callbacks/yun", 403, "checksum_mismatch"),
        ("/callbacks/rong", 400, "missing_signature"),
        ("/callbacks/wild", 403, "path_secret_mismatch"),
        ("/callbacks/wild/message", 403, "path_secret_mismatch"),
        ("/callbacks/otc/message", 404, "not_found"),
        ("/callbacks/otc/", 404, "not_found"),
        ("/callbacks/rong/message", 404, "not_found"),
    ] {
        let answer = app.post(path, &headers, message.clone()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}"
        );
    }
    let key = format!("Bearer {}", crate::support::READ_KEY);
    let question = json!({ "user": "bob", "peers": ["ann"] }).to_string();
    let answer = app
        .post("/v1/unread", &[("Authorization", &key)], question)
        .await;
    assert_eq!(answer.code(), "missing_field", "which app is asked");
    assert!(app.dump().await.is_empty());
    app.end().await;
}

/// `kill -9` while the spool holds callbacks of every provider, some of them bodies that cannot be decoded.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_with_all_providers_callbacks_survives_kill_9() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, &Dialect::other_apps());
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    proxy.set(Line::Cut);
    let traces = Dialect::ALL.map(|dialect| (dialect, dialect.heard(&long_trace())));
    for (dialect, trace) in &traces {
        let callbacks = dialect.callbacks("c1", trace);
        let sent = callbacks.iter().flatten();
        join_all(sent.map(|callback| dialect.deliver(&http, &url, callback))).await;
        let broken = dialect.undecodable();
        dialect.deliver(&http, &url, &broken).await;
    }
    tokio::task::block_in_place(|| process.kill());
    proxy.set(Line::Open);
    tokio::task::block_in_place(|| process.start());
    process.until_drained(&http).await;
    process.until_followed(&http).await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    for (dialect, trace) in &traces {
        let expected = outcome("c1", trace);
        assert_eq!(
            found(*dialect, &database, "c1", trace).await,
            expected,
            "{dialect:?}"
        );
        for reader in 0..ACCOUNTS {
            check_counts(*dialect, &http, &url, "c1", reader, &expected).await;
        }
        let filter = doc! { "app": dialect.app() };
        let dead = documents(&database, "dead_letters", filter).await;
        assert_eq!(dead.len(), 1, "{dialect:?} {dead:?}");
        assert_eq!(
            dead[0].get_str("route").unwrap_or_default(),
            dialect.undecodable().route
        );
        let secret = crate::support::dialect::WILDFIRE_SECRET;
        assert!(!format!("{dead:?}").contains(secret));

        // Retried, it is decoded by the route that it came to, and stays what it was.
        let id = dead[0].get_str("_id").unwrap();
        let retry = http.post(format!("{url}/v1/dead-letters/{id}/retry"));
        let key = format!("Bearer {ADMIN_KEY}");
        let answer = send(retry, &[("Authorization", &key)]).await;
        assert_eq!(answer.code(), "still_undecodable", "{answer:?}");
        let again = documents(&database, "dead_letters", doc! { "_id": id }).await;
        assert_eq!(again, dead);
    }
    drop(process);
    database.drop().await.unwrap();
}

/// What waits in the spool while its app moves to another provider is decoded by neither: it becomes a dead
/// letter, and can be retried when the old provider is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_of_the_provider_that_an_app_had_before_is_kept() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, &Dialect::other_apps());
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    proxy.set(Line::Cut);
    let message = [Happening::Message {
        from: 0,
        to: 1,
        at: 0,
        sort: crate::support::trace::Sort::Text,
        order: None,
    }];
    let callbacks = Dialect::Wildfire.callbacks("c1", &message);
    Dialect::Wildfire
        .deliver(&http, &url, &callbacks[0][0])
        .await;
    tokio::task::block_in_place(|| process.kill());
    let file = process.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let swapped = text
        .replace("name = \"wild\"", "name = \"x\"")
        .replace("name = \"rong\"", "name = \"wild\"")
        .replace("name = \"x\"", "name = \"rong\"");
    std::fs::write(&file, swapped).unwrap();
    proxy.set(Line::Open);
    tokio::task::block_in_place(|| process.start());
    process.until_drained(&http).await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    let dead = documents(&database, "dead_letters", doc! {}).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].get_str("code").unwrap(), "other_provider");
    assert_eq!(dead[0].get_str("provider").unwrap(), "wildfire");
    assert!(documents(&database, "messages", doc! {}).await.is_empty());

    tokio::task::block_in_place(|| process.kill());
    std::fs::write(&file, text).unwrap();
    tokio::task::block_in_place(|| process.start());
    process.until_drained(&http).await;
    let id = dead[0].get_str("_id").unwrap();
    let output = process.run(&["dead-letters", "retry", id]);
    assert!(output.status.success(), "{output:?}");
    let stored = documents(&database, "messages", doc! {}).await;
    assert_eq!(stored[0].get_str("provider").unwrap(), "wildfire");
    assert_eq!(stored[0].get_i32("state").unwrap(), 0);
    assert!(
        documents(&database, "dead_letters", doc! {})
            .await
            .is_empty()
    );
    drop(process);
    database.drop().await.unwrap();
}

/// What a body means depends on its route, so equal bodies of two routes are two dead letters, and one of them
/// that comes again is none.
#[tokio::test]
async fn equal_bodies_of_two_routes_are_two_dead_letters() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let secret = crate::support::dialect::WILDFIRE_SECRET;
    for route in ["new/one", "new/two", "new/one"] {
        let path = format!("/callbacks/wild/{secret}/{route}");
        assert_eq!(app.post(&path, &[], "{\"a\":1}").await.status, 200);
    }
    let dead = app.documents("dead_letters", doc! {}).await;
    let mut routes: Vec<_> = dead.iter().map(|d| d.get_str("route").unwrap()).collect();
    routes.sort_unstable();
    assert_eq!(routes, ["new/one", "new/two"]);
    app.end().await;
}

/// No answer that keeps a callback from being stored lets its provider forget it.
#[test]
fn no_refusal_counts_as_delivered() {
    for provider in ProviderName::ALL {
        assert!(provider.takes_as_delivered(200));
        // Wildfire IM looks at no status, and sends nothing again.
        if provider != ProviderName::Wildfire {
            for code in Code::ALL {
                let status = code.status().as_u16();
                assert!(!provider.takes_as_delivered(status), "{provider} {code:?}");
            }
        }
    }
    assert!(ProviderName::Netease.takes_as_delivered(500));
}
