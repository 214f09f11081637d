//! Streams of live counts: who gets none, how many there may be, and how they end.

use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Array, Document, doc};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::stream::{drop_aside, message, until_metric};
use crate::support::live::LiveClient;
use crate::support::mongod::Mongod;
use crate::support::process::Process;
use crate::support::token::{TOKEN_KEYS, now, site_token};
use crate::support::{
    Instance, READ_KEY, TestApp, WRITE_KEY, config, database_name, http, mongodb_uri, skip,
};

const QUERY: &str = "user=bob&peers=ann";

/// A second app, users' tokens, and a key for the second app alone.
fn more() -> String {
    format!(
        r#"
        {TOKEN_KEYS}
        [[auth.keys]]
        name = "of-shop"
        secret = "the-tests-key-of-shop"
        scopes = ["read"]
        apps = ["shop"]
        "#
    )
}

/// A user's token for some seconds, and for one team.
fn token(user: &str, seconds: i64) -> String {
    site_token(json!({ "sub": user, "teams": ["t1"], "exp": now() + seconds }))
}

#[tokio::test]
async fn who_may_not_ask_gets_no_stream() {
    let app = TestApp::with(&more()).await;
    let address = app.instance.address;
    let (shop, bob) = ("the-tests-key-of-shop", token("Bob", 60));
    let cases: [(&str, &str, u16, &str); 16] = [
        (QUERY, "no-such-key-at-all", 401, "unknown_key"),
        (QUERY, WRITE_KEY, 403, "missing_scope"),
        (QUERY, READ_KEY, 422, "missing_field"), // which app
        ("user=bob&peers=ann&app=otc", shop, 403, "app_not_allowed"),
        ("user=bob&peers=ann&app=none", READ_KEY, 404, "unknown_app"),
        ("peers=ann&app=otc", READ_KEY, 422, "missing_field"),
        ("user=&peers=ann&app=otc", READ_KEY, 422, "empty_id"),
        (
            "user=bob&peers=ann&app=otc&x=1",
            READ_KEY,
            422,
            "unknown_field",
        ),
        (
            "user=bob&orders=o&app=shop",
            shop,
            422,
            "orders_not_configured",
        ),
        ("user=carl&peers=ann&app=otc", &bob, 403, "user_not_allowed"),
        ("user=bob&peers=ann&app=shop", &bob, 403, "app_not_allowed"),
        (
            "user=bob&peers=ann&app=otc",
            &token("bob", 0),
            401,
            "token_expired",
        ),
        (
            "user=bob&peers=ann&app=otc",
            "e30.e30.e30",
            401,
            "invalid_token",
        ),
        (
            "user=bob&teams=t1,t2&app=otc",
            &bob,
            403,
            "team_not_allowed",
        ),
        ("user=bob&after=00&app=otc", READ_KEY, 422, "invalid_cursor"),
        (
            "user=bob&peers=ann&limit=3&app=otc",
            READ_KEY,
            422,
            "invalid_field",
        ),
    ];
    for (query, key, status, code) in cases {
        let refused = LiveClient::ask(address, query, key, "").await;
        let found = refused.status;
        let problem = refused.problem().await;
        assert_eq!(
            (found, &problem["code"]),
            (status, &json!(code)),
            "{query}: {problem}"
        );
    }
    // A user and a key of one app are told of theirs.
    for (key, query) in [(bob.as_str(), "user=BOB&teams=t1"), (shop, QUERY)] {
        let mut live = LiveClient::ask(address, query, key, "").await;
        assert_eq!(live.counts().await["total"], 0);
        drop(live);
    }
    app.end().await;
}

