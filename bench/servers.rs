//! What is measured: the service, and the handlers it is compared with, each in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::callbacks::{APP, APP_KEY, SECRET};
use crate::memory;

/// The service's key for queries.
pub const READ_KEY: &str = "bench-read-key-0123456789";

/// A handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The release binary.
    Service,
    /// By hand, in Express with the official driver: one awaited write a callback.
    Express,
    /// The same in Rust: actix, `insert_one`.
    Rust,
    /// actix, both digests verified, JSON parsed, 200.
    NoOp,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "im-callback",
            Self::Express => "Express by hand",
            Self::Rust => "Rust by hand",
            Self::NoOp => "no-op",
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Service => {
                let mut service = Command::new(env!("CARGO_BIN_EXE_im-callback"));
                service.arg("serve");
                service
            }
            Self::Express => {
                let mut node = Command::new("node");
                node.arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/bench/express/server.js"
                ));
                node
            }
            Self::Rust | Self::NoOp => {
                let mut this = Command::new(std::env::current_exe().unwrap());
                this.arg(if self == Self::Rust {
                    "serve-by-hand"
                } else {
                    "serve-no-op"
                });
                this
            }
        }
    }
}

/// Lets the service make its indexes in a database.
pub fn make_indexes(uri: &str, database: &str) {
    let spool = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_im-callback"));
    command.arg("indexes");
    configure(&mut command, uri, database, spool.path());
    assert!(command.output().unwrap().status.success());
}

/// The same to every handler, and to the service its configuration.
fn configure(command: &mut Command, uri: &str, database: &str, spool: &Path) {
    let apps = format!(
        r#"[{{name="{APP}",provider="netease",app_key="{APP_KEY}",app_secrets=["{SECRET}"],order_id={{field="ext",pointer="/orderId"}}}}]"#
    );
    let keys = format!(r#"[{{name="bench",secret="{READ_KEY}",scopes=["read"]}}]"#);
    command
        .env_remove("IM_CALLBACK_CONFIG")
        .env("IM_CALLBACK__HTTP__LISTEN", "127.0.0.1:0")
        .env("IM_CALLBACK__MONGODB__URI", uri)
        .env("IM_CALLBACK__MONGODB__DATABASE", database)
        .env("IM_CALLBACK__SPOOL__PATH", spool)
        .env("IM_CALLBACK__APPS", apps)
        .env("IM_CALLBACK__AUTH__KEYS", keys)
        .env("MONGODB_URI", uri)
        .env("BENCH_DATABASE", database)
        .env("BENCH_SECRET", SECRET)
        .env("NODE_ENV", "production");
    for (name, value) in std::env::vars() {
        // Settings that are tried out.
        if let Some(key) = name.strip_prefix("BENCH_SET_") {
            command.env(format!("IM_CALLBACK__{key}"), value);
        }
    }
}

/// A handler that runs, ended with its owner.
pub struct Server {
    child: Child,
    pub address: String,
    _spool: tempfile::TempDir,
}

impl Server {
    pub fn start(who: Who, uri: &str, database: &str) -> Self {
        Self::start_with(who, uri, database, &[])
    }

    /// Starts it with more variables.
    pub fn start_with(who: Who, uri: &str, database: &str, settings: &[(&str, String)]) -> Self {
        let spool = tempfile::tempdir().unwrap();
        let mut command = who.command();
        configure(&mut command, uri, database, spool.path());
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", who.name()));
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut address, mut line) = (None, String::new());
        // The service looks over what is stored before it is at rest.
        let ready = if who == Who::Service {
            "reconciled"
        } else {
            "address="
        };
        while address.is_none() || !line.contains(ready) {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "{} ended at once",
                who.name()
            );
            if let Some((_, found)) = line.split_once("address=") {
                address = Some(found.trim().to_owned());
            }
        }
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains("ERROR") || line.contains("Error") {
                    eprintln!("{line}");
                }
            }
        });
        Self {
            child,
            address: address.unwrap(),
            _spool: spool,
        }
    }

    /// The largest resident memory so far, in MiB.
    pub fn rss(&self) -> f64 {
        memory::peak(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
