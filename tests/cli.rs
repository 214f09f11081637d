//! The built program, run as a user runs it. What needs MongoDB takes it from `MONGODB_URI`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::{DateTime, Document, doc};
use tempfile::TempDir;

/// A folder with a configuration, and the program in it.
struct Bench {
    folder: TempDir,
    database: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let Ok(uri) = std::env::var("MONGODB_URI") else {
            return;
        };
        let name = self.database.clone();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dropped = runtime.block_on(async {
            mongodb::Client::with_uri_str(uri)
                .await?
                .database(&name)
                .drop()
                .await
        });
        if !std::thread::panicking() {
            dropped.unwrap();
        }
    }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let database = format!(
            "im_test_{seconds}_{}_cli",
            folder.path().file_name().unwrap().display()
        );
        let database = database.replace('.', "");
        Self { folder, database }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn config(&self, listen: &str) -> PathBuf {
        let uri = std::env::var("MONGODB_URI")
            .expect("MONGODB_URI is not set; run the tests with `make test`");
        let Self { database, .. } = self;
        self.write(
            "im.toml",
            &format!(
                r#"
                http.listen = "{listen}"
                mongodb = {{ uri = "{uri}", database = "{database}" }}
                [[apps]]
                name = "otc"
                provider = "netease"
                app_key = "key"
                app_secrets = ["0123456789abcdef"]
                order_id = {{ field = "ext", pointer = "/orderId" }}
                [[auth.keys]]
                name = "pages"
                secret = "the-read-key"
                scopes = ["read"]
                "#
            ),
        )
    }

    /// Inserts documents by hand.
    fn insert<const N: usize>(&self, collection: &str, documents: [Document; N]) {
        let uri = std::env::var("MONGODB_URI").unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inserted = runtime.block_on(async {
            let client = mongodb::Client::with_uri_str(uri).await?;
            let collection = client.database(&self.database).collection(collection);
            collection.insert_many(documents).await
        });
        inserted.unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_im-callback"));
        command.args(arguments).current_dir(self.folder.path());
        for (name, _) in std::env::vars() {
            if name.starts_with("IM_CALLBACK") {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// Runs a command until it prints this, and gives all that it prints.
fn until(says: &str, run: impl Fn() -> Output) -> String {
    let since = Instant::now();
    loop {
        let output = run();
        let told = text(&output.stdout);
        if told.contains(says) {
            return told;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{output:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running service, ended with the test.
struct Served {
    child: Child,
    address: String,
    log: std::thread::JoinHandle<String>,
}

impl Served {
    fn start(bench: &Bench) -> Self {
        let mut command = bench.command(&["serve", "--config", "im.toml"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let from = seen.len();
            assert_ne!(
                log.read_line(&mut seen).unwrap(),
                0,
                "the service ended: {seen}"
            );
            if let Some((_, address)) = seen[from..].split_once("address=") {
                break address.trim().to_owned();
            }
        };
        let log = std::thread::spawn(move || {
            log.read_to_string(&mut seen).unwrap();
            seen
        });
        Self {
            child,
            address,
            log,
        }
    }

    /// Sends a signal, waits for the end, and gives the exit code and the log.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let since = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(
                since.elapsed() < Duration::from_secs(30),
                "the service does not end"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let code = self.child.wait().unwrap().code();
        (
            code,
            std::mem::replace(&mut self.log, std::thread::spawn(String::new))
                .join()
                .unwrap(),
        )
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_names_every_command() {
    let bench = Bench::new();
    let help = succeeded(&bench.run(&["--help"]));
    for command in [
        "serve",
        "check-config",
        "indexes",
        "reconcile",
        "spools",
        "dead-letters",
        "sign",
        "send",
        "unread",
    ] {
        assert!(help.contains(command), "{help}");
        assert!(succeeded(&bench.run(&[command, "--help"])).contains("Usage:"));
    }
    assert_eq!(bench.run(&["fly"]).status.code(), Some(2));
}

#[test]
fn a_bad_configuration_is_exit_2_before_anything_happens() {
    let bench = Bench::new();
    bench.write(
        "im.toml",
        "http.listen = \"127.0.0.1:0\"\nhttp.listem = 1\n",
    );
    for command in [&["serve"][..], &["check-config"], &["indexes"]] {
        let output = bench.run(&[command, &["--config", "im.toml"]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = text(&output.stderr);
        assert!(
            error.starts_with("error: configuration: `http.listem`"),
            "{error}"
        );
        assert!(error.contains("im.toml"), "{error}");
    }
    assert_eq!(
        bench
            .run(&["--config", "none.toml", "check-config"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_good_configuration_is_summed_up_without_secrets() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let told = succeeded(&bench.run(&["check-config", "--config", "im.toml"]));
    assert!(
        told.contains("app otc: callbacks at /callbacks/otc, 1 live secret"),
        "{told}"
    );
    assert!(told.contains("key pages: scopes read"), "{told}");
    assert!(
        !told.contains("0123456789abcdef") && !told.contains("the-read-key"),
        "{told}"
    );
}

#[test]
fn sign_prints_the_known_answer() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let from_config = ["sign", "--config", "im.toml", "--cur-time", "1440570500855"];
    let headers = succeeded(&bench.run_with_input(&from_config, b"{}"));
    assert_eq!(
        headers,
        "Content-Type: application/json\nAppKey: key\nCurTime: 1440570500855\n\
         MD5: 99914b932bd37a50b983c5e7c90ae93b\n\
         CheckSum: 69953b05a3d9ff44ce9f06780b23fff7705b892e\n"
    );
    bench.write("body.json", "{}");
    bench.write("secret", "0123456789abcdef\n");
    let alone = [
        "sign",
        "body.json",
        "--secret-file",
        "secret",
        "--cur-time",
        "1440570500855",
    ];
    let headers = succeeded(&bench.run(&alone));
    assert!(
        headers.contains("CheckSum: 69953b05a3d9ff44ce9f06780b23fff7705b892e"),
        "{headers}"
    );
    assert!(!headers.contains("AppKey"), "{headers}");
    let unknown = bench.run_with_input(&["sign", "--config", "im.toml", "--app", "x"], b"{}");
    assert_eq!(unknown.status.code(), Some(2));
}

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
    let n = std::fs::read_dir(&samples).unwrap().count();
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
        "PEER    UNREAD\nSeller       3\nnobody       0\nORDER  UNREAD\nA           2\nB           1\nBuyer has 3 unread\n"
    );
    let json = succeeded(&bench.run(&[&unread[..], &["--json"]].concat()));
    assert_eq!(
        json,
        "{\"user\":\"Buyer\",\"peers\":{\"Seller\":3,\"nobody\":0},\"orders\":{\"A\":2,\"B\":1},\"total\":3}\n"
    );

    // Without a configuration, with secrets from the environment.
    let url = format!("http://{}", served.address);
    let asked = bench
        .command(&[
            "unread", "-u", "buyer", "-p", "seller", "--url", &url, "--json",
        ])
        .env("IM_CALLBACK_KEY", "the-read-key")
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
    for secret in ["0123456789abcdef", "the-read-key", "$HOME", "secret text"] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[test]
fn reconcile_says_what_was_wrong_and_repairs_it() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let reconcile =
        |more: &[&str]| bench.run(&[&["reconcile", "--config", "im.toml"], more].concat());
    let unindexed = reconcile(&[]);
    assert_eq!(unindexed.status.code(), Some(1), "{unindexed:?}");
    assert!(text(&unindexed.stderr).contains("`im-callback indexes`"));
    succeeded(&bench.run(&["indexes", "--config", "im.toml"]));
    assert_eq!(
        succeeded(&reconcile(&[])),
        "looked at 0 messages: 0 behind their read mark, 0 disagreed, 0 repaired\n"
    );

    // One says that it was read, and nobody has read anything; one was read, and does not say so.
    let message = |n: i64, to: &str, state: i32| {
        doc! {
            "_id": format!("otc/p2p/{n}"), "app": "otc", "to": to, "fromAccount": "ann",
            "msgTimestamp": 1_700_000_000_000 + n, "state": state,
        }
    };
    bench.insert("messages", [message(1, "bob", 1), message(2, "carl", 0)]);
    let mark = doc! {
        "_id": { "app": "otc", "reader": "carl", "peer": "ann" },
        "readUpTo": 1_700_000_000_002_i64,
    };
    bench.insert("read_marks", [mark]);
    assert_eq!(
        succeeded(&reconcile(&["--dry-run"])),
        "looked at 2 messages: 1 behind their read mark, 1 disagreed, nothing was written\n"
    );
    // At the end it looks at the unread message once more.
    assert_eq!(
        succeeded(&reconcile(&["--json"])),
        "{\"looked_at\":3,\"behind\":1,\"disagreed\":1,\"repaired\":2}\n"
    );
    assert_eq!(
        succeeded(&reconcile(&["--resume"])),
        "looked at 3 messages: 0 behind their read mark, 0 disagreed, 0 repaired\n"
    );

    let both = reconcile(&["--resume", "--dry-run"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let away = bench
        .command(&["reconcile", "--config", "im.toml"])
        .env("IM_CALLBACK__MONGODB__URI", "mongodb://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(
        text(&away.stderr).contains("MongoDB is not available"),
        "{away:?}"
    );
}

/// A spool is known while a service uses it, and from then on unless it is empty, or somebody says that it is gone.
#[test]
fn spools_are_listed_until_they_are_out_of_use_or_forgotten() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let spools = |more: &[&str]| bench.run(&[&["spools", "--config", "im.toml"], more].concat());
    let none = "no instance has told of a spool\n";
    let until = |says: &str| until(says, || spools(&[]));
    assert_eq!(succeeded(&spools(&[])), none);
    let served = Served::start(&bench);
    let told = until("  empty, seen 2");
    let id = std::fs::read_to_string(bench.folder.path().join("data/spool/id")).unwrap();
    assert!(told.starts_with(&format!("{id}  ")), "{told}");
    assert!(
        told.ends_with("/data/spool\n") && told.lines().count() == 1,
        "{told}"
    );
    assert_eq!(served.stop("-TERM").0, Some(0));
    assert_eq!(succeeded(&spools(&[])), none);

    // Killed, it can say nothing of its spool any more.
    let served = Served::start(&bench);
    until("  empty, seen 2");
    assert_eq!(served.stop("-KILL").0, None);
    until("  may hold callbacks, seen 2");
    let unknown = spools(&["--forget", "another"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(text(&unknown.stderr).contains("`another`"), "{unknown:?}");
    let forgotten = succeeded(&spools(&["--forget", &id]));
    assert_eq!(forgotten, format!("{id} is forgotten\n"));
    assert_eq!(succeeded(&spools(&[])), none);
}

/// Counts say that they are not complete as long as another's spool may hold callbacks.
#[test]
fn counts_are_not_complete_until_a_lost_spool_is_forgotten() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    bench.config(&served.address);
    bench.insert(
        "spools",
        [doc! { "_id": "lost", "host": "h", "path": "/p", "bytes": 5_i64 }],
    );
    let spools = |more: &[&str]| bench.run(&[&["spools", "--config", "im.toml"], more].concat());
    let listed = succeeded(&spools(&[]));
    assert!(listed.contains("lost  holds 5 B, seen"), "{listed}");
    let ask = ["unread", "--config", "im.toml", "-u", "b", "-p", "a"];
    let table = || bench.run(&ask);
    let as_json = || bench.run(&[&ask[..], &["--json"]].concat());
    // Until the indexes are made there is no answer.
    until("\nnot complete: callbacks wait in a spool", table);
    assert!(succeeded(&as_json()).ends_with(",\"complete\":false}\n"));
    succeeded(&spools(&["--forget", "lost"]));
    until("\"total\":0}", as_json);
    assert!(succeeded(&table()).ends_with("b has 0 unread\n"));
    assert_eq!(served.stop("-TERM").0, Some(0));
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

/// Whoever reads the log may go away; callbacks are answered and the service ends all the same.
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

/// Lines are sent as they come, not when the input ends.
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
    // Until the indexes are made there is no answer.
    until("\"total\":1", || bench.run(&ask));
    drop(input);
    assert!(succeeded(&sending.wait_with_output().unwrap()).contains("1 × 200"));
    assert_eq!(served.stop("-TERM").0, Some(0));
}

#[test]
fn wrong_calls_say_the_way_out() {
    let bench = Bench::new();
    bench.write("m.json", "{}");
    let cases: &[(&[&str], &str)] = &[
        (&["sign", "m.json"], "--config"),
        (&["send", "m.json"], "--config"),
        (&["unread", "-u", "a", "-p", "b"], "--config"),
        (
            &["send", "m.json", "--url", "localhost:1"],
            "http://127.0.0.1:8080",
        ),
    ];
    for (arguments, way_out) in cases {
        let output = bench.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains(way_out), "{output:?}");
    }
    let config = bench.config("127.0.0.1:1");
    let nobody = bench.run(&["send", "--config", config.to_str().unwrap(), "m.json"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stdout).contains("refused"), "{nobody:?}");
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

#[test]
fn dead_letters_are_listed_shown_retried_and_dropped() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    bench.write("bad.json", "not JSON, with \u{1b}[31m a control character");
    bench.write("worse.json", "[]");
    let url = format!("http://{}/callbacks/otc", served.address);
    for file in ["bad.json", "worse.json"] {
        succeeded(&bench.run(&["send", "--config", "im.toml", "--url", &url, file]));
    }
    let run = |arguments: &[&str]| {
        let all = [&["dead-letters", "--config", "im.toml"], arguments].concat();
        bench.run(&all)
    };
    let listed = succeeded(&run(&["list"]));
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(
        listed.contains("not_json at $: the body is not JSON"),
        "{listed}"
    );
    let only = succeeded(&run(&["list", "--code", "not_json", "--json"]));
    let id = only.split('"').nth(3).unwrap().to_owned();
    assert!(
        id.starts_with("otc/") && only.lines().count() == 1,
        "{only}"
    );

    let shown = succeeded(&run(&["show", &id]));
    assert!(
        shown.contains(r"not JSON, with \u{1b}[31m a control"),
        "{shown}"
    );
    assert!(succeeded(&run(&["show", &id, "--json"])).contains("\"body\":\"not JSON"));

    let retried = run(&["retry", "--all"]);
    assert_eq!(retried.status.code(), Some(1));
    assert!(
        text(&retried.stdout).contains("still undecodable: not_json"),
        "{retried:?}"
    );
    assert!(
        text(&retried.stderr).contains("2 dead letter(s)"),
        "{retried:?}"
    );
    assert_eq!(run(&["drop"]).status.code(), Some(2));
    assert_eq!(run(&["drop", "otc/none"]).status.code(), Some(1));
    assert!(succeeded(&run(&["drop", &id])).contains("dropped"));
    let asked = run(&["drop", "--all", "--app", "otc"]);
    assert!(!asked.status.success());
    let stderr = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(
        stderr.contains("1 dead letter(s)") && stderr.contains("--yes"),
        "{stderr}"
    );
    assert!(!run(&["drop", "otc/x", "--app", "otc"]).status.success());
    assert!(succeeded(&run(&["drop", "--all", "--yes", "--app", "otc"])).contains("dropped"));
    assert_eq!(succeeded(&run(&["list"])), "");
    assert_eq!(run(&["show", &id]).status.code(), Some(1));
}

/// A receipt that could not be decoded before is stored without a service, and its message is read.
#[test]
fn what_is_retried_by_hand_leaves_no_state_behind() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    succeeded(&bench.run(&["indexes", "--config", "im.toml"]));
    let message = doc! {
        "_id": "otc/p2p/1", "app": "otc", "to": "bob", "fromAccount": "ann",
        "msgTimestamp": 1_700_000_000_000_i64, "state": 0,
    };
    bench.insert("messages", [message]);
    let body =
        r#"{"eventType":30,"fromAccount":"bob","toAccount":"ann","timestamp":1700000000000}"#;
    let letter = doc! {
        "_id": "otc/00", "app": "otc", "provider": "netease", "code": "bad_value", "reason": "",
        "path": "$", "body": body, "receivedAt": DateTime::now(),
    };
    bench.insert("dead_letters", [letter]);
    let run =
        |arguments: &[&str]| succeeded(&bench.run(&[arguments, &["--config", "im.toml"]].concat()));
    let retried = run(&["dead-letters", "retry", "otc/00"]);
    assert!(retried.contains("stored"), "{retried}");
    assert_eq!(
        run(&["reconcile", "--dry-run", "--json"]),
        "{\"looked_at\":1,\"behind\":0,\"disagreed\":0,\"repaired\":0}\n"
    );
}
