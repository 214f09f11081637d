//! Servers of a test's own, that can be killed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, doc};

/// One server.
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
        let mongod = Self::launch(replica_set)?;
        if replica_set {
            initiate(std::slice::from_ref(&mongod)).await;
        }
        Some(mongod)
    }

    fn launch(replica_set: bool) -> Option<Self> {
        let program = std::env::var("MONGOD").ok()?;
        let data = tempfile::tempdir().unwrap();
        let port = super::port();
        let folder = data.path().to_str().unwrap();
        let port_text = port.to_string();
        let mut arguments = vec![program.as_str(), "--dbpath", folder, "--port", &port_text];
        arguments.extend(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25"]);
        arguments.push("--nounixsocket");
        if replica_set {
            arguments.extend(["--replSet", "rs0"]);
        }
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        let process = spawn(&arguments);
        Some(Self {
            process,
            arguments,
            port,
            _data: data,
        })
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn uri(&self) -> String {
        format!("mongodb://{}/", self.host())
    }

    /// A client of this server alone.
    async fn client(&self) -> Client {
        let uri = format!("mongodb://{}/?directConnection=true", self.host());
        Client::with_uri_str(uri).await.unwrap()
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
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

async fn initiate(nodes: &[Mongod]) {
    let members: Vec<Document> = (0_i32..)
        .zip(nodes)
        .map(|(id, node)| doc! { "_id": id, "host": node.host() })
        .collect();
    let config = doc! {
        "_id": "rs0",
        "members": members,
        // A tenth of the default, so that tests need not wait for elections.
        "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 300 },
    };
    for node in nodes {
        let since = Instant::now();
        let admin = node.client().await.database("admin");
        while let Err(error) = admin.run_command(doc! { "ping": 1 }).await {
            assert!(since.elapsed() < Duration::from_secs(60), "{error}");
        }
    }
    let admin = nodes[0].client().await.database("admin");
    admin
        .run_command(doc! { "replSetInitiate": config })
        .await
        .unwrap();
}

/// A replica set of several nodes.
pub struct ReplicaSet(Vec<Mongod>);

impl ReplicaSet {
    /// Three nodes, and a primary among them. `None` as [`Mongod::start`].
    pub async fn start() -> Option<Self> {
        let nodes: Option<Vec<_>> = (0..3).map(|_| Mongod::launch(true)).collect();
        let set = Self(nodes?);
        initiate(&set.0).await;
        set.primary().await;
        Some(set)
    }

    pub fn uri(&self) -> String {
        let hosts: Vec<_> = self.0.iter().map(Mongod::host).collect();
        format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
    }

    /// Waits for a primary: its place in the list.
    async fn primary(&self) -> usize {
        let since = Instant::now();
        loop {
            for (i, node) in self.0.iter().enumerate() {
                let admin = node.client().await.database("admin");
                let hello = admin.run_command(doc! { "hello": 1 });
                let hello = tokio::time::timeout(Duration::from_secs(1), async { hello.await });
                if let Ok(Ok(hello)) = hello.await
                    && hello.get_bool("isWritablePrimary").unwrap_or_default()
                {
                    return i;
                }
            }
            assert!(since.elapsed() < Duration::from_secs(60), "no primary");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the primary by SIGKILL, and gives its place for [`ReplicaSet::restart`].
    pub async fn kill_primary(&mut self) -> usize {
        let primary = self.primary().await;
        tokio::task::block_in_place(|| self.0[primary].kill());
        primary
    }

    pub fn restart(&mut self, node: usize) {
        self.0[node].restart();
    }

    /// Makes the primary give way to another node.
    pub async fn step_down(&self) {
        let primary = self.primary().await;
        let admin = self.0[primary].client().await.database("admin");
        let asked = doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 5 };
        admin.run_command(asked).await.unwrap();
    }
}
