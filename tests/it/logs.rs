//! What the service logs of requests, and that it logs no more than that.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use serde_json::json;

use crate::callbacks::MESSAGE;
use crate::support::dialect::{Dialect, WILDFIRE_SECRET};
use crate::support::process::Process;
use crate::support::proxy::{Line, Proxy};
use crate::support::{
    ADMIN_KEY, Answer, READ_KEY, SECRET, TestApp, WRITE_KEY, database_name, http, mongodb_uri,
    send, signed,
};

/// A service in a process of its own, with a real log.
pub struct Logged {
    pub process: Process,
    http: reqwest::Client,
    pub database: Database,
}

impl Logged {
    pub async fn start(filter: &str, more: &str) -> Self {
        Self::on(&mongodb_uri(), filter, more).await
    }

    /// Starts it on the MongoDB that this connection string leads to.
    pub async fn on(uri: &str, filter: &str, more: &str) -> Self {
        let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
        let name = database_name();
        let more = format!("log.filter = \"{filter}\"\n{more}");
        let mut process = Process::new(uri, &name, &more);
        process.start();
        let http = http();
        process.until_drained(&http).await;
        Self {
            process,
            http,
            database: client.database(&name),
        }
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let url = format!("http://{}{path}", self.process.address);
        send(self.http.post(url).body(body.to_owned()), headers).await
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let url = format!("http://{}{path}", self.process.address);
        send(self.http.get(url), headers).await
    }

    pub async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let url = format!("http://{}{path}", self.process.address);
        send(self.http.delete(url), headers).await
    }

    pub async fn until_drained(&self) {
        self.process.until_drained(&self.http).await;
    }

    /// The lines with this text, once there are as many.
    pub fn lines(&self, text: &str, count: usize) -> Vec<String> {
        let since = Instant::now();
        loop {
            let log = self.process.log();
            let found = log.lines().filter(|line| line.contains(text));
            let found: Vec<_> = found.map(str::to_owned).collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "lines with {text}:\n{log}");
                return found;
            }
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "lines with {text}, of {count}:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn line(&self, text: &str) -> String {
        self.lines(text, 1).remove(0)
    }

    pub async fn end(self) {
        self.database.drop().await.unwrap();
    }
}

/// The headers of a signed callback, with an id for its request.
fn signed_with_id<'h>(
    signed: &'h [(&'static str, String)],
    id: &'h str,
) -> Vec<(&'static str, &'h str)> {
    let headers = signed.iter().map(|(name, value)| (*name, value.as_str()));
    headers.chain([("X-Request-Id", id)]).collect()
}

#[track_caller]
pub fn assert_has(line: &str, fields: &[&str]) {
    for field in fields {
        assert!(line.contains(field), "no {field} in {line}");
    }
}

#[tokio::test]
async fn every_error_has_the_id_of_its_request() {
    let app = TestApp::start().await;
    let read = format!("Bearer {READ_KEY}");
    let admin = format!("Bearer {ADMIN_KEY}");
    let unknown = format!("/v1/dead-letters/otc/{}", "0".repeat(64));
    let nobody = ("Authorization", "Bearer none of the keys");
    let (read, admin) = (("Authorization", &*read), ("Authorization", &*admin));
    let too_large = "x".repeat(2 * 1024 * 1024);
    type Case<'c> = (&'c str, &'c str, Option<(&'c str, &'c str)>, &'c str, u16);
    let cases: &[Case<'_>] = &[
        ("POST", "/callbacks/otc", None, "{}", 400),
        ("POST", "/v1/unread", Some(read), "{", 400),
        ("GET", "/v1/unread?user=u&peers=p", None, "", 401),
        ("GET", "/v1/dead-letters", Some(read), "", 403),
        ("POST", "/callbacks/none", None, "{}", 404),
        ("GET", &unknown, Some(admin), "", 404),
        ("GET", "/nowhere", None, "", 404),
        ("DELETE", "/livez", None, "", 405),
        ("POST", "/v1/unread", Some(read), &too_large, 413),
        ("POST", "/v1/unread", Some(read), "{}", 422),
    ];
    for (method, path, key, body, status) in cases {
        let ask = async |id: Option<&str>| {
            let url = app.instance.url(path);
            let request = app.http.request(method.parse().unwrap(), url);
            let headers = key.iter().copied().chain(id.map(|id| ("X-Request-Id", id)));
            send(
                request.body((*body).to_owned()),
                &headers.collect::<Vec<_>>(),
            )
            .await
        };
        let answer = ask(Some("my-own.id_7")).await;
        assert_eq!(answer.status, *status, "{method} {path} {answer:?}");
        assert_eq!(answer.header("x-request-id"), "my-own.id_7", "{answer:?}");
        assert_eq!(answer.json()["request_id"], "my-own.id_7", "{answer:?}");
        for bad in [
            None,
            Some("no spaces"),
            Some(&*"x".repeat(65)),
            Some("a\"b"),
        ] {
            let answer = ask(bad).await;
            let id = answer.header("x-request-id").to_owned();
            let is_made = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_made, "{answer:?}");
            assert_eq!(answer.json()["request_id"], id.as_str(), "{answer:?}");
        }
    }
    // Its key is rejected in more than one way.
    assert!(app.get("/v1/unread", &[nobody]).await.json()["request_id"].is_string());
    app.end().await;
    let away = TestApp::unready("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", "").await;
    let asked = json!({ "user": "u", "peers": ["p"] });
    let answer = away.ask(&asked).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable")
    );
    let id = answer.header("x-request-id").to_owned();
    assert_eq!(answer.json()["request_id"], id.as_str());
    assert_ne!(away.ask(&asked).await.header("x-request-id"), id);
}

