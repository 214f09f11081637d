//! Callbacks a second among hostile clients, compared with the same service without them.
//!
//! `make hostile` runs it; `make hostile CLIENTS="500 20"` chooses the numbers of slow clients and of
//! connections that send garbage. The service is the release binary in a process of its own, with its
//! default limits, so that its memory is its own. It faces the slow clients first, and then both. Slow
//! clients reconnect as soon as they are disconnected, as long as the load runs. Then they stop, and the time until the
//! last one is disconnected is measured.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed"
)]

mod memory;

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use im_callback::callback::netease::signature::sign;
use mongodb::Client;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "bench-secret";
const APP_KEY: &str = "bench-key";
const DATABASE: &str = "im_bench_hostile";
/// Connections of the provider.
const GOOD: usize = 64;
/// How long each load runs.
const SPAN: Duration = Duration::from_secs(20);
/// How long slow clients attach before the load is measured.
const ATTACH: Duration = Duration::from_secs(3);

const CALLBACK: &str = "POST /callbacks/otc HTTP/1.1\r\nHost: x\r\n";
const ALIVE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::main]
async fn main() {
    let uri = std::env::var("MONGODB_URI").expect("MONGODB_URI is not set; run `make hostile`");
    let asked: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let (slow, garbage) = match asked[..] {
        [slow, garbage] => (slow, garbage),
        _ => (1000, 100),
    };
    let database = Client::with_uri_str(&uri).await.unwrap().database(DATABASE);
    database.drop().await.unwrap();
    let server = Server::start(&uri);
    let next = Cell::new(0);

    let clean = load(&server.address, &next).await;
    let clean_rss = server.rss();
    println!("clean: {clean:.0} callbacks a second, {clean_rss:.0} MiB");

    for garbage in [0, garbage] {
        let attack = Attack::start(&server.address, slow, garbage);
        sleep(ATTACH).await;
        let attached = server.connections();
        let hostile = load(&server.address, &next).await;
        let ratio = hostile / clean;
        println!(
            "among {slow} slow and {garbage} garbage ({attached} connections at the start): \
             {hostile:.0} callbacks a second, {ratio:.2} times"
        );
        let gone = attack.end(&server).await.as_secs_f64();
        let rss = server.rss();
        println!("the last was gone after {gone:.1} s; resident memory: at most {rss:.0} MiB");
        assert!(gone < 30.0 && rss < 256.0);
        assert!(garbage > 0 || ratio >= 0.5);
    }
    drop(server);
    database.drop().await.unwrap();
}

/// Delivers callbacks over some connections for a while; how many a second.
async fn load(address: &str, next: &Cell<usize>) -> f64 {
    let started = Instant::now();
    let taken = Cell::new(0);
    join_all((0..GOOD).map(|_| async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut answer = [0_u8; 1024];
        while started.elapsed() < SPAN {
            let n = next.replace(next.get() + 1);
            socket.write_all(&callback(n)).await.unwrap();
            let length = socket.read(&mut answer).await.unwrap();
            assert!(
                answer[..length].starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&answer[..length])
            );
            taken.set(taken.get() + 1);
        }
    }))
    .await;
    f64::from(taken.get()) / started.elapsed().as_secs_f64()
}

