//! Shared by tests: a running service, signed requests, and access to the database.

pub mod contract;
pub mod dialect;
pub mod disk;
pub mod live;
pub mod log_guard;
pub mod mongod;
pub mod process;
pub mod proxy;
pub mod schema;
pub mod token;
pub mod trace;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::TryStreamExt;
use im_callback::app::Application;
use im_callback::callback::ids::Millis;
use im_callback::callback::netease::signature::sign;
use im_callback::callback::netease::{Netease, NeteaseRules};
use im_callback::callback::{Credentials, Head, Provider, RawCallback, VerifiedCallback};
use im_callback::config::Config;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub const APP_KEY: &str = "test-app-key";
pub const SECRET: &str = "current-secret";
pub const PREVIOUS_SECRET: &str = "previous-secret";
pub const READ_KEY: &str = "the-tests-read-key";
pub const WRITE_KEY: &str = "the-tests-write-key";
pub const ADMIN_KEY: &str = "the-tests-admin-key";

/// The server of this test run.
pub fn mongodb_uri() -> String {
    std::env::var("MONGODB_URI").expect("MONGODB_URI is not set; run the tests with `make test`")
}

/// A database name that is unique and contains its age.
pub fn database_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    format!("im_test_{seconds}_{}_{n}", std::process::id())
}

/// Drops databases that test runs of more than an hour ago left behind.
async fn sweep(client: &Client) {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    SWEPT
        .get_or_init(|| async {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs();
            for name in client.list_database_names().await.unwrap() {
                let started = name
                    .strip_prefix("im_test_")
                    .and_then(|rest| rest.split('_').next());
                if started
                    .and_then(|s| s.parse::<u64>().ok())
                    .is_some_and(|s| s + 3600 < now)
                {
                    client.database(&name).drop().await.unwrap();
                }
            }
        })
        .await;
}

/// A port for a program that is started later, perhaps several times. Outside of the range of ports that the system
/// assigns itself, or another program might get it in between.
pub fn port() -> u16 {
    loop {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let port = 10_000 + u16::from_le_bytes(random) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Skips a test that cannot run here. `.ci/run` does not allow that.
pub fn skip(why: &str) {
    let forbidden = std::env::var("TESTS_SKIP").is_ok_and(|word| word == "never");
    assert!(!forbidden, "{why}");
    eprintln!("skipped: {why}");
}

/// A service with its own port and thread, like a separate process.
pub struct Instance {
    pub address: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    /// A spool of its own, unless the configuration was given one.
    _spool: tempfile::TempDir,
}

impl Instance {
    pub fn start(mut config: Config) -> Self {
        log_guard::install();
        log_guard::forbid_secrets_of(&config);
        let spool = tempfile::tempdir().unwrap();
        if config.spool.path == Path::new("data/spool") {
            config.spool.path = spool.path().join("spool");
        }
        let stop = CancellationToken::new();
        let (tell, told) = std::sync::mpsc::channel();
        let stopped = stop.clone().cancelled_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let service = Application::build(config).await.unwrap();
                tell.send(service.address().unwrap()).unwrap();
                service.run(stopped).await.unwrap();
            });
        });
        Self {
            address: told.recv().expect("the service did not start"),
            stop,
            thread: Some(thread),
            _spool: spool,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("the service panicked");
            log_guard::check_this_process();
        }
    }
}