/// A page of the site's origin may read the stream, and why there is none.
#[tokio::test]
async fn pages_of_the_configured_origin_may_subscribe() {
    let more = format!("http.cors_origins = [\"https://shop.example\"]\n{}", more());
    let app = TestApp::with(&more).await;
    for (origin, allowed) in [
        ("https://shop.example", true),
        ("https://evil.example", false),
    ] {
        for (token, status) in [(token("bob", 60), 200), (token("bob", 0), 401)] {
            let more = format!("Origin: {origin}\r\n");
            let live = LiveClient::ask(app.instance.address, QUERY, &token, &more).await;
            assert_eq!(live.status, status);
            let expected = allowed.then_some(origin);
            assert_eq!(live.header("access-control-allow-origin"), expected);
        }
    }
    app.end().await;
}

/// One reader in two apps, and two readers: each is told of its own.
#[tokio::test]
async fn apps_and_users_are_kept_apart() {
    let app = TestApp::with(&more()).await;
    let address = app.instance.address;
    let mut bob = LiveClient::open(address, "user=bob&peers=ann&app=otc").await;
    let mut other_app = LiveClient::open(address, "user=bob&peers=ann&app=shop").await;
    let mut carl = LiveClient::open(address, "user=carl&peers=ann&app=otc").await;
    for live in [&mut bob, &mut other_app, &mut carl] {
        assert_eq!(live.counts().await["total"], 0);
    }
    app.deliver(message("ann", 1).to_string()).await.expect_ok();
    assert_eq!(bob.counts().await["total"], 1);
    other_app.expect_silence(Duration::from_millis(500)).await;
    carl.expect_silence(Duration::from_millis(100)).await;
    drop((bob, other_app, carl));
    app.end().await;
}

#[tokio::test]
async fn there_are_no_more_streams_than_configured() {
    let app = TestApp::with("stream.max_subscribers = 3").await;
    let mut open = Vec::new();
    for n in 0..3 {
        let query = format!("user=bob&peers=ann{n}");
        open.push(LiveClient::open(app.instance.address, &query).await);
    }
    let refused = LiveClient::ask(app.instance.address, QUERY, READ_KEY, "").await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("5"))
    );
    assert_eq!(refused.problem().await["code"], "too_many_streams");
    // Others are not affected, and who leaves makes room, soon.
    let answer = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(answer.status, 200);
    open.pop();
    until_metric(&app, "im_callback_streams ", 2.0).await;
    let mut live = LiveClient::open(app.instance.address, QUERY).await;
    assert_eq!(live.counts().await["total"], 0);
    drop((live, open));
    app.end().await;
}

#[tokio::test]
async fn a_user_has_few_streams_at_once_and_others_are_not_affected() {
    let app = TestApp::with(&format!("stream.max_per_user = 2\n{}", more())).await;
    let address = app.instance.address;
    let bob = token("bob", 600);
    let mut open = Vec::new();
    for query in [QUERY, "user=BOB&peers=carl&app=otc"] {
        open.push(LiveClient::ask(address, query, &bob, "").await);
        assert_eq!(open.last().unwrap().status, 200);
    }
    let refused = LiveClient::ask(address, QUERY, &bob, "").await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.problem().await["code"], "rate_limited");
    for (query, who) in [
        ("user=carl&peers=ann&app=otc", token("carl", 600)),
        ("user=bob&peers=ann&app=otc", READ_KEY.to_owned()),
    ] {
        assert_eq!(LiveClient::ask(address, query, &who, "").await.status, 200);
    }
    open.pop();
    // When a client has gone is seen a moment later.
    let since = Instant::now();
    while LiveClient::ask(address, QUERY, &bob, "").await.status != 200 {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "no place is free"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(open);
    app.end().await;
}

#[tokio::test]
async fn an_overview_that_is_too_long_for_all_subscribers_is_refused() {
    let app = TestApp::start().await;
    let refused = LiveClient::ask(app.instance.address, "user=bob&limit=101", READ_KEY, "").await;
    assert_eq!(refused.status, 422);
    let problem = refused.problem().await;
    assert_eq!(
        (&problem["code"], &problem["path"]),
        (&json!("invalid_field"), &json!("limit"))
    );
    app.end().await;
}

