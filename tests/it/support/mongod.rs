//! Servers of a test's own, that can be killed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
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
        let mongod = Self::launch(replica_set.then_some("rs0"))?;
        if replica_set {
            mongod.initiate("rs0").await;
        }
        Some(mongod)
    }

    /// A server of a replica set that is not initiated, or of none.
    pub fn launch(replica_set: Option<&str>) -> Option<Self> {
        Self::launch_at(super::port(), replica_set, false)
    }

    /// The same at this port, and perhaps with access control.
    pub fn launch_at(port: u16, replica_set: Option<&str>, is_secured: bool) -> Option<Self> {
        let program = std::env::var("MONGOD").ok()?;
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().to_str().unwrap();
        let port_text = port.to_string();
        let mut arguments = vec![program.as_str(), "--dbpath", folder, "--port", &port_text];
        arguments.extend(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25"]);
        arguments.push("--nounixsocket");
        if let Some(name) = replica_set {
            arguments.extend(["--replSet", name]);
        }
        let key = data.path().join("key");
        if is_secured {
            std::fs::write(&key, "the members know each other by this").unwrap();
            std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
            arguments.extend(["--keyFile", key.to_str().unwrap()]);
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

    /// Makes a replica set of this node alone.
    pub async fn initiate(&self, name: &str) {
        initiate(name, std::slice::from_ref(self)).await;
    }

    /// A replica set of one node with access control. Its users have roles in this database; the password of each is its
    /// name.
    pub async fn secured(database: &str, users: &[(&str, &str)]) -> Option<Self> {
        let mongod = Self::launch_at(super::port(), Some("rs0"), true)?;
        mongod.initiate("rs0").await;
        let users = users.iter().map(|(name, role)| (*name, *role, database));
        mongod.make_users(&users.collect::<Vec<_>>()).await;
        Some(mongod)
    }

    /// Waits until it answers.
    pub async fn until_it_answers(&self) {
        let since = Instant::now();
        let admin = self.client().await.database("admin");
        while let Err(error) = admin.run_command(doc! { "ping": 1 }).await {
            assert!(since.elapsed() < Duration::from_secs(60), "{error}");
        }
    }

    /// Waits until it takes writes.
    pub async fn until_primary(&self) {
        let since = Instant::now();
        while !self.is_primary().await {
            assert!(since.elapsed() < Duration::from_secs(60), "no primary");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_primary(&self) -> bool {
        let admin = self.client().await.database("admin");
        let hello = admin.run_command(doc! { "hello": 1 });
        let hello = tokio::time::timeout(Duration::from_secs(1), async { hello.await });
        match hello.await {
            Ok(Ok(hello)) => hello.get_bool("isWritablePrimary").unwrap_or_default(),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Makes users of a server with access control that has none: an administrator, and others with a role in a database
    /// each. The password of each is its name.
    pub async fn make_users(&self, users: &[(&str, &str, &str)]) {
        let since = Instant::now();
        let admin = self.client().await.database("admin");
        let root = doc! { "createUser": "root", "pwd": "root", "roles": ["root"] };
        // There is no primary yet.
        while let Err(error) = admin.run_command(root.clone()).await {
            assert!(since.elapsed() < Duration::from_secs(60), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (name, role, database) in users {
            self.make_user(name, role, database).await;
        }
    }

    /// Makes one more user.
    pub async fn make_user(&self, name: &str, role: &str, database: &str) {
        let roles = vec![doc! { "role": role, "db": database }];
        self.as_root(doc! { "createUser": name, "pwd": name, "roles": roles })
            .await;
    }

    /// Runs a command as the administrator.
    pub async fn as_root(&self, command: Document) {
        let uri = format!("mongodb://root:root@{}/?directConnection=true", self.host());
        let client = Client::with_uri_str(uri).await.unwrap();
        client.database("admin").run_command(command).await.unwrap();
    }

    pub fn host(&self) -> String {
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

    /// Restarts it without its replica set.
    pub fn restart_alone(&mut self) {
        let set = self.arguments.iter().position(|one| one == "--replSet");
        let set = set.unwrap();
        self.arguments.drain(set..set + 2);
        self.restart();
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

async fn initiate(name: &str, nodes: &[Mongod]) {
    let members: Vec<Document> = (0_i32..)
        .zip(nodes)
        .map(|(id, node)| doc! { "_id": id, "host": node.host() })
        .collect();
    let config = doc! {
        "_id": name,
        "members": members,
        // A tenth of the default, so that tests need not wait for elections.
        "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 300 },
    };
    for node in nodes {
        node.until_it_answers().await;
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
        let nodes: Option<Vec<_>> = (0..3).map(|_| Mongod::launch(Some("rs0"))).collect();
        let set = Self(nodes?);
        initiate("rs0", &set.0).await;
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
                if node.is_primary().await {
                    return i;
                }
            }
            assert!(since.elapsed() < Duration::from_secs(60), "no primary");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends all but the primary, which then gives way; and gives their places for [`ReplicaSet::restart`].
    pub async fn lose_majority(&mut self) -> Vec<usize> {
        let primary = self.primary().await;
        let others: Vec<_> = (0..self.0.len()).filter(|node| *node != primary).collect();
        for node in &others {
            tokio::task::block_in_place(|| self.0[*node].kill());
        }
        let since = Instant::now();
        while self.0[primary].is_primary().await {
            assert!(since.elapsed() < Duration::from_secs(60), "a primary stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        others
    }

    /// Ends the primary by SIGKILL, and gives its place for [`ReplicaSet::restart`].
    pub async fn kill_primary(&mut self) -> usize {
        let primary = self.primary().await;
        tokio::task::block_in_place(|| self.0[primary].kill());
        primary
    }

    /// Ends a member that is not the primary.
    pub async fn kill_secondary(&mut self) {
        let primary = self.primary().await;
        let secondary = (primary + 1) % self.0.len();
        tokio::task::block_in_place(|| self.0[secondary].kill());
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
