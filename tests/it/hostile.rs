//! Hostile and slow clients, as raw bytes on sockets: each is answered or disconnected, and callbacks are still taken.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{SECRET, TestApp, signed};

/// Short, so that tests are.
const IMPATIENT: &str =
    "http.header_timeout = \"1s\"\nhttp.keep_alive = \"1s\"\nhttp.body_timeout = \"3s\"\n";

/// The time after which a slow client must be disconnected. Generous, since tests run in parallel.
const GONE: Duration = Duration::from_secs(20);

const CALLBACK: &str = "POST /callbacks/otc HTTP/1.1\r\nHost: x\r\n";
const ALIVE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// The head of a callback, up to its length, signed for this body: only then may it be large.
fn signed_head(body: &str) -> String {
    let headers =
        signed(body.as_bytes(), SECRET).map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("{CALLBACK}{}", headers.concat())
}

async fn open(app: &TestApp) -> (OwnedReadHalf, OwnedWriteHalf) {
    let socket = TcpStream::connect(app.instance.address).await.unwrap();
    socket.into_split()
}

/// What the service sends until it ends the connection.
async fn until_end(mut from: OwnedReadHalf, who: &str) -> String {
    let mut answer = Vec::new();
    let end = timeout(GONE, from.read_to_end(&mut answer)).await;
    let end = end.unwrap_or_else(|_| panic!("{who} is still there"));
    if let Err(error) = end {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{who}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A client that sends something, and then a little more again and again.
struct Slow {
    what: &'static str,
    says: String,
    then: &'static str,
    every: Duration,
    answers: &'static [&'static str],
}

fn slow(
    what: &'static str,
    says: impl Into<String>,
    then: &'static str,
    answers: &'static [&'static str],
) -> Slow {
    Slow {
        what,
        says: says.into(),
        then,
        every: Duration::from_millis(100),
        answers,
    }
}

fn slow_clients() -> Vec<Slow> {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let long = "Content-Length: 100000\r\n\r\n";
    let header =
        "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let rate = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    vec![
        slow("says nothing", "", "", &[""]),
        slow("drips its head", "POST /callb", "a", &[""]),
        slow("has endless headers", CALLBACK, header, &["", "431"]),
        slow("is idle after a request", ALIVE, "", &["200"]),
        slow(
            "drips its second head",
            format!("{ALIVE}GET /"),
            "a",
            &["200"],
        ),
        slow("drips empty lines after a request", ALIVE, "\r\n", &["200"]),
        slow(
            "stalls its body",
            format!("{}{long}{{", signed_head("")),
            "",
            &["408"],
        ),
        slow(
            "drips its body",
            format!("{}{long}", signed_head("")),
            "x",
            &["408"],
        ),
        slow(
            "drips chunks",
            format!("{CALLBACK}{chunked}"),
            "1\r\nx\r\n",
            &["408"],
        ),
        slow(
            "drips a chunk's size",
            format!("{CALLBACK}{chunked}"),
            "0",
            &["408", "400"],
        ),
        Slow {
            every: Duration::from_millis(50),
            ..slow(
                "is just fast enough for ever",
                format!("{}{long}", signed_head("")),
                rate,
                &["408"],
            )
        },
        slow(
            "drips a body that nobody wants",
            format!("POST /livez HTTP/1.1\r\nHost: x\r\n{long}"),
            "x",
            &["405"],
        ),
        slow(
            "drips chunks that nobody wants",
            format!("POST /livez HTTP/1.1\r\nHost: x\r\n{chunked}"),
            "1\r\nx\r\n",
            &["405"],
        ),
        slow(
            "announces too much, and drips it in chunks",
            format!("POST /callbacks/none HTTP/1.1\r\nHost: x\r\n{chunked}"),
            "1\r\nx\r\n",
            &["404"],
        ),
    ]
}

