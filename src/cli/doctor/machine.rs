//! The doctor's look at this machine: open files, the spool's disk, and who listens.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use reqwest::Client;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::check::Check;
use crate::config::Config;
use crate::http::server::OTHER_FILES;
use crate::spool::{SpoolFacts, examine};

pub const OPEN_FILES: &str = "open_files";
pub const SPOOL_FOLDER: &str = "spool.folder";
pub const SPOOL_SPACE: &str = "spool.space";
pub const SPOOL_CONTENTS: &str = "spool.contents";
pub const SERVICE: &str = "service";

/// How long the spool's disk may take to answer.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the system allows as many open files as there may be connections.
pub fn open_files(config: &Config) -> Check {
    let wanted = (config.http.max_connections + OTHER_FILES) as u64;
    match rlimit::Resource::NOFILE.get_hard() {
        Ok(hard) if hard < wanted => Check::warning(
            OPEN_FILES,
            format!("the hard limit is {hard}, and http.max_connections needs {wanted}"),
            "raise it (`ulimit -Hn`, LimitNOFILE=), or lower http.max_connections; the service takes fewer connections meanwhile",
        ),
        Ok(hard) => Check::ok(OPEN_FILES, format!("{wanted} needed, {hard} allowed")),
        Err(_) => Check::not_checked(OPEN_FILES, "the system does not tell its limit"),
    }
}

/// The spool's folder, its disk and what is in it.
pub async fn spool(config: &Config) -> Vec<Check> {
    let settings = config.spool.clone();
    let (told, answer) = oneshot::channel();
    // A thread of its own, since a runtime waits at its end for its blocking tasks, and a dead mount answers none.
    std::thread::spawn(move || told.send(examine(&settings)));
    let no_answer = || Err(io::Error::from(io::ErrorKind::TimedOut));
    let facts = match timeout(DISK_PATIENCE, answer).await {
        Ok(Ok(facts)) => facts,
        Ok(Err(_)) | Err(_) => no_answer(),
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            let found = format!(
                "{} cannot be looked at: {}",
                config.spool.path.display(),
                error.kind()
            );
            let way_out = "let spool.path name a folder of the service's own user";
            let why = "the folder comes first";
            return vec![
                Check::error(SPOOL_FOLDER, found, way_out),
                Check::not_checked(SPOOL_SPACE, why),
                Check::not_checked(SPOOL_CONTENTS, why),
            ];
        }
    };
    vec![
        spool_folder(&facts),
        spool_space(&facts, config.spool.max_bytes),
        spool_contents(&facts, config.spool.max_bytes),
    ]
}

fn spool_folder(facts: &SpoolFacts) -> Check {
    let folder = facts.folder.display();
    if let Err(error) = &facts.trial {
        return Check::error(
            SPOOL_FOLDER,
            format!("{folder} cannot be written: {}", error.kind()),
            "give it to the user that the service runs as (chown), and mount its disk writable",
        );
    }
    if facts.exists && facts.mode & 0o022 != 0 {
        return Check::error(
            SPOOL_FOLDER,
            format!(
                "others may write to {folder}, so they could forge callbacks; the service refuses it"
            ),
            "run chmod 0700 on it",
        );
    }
    if let Some(kind) = facts.volatile {
        return Check::warning(
            SPOOL_FOLDER,
            format!(
                "{folder} is on {kind}: it is lost when the machine or container restarts, with every callback in it"
            ),
            "let spool.path name a folder on a disk, or a volume",
        );
    }
    if !facts.is_own {
        return Check::warning(
            SPOOL_FOLDER,
            format!("{folder} belongs to another user than the one who asks"),
            "run the doctor as the service's user, which alone can be sure to write there",
        );
    }
    if facts.exists && facts.mode & 0o055 != 0 {
        return Check::warning(
            SPOOL_FOLDER,
            format!("others may look into {folder}"),
            "run chmod 0700 on it",
        );
    }
    let found = match (facts.exists, facts.is_in_use) {
        (true, true) => format!("{folder} is writable, and in use by a running service"),
        (true, false) => format!("{folder} is writable"),
        (false, _) => format!("does not exist yet; it can be made in {folder}"),
    };
    Check::ok(SPOOL_FOLDER, found)
}

