//! `serve`: what a user sees of the service, and how it starts.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::log_guard;
use crate::support::{Bench, Served, succeeded, text, until};

#[test]
fn a_user_serves_sends_and_asks() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    // The commands below find the service by its configuration.
    bench.config(&served.address);
    assert!(succeeded(&bench.run(&["indexes", "--config", "im.toml"])).contains("present"));

    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/netease");
    let sent = succeeded(&bench.run(&[
        "send",
        "--config",
        "im.toml",
        samples.to_str().unwrap(),
        "-c",
        "8",
    ]));
    let mut n = 0;
    for file in std::fs::read_dir(&samples).unwrap() {
        log_guard::forbid_texts(&std::fs::read(file.unwrap().path()).unwrap());
        n += 1;
    }
    assert!(sent.starts_with(&format!("{n} callbacks in ")), "{sent}");
    assert!(sent.contains(&format!("  {n} × 200\n")), "{sent}");

    let line = |id: u32, order: &str| {
        format!(
            r#"{{"eventType":1,"convType":"PERSON","to":"buyer","fromAccount":"seller","msgType":"TEXT","body":"$HOME 'x' `y`","msgTimestamp":1700000000000,"msgidServer":{id},"ext":{{"orderId":"{order}"}}}}"#
        )
    };
    let lines = format!("{}\n\n{}\r\n", line(1, "A"), line(2, "B"));
    let sent =
        succeeded(&bench.run_with_input(&["send", "--config", "im.toml", "-"], lines.as_bytes()));
    assert!(sent.contains("2 × 200"), "{sent}");

    // The curl command that `sign` prints works as it stands, whatever is in the body.
    let curl = succeeded(&bench.run_with_input(
        &["sign", "--config", "im.toml", "--curl"],
        line(3, "A").as_bytes(),
    ));
    let posted = Command::new("bash").args(["-c", &curl]).output().unwrap();
    assert_eq!(succeeded(&posted), r#"{"code":200}"#);

    let unread = [
        "unread",
        "--config",
        "im.toml",
        "-u",
        "Buyer",
        "-p",
        "Seller,nobody",
        "-o",
        "A",
        "-o",
        "B",
    ];
    let table = succeeded(&bench.run(&unread));
    assert_eq!(
        table,
        "PEER    UNREAD\nSeller       3\nnobody       0\nORDER  UNREAD\nA           2\nB           1\nBuyer has 3 unread by peers\n"
    );
    let json = succeeded(&bench.run(&[&unread[..], &["--json"]].concat()));
    assert_eq!(
        json,
        "{\"user\":\"Buyer\",\"peers\":{\"Seller\":3,\"nobody\":0},\"orders\":{\"A\":2,\"B\":1},\"total\":3,\"total_of\":\"peers\"}\n"
    );

    let ask = |more: &[&str]| {
        succeeded(&bench.run(&[&["unread", "--config", "im.toml", "-u", "Buyer"], more].concat()))
    };
    assert_eq!(
        ask(&[]),
        "PEER    UNREAD  NEWEST\nseller       3  2023-11-14T22:13:20.000Z\nORDER  UNREAD  NEWEST\n\
         A           2  2023-11-14T22:13:20.000Z\nB           1  2023-11-14T22:13:20.000Z\n\
         Buyer has 3 unread\n"
    );
    assert_eq!(
        ask(&["--team", "77", "-p", "seller", "--cap", "2"]),
        "PEER    UNREAD\nseller       2\nTEAM  UNREAD\n77         0\nBuyer has 2 or more unread by peers\n"
    );

    // Without a configuration, with secrets from the environment.
    let url = format!("http://{}", served.address);
    let asked = bench
        .command(&[
            "unread", "-u", "buyer", "-p", "seller", "--url", &url, "--json",
        ])
        .env("IM_CALLBACK_KEY", "the-cli-tests-read-key")
        .output()
        .unwrap();
    assert!(succeeded(&asked).contains("\"total\":3"));
    let forged = bench
        .command(&["send", "-", "--url", &format!("{url}/callbacks/otc")])
        .env("IM_CALLBACK_APP_SECRET", "another")
        .stdin(Stdio::from(
            std::fs::File::open(bench.write("one.jsonl", &line(9, "A"))).unwrap(),
        ))
        .output()
        .unwrap();
    assert_eq!(forged.status.code(), Some(1));
    assert!(
        text(&forged.stdout).contains("1 × 403 checksum_mismatch"),
        "{forged:?}"
    );
    assert!(
        text(&forged.stderr).contains("standard input:1"),
        "{forged:?}"
    );

    let (code, log) = served.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("checksum_mismatch") && log.contains("a verified body becomes a dead letter"),
        "{log}"
    );
    for secret in [
        "0123456789abcdef",
        "the-cli-tests-read-key",
        "$HOME",
        "secret text",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[test]
fn what_the_service_lacks_is_said_at_start() {
    let bench = Bench::new();
    let config = bench.config("127.0.0.1:0");
    let written = std::fs::read_to_string(&config).unwrap();
    let (before, _) = written.split_once("[[auth.keys]]").unwrap();
    std::fs::write(&config, before).unwrap();
    let (code, log) = Served::start(&bench).stop("-INT");
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("[[auth.keys]]"), "{log}");
}

/// If the reader of the log goes away, callbacks are still answered and the service still stops.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let mut child = bench
        .command(&["serve", "--config", "im.toml"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("address=") {
        line.clear();
        assert_ne!(
            log.read_line(&mut line).unwrap(),
            0,
            "the service ended at once"
        );
    }
    bench.config(line.rsplit_once("address=").unwrap().1.trim());
    drop(log);
    for (body, outcome) in [("{\"eventType\":1}", "1 × 200"), ("nonsense", "1 × 200")] {
        let sent = bench.run_with_input(&["send", "--config", "im.toml", "-"], body.as_bytes());
        assert!(text(&sent.stdout).contains(outcome), "{sent:?}");
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("the service does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Lines are sent as they arrive, not when the input ends.
#[test]
fn a_pipe_that_waits_holds_up_nothing() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    bench.config(&served.address);
    let mut sending = bench
        .command(&["send", "--config", "im.toml", "-c", "8", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = sending.stdin.take().unwrap();
    let body = r#"{"eventType":1,"convType":"PERSON","to":"b","fromAccount":"a","msgType":"TEXT","msgTimestamp":1,"msgidServer":1}"#;
    writeln!(input, "{body}").unwrap();
    let ask = [
        "unread", "--config", "im.toml", "-u", "b", "-p", "a", "--json",
    ];
    // There is no answer before the indexes exist.
    until("\"total\":1", || bench.run(&ask));
    drop(input);
    assert!(succeeded(&sending.wait_with_output().unwrap()).contains("1 × 200"));
    assert_eq!(served.stop("-TERM").0, Some(0));
}

#[test]
fn a_taken_address_is_exit_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::new();
    bench.config(&taken.local_addr().unwrap().to_string());
    let output = bench.run(&["serve", "--config", "im.toml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("http.listen"), "{output:?}");
}
