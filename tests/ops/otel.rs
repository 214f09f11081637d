//! Traces: with the feature `otel`, what a collector gets; without it, that somebody who wants them is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use im_callback::config::Config;
use tempfile::TempDir;

use crate::log_guard;

const SECRET: &str = "hush-hush-0123456789";
const KEY: &str = "the-key-of-the-pages";
const TEXT: &str = "a text that nobody else may read";

/// A running service without MongoDB, which traces do not need.
struct Traced {
    service: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
    seen: String,
    _folder: TempDir,
}

impl Traced {
    fn start(endpoint: &str) -> Self {
        Self::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)])
    }

    fn start_with(variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("im.toml");
        let text = format!(
            r#"
            http = {{ listen = "127.0.0.1:0", shutdown_delay = "10ms", shutdown_timeout = "2s" }}
            mongodb.uri = "mongodb://127.0.0.1:1/?replicaSet=rs0"
            spool.path = "{}"
            [[apps]]
            name = "otc"
            provider = "wildfire"
            app_secrets = ["{SECRET}"]
            [[auth.keys]]
            name = "pages"
            secret = "{KEY}"
            scopes = ["read"]
            "#,
            folder.path().join("spool").display()
        );
        std::fs::write(&config, text).unwrap();
        log_guard::forbid_secrets_of(&Config::load(Some(&config), &[]).unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_im-callback"));
        for (name, _) in std::env::vars() {
            if name.starts_with("IM_CALLBACK") || name.starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        let mut service = command
            .args(["serve", "--config"])
            .arg(&config)
            .envs(variables.iter().copied())
            .env(
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment=of-the-test",
            )
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(service.stderr.take().unwrap());
        let mut traced = Self {
            service,
            address: String::new(),
            log,
            seen: String::new(),
            _folder: folder,
        };
        traced.address = traced.until_listening();
        traced
    }

    fn until_listening(&mut self) -> String {
        loop {
            let from = self.seen.len();
            let read = self.log.read_line(&mut self.seen).unwrap();
            assert_ne!(read, 0, "the service ended: {}", self.seen);
            if let Some((_, address)) = self.seen[from..].split_once("address=") {
                return address.trim().to_owned();
            }
        }
    }

    /// Sends a request and returns its status.
    fn ask(&self, head: &str, body: &str) -> String {
        log_guard::forbid_texts(body.as_bytes());
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let request = format!(
            "{head}\r\nHost: test\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }

    /// Stops it, and returns the log and how long that took.
    fn stop(mut self) -> (String, Duration) {
        let started = Instant::now();
        let pid = self.service.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(told.success());
        self.log.read_to_string(&mut self.seen).unwrap();
        assert_eq!(
            self.service.wait().unwrap().code(),
            Some(0),
            "{}",
            self.seen
        );
        log_guard::check(&self.seen);
        (std::mem::take(&mut self.seen), started.elapsed())
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// A collector on a port of its own. What it is sent, head and body, comes out of the channel.
fn collector() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sent, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            while let Some(request) = request(&mut stream) {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
                if sent.send(request).is_err() {
                    return;
                }
            }
        }
    });
    (endpoint, received)
}

fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap_or(0) == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let (_, length) = lower.split_once("content-length: ")?;
    let length = length.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The texts in what a collector is sent, each in a line, without the binary parts.
#[cfg(feature = "otel")]
fn texts(body: &[u8]) -> String {
    let parts = body.split(|byte| byte.is_ascii_control() || !byte.is_ascii());
    let texts = parts.filter(|part| part.len() >= 8);
    let texts = texts.map(String::from_utf8_lossy);
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(feature = "otel")]
#[test]
fn a_collector_gets_spans_without_secrets() {
    let (endpoint, received) = collector();
    let traced = Traced::start(&endpoint);
    let body = format!(r#"{{"text":"{TEXT}"}}"#);
    let callback = format!(
        "POST /callbacks/otc/{SECRET}/message?token={SECRET} HTTP/1.1\r\nX-Request-Id: find-me-1"
    );
    assert_eq!(traced.ask(&callback, &body), "200");
    assert_eq!(
        traced.ask("GET /livez HTTP/1.1\r\nX-Request-Id: find-me-2", ""),
        "200"
    );
    for (key, status) in [(SECRET, "401"), (KEY, "503")] {
        let query =
            format!("GET /v1/unread?user=u&peers=p HTTP/1.1\r\nAuthorization: Bearer {key}");
        assert_eq!(traced.ask(&query, ""), status);
    }
    // The end sends what waits.
    let (log, _) = traced.stop();
    let exports: Vec<_> = received.try_iter().collect();
    assert!(!exports.is_empty(), "{log}");
    let mut all = Vec::new();
    for (head, body) in exports {
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        assert!(
            head.to_lowercase()
                .contains("content-type: application/x-protobuf"),
            "{head}"
        );
        all.extend(body);
    }
    for expected in [
        "request",
        "find-me-1",
        "find-me-2",
        "/livez",
        "http.route",
        "http.request.method",
        "http.response.status_code",
        // The span's name, and that its kind (field 6) is a server's (2).
        "request\x30\x02",
        // That its status (field 15) has a code (field 3), which is an error's (2).
        "\x7a\x02\x18\x02",
        "im-callback",
        "of-the-test",
    ] {
        assert!(
            contains(&all, expected),
            "{expected} is not exported: {}",
            String::from_utf8_lossy(&all)
        );
    }
    log_guard::check(&texts(&all));
    // The access log, which nobody asked for, would have `took_ms`.
    for forbidden in [SECRET, KEY, TEXT, "unknown_service", "otel.", "took_ms"] {
        assert!(!contains(&all, forbidden), "{forbidden} is exported");
        assert!(!log.contains(forbidden), "{forbidden} is in the log");
    }
    assert!(log.contains("traces are exported"), "{log}");
}

/// A collector that takes connections and never answers holds up neither requests nor the end.
#[cfg(feature = "otel")]
#[test]
fn a_collector_that_hangs_holds_up_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let traced = Traced::start(&format!("http://{}", silent.local_addr().unwrap()));
    assert_eq!(traced.ask("GET /livez HTTP/1.1", ""), "200");
    let (log, took) = traced.stop();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(
        log.contains("the last spans were not exported in time"),
        "{log}"
    );
}

#[cfg(feature = "otel")]
#[test]
fn a_collector_that_refuses_is_named_in_the_log() {
    // Nothing listens on port 1.
    let traced = Traced::start("http://user:hush@127.0.0.1:1");
    assert_eq!(traced.ask("GET /livez HTTP/1.1", ""), "200");
    let (log, _) = traced.stop();
    assert!(log.contains("the collector did not take them"), "{log}");
    assert!(!log.contains("hush"), "{log}");
}

#[cfg(feature = "otel")]
#[test]
fn an_address_that_cannot_be_used_is_said() {
    let (log, _) = Traced::start("user:hush@nowhere").stop();
    assert!(log.contains("no traces are exported"), "{log}");
    assert!(
        log.contains("variable=\"OTEL_EXPORTER_OTLP_ENDPOINT\""),
        "{log}"
    );
    assert!(!log.contains("hush"), "{log}");
}

/// The variables by which every program with OpenTelemetry is told to be quiet.
#[test]
fn who_wants_no_traces_gets_none() {
    let (endpoint, received) = collector();
    for off in [
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        let traced = Traced::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), off]);
        assert_eq!(traced.ask("GET /livez HTTP/1.1", ""), "200");
        let (log, _) = traced.stop();
        assert!(!log.contains("traces"), "{log}");
    }
    assert!(received.try_recv().is_err());
}

#[cfg(not(feature = "otel"))]
#[test]
fn who_wants_traces_without_the_feature_is_told() {
    let (endpoint, received) = collector();
    let traced = Traced::start(&endpoint);
    assert_eq!(traced.ask("GET /livez HTTP/1.1", ""), "200");
    let (log, _) = traced.stop();
    assert!(
        log.contains("this program exports none; build it with `--features otel`"),
        "{log}"
    );
    assert!(
        log.contains("variable=\"OTEL_EXPORTER_OTLP_ENDPOINT\""),
        "{log}"
    );
    assert!(received.try_recv().is_err());
    let exact = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint);
    let (log, _) = Traced::start_with(&[exact]).stop();
    assert!(
        log.contains("variable=\"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT\""),
        "{log}"
    );
    let nowhere = Traced::start("");
    let (log, _) = nowhere.stop();
    assert!(!log.contains("otel"), "{log}");
    let _ = (SECRET, TEXT, contains);
}
