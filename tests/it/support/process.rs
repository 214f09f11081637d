//! The built program as a process of its own, to be killed and started again at the same address.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use im_callback::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, READ_KEY, SECRET, config_text, contract, log_guard, send, signed};

pub struct Process {
    pub address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
    under: Vec<String>,
}

impl Process {
    /// A configured process, not yet started.
    pub fn new(uri: &str, database: &str, more: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], super::port()));
        let folder = tempfile::tempdir().unwrap();
        let text = config_text(&address.to_string(), uri, database, more);
        // The tests are about the defaults.
        let text = text
            .replace("commit_timeout = \"3s\"", "commit_timeout = \"2s\"")
            .replace("shutdown_delay = \"10ms\"", "shutdown_delay = \"1s\"");
        std::fs::write(folder.path().join("im.toml"), text).unwrap();
        Self {
            address,
            folder,
            child: None,
            under: Vec::new(),
        }
    }

    /// From now on starts it under another program, such as `strace`, which ends with it.
    pub fn under(&mut self, program: &[&str]) {
        self.under = program.iter().map(|part| (*part).to_owned()).collect();
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("im.toml")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let ours = env!("CARGO_BIN_EXE_im-callback").to_owned();
        let mut words = self.under.iter().chain([&ours]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(arguments)
            .args(["--config", "im.toml"])
            .current_dir(self.folder.path());
        for (name, _) in std::env::vars() {
            if name.starts_with("IM_CALLBACK") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs another command with the same configuration.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        let output = self.command(arguments).output().unwrap();
        log_guard::check(&String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs `serve` to its end, which must come soon: the exit code and what it said.
    pub fn serve_in_vain(&self) -> (Option<i32>, String) {
        let mut command = self.command(&["serve"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if since.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("the service serves: {:?}", child.wait_with_output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        log_guard::check(&said);
        (output.status.code(), said)
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        // Some tests change it.
        if let Ok(config) = Config::load(Some(&self.config_file()), &[]) {
            log_guard::forbid_secrets_of(&config);
        }
        let mut command = self.command(&["serve"]);
        let mut child = command.stderr(log).stdout(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{}", self.log());
            assert!(since.elapsed() < Duration::from_secs(20), "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        if self.under.is_empty() {
            child.kill().unwrap();
        } else {
            // The program that it runs under ends with it.
            let parent = child.id().to_string();
            let mut pkill = Command::new("pkill");
            let sent = pkill.args(["-KILL", "-P", &parent]).status();
            assert!(sent.unwrap().success());
        }
        child.wait().unwrap();
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end and gives the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    pub async fn ask(&self, http: &reqwest::Client, question: &Value) -> Answer {
        let url = format!("http://{}/v1/unread", self.address);
        let key = format!("Bearer {READ_KEY}");
        let request = http.post(url).body(question.to_string());
        send(request, &[("Authorization", &key)]).await
    }

    pub async fn ready(&self, http: &reqwest::Client) -> Value {
        let url = format!("http://{}/readyz", self.address);
        match http.get(url).send().await {
            Ok(response) => response.json().await.unwrap_or_default(),
            Err(_) => json!({}),
        }
    }

    /// Waits until MongoDB is available and has everything that was acknowledged.
    pub async fn until_drained(&self, http: &reqwest::Client) {
        let is_drained = |ready: &Value| ready["status"] == "ready" && ready["spool"]["bytes"] == 0;
        self.until(http, is_drained).await;
    }

    /// Waits until it has updated `state` of everything that it stored since its start.
    pub async fn until_followed(&self, http: &reqwest::Client) {
        self.until(http, |ready| {
            ready["state"]["pairs"] == 0 && ready["state"]["caught_up"] == true
        })
        .await;
    }

    /// Waits until `/readyz` says this.
    pub async fn until(&self, http: &reqwest::Client, is_so: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let ready = self.ready(http).await;
            if is_so(&ready) {
                return ready;
            }
            assert!(
                since.elapsed() < Duration::from_secs(90),
                "{ready} {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Delivers a callback once, to a service that may die meanwhile. `None` when there was no answer.
pub async fn try_deliver(http: &reqwest::Client, url: &str, body: &[u8]) -> Option<u16> {
    try_deliver_signed(http, url, body, SECRET).await
}

/// The same, signed with this secret.
pub async fn try_deliver_signed(
    http: &reqwest::Client,
    url: &str,
    body: &[u8],
    secret: &str,
) -> Option<u16> {
    let request = http
        .post(format!("{url}/callbacks/otc"))
        .body(body.to_vec());
    let request = signed(body, secret)
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, value));
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let asked = contract::Asked::of(&request);
    let response = client.execute(request).await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    // An answer that did not arrive whole is none.
    let text = response.text().await.ok()?;
    contract::check(
        &asked,
        &Answer {
            status,
            headers,
            text,
        },
    );
    Some(status)
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        if self.child.as_mut().is_some_and(|child| !ended(child)) {
            self.kill();
        }
        let log = self.log();
        if !std::thread::panicking() {
            log_guard::check(&log);
        } else {
            let from = log.len().saturating_sub(4000);
            eprintln!(
                "the end of the service's log:\n{}",
                log.get(from..).unwrap_or(&log)
            );
        }
    }
}