impl Slow {
    /// Plays it until the service ends the connection, and returns what was answered.
    async fn play(&self, app: &TestApp) -> String {
        let (from, mut to) = open(app).await;
        let talk = async {
            let _ = to.write_all(self.says.as_bytes()).await;
            while !self.then.is_empty() {
                sleep(self.every).await;
                if to.write_all(self.then.as_bytes()).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = talk => unreachable!("it never ends"),
            answer = until_end(from, self.what) => answer,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_slow_client_is_answered_or_gone() {
    let app = TestApp::with(IMPATIENT).await;
    let clients = slow_clients();
    let played = clients.iter().map(|client| client.play(&app));
    for (client, answer) in clients.iter().zip(join_all(played).await) {
        let status = answer.get(9..12).unwrap_or_default();
        assert!(
            client.answers.contains(&status),
            "who {} got {answer:?}",
            client.what
        );
        if client.says.starts_with(CALLBACK) && status == "408" && client.what.contains("body") {
            assert!(answer.contains(r#""code":"slow_body""#), "{answer}");
        }
    }
    assert_eq!(app.get("/livez", &[]).await.status, 200);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_connections_are_answered_and_end() {
    let app = TestApp::with(IMPATIENT).await;
    let cases = [
        (CALLBACK.to_owned(), ""),
        (ALIVE.to_owned(), "200"),
        (format!("{CALLBACK}Content-Length: 9\r\n\r\n{{"), "400"),
        (
            format!("{CALLBACK}Transfer-Encoding: chunked\r\n\r\n9\r\n{{"),
            "400",
        ),
        (format!("{ALIVE}POST /"), "200"),
    ];
    for (says, status) in cases {
        let (from, mut to) = open(&app).await;
        to.write_all(says.as_bytes()).await.unwrap();
        to.shutdown().await.unwrap();
        let answer = until_end(from, &says).await;
        assert_eq!(
            answer.get(9..12).unwrap_or_default(),
            status,
            "{says:?} got {answer:?}"
        );
    }
    app.end().await;
}

/// A connection that can no longer do anything useful ends before the idle or body timeout.
#[tokio::test(flavor = "multi_thread")]
async fn drips_and_bodies_left_unread_end_early() {
    let app = TestApp::with("http.keep_alive = \"60s\"\nhttp.body_timeout = \"60s\"\n").await;
    let length = format!("{CALLBACK}Content-Length: 1000\r\n\r\n");
    let chunked = format!("{CALLBACK}Transfer-Encoding: chunked\r\n\r\n");
    let clients = [
        slow("drips its body", length, "x", &[]),
        slow("stalls its chunks", format!("{chunked}1\r\nx\r\n"), "", &[]),
    ];
    for answer in join_all(clients.iter().map(|client| client.play(&app))).await {
        assert!(answer.contains(r#""code":"slow_body""#), "{answer:?}");
    }
    app.end().await;
}

/// Endless requests whose answers are not read.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answers_is_gone() {
    let app = TestApp::with(IMPATIENT).await;
    for request in [
        ALIVE.to_owned(),
        ALIVE.replace("livez", "readyz"),
        format!("{CALLBACK}Content-Length: 1\r\n\r\nx"),
    ] {
        let (_unread, mut to) = open(&app).await;
        let many = request.repeat(1000);
        let flood = async { while to.write_all(many.as_bytes()).await.is_ok() {} };
        assert!(timeout(GONE, flood).await.is_ok(), "{request:?} goes on");
    }
    assert_eq!(app.get("/livez", &[]).await.status, 200);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_promptly() {
    // Far longer than the answers may take.
    let patient = "http.header_timeout = \"60s\"\nhttp.keep_alive = \"60s\"\n";
    let app = TestApp::with(patient).await;
    let callbacks: String = (0..16)
        .map(|n| {
            let body = message(n);
            let head = signed_head(&body);
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        })
        .collect();
    let cases = [
        (ALIVE.repeat(16), 16),
        (ALIVE.repeat(1000), 1000),
        (callbacks, 16),
    ];
    for (requests, count) in cases {
        let (mut from, mut to) = open(&app).await;
        to.write_all(requests.as_bytes()).await.unwrap();
        let all = async {
            let (mut answers, mut part) = (String::new(), [0; 4096]);
            while answers.matches("HTTP/1.1 200").count() < count {
                let read = from.read(&mut part).await.unwrap();
                assert!(read > 0, "cut after {answers:?}");
                answers.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
        };
        assert!(timeout(GONE, all).await.is_ok(), "some are not answered");
    }
    assert_eq!(app.dump().await["messages"].len(), 16);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_http_is_refused_and_does_no_harm() {
    let app = TestApp::with(IMPATIENT).await;
    let long_header = format!("{CALLBACK}X: {}\r\n\r\n", "a".repeat(200 * 1024));
    let long_path = format!(
        "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n",
        "a".repeat(200 * 1024)
    );
    let many_headers = format!("{CALLBACK}{}\r\n", "X: a\r\n".repeat(2000));
    let cases: &[&[u8]] = &[
        b"\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
        b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nMD5: a\r\nMD5: b\r\nContent-Length: 1\r\n\r\nx",
        b"POST /callbacks/%ff%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        long_header.as_bytes(),
        long_path.as_bytes(),
        many_headers.as_bytes(),
    ];
    for case in cases {
        let what = String::from_utf8_lossy(&case[..case.len().min(80)]).into_owned();
        let (from, mut to) = open(&app).await;
        // The service may end the connection before it has all.
        let _ = to.write_all(case).await;
        let answer = until_end(from, &what).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{what:?} got {answer:?}");
        assert!(!answer.contains("HTTP/1.1 5"), "{what:?} got {answer:?}");
        // Over a connection of its own: one that was kept may end at this moment.
        let (from, mut to) = open(&app).await;
        to.write_all(ALIVE.as_bytes()).await.unwrap();
        let alive = until_end(from, "alive").await;
        assert!(alive.starts_with("HTTP/1.1 200"), "after {what:?}");
    }
    assert!(app.dump().await.is_empty());
    app.end().await;
}

fn message(n: usize) -> String {
    json!({
        "eventType": "1", "convType": "PERSON", "msgType": "TEXT", "body": "x", "to": "bob",
        "fromAccount": "ann", "msgTimestamp": 1_700_000_000_000_usize + n, "msgidServer": n,
    })
    .to_string()
}

/// Endless random bytes, and unsigned bodies at full speed.
async fn garbage(app: &TestApp, n: usize) {
    let mut random = vec![0; 64 * 1024];
    getrandom::fill(&mut random).unwrap();
    let body = "x".repeat(64 * 1024);
    let unsigned = format!("{CALLBACK}Content-Length: {}\r\n\r\n{body}", body.len());
    let what = if n.is_multiple_of(2) {
        random.as_slice()
    } else {
        unsigned.as_bytes()
    };
    loop {
        let (mut from, mut to) = open(app).await;
        let _ = to.write_all(what).await;
        let _ = timeout(Duration::from_secs(1), from.read(&mut [0; 1024])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_keep_coming_among_slow_clients_and_garbage() {
    const SLOW: usize = 150;
    const MESSAGES: usize = 300;
    let app = TestApp::with(IMPATIENT).await;
    let kinds = slow_clients();
    // Each comes again as soon as it is gone.
    let slow = join_all((0..SLOW).map(|n| {
        let (kinds, app) = (&kinds, &app);
        async move {
            loop {
                kinds[n % kinds.len()].play(app).await;
            }
        }
    }));
    let garbage = join_all((0..8).map(|n| garbage(&app, n)));
    let good = async {
        // Until the slow ones are all there.
        sleep(Duration::from_millis(500)).await;
        for n in 0..MESSAGES {
            app.deliver(message(n)).await.expect_ok();
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = slow => unreachable!("they come again"),
        _ = garbage => unreachable!("it never ends"),
        () = good => {}
    }
    assert_eq!(app.dump().await["messages"].len(), MESSAGES);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_stall_do_not_keep_callbacks_out() {
    let more = "http.body_timeout = \"20s\"\nhttp.bytes_reading = \"1MiB\"\n";
    let app = TestApp::with(more).await;
    let half = "x".repeat(600 * 1024);
    let head = signed_head("");
    let large = format!("{head}Content-Length: 1000000\r\n\r\n{half}");
    let (_stalled, mut to) = open(&app).await;
    to.write_all(large.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(500)).await;

    let asked = Instant::now();
    let (refused, mut to) = open(&app).await;
    // The connection may end before it has all.
    let _ = to.write_all(large.as_bytes()).await;
    let answer = until_end(refused, "without memory").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer:?}");
    assert!(answer.contains(r#""code":"overloaded""#), "{answer}");
    assert!(
        answer.to_lowercase().contains("\r\nretry-after: 1\r\n"),
        "{answer}"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );

    for n in 0..10 {
        app.deliver(message(n)).await.expect_ok();
    }
    drop((_stalled, to));
    app.end().await;
}

/// Without a valid signature a request is refused by its head, and uses none of the memory budget.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_taken_from_none_but_the_provider() {
    let app = TestApp::with("http.body_timeout = \"60s\"\n").await;
    let forged = signed(b"", "not the secret").map(|(name, value)| format!("{name}: {value}\r\n"));
    let forged = forged.concat();
    let chunk = "x".repeat(0x5000);
    let cases = [
        (
            format!("{CALLBACK}Content-Length: 900000\r\n\r\n"),
            "missing_header_md5",
        ),
        (
            format!("{CALLBACK}{forged}Content-Length: 900000\r\n\r\n"),
            "checksum_mismatch",
        ),
        (
            format!("{CALLBACK}{forged}Transfer-Encoding: chunked\r\n\r\n5000\r\n{chunk}"),
            "checksum_mismatch",
        ),
    ];
    for (says, code) in cases {
        let (from, mut to) = open(&app).await;
        to.write_all(says.as_bytes()).await.unwrap();
        let answer = until_end(from, code).await;
        assert!(
            answer.contains(&format!(r#""code":"{code}""#)),
            "{answer:?}"
        );
    }
    // A signed head may have a large body; whether the body matches is known at its end.
    let (from, mut to) = open(&app).await;
    let head = signed_head("{}");
    let body = "x".repeat(100_000);
    let other = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    to.write_all(other.as_bytes()).await.unwrap();
    to.shutdown().await.unwrap();
    let answer = until_end(from, "another body").await;
    assert!(answer.contains(r#""code":"md5_mismatch""#), "{answer:?}");
    app.end().await;
}

/// The memory of a body is freed, however the body ends.
#[tokio::test(flavor = "multi_thread")]
async fn reserved_memory_is_returned() {
    let more = format!("{IMPATIENT}http.bytes_reading = \"1MiB\"\n");
    let app = TestApp::with(&more).await;
    let body = "x".repeat(1024 * 1024);
    let head = signed_head("");
    let large = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    for end in [body.len() / 2, body.len() - 1] {
        let (from, mut to) = open(&app).await;
        let _ = to
            .write_all(format!("{large}{}", &body[..end]).as_bytes())
            .await;
        until_end(from, "a large body").await;
    }
    let headers = signed(body.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    for _ in 0..3 {
        let answer = app.post("/callbacks/otc", &headers, body.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    app.end().await;
}
