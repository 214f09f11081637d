//! MongoDB goes away and comes back: 503 in time while it is away, never 500, and nothing to do after.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::support::proxy::{Line, Proxy};
use crate::support::{
    Answer, Instance, TestApp, config, database_name, deliver, http, mongodb_uri,
};

fn message(id: usize) -> String {
    json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "ann", "msgType": "TEXT",
        "body": "x", "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
    })
    .to_string()
}

#[track_caller]
fn expect_unavailable(answer: &Answer, since: Instant) {
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable"),
        "{answer:?}"
    );
    assert_eq!(answer.header("retry-after"), "5");
    // Far below the provider's 5 s.
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "answered after {:?}",
        since.elapsed()
    );
}

/// Delivers until it is taken, as nothing else brings the service back.
async fn until_taken(app: &TestApp, body: &str) {
    let since = Instant::now();
    while app.deliver(body).await.status != 200 {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "not taken a minute after MongoDB was back"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn away_and_back(line: Line) {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    app.deliver(message(0)).await.expect_ok();

    proxy.set(line);
    let since = Instant::now();
    let answers = futures_util::future::join_all((1..=20).map(|n| app.deliver(message(n)))).await;
    for answer in &answers {
        expect_unavailable(answer, since);
    }
    let asked = Instant::now();
    let question = json!({ "user": "bob", "peers": ["ann"] });
    expect_unavailable(&app.ask(&question).await, asked);
    let ready = app.get("/readyz", &[]).await;
    assert_eq!(
        (ready.status, &ready.json()["checks"]["mongodb"]),
        (503, &json!("down"))
    );
    assert_eq!(app.get("/livez", &[]).await.status, 200);

    proxy.set(Line::Open);
    until_taken(&app, &message(0)).await;
    for n in 0..=20 {
        until_taken(&app, &message(n)).await;
    }
    assert_eq!(app.ask(&question).await.json()["total"], 21);
    assert_eq!(app.documents("messages", doc! {}).await.len(), 21);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_is_503_and_heals_by_itself() {
    away_and_back(Line::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_stalls_is_503_in_time_and_heals_by_itself() {
    away_and_back(Line::Stalled).await;
}

/// Everything that was acknowledged while the line was cut again and again is there, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_around_short_cuts_is_stored_once() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    let cuts = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            proxy.set(Line::Cut);
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.set(Line::Open);
        }
    };
    let sends = (0..8).map(|lane| {
        let app = &app;
        async move {
            for n in 0..60 {
                let body = message(lane * 60 + n);
                while app.deliver(&body).await.status != 200 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    tokio::join!(cuts, futures_util::future::join_all(sends));
    assert_eq!(app.documents("messages", doc! {}).await.len(), 480);
    let question = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(app.ask(&question).await.json()["total"], 480);
    app.end().await;
}

/// The service starts without MongoDB, and makes its indexes once MongoDB is there.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_starts_before_mongodb() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let database = database_name();
    let instance = Instance::start(config(&proxy.uri(), &database, ""));
    let http = http();
    assert_eq!(
        http.get(instance.url("/livez"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let since = Instant::now();
    expect_unavailable(
        &deliver(&http, &instance, message(0).as_bytes()).await,
        since,
    );
    proxy.set(Line::Open);
    let since = Instant::now();
    while http
        .get(instance.url("/readyz"))
        .send()
        .await
        .unwrap()
        .status()
        != 200
    {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "not ready a minute after MongoDB was there"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    deliver(&http, &instance, message(0).as_bytes())
        .await
        .expect_ok();
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    let messages = client
        .database(&database)
        .collection::<Document>("messages");
    assert_eq!(messages.count_documents(doc! {}).await.unwrap(), 1);
    client.database(&database).drop().await.unwrap();
}

/// A `mongod` of the test's own, that can be killed.
struct Mongod {
    process: std::process::Child,
    binary: String,
    data: tempfile::TempDir,
    port: u16,
}

impl Mongod {
    /// `None` where the tests run on a user's server and there is no program to start another.
    fn start() -> Option<Self> {
        let binary = std::env::var("MONGOD").ok()?;
        let data = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Self::spawn(&binary, data.path(), port);
        Some(Self {
            process,
            binary,
            data,
            port,
        })
    }

    fn spawn(binary: &str, data: &std::path::Path, port: u16) -> std::process::Child {
        std::process::Command::new(binary)
            .args(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25"])
            .args(["--port", &port.to_string()])
            .arg("--dbpath")
            .arg(data)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap(); // SIGKILL
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(&self.binary, self.data.path(), self.port);
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What was acknowledged before `kill -9` of MongoDB is there after it, once, and the service goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_death_of_mongodb() {
    let Some(mut mongod) = Mongod::start() else {
        eprintln!("skipped: MONGOD names no program");
        return;
    };
    let uri = format!("mongodb://127.0.0.1:{}/", mongod.port);
    let app = TestApp::connected(&uri, "").await;
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let lane = |lane: usize| {
        let (app, acknowledged) = (&app, &acknowledged);
        async move {
            for n in 0..200 {
                let id = lane * 200 + n;
                let answer = app.deliver(message(id)).await;
                if answer.status != 200 {
                    return expect_unavailable(&answer, Instant::now());
                }
                acknowledged.lock().unwrap().push(id);
            }
        }
    };
    let killer = async {
        while acknowledged.lock().unwrap().len() < 300 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::block_in_place(|| mongod.kill());
    };
    let lanes = futures_util::future::join_all((0..16).map(lane));
    tokio::join!(killer, lanes);
    tokio::task::block_in_place(|| mongod.restart());

    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(
        (300..3200).contains(&acknowledged.len()),
        "{} acknowledged",
        acknowledged.len()
    );
    until_taken(&app, &message(0)).await;
    let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
    let messages = client
        .database(app.database.name())
        .collection::<Document>("messages");
    for id in &acknowledged {
        let stored = messages
            .count_documents(doc! { "_id": format!("otc/p2p/{id}") })
            .await
            .unwrap();
        assert_eq!(stored, 1, "message {id} was acknowledged");
    }
    let counted = app
        .ask(&json!({ "user": "bob", "peers": ["ann"] }))
        .await
        .json();
    assert_eq!(
        counted["total"],
        messages.count_documents(doc! {}).await.unwrap()
    );
    app.end().await;
}