/// A service under test and its database.
pub struct TestApp {
    pub instance: Instance,
    pub database: Database,
    pub http: reqwest::Client,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// An error's document without the id of its request, which is another each time.
    pub fn problem(&self) -> Value {
        let mut problem = self.json();
        let id = problem.as_object_mut().unwrap().remove("request_id");
        assert_eq!(id.unwrap(), self.header("x-request-id"), "{self:?}");
        problem
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect_ok(self) -> Self {
        assert_eq!(
            (self.status, self.text.as_str()),
            (200, r#"{"code":200}"#),
            "{self:?}"
        );
        self
    }
}

/// A configuration for tests: one app, a read and a write key.
pub fn config(uri: &str, database: &str, more: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config_text("127.0.0.1:0", uri, database, more)).unwrap();
    Config::load(Some(file.path()), &[]).unwrap_or_else(|e| panic!("{e}"))
}

/// The same, as it is written.
pub fn config_text(listen: &str, uri: &str, database: &str, more: &str) -> String {
    let of_mongodb = |line: &&str| line.starts_with("mongodb.");
    let (mongodb, more): (Vec<_>, Vec<_>) = more.lines().partition(of_mongodb);
    let (mongodb, more) = (mongodb.join("\n").replace("mongodb.", ""), more.join("\n"));
    // Soon, so that tests wait less.
    let delay = if more.contains("reconcile.delay") {
        ""
    } else {
        r#"reconcile.delay = "100ms""#
    };
    format!(
        r#"
        http.listen = "{listen}"
        http.shutdown_delay = "10ms"
        {delay}
        {more}
        [mongodb]
        uri = "{uri}"
        database = "{database}"
        # Tests side by side make MongoDB slow, and only some of them are about the spool.
        commit_timeout = "3s"
        {mongodb}
        [[apps]]
        name = "otc"
        provider = "netease"
        app_key = "{APP_KEY}"
        app_secrets = ["{SECRET}", "{PREVIOUS_SECRET}"]
        callback_path = "/receiveMsg.action"
        order_id = {{ field = "ext", pointer = "/orderId" }}
        [[auth.keys]]
        name = "reader"
        secret = "{READ_KEY}"
        scopes = ["read"]
        [[auth.keys]]
        name = "writer"
        secret = "{WRITE_KEY}"
        scopes = ["write"]
        [[auth.keys]]
        name = "operator"
        secret = "{ADMIN_KEY}"
        scopes = ["admin"]
        "#
    )
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// Starts a service with more configuration: keys of the root, dotted.
    pub async fn with(more: &str) -> Self {
        Self::connected(&mongodb_uri(), more).await
    }

    /// Starts a service with this connection string, and waits until it is ready.
    pub async fn connected(uri: &str, more: &str) -> Self {
        let app = Self::unready(uri, more).await;
        app.until_ready().await;
        app
    }

    /// Starts a service whose MongoDB may be unavailable.
    pub async fn unready(uri: &str, more: &str) -> Self {
        let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
        sweep(&client).await;
        let name = database_name();
        Self {
            instance: Instance::start(config(uri, &name, more)),
            database: client.database(&name),
            http: http(),
        }
    }

    pub async fn until_ready(&self) {
        self.until(|ready| ready["status"] == "ready").await;
    }

    /// Waits until MongoDB is available and has everything that was acknowledged.
    pub async fn until_drained(&self) {
        self.until(|ready| ready["status"] == "ready" && ready["spool"]["bytes"] == 0)
            .await;
    }

    /// Waits until this instance has updated `state` from the read marks.
    pub async fn until_followed(&self) {
        self.until(|ready| ready["state"]["pairs"] == 0 && ready["state"]["caught_up"] == true)
            .await;
    }

    pub async fn until(&self, is_so: impl Fn(&Value) -> bool) {
        self.until_at(&self.instance, is_so).await;
    }

    /// Waits until `/readyz` says this.
    pub async fn until_at(&self, instance: &Instance, is_so: impl Fn(&Value) -> bool) {
        let mut last = Value::Null;
        for _ in 0..1200 {
            last = send(self.http.get(instance.url("/readyz")), &[])
                .await
                .json();
            if is_so(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not so after a minute: {last}");
    }

    /// Another instance on the same database.
    pub fn second_instance(&self) -> Instance {
        Instance::start(config(&mongodb_uri(), self.database.name(), ""))
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        send(self.http.get(self.instance.url(path)), headers).await
    }

    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        send(self.http.post(self.instance.url(path)).body(body), headers).await
    }

    /// Delivers a callback as the provider does.
    pub async fn deliver(&self, body: impl AsRef<[u8]>) -> Answer {
        deliver(&self.http, &self.instance, body.as_ref()).await
    }

    /// Asks for unread counts with the read key.
    pub async fn ask(&self, body: &Value) -> Answer {
        let key = format!("Bearer {READ_KEY}");
        self.post("/v1/unread", &[("Authorization", &key)], body.to_string())
            .await
    }

    /// The whole database except for the service's bookkeeping, once `state` has caught up, as canonical extended JSON
    /// in a fixed order and without times of the service's clock.
    pub async fn dump(&self) -> BTreeMap<String, Vec<Value>> {
        self.until_followed().await;
        let mut dump = BTreeMap::new();
        for name in self.database.list_collection_names().await.unwrap() {
            let documents = self.documents(&name, doc! {}).await;
            let is_own = ["progress", "spools"].contains(&&*name);
            if !documents.is_empty() && !is_own {
                let documents = documents.into_iter().map(comparable).collect();
                dump.insert(name, documents);
            }
        }
        dump
    }

    pub async fn documents(&self, collection: &str, filter: Document) -> Vec<Document> {
        documents(&self.database, collection, filter).await
    }

    pub async fn document(&self, collection: &str, id: &str) -> Document {
        let mut found = self.documents(collection, doc! { "_id": id }).await;
        assert_eq!(found.len(), 1, "documents of {collection} with _id {id}");
        found.remove(0)
    }

    pub async fn empty(&self) {
        for name in self.database.list_collection_names().await.unwrap() {
            self.database
                .collection::<Document>(&name)
                .delete_many(doc! {})
                .await
                .unwrap();
        }
    }

    /// Ends the service and drops its database. A later run drops the databases of failed tests.
    pub async fn end(self) {
        let Self {
            instance, database, ..
        } = self;
        tokio::task::spawn_blocking(move || drop(instance))
            .await
            .unwrap();
        database.drop().await.unwrap();
    }
}

/// The documents of a collection that a filter finds, by `_id`.
pub async fn documents(database: &Database, collection: &str, filter: Document) -> Vec<Document> {
    let collection = database.collection::<Document>(collection);
    let found = collection.find(filter).sort(doc! { "_id": 1 });
    found.await.unwrap().try_collect().await.unwrap()
}

pub fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

pub async fn send(request: reqwest::RequestBuilder, headers: &[(&str, &str)]) -> Answer {
    let request = headers
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value));
    let (client, request) = request.build_split();
    let request = request.unwrap();
    forbid_in_logs(&request);
    let asked = contract::Asked::of(&request);
    let response = client.execute(request).await.unwrap();
    let answer = Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    };
    contract::check(&asked, &answer);
    answer
}