/// At the usual level nothing is made that nobody sees.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_returns_the_callers_id_alone_and_no_line() {
    let service = Logged::start("info", "").await;
    let headers = signed(MESSAGE.as_bytes(), SECRET);
    let answer = service
        .post(
            "/callbacks/otc",
            &signed_with_id(&headers, "of-a-proxy"),
            MESSAGE,
        )
        .await
        .expect_ok();
    assert_eq!(answer.header("x-request-id"), "of-a-proxy");
    for id in ["", "no spaces"] {
        let headers = signed_with_id(&headers, id);
        let answer = service.post("/callbacks/otc", &headers, MESSAGE).await;
        assert_eq!(answer.expect_ok().header("x-request-id"), "");
    }
    let log = service.process.log();
    assert!(!log.contains("request"), "{log}");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_names_routes_and_no_paths() {
    let more = "http.trusted_proxies = [\"127.0.0.0/8\"]\n".to_owned() + &Dialect::other_apps();
    let service = Logged::start("info,im_callback::access=debug", &more).await;
    let headers = signed(MESSAGE.as_bytes(), SECRET);
    let taken = |id| {
        let mut headers = signed_with_id(&headers, id);
        headers.push(("X-Forwarded-For", "203.0.113.9"));
        headers
    };
    service
        .post("/callbacks/otc", &taken("first"), MESSAGE)
        .await
        .expect_ok();
    service
        .post("/receiveMsg.action", &taken("second"), MESSAGE)
        .await
        .expect_ok();
    for id in ["first", "second"] {
        let line = service.line(&format!("request_id={id}"));
        let fields = ["DEBUG im_callback::access: request ", "took_ms=", "app=otc"];
        assert_has(&line, &fields);
        let fields = [
            "method=\"POST\" route=\"callbacks\" status=200 ",
            "client=203.0.113.9 ",
        ];
        assert_has(&line, &fields);
        assert!(!line.contains("code="), "{line}");
    }
    let wild = format!("/callbacks/wild/{WILDFIRE_SECRET}/message_read");
    service.post(&wild, &[("X-Request-Id", "wild")], "{}").await;
    assert_has(
        &service.line("request_id=wild"),
        &["route=\"callbacks\"", "app=wild"],
    );

    let key = format!("Bearer {READ_KEY}");
    let key = ("Authorization", &*key);
    let made = service
        .get("/v1/unread?app=otc&user=one-reader&peers=one-peer", &[key])
        .await;
    let line = service.line(made.header("x-request-id"));
    assert_has(&line, &["method=\"GET\" route=\"unread\" status=200"]);
    for (path, route) in [
        ("/v1/dead-letters", "dead_letters"),
        ("/v1/dead-letters/otc/0a", "dead_letter"),
        ("/v1/dead-letters/otc/0a/retry", "dead_letter_retry"),
        ("/livez", "livez"),
        ("/readyz", "readyz"),
        ("/%6Civez", "livez"),
        ("/one-path", "unmatched"),
        ("/other-path/below?query=one", "unmatched"),
        ("/v1/unread/", "unmatched"),
    ] {
        let answer = service.get(path, &[]).await;
        let line = service.line(answer.header("x-request-id"));
        assert_has(
            &line,
            &[&format!("route=\"{route}\" status={}", answer.status)],
        );
        let code = answer.json()["code"]
            .as_str()
            .map(|code| format!("code=\"{code}\""));
        assert_has(&line, &[code.as_deref().unwrap_or("")]);
    }
    let url = format!("http://{}/livez", service.process.address);
    let brew = http().request("BREW".parse().unwrap(), url);
    let answer = send(brew, &[]).await;
    let line = service.line(answer.header("x-request-id"));
    assert_has(&line, &["method=\"other\" route=\"livez\" status=405"]);
    let log = service.process.log();
    for said in [
        "one-path",
        "other-path",
        "query",
        "one-reader",
        "one-peer",
        "receiveMsg.action\" ",
    ] {
        let line = log
            .lines()
            .find(|line| line.contains("::access") && line.contains(said));
        assert_eq!(line, None);
    }
    service.end().await;
}

