//! MongoDB goes away and comes back: 503 in time while it is away, never 500, and nothing to do after.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
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
    process: Child,
    arguments: Vec<String>,
    port: u16,
    _data: tempfile::TempDir,
}

impl Mongod {
    /// A replica set of one node, or a server without a replica set. `None` where the tests run on a
    /// user's server and there is no program to start another.
    async fn start(replica_set: bool) -> Option<Self> {
        let program = std::env::var("MONGOD").ok()?;
        let data = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = data.path().to_str().unwrap();
        let port_text = port.to_string();
        let mut arguments = vec![program.as_str(), "--dbpath", folder, "--port", &port_text];
        arguments.extend(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25"]);
        if replica_set {
            arguments.extend(["--replSet", "rs0"]);
        }
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        let process = spawn(&arguments);
        let mongod = Self {
            process,
            arguments,
            port,
            _data: data,
        };
        if replica_set {
            let direct = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
            let client = mongodb::Client::with_uri_str(direct).await.unwrap();
            let member = doc! { "_id": 0, "host": format!("127.0.0.1:{port}") };
            let initiate = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
            client
                .database("admin")
                .run_command(initiate)
                .await
                .unwrap();
        }
        Some(mongod)
    }

    fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap(); // SIGKILL
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = spawn(&self.arguments);
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new(&arguments[0]);
    command
        .args(&arguments[1..])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What was acknowledged before `kill -9` of MongoDB is there after it, once, and the service goes on.
async fn acknowledged_survives_the_death_of(mut mongod: Mongod) {
    let uri = mongod.uri();
    let app = TestApp::connected(&uri, "").await;
    let acknowledged = Mutex::new(Vec::new());
    let lane = |lane: usize| {
        let (app, acknowledged) = (&app, &acknowledged);
        async move {
            for n in 0..1000 {
                let id = lane * 1000 + n;
                let sent = Instant::now();
                let answer = app.deliver(message(id)).await;
                if answer.status != 200 {
                    return expect_unavailable(&answer, sent);
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
        acknowledged.len() >= 300,
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
            .await;
        assert_eq!(stored.unwrap(), 1, "message {id} was acknowledged");
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_death_of_a_replica_set() {
    match Mongod::start(true).await {
        Some(mongod) => acknowledged_survives_the_death_of(mongod).await,
        None => eprintln!("skipped: MONGOD names no program"),
    }
}

/// Without a replica set replies tell no term, and every write has to be confirmed by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_death_of_a_lone_server() {
    match Mongod::start(false).await {
        Some(mongod) => acknowledged_survives_the_death_of(mongod).await,
        None => eprintln!("skipped: MONGOD names no program"),
    }
}
