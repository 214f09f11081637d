//! Shared by the tests of the command line: a folder with a configuration, and a service in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use im_callback::config::Config;
use mongodb::bson::Document;
use tempfile::TempDir;

use crate::log_guard;

/// A folder with a configuration, and the program in it.
pub struct Bench {
    pub folder: TempDir,
    pub database: String,
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
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let database = format!(
            "im_test_{seconds}_{}_cli",
            folder.path().file_name().unwrap().display()
        );
        let database = database.replace('.', "");
        Self { folder, database }
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn config(&self, listen: &str) -> PathBuf {
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
                secret = "the-cli-tests-read-key"
                scopes = ["read"]
                "#
            ),
        )
    }

    /// Inserts documents by hand.
    pub fn insert<const N: usize>(&self, collection: &str, documents: [Document; N]) {
        let uri = std::env::var("MONGODB_URI").unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inserted = runtime.block_on(async {
            let client = mongodb::Client::with_uri_str(uri).await?;
            let collection = client.database(&self.database).collection(collection);
            collection.insert_many(documents).await
        });
        inserted.unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_im-callback"));
        command.args(arguments).current_dir(self.folder.path());
        for (name, _) in std::env::vars() {
            if name.starts_with("IM_CALLBACK") {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.checked(self.command(arguments).output().unwrap())
    }

    /// No command says a secret or a message's text on standard error.
    fn checked(&self, output: Output) -> Output {
        self.forbid_secrets();
        log_guard::check(&text(&output.stderr));
        output
    }

    /// Some tests change the configuration, and some have none that is valid.
    fn forbid_secrets(&self) {
        if let Ok(config) = Config::load(Some(&self.folder.path().join("im.toml")), &[]) {
            log_guard::forbid_secrets_of(&config);
        }
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        input
            .split(|b| *b == b'\n')
            .for_each(log_guard::forbid_texts);
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        self.checked(child.wait_with_output().unwrap())
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// Runs a command until it prints this, and returns its output.
pub fn until(says: &str, run: impl Fn() -> Output) -> String {
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
pub struct Served {
    pub child: Child,
    pub address: String,
    pub log: std::thread::JoinHandle<String>,
}

impl Served {
    pub fn start(bench: &Bench) -> Self {
        bench.forbid_secrets();
        Self::by(bench.command(&["serve", "--config", "im.toml"]))
    }

    /// Started by a command of one's own.
    pub fn by(mut command: Command) -> Self {
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
    pub fn stop(mut self, signal: &str) -> (Option<i32>, String) {
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
        (code, self.whole_log())
    }

    fn whole_log(&mut self) -> String {
        let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
        let log = log.join().unwrap();
        log_guard::check(&log);
        log
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            self.whole_log();
        }
    }
}