/// What happens during a request carries its id, also where many are handled at once.
#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_request_carry_its_id() {
    let service = Logged::start("info,im_callback=debug", "").await;
    let forged = signed(MESSAGE.as_bytes(), "not the secret");
    let undecodable = r#"{"eventType":1,"convType":"PERSON"}"#;
    let right = signed(undecodable.as_bytes(), SECRET);
    let (one, other) = (
        signed_with_id(&forged, "forged"),
        signed_with_id(&right, "undecodable"),
    );
    tokio::join!(
        service.post("/callbacks/otc", &one, MESSAGE),
        service.post("/callbacks/otc", &other, undecodable),
    );
    let span = |id: &str| {
        let fields = "otel.kind=\"server\" http.request.method=\"POST\" http.route=\"/callbacks\"";
        format!("request{{request_id={id} {fields}}}: ")
    };
    let line = service.line("callback rejected");
    assert_has(
        &line,
        &[&span("forged"), "code=\"checksum_mismatch\"", "app=otc"],
    );
    let line = service.line("a verified body becomes a dead letter");
    assert_has(&line, &[&span("undecodable"), "code=\"missing_field\""]);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_callback_and_a_dead_letter_say_which() {
    let service = Logged::start("info", "").await;
    let forged = signed(MESSAGE.as_bytes(), "not the secret");
    let forged: Vec<_> = forged.iter().map(|(n, v)| (*n, &**v)).collect();
    let answer = service.post("/callbacks/otc", &forged, MESSAGE).await;
    let id = format!("request_id={} ", answer.header("x-request-id"));
    let fields = [
        "app=otc ",
        "code=\"checksum_mismatch\" ",
        "client=127.0.0.1 ",
        &id,
    ];
    assert_has(&service.line("callback rejected"), &fields);

    let undecodable = r#"{"eventType":1,"convType":"PERSON"}"#;
    let headers = signed(undecodable.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    service
        .post("/callbacks/otc", &headers, undecodable)
        .await
        .expect_ok();
    let key = format!("Bearer {ADMIN_KEY}");
    let key = [("Authorization", &*key)];
    let listed = service.get("/v1/dead-letters", &key).await.json();
    let id = listed["deadLetters"][0]["id"].as_str().unwrap().to_owned();
    let fields = [
        &*format!("id=\"{id}\""),
        "code=\"missing_field\"",
        "app=otc",
    ];
    assert_has(
        &service.line("a verified body becomes a dead letter"),
        &fields,
    );
    let path = format!("/v1/dead-letters/{id}/retry");
    assert_eq!(service.post(&path, &key, "").await.status, 422);
    let fields = [
        fields[0],
        fields[1],
        "key=\"operator\"",
        "outcome=\"still_undecodable\"",
    ];
    assert_has(&service.line("a dead letter was retried"), &fields);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_mongodb_refuses_is_logged_as_its_dead_letter() {
    let service = Logged::start("info", "").await;
    let refusing = doc! { "collMod": "messages", "validator": { "fromAccount": { "$ne": "ann" } } };
    service.database.run_command(refusing).await.unwrap();
    let headers = signed(MESSAGE.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    let answer = service.post("/callbacks/otc", &headers, MESSAGE).await;
    answer.expect_ok();
    let dead_letters = service.database.collection::<Document>("dead_letters");
    let found = dead_letters.find_one(doc! {}).await.unwrap().unwrap();
    let id = format!("id=\"{}\"", found.get_str("_id").unwrap());
    let line = service.line("MongoDB refuses a callback, which is kept as a dead letter");
    assert_has(
        &line,
        &[
            "app=otc",
            &id,
            "code=\"store_refused\"",
            "why=\"error 121\"",
        ],
    );
    service.end().await;
}

/// A failure of the service's own is in the log, once, under the id that the caller got.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_query_is_logged_with_its_id() {
    let service = Logged::start("info", "").await;
    let messages = service.database.collection::<Document>("messages");
    messages.drop_index("unread_by_peer").await.unwrap();
    let question = json!({ "user": "a-reader", "peers": ["a-peer"] });
    let answer = service.process.ask(&http(), &question).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable")
    );
    let line = service.line("a query failed");
    let id = format!("request_id={} ", answer.header("x-request-id"));
    let fields = [
        "ERROR",
        "route=\"unread\"",
        "code=\"unavailable\"",
        "error=\"MongoDB",
        &id,
    ];
    assert_has(&line, &fields);
    let told = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(!told.contains("BadValue"), "{told}");
    service.end().await;
}

/// A site's read that MongoDB does not take at once is no commit, and the log says what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_tried_again_is_logged_as_what_it_is() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let service = Logged::on(&proxy.uri(), "info", "").await;
    proxy.set(Line::Cut);
    let key = format!("Bearer {WRITE_KEY}");
    let report = json!({ "user": "a-reader", "peer": "a-peer", "up_to": 1 }).to_string();
    let answer = service
        .post("/v1/read", &[("Authorization", &key)], &report)
        .await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let log = service.process.log();
    assert!(log.contains("marking as read is tried again"), "{log}");
    assert!(!log.contains("a commit is"), "{log}");
    service.end().await;
}

