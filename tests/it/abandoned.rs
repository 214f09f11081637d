//! Clients that are gone before their answer: what they asked for is counted and logged nevertheless.

use std::time::{Duration, Instant};

use mongodb::bson::{DateTime, Document, doc};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::logs::{Logged, assert_has};
use crate::support::log_guard::forbid_secret;
use crate::support::proxy::{Line, Proxy};
use crate::support::{ADMIN_KEY, READ_KEY, SECRET, message, mongodb_uri, signed};

/// A service whose MongoDB can be made to hang, with its access log.
async fn start() -> (Logged, Proxy) {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let filter = "info,im_callback::access=debug";
    let service = Logged::on(&proxy.uri(), filter, "http.shutdown_timeout = \"3s\"").await;
    (service, proxy)
}

/// Sends a request, and resets the connection while it is handled.
async fn abandon(service: &Logged, request: &str) {
    let mut socket = TcpStream::connect(service.process.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    // With nothing lingering, the end of a stream is a reset.
    socket.set_zero_linger().unwrap();
}

async fn sample(service: &Logged, name: &str) -> f64 {
    let text = service.get("/metrics", &[]).await.text;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Abandons a request until the service has counted one. On a busy machine a connection may be reset before its
/// request was read.
async fn until_counted(service: &Logged, request: &str, name: &str) {
    let since = Instant::now();
    while sample(service, name).await == 0.0 {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{name} {}",
            service.process.log()
        );
        abandon(service, request).await;
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_callback_is_counted_and_logged_and_taken_again() {
    let (service, proxy) = start().await;
    let requests =
        "im_callback_http_requests_total{route=\"callbacks\",method=\"POST\",status=\"499\"}";
    let callbacks =
        "im_callback_callbacks_total{app=\"otc\",kind=\"none\",outcome=\"client_gone\"}";
    let took = "im_callback_http_request_duration_seconds_count{route=\"callbacks\"}";
    let metrics = service.get("/metrics", &[]).await.text;
    // Prometheus sees no increase in a series that begins with its first event.
    assert!(metrics.contains(&format!("{callbacks} 0\n")), "{metrics}");
    let body = message(7);
    let headers =
        signed(body.as_bytes(), SECRET).map(|(name, value)| format!("{name}: {value}\r\n"));
    let request = format!(
        "POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nX-Request-Id: left-alone\r\n{}Content-Length: {}\r\n\r\n{body}",
        headers.concat(),
        body.len()
    );
    proxy.set(Line::Stalled);
    until_counted(&service, &request, requests).await;
    let counted = sample(&service, requests).await;
    assert_eq!(sample(&service, callbacks).await, counted);
    assert_eq!(sample(&service, took).await, counted);
    let line = service
        .lines("request_id=left-alone", counted as usize)
        .remove(0);
    let fields = [
        "method=\"POST\" route=\"callbacks\" status=499 ",
        "took_ms=",
        "client=127.0.0.1 ",
        "app=otc ",
    ];
    assert_has(&line, &fields);
    // It was not acknowledged, so the provider sends it again.
    proxy.set(Line::Open);
    service.until_drained().await;
    let headers = signed(body.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    let again = service.post("/callbacks/otc", &headers, &body).await;
    again.expect_ok();
    let stored = service.database.collection::<Document>("messages");
    assert_eq!(stored.count_documents(doc! {}).await.unwrap(), 1);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_query_is_counted() {
    let (service, proxy) = start().await;
    let requests =
        "im_callback_http_requests_total{route=\"unread\",method=\"GET\",status=\"499\"}";
    forbid_secret(READ_KEY);
    let request = format!(
        "GET /v1/unread?user=u&peers=p HTTP/1.1\r\nHost: x\r\nX-Request-Id: left-alone\r\nAuthorization: Bearer {READ_KEY}\r\n\r\n"
    );
    proxy.set(Line::Stalled);
    until_counted(&service, &request, requests).await;
    let line = service
        .process
        .log()
        .lines()
        .find(|line| line.contains("status=499"))
        .unwrap()
        .to_owned();
    let fields = [
        "method=\"GET\" route=\"unread\"",
        "app=otc",
        "request_id=left-alone",
    ];
    assert_has(&line, &fields);
    proxy.set(Line::Open);
    service.end().await;
}

/// Who asked for what is in the log also if nobody knows whether it was done.
#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_action_on_a_dead_letter_is_logged_with_its_key() {
    let (service, proxy) = start().await;
    let id = format!("otc/{}", "0a".repeat(32));
    let dead_letter = doc! {
        "_id": &id, "app": "otc", "provider": "netease", "code": "not_json", "reason": "it is not", "path": "$",
        "body": "x", "receivedAt": DateTime::from_millis(1_700_000_000_000),
    };
    let dead_letters = service.database.collection::<Document>("dead_letters");
    dead_letters.insert_one(dead_letter).await.unwrap();
    let key = format!("Bearer {ADMIN_KEY}");
    let key = [("Authorization", &*key)];
    service.get("/v1/dead-letters?app=otc", &key).await;
    let listed = service.line("dead letters were listed");
    assert_has(&listed, &["INFO", "key=\"operator\"", "listed=1"]);
    let path = format!("/v1/dead-letters/{id}");
    let shown = service.get(&path, &key).await;
    let line = service.line(&format!("request_id={}", shown.header("x-request-id")));
    assert_has(&line, &["::access", "route=\"dead_letter\"", "app=otc"]);

    proxy.set(Line::Stalled);
    let retried = service.post(&format!("{path}/retry"), &key, "").await;
    let dropped = service.delete(&path, &key).await;
    for (answer, action) in [(&retried, "retry"), (&dropped, "drop")] {
        assert_eq!(answer.status, 503, "{answer:?}");
        let line = service.line(&format!("action=\"{action}\""));
        let request_id = format!("request_id={}", answer.header("x-request-id"));
        let fields = [
            "WARN",
            "what was asked for a dead letter may have been done",
            &format!("id=\"{id}\""),
            "key=\"operator\"",
            "outcome=\"unknown\"",
            &request_id,
        ];
        assert_has(&line, &fields);
    }
    // Once the outcome is known there is one line, with it.
    proxy.set(Line::Open);
    service.until_drained().await;
    service.delete(&path, &key).await;
    service.lines("may have been done", 2);
    service.end().await;
}
