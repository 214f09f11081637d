//! `healthcheck`: what a container's engine asks.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::thread::JoinHandle;

use crate::support::{Bench, Served, succeeded, text, until};

#[track_caller]
fn is_unhealthy(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    assert!(error.contains(expected), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(text(&output.stdout), "", "{output:?}");
}

/// A program that answers one question with this.
fn another_program(answer: &'static str) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let program = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        // Until the other side closes.
        let _ = stream.read(&mut [0; 1]);
    });
    (url, program)
}

#[test]
fn a_service_is_healthy_as_long_as_it_takes_callbacks() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let check = |more: &[&str]| bench.run(&[&["healthcheck"], more].concat());
    is_unhealthy(&check(&["--config", "im.toml"]), "give --url");
    let served = Served::start(&bench);
    bench.config(&served.address);
    let configured = || check(&["--config", "im.toml"]);
    assert_eq!(until("ready", configured), "ready\n");
    let url = format!("http://{}/", served.address);
    assert_eq!(succeeded(&check(&["--url", &url, "--live"])), "alive\n");
    // The address alone is needed: no app, no secret.
    bench.write(
        "address.toml",
        &format!(
            "http.listen = \"{}\"\nmongodb.uri = {{ file = \"/nowhere\" }}\n",
            served.address
        ),
    );
    assert_eq!(succeeded(&check(&["--config", "address.toml"])), "ready\n");
    assert_eq!(served.stop("-TERM").0, Some(0));
    is_unhealthy(&configured(), "connection refused; is the service running?");
    is_unhealthy(&check(&["--url", &url, "--live"]), "connection refused");
}

#[test]
fn a_service_without_mongodb_is_healthy() {
    let bench = Bench::new();
    let config = bench.config("127.0.0.1:0");
    let written = std::fs::read_to_string(&config).unwrap();
    let uri = std::env::var("MONGODB_URI").unwrap();
    let away = written.replace(&uri, "mongodb://127.0.0.1:1/?replicaSet=rs0");
    std::fs::write(&config, away).unwrap();
    let served = Served::start(&bench);
    let url = format!("http://{}", served.address);
    let told = succeeded(&bench.run(&["healthcheck", "--url", &url]));
    let expected =
        "degraded: callbacks are taken, queries are not answered (indexes unknown, mongodb down";
    assert!(told.starts_with(expected), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn what_cannot_be_asked_is_unhealthy() {
    let bench = Bench::new();
    is_unhealthy(
        &bench.run(&["healthcheck", "--config", "none.toml"]),
        "cannot be read: No such file or directory (in none.toml)",
    );
    let bad = bench
        .command(&["healthcheck"])
        .env("IM_CALLBACK__HTTP__LISTEN", "nowhere")
        .output()
        .unwrap();
    is_unhealthy(&bad, "(in IM_CALLBACK__HTTP__LISTEN)");
    for (answer, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "answers 200 OK, but not as im-callback does",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "answers 200 OK, but not as im-callback does",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 22\r\n\r\n{\"status\":\"not ready\"}",
            "error: not ready",
        ),
        // Takes the question and never answers.
        ("", "it took too long"),
    ] {
        let (url, other) = another_program(answer);
        is_unhealthy(&bench.run(&["healthcheck", "--url", &url]), expected);
        other.join().unwrap();
    }
}

/// `unread`, too, tells another program at its address from a service that refuses.
#[test]
fn another_program_is_no_service() {
    let bench = Bench::new();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    ] {
        let (url, other) = another_program(answer);
        let asked = bench
            .command(&["unread", "-u", "a", "-p", "b", "--url", &url])
            .env("IM_CALLBACK_KEY", "the-read-key")
            .output()
            .unwrap();
        let status = answer
            .lines()
            .next()
            .unwrap()
            .trim_start_matches("HTTP/1.1 ");
        let expected = format!("{url} answers {status}, but not as im-callback does");
        is_unhealthy(&asked, &expected);
        other.join().unwrap();
    }
}

/// What the image and the compose file run is a command of this program.
#[test]
fn containers_use_the_healthcheck() {
    let read = |name: &str| {
        std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let image = read("Dockerfile");
    assert!(
        image.contains("HEALTHCHECK") && image.contains(r#"CMD ["im-callback", "healthcheck"]"#)
    );
    assert!(read("docker-compose.yml").contains("test: [CMD, im-callback, healthcheck]"));
}