fn spool_space(facts: &SpoolFacts, max_bytes: u64) -> Check {
    let left = max_bytes.saturating_sub(facts.waiting_bytes + facts.quarantined_bytes);
    let (free, max) = (ByteSize(facts.free_bytes), ByteSize(max_bytes));
    if facts.free_bytes < left {
        return Check::warning(
            SPOOL_SPACE,
            format!("{free} free on the disk, and the spool may grow to {max}"),
            "make room, or lower spool.max_bytes: with a full disk callbacks are answered 503 in an outage",
        );
    }
    Check::ok(
        SPOOL_SPACE,
        format!("{free} free on the disk, for up to {max}"),
    )
}

fn spool_contents(facts: &SpoolFacts, max_bytes: u64) -> Check {
    let held = facts.waiting_bytes + facts.quarantined_bytes;
    if held + held / 10 > max_bytes {
        return Check::error(
            SPOOL_CONTENTS,
            format!(
                "{} of {} are used: it is full, or nearly",
                ByteSize(held),
                ByteSize(max_bytes)
            ),
            "let MongoDB take the callbacks, look at quarantined files, or raise spool.max_bytes",
        );
    }
    if facts.quarantined_bytes > 0 {
        return Check::warning(
            SPOOL_CONTENTS,
            format!(
                "{} are in quarantine, in files *.damaged",
                ByteSize(facts.quarantined_bytes)
            ),
            "look at them; docs/spool.md says how to try them again",
        );
    }
    match facts.waiting_bytes {
        0 => Check::ok(SPOOL_CONTENTS, "empty"),
        waiting if !facts.is_in_use => Check::warning(
            SPOOL_CONTENTS,
            format!(
                "{} wait for MongoDB, and no service runs that would store them",
                ByteSize(waiting)
            ),
            "start the service with this spool.path; it stores them as soon as MongoDB takes writes",
        ),
        waiting => Check::ok(
            SPOOL_CONTENTS,
            format!("{} wait for MongoDB", ByteSize(waiting)),
        ),
    }
}

/// Whether the service runs, or another program has its address.
pub async fn service(config: &Config) -> Check {
    let mut address = config.http.listen;
    if address.port() == 0 {
        return Check::not_checked(SERVICE, "http.listen has port 0, so the system chooses one");
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    if !matches!(
        timeout(PATIENCE, TcpStream::connect(address)).await,
        Ok(Ok(_))
    ) {
        return free(config.http.listen);
    }
    let asked = async {
        let client = Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .build()
            .ok()?;
        let ask = async |path: &str| -> Option<Value> {
            let answer = client
                .get(format!("http://{address}{path}"))
                .send()
                .await
                .ok()?;
            answer.json().await.ok()
        };
        let alive = ask("/livez").await?;
        let ready = ask("/readyz").await.unwrap_or_default();
        (alive["status"] == "alive").then_some(ready)
    };
    match asked.await {
        Some(ready) => {
            let word = |field: &str| ready[field].as_str().unwrap_or("unknown").to_owned();
            let why = ready["detail"].as_str().map(|why| format!(": {why}"));
            let why = why.unwrap_or_default();
            let status = word("status");
            let found = format!("runs at {address}, {status}{why}");
            match status.as_str() {
                "ready" => Check::ok(SERVICE, found),
                "not ready" => Check::error(
                    SERVICE,
                    found,
                    "it answers callbacks with 503: the other checks, /readyz and its log say why",
                ),
                _ => Check::warning(
                    SERVICE,
                    found,
                    "the other checks, /readyz and its log say why",
                ),
            }
        }
        None => Check::error(
            SERVICE,
            format!("another program listens at {address} (http.listen)"),
            "end it, or give the service another address",
        ),
    }
}

/// Nobody listens: whether the service could. Only bound, never listening, so that a service that starts now can.
fn free(listen: SocketAddr) -> Check {
    let bound = match listen {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(listen)
    });
    match bound {
        Ok(()) => Check::ok(SERVICE, format!("does not run; {listen} is free")),
        Err(error) => Check::error(
            SERVICE,
            format!(
                "nobody answers at {listen} (http.listen), and it cannot be bound: {}",
                error.kind()
            ),
            "name an address of this machine, and a port that this user may bind",
        ),
    }
}