/// A query that cannot be answered for now is in the log as well, at a limited rate.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_in_an_outage_is_logged_with_its_id() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let service = Logged::on(&proxy.uri(), "info", "").await;
    proxy.set(Line::Cut);
    let headers = signed(MESSAGE.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    service
        .post("/callbacks/otc", &headers, MESSAGE)
        .await
        .expect_ok();
    let question = json!({ "user": "a-reader", "peers": ["a-peer"] });
    let (http, since) = (http(), Instant::now());
    for n in 0..20 {
        let answer = service.process.ask(&http, &question).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "unavailable")
        );
        if n == 0 {
            let id = format!("request_id={} ", answer.header("x-request-id"));
            let fields = [
                "WARN",
                "route=\"unread\" ",
                "code=\"unavailable\" ",
                "why=\"MongoDB is away",
            ];
            assert_has(&service.line("a query was not answered"), &fields);
            assert_has(
                &service.line(&id),
                &["a query was not answered", "kept_back=0"],
            );
        }
    }
    // Ten lines in each ten seconds, which a busy machine may need for a few questions.
    let windows = since.elapsed().as_secs() as usize / 10 + 1;
    if windows == 1 {
        service.lines("a query was not answered", 10);
    } else {
        let logged = service.process.log();
        let logged = logged.matches("a query was not answered").count();
        assert!((10..=10 * windows).contains(&logged), "{logged} lines");
    }
    proxy.set(Line::Open);
    service.end().await;
}

/// Behind such a proxy, `allow`, the limit on wrong keys and the log know only the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_trusted_is_named_once() {
    let service = Logged::start("info", "").await;
    let forwarded = [("X-Forwarded-For", "203.0.113.9")];
    service.post("/callbacks/otc", &[], "{}").await;
    assert!(!service.process.log().contains("trusted_proxies"));
    for _ in 0..3 {
        service.post("/callbacks/otc", &forwarded, "{}").await;
    }
    let line = service.line("http.trusted_proxies is empty");
    assert_has(&line, &["WARN", "peer=127.0.0.1"]);
    service.end().await;
    let service = Logged::start("info", "http.trusted_proxies = [\"10.0.0.0/8\"]\n").await;
    service.post("/callbacks/otc", &forwarded, "{}").await;
    assert!(!service.process.log().contains("trusted_proxies"));
    service.end().await;
}