/// A head without a body, so that nothing is subscribed.
#[tokio::test]
async fn a_head_request_and_other_methods_open_no_stream() {
    let app = TestApp::start().await;
    let url = app.instance.url(&format!("/v1/unread/stream?{QUERY}"));
    let head = app
        .http
        .head(&url)
        .bearer_auth(READ_KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "text/event-stream");
    let put = app
        .http
        .put(&url)
        .bearer_auth(READ_KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (put.status().as_u16(), &put.headers()["allow"]),
        (405, &"GET, HEAD, POST".parse().unwrap())
    );
    // A body asks the same, for lists that no address has room for.
    let question = json!({ "user": "bob", "peers": ["ann"] }).to_string();
    let url = app.instance.url("/v1/unread/stream");
    let posted = app.http.post(&url).bearer_auth(READ_KEY).body(question);
    let mut posted = posted.send().await.unwrap();
    let mut text = String::new();
    while !text.contains("\"total\":0") {
        text += std::str::from_utf8(&posted.chunk().await.unwrap().unwrap()).unwrap();
    }
    drop(posted);
    until_metric(&app, "im_callback_streams ", 0.0).await;
    app.end().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let app = TestApp::with(&more()).await;
    let since = Instant::now();
    let token = token("bob", 3);
    let mut live = LiveClient::ask(app.instance.address, QUERY, &token, "").await;
    assert_eq!(live.counts().await["total"], 0);
    assert_eq!(live.end().await, "token_expired");
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );
    app.end().await;
}

/// A reload ends the streams of keys and apps that are gone, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_is_removed() {
    let name = database_name();
    let more = r#"
        [[auth.keys]]
        name = "leaving"
        secret = "the-tests-leaving-key"
        scopes = ["read"]
    "#;
    let mut process = Process::new(&mongodb_uri(), &name, more);
    block_in_place(|| process.start());
    let http = http();
    process.until_drained(&http).await;
    let mut stays = LiveClient::open(process.address, QUERY).await;
    let mut leaves = LiveClient::ask(process.address, QUERY, "the-tests-leaving-key", "").await;
    for live in [&mut stays, &mut leaves] {
        assert_eq!(live.counts().await["total"], 0);
    }
    let file = process.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("the-tests-leaving-key", "the-tests-other-key"),
    )
    .unwrap();
    process.signal("-HUP");
    assert_eq!(leaves.end().await, "key_removed");
    stays.expect_silence(Duration::from_millis(500)).await;
    // The app is renamed, so nobody may ask about it.
    std::fs::write(&file, text.replace("\"otc\"", "\"another\"")).unwrap();
    process.signal("-HUP");
    assert_eq!(stays.end().await, "key_removed");
    drop(process);
    drop_database(&name).await;
}

async fn drop_database(name: &str) {
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(name).drop().await.unwrap();
}

/// A stop does not wait for subscribers, who may stay for hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_at_once() {
    let name = database_name();
    let mut process = Process::new(&mongodb_uri(), &name, "");
    block_in_place(|| process.start());
    process.until_drained(&http()).await;
    let mut open = Vec::new();
    for n in 0..20 {
        let query = format!("user=bob&peers=ann{n}");
        open.push(LiveClient::open(process.address, &query).await);
    }
    for live in &mut open {
        assert_eq!(live.counts().await["total"], 0);
    }
    process.signal("-TERM");
    let since = Instant::now();
    for live in &mut open {
        assert_eq!(live.end().await, "stopping");
    }
    assert_eq!(
        block_in_place(|| process.wait()),
        Some(0),
        "{}",
        process.log()
    );
    // The default of http.shutdown_timeout is 8 s, of which the first is for balancers.
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "{:?}",
        since.elapsed()
    );
    assert!(
        !process.log().contains("not everything"),
        "{}",
        process.log()
    );
    drop(process);
    drop_database(&name).await;
}