/// No log may have a request's key or signature, or the texts of its body.
fn forbid_in_logs(request: &reqwest::Request) {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let key = header("Authorization").and_then(|value| value.strip_prefix("Bearer "));
    let in_query = request
        .url()
        .query_pairs()
        .find(|(name, _)| name == "signature");
    let in_query = in_query.map(|(_, signature)| signature.into_owned());
    let secrets = [key, header("CheckSum"), in_query.as_deref()];
    secrets
        .into_iter()
        .flatten()
        .for_each(log_guard::forbid_secret);
    if let Some(body) = request.body().and_then(reqwest::Body::as_bytes) {
        log_guard::forbid_texts(body);
    }
}

/// The headers of a signed callback.
pub fn signed(body: &[u8], secret: &str) -> [(&'static str, String); 4] {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let cur_time = now.to_string();
    let (md5, checksum) = sign(body, secret, &cur_time);
    log_guard::forbid_texts(body);
    [
        ("AppKey", APP_KEY.to_owned()),
        ("CurTime", cur_time),
        ("MD5", md5),
        ("CheckSum", checksum),
    ]
}

/// The provider of the test app, without a service around it.
pub fn netease() -> Provider {
    Provider::Netease(Netease {
        credentials: Credentials {
            app_key: APP_KEY.to_owned(),
            secrets: vec![SECRET.into()],
        },
        freshness: None,
        rules: NeteaseRules::default(),
    })
}

/// Verifies a body that is signed here, as a request that carries it would be, and hands it on.
pub fn with_verified<T>(
    provider: &Provider,
    body: &[u8],
    then: impl FnOnce(&VerifiedCallback<'_>) -> T,
) -> T {
    let headers = signed(body, SECRET);
    let header = |name: &str| {
        let found = headers.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str())
    };
    let head = Head {
        method: "POST",
        path: "",
        query: "",
        header: &header,
    };
    let raw = RawCallback { head, body };
    then(&provider.verify(&raw, Millis::nearest(0)).unwrap())
}

/// The text of [`message`].
pub const MESSAGE_TEXT: &str = "a text that no log may have";

/// A message from ann to bob, of which only the id matters.
pub fn message(id: usize) -> String {
    json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "ann", "msgType": "TEXT",
        "body": MESSAGE_TEXT, "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
    })
    .to_string()
}

/// Delivers a callback to an instance as the provider does.
pub async fn deliver(http: &reqwest::Client, instance: &Instance, body: &[u8]) -> Answer {
    let headers = signed(body, SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    send(
        http.post(instance.url("/callbacks/otc"))
            .body(body.to_vec()),
        &headers,
    )
    .await
}

/// A document as JSON, without times of the service's clock.
pub fn comparable(mut document: Document) -> Value {
    for (clock, shown) in [("receivedAt", "[received]"), ("updatedAt", "[updated]")] {
        if let Some(value) = document.get_mut(clock) {
            let age = value
                .as_datetime()
                .map(|at| bson::DateTime::now().timestamp_millis() - at.timestamp_millis());
            assert!(
                age.is_some_and(|ms| (0..600_000).contains(&ms)),
                "{clock} is {value:?}"
            );
            *value = Bson::from(shown);
        }
    }
    Bson::Document(document).into_canonical_extjson()
}