fn callback(n: usize) -> Vec<u8> {
    let body = json!({
        "eventType": "1", "convType": "PERSON", "to": format!("reader{}", n * 7 % 5000),
        "fromAccount": format!("peer{}", n * 13 % 500), "msgType": "TEXT", "msgTimestamp": 1_700_000_000_000 + n,
        "body": "Is it still there? I could come by tonight.", "msgidServer": n.to_string(),
    })
    .to_string();
    let cur_time = "1700000000000";
    let (md5, checksum) = sign(body.as_bytes(), SECRET, cur_time);
    format!(
        "{CALLBACK}AppKey: {APP_KEY}\r\nCurTime: {cur_time}\r\nMD5: {md5}\r\nCheckSum: {checksum}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What a slow client does: says something, and then a little more, time and again.
struct Slow {
    says: Vec<u8>,
    then: &'static [u8],
    reads: bool,
}

/// As many kinds as there are ways to hold a connection.
fn kinds() -> Vec<Slow> {
    let length = "Content-Length: 1000000\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let large = "x".repeat(900_000);
    let says = |says: String, then| Slow {
        says: says.into_bytes(),
        then,
        reads: true,
    };
    let floods = |request: &str| Slow {
        says: request.repeat(200_000 / request.len()).into_bytes(),
        then: b"GET / HTTP/1.1\r\n\r\n",
        reads: false,
    };
    vec![
        says(String::new(), b""),
        says("POST /callb".to_owned(), b"a"),
        says(format!("{CALLBACK}X: {}", "a".repeat(100_000)), b"a"),
        says(ALIVE.to_owned(), b""),
        says(format!("{ALIVE}GET /"), b"a"),
        says(format!("{CALLBACK}{length}"), b"x"),
        says(format!("{CALLBACK}{length}{large}"), b"x"),
        says(format!("{CALLBACK}{chunked}"), b"1\r\nx\r\n"),
        says(
            format!("POST /livez HTTP/1.1\r\nHost: x\r\n{chunked}"),
            b"1\r\nx\r\n",
        ),
        floods(ALIVE),
        // Its handler waits, so that requests could pile up behind it.
        floods(&ALIVE.replace("livez", "readyz")),
        floods(&format!("{CALLBACK}Content-Length: 1\r\n\r\nx")),
    ]
}

/// Hostile clients in a thread of their own.
struct Attack {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl Attack {
    fn start(address: &str, slow: usize, garbage: usize) -> Self {
        let stop = CancellationToken::new();
        let (stopped, address) = (stop.clone(), address.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let attack = async {
                let kinds = kinds();
                let slow = join_all((0..slow).map(|n| {
                    let (kind, address, stopped) = (&kinds[n % kinds.len()], &address, &stopped);
                    async move {
                        while !stopped.is_cancelled() {
                            let _ = kind.play(address).await;
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                }));
                let garbage = join_all((0..garbage).map(|_| send_garbage(&address, &stopped)));
                tokio::join!(slow, garbage);
            };
            LocalSet::new().block_on(&runtime, attack);
        });
        Self { stop, thread }
    }

    /// Lets no slow client come again; how long until the service has closed the last one's connection.
    async fn end(self, server: &Server) -> Duration {
        self.stop.cancel();
        let started = Instant::now();
        while server.connections() > 0 && started.elapsed() < Duration::from_secs(120) {
            sleep(Duration::from_millis(100)).await;
        }
        let gone = started.elapsed();
        tokio::task::spawn_blocking(|| self.thread.join().unwrap())
            .await
            .unwrap();
        gone
    }
}

impl Slow {
    /// Until the service ends the connection.
    async fn play(&self, address: &str) -> std::io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        if !self.reads {
            // Else the system would take all the answers, and this would be a fast client.
            socket.set_recv_buffer_size(4096)?;
        }
        let address = address.parse().unwrap();
        let (mut from, mut to) = socket.connect(address).await?.into_split();
        let talk = async {
            to.write_all(&self.says).await?;
            loop {
                sleep(Duration::from_millis(500)).await;
                to.write_all(self.then).await?;
            }
        };
        let listen = async {
            while self.reads && from.read(&mut [0; 1024]).await? > 0 {}
            if self.reads {
                return Ok(());
            }
            std::future::pending().await
        };
        tokio::select! {
            ended = talk => ended,
            ended = listen => ended,
        }
    }
}

/// Unsigned bodies of 1 MiB, as fast as they go.
async fn send_garbage(address: &str, stopped: &CancellationToken) {
    let head = format!("{CALLBACK}Content-Length: {}\r\n\r\n", 1024 * 1024);
    let part = [b'x'; 64 * 1024];
    while !stopped.is_cancelled() {
        let Ok(mut socket) = TcpStream::connect(address).await else {
            continue;
        };
        let _ = socket.write_all(head.as_bytes()).await;
        for _ in 0..16 {
            if socket.write_all(&part).await.is_err() {
                break;
            }
        }
        let _ = timeout(Duration::from_secs(5), socket.read(&mut [0; 1024])).await;
    }
}

/// The service in a process of its own, ended with its owner.
struct Server {
    child: Child,
    address: String,
    _spool: tempfile::TempDir,
}

impl Server {
    fn start(uri: &str) -> Self {
        let spool = tempfile::tempdir().unwrap();
        let apps = format!(
            r#"[{{name="otc",provider="netease",app_key="{APP_KEY}",app_secrets=["{SECRET}"]}}]"#
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_im-callback"))
            .arg("serve")
            .env_remove("IM_CALLBACK_CONFIG")
            .env("IM_CALLBACK__HTTP__LISTEN", "127.0.0.1:0")
            .env("IM_CALLBACK__MONGODB__URI", uri)
            .env("IM_CALLBACK__MONGODB__DATABASE", DATABASE)
            .env("IM_CALLBACK__SPOOL__PATH", spool.path())
            .env("IM_CALLBACK__APPS", apps)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut address, mut line) = (None, String::new());
        while address.is_none() || !line.contains("indexes are present") {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "the service ended at once"
            );
            if let Some((_, found)) = line.split_once("address=") {
                address = Some(found.trim().to_owned());
            }
        }
        std::thread::spawn(move || {
            let lines = log.lines().map_while(Result::ok).count();
            println!("the service logged {lines} lines");
        });
        Self {
            child,
            address: address.unwrap(),
            _spool: spool,
        }
    }

    /// The largest resident memory so far, in MiB.
    fn rss(&self) -> f64 {
        memory::peak(self.child.id())
    }

    /// Connections that the service holds, idle ones among them. It has ended those of the load.
    fn connections(&self) -> usize {
        let port: u16 = self.address.rsplit(':').next().unwrap().parse().unwrap();
        let local = format!("0100007F:{port:04X}");
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let held = |line: &&str| {
            let mut fields = line.split_whitespace().skip(1);
            let is_ours = fields.next() == Some(&local);
            // ESTABLISHED and CLOSE_WAIT: the service has not closed its side.
            is_ours && matches!(fields.nth(1), Some("01" | "08"))
        };
        table.lines().filter(held).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