/// It neither reads nor goes away: what is sent to it fills its socket.
#[tokio::test]
async fn a_subscriber_who_does_not_read_is_cut() {
    let app =
        TestApp::with("stream.slow_reader_timeout = \"1s\"\nstream.heartbeat = \"100ms\"").await;
    // Answers that soon fill what the sockets hold.
    let peers: Vec<String> = (0..500)
        .map(|n| format!("{n}-{}", "x".repeat(80)))
        .collect();
    let query = format!("user=bob&orders=o-0,o-1&peers=ann,{}", peers.join(","));
    let mut reads = LiveClient::open(app.instance.address, &query).await;
    let silent = LiveClient::open_narrow(app.instance.address, &query).await;
    assert_eq!(reads.counts().await["total"], 0);
    let mut id = 0;
    let cut = "im_callback_streams_ended_total{reason=\"slow_reader\"}";
    let since = Instant::now();
    while crate::stream::metric(&app, cut).await < 1.0 {
        assert!(since.elapsed() < Duration::from_secs(60), "it is not cut");
        id += 1;
        app.deliver(message("ann", id).to_string())
            .await
            .expect_ok();
        reads.until_total(u64::from(id)).await;
    }
    until_metric(&app, "im_callback_streams ", 1.0).await;
    drop((reads, silent));
    app.end().await;
}

/// There is no oplog to read changes from.
#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_has_no_streams_and_says_so() {
    let Some(mongod) = Mongod::launch(None) else {
        return skip("MONGOD names no program");
    };
    mongod.until_it_answers().await;
    let app = TestApp::connected(&mongod.uri(), "").await;
    let since = Instant::now();
    for _ in 0..3 {
        let refused = LiveClient::ask(app.instance.address, QUERY, READ_KEY, "").await;
        assert_eq!(refused.status, 501);
        let problem = refused.problem().await;
        assert_eq!(problem["code"], "no_change_streams");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("replica set") && detail.contains("doctor"),
            "{detail}"
        );
    }
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
    let answer = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(answer.status, 200);
    app.end().await;
}

/// The right is granted while the service runs, and taken away again.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_to_change_streams_is_told_and_needs_no_restart() {
    let name = database_name();
    let Some(mongod) = Mongod::secured(&name, &[]).await else {
        return skip("MONGOD names no program");
    };
    // What `readWrite` allows, but for `changeStream`.
    let actions = [
        "find",
        "insert",
        "update",
        "remove",
        "createIndex",
        "createCollection",
        "listIndexes",
        "listCollections",
        "collStats",
        "dbStats",
        "collMod",
    ];
    let rights = |actions: &[&str]| {
        let actions = actions.to_vec();
        doc! { "resource": { "db": &name, "collection": "" }, "actions": actions }
    };
    let database = |mut command: Document| {
        command.insert("roles", Array::new());
        command
    };
    let role = doc! { "createRole": "writes", "privileges": [rights(&actions)] };
    mongod.as_root(database(role)).await;
    let user = doc! { "createUser": "im", "pwd": "im", "roles": ["writes"] };
    mongod.as_root(user).await;
    let uri = format!(
        "mongodb://im:im@{}/?authSource=admin&replicaSet=rs0",
        mongod.host()
    );
    let instance = Instance::start(config(&uri, &name, ""));
    let http = http();
    let since = Instant::now();
    loop {
        let refused = LiveClient::ask(instance.address, QUERY, READ_KEY, "").await;
        let status = refused.status;
        let problem: Value = refused.problem().await;
        if status == 501 {
            assert!(
                problem["detail"].as_str().unwrap().contains("changeStream"),
                "{problem}"
            );
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{problem}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let grant = doc! {
        "grantPrivilegesToRole": "writes", "privileges": [rights(&["changeStream"])],
    };
    mongod.as_root(grant).await;
    let since = Instant::now();
    let mut live = loop {
        let live = LiveClient::ask(instance.address, QUERY, READ_KEY, "").await;
        if live.status == 200 {
            break live;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{}", live.head);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(live.counts().await["total"], 0);
    drop((live, http));
    drop_aside(instance).await;
}
