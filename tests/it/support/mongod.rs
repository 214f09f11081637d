//! A `mongod` of a test's own.

use std::process::{Child, Command, Stdio};

use mongodb::bson::doc;

/// A server that can be killed.
pub struct Mongod {
    process: Child,
    arguments: Vec<String>,
    port: u16,
    _data: tempfile::TempDir,
}

impl Mongod {
    /// A replica set of one node, or a server without a replica set. `None` where the tests run on a
    /// user's server and there is no program to start another.
    pub async fn start(replica_set: bool) -> Option<Self> {
        let program = std::env::var("MONGOD").ok()?;
        let data = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = data.path().to_str().unwrap();
        let port_text = port.to_string();
        let mut arguments = vec![program.as_str(), "--dbpath", folder, "--port", &port_text];
        arguments.extend(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25"]);
        if replica_set {
            arguments.extend(["--replSet", "rs0"]);
        }
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        let process = spawn(&arguments);
        let mongod = Self {
            process,
            arguments,
            port,
            _data: data,
        };
        if replica_set {
            let direct = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
            let client = mongodb::Client::with_uri_str(direct).await.unwrap();
            let member = doc! { "_id": 0, "host": format!("127.0.0.1:{port}") };
            let initiate = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
            client
                .database("admin")
                .run_command(initiate)
                .await
                .unwrap();
        }
        Some(mongod)
    }

    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/", self.port)
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap(); // SIGKILL
        self.process.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.process = spawn(&self.arguments);
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new(&arguments[0]);
    command
        .args(&arguments[1..])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
