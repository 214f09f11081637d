//! Ten thousand subscribers of live counts on one instance: what they cost it, and how soon they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::callbacks::{message, request, requests};
use crate::history::{READERS, peers};
use crate::load::{self, Connection, Latencies};
use crate::results::{at_least, at_most};
use crate::servers::{READ_KEY, Server, Who};
use crate::{Bench, TURNS, median};

const DATABASE: &str = "im_bench_streams";

/// Connections that the load uses, besides those of subscribers.
const CONNECTIONS: usize = 256;

/// The first number of a message for subscribers, beyond the load's.
const FIRST: usize = 10_000_000;

/// A team that all are members of.
const TEAM: &str = "team1";

/// Whom subscribers ask about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Readers to whom the load sends nothing.
    Others,
    /// The load's own readers, each asked about by two subscribers.
    Load,
    /// A team.
    Team,
}

/// What a subscriber was told last, and when, in microseconds since the beginning.
#[derive(Default)]
struct LastTold {
    count: AtomicU64,
    at: AtomicU64,
}

/// Open streams. Dropping it closes them.
struct Subscribers {
    told: Arc<Vec<LastTold>>,
    began: Instant,
    runtime: Option<Runtime>,
}

/// The reader that a subscriber asks about.
fn reader(asked: Asked, n: usize) -> usize {
    match asked {
        Asked::Others | Asked::Team => READERS + n,
        Asked::Load => n % READERS,
    }
}

impl Subscribers {
    fn open(server: &Server, asked: Asked, count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut told = Vec::new();
        told.resize_with(count, LastTold::default);
        let told = Arc::new(told);
        let (began, begun) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        for n in 0..count {
            let (told, has_begun) = (told.clone(), begun.clone());
            let address = server.address.clone();
            runtime.spawn(async move {
                let mut socket = TcpStream::connect(address).await.unwrap();
                socket.write_all(&query(asked, n)).await.unwrap();
                let mut is_first = true;
                let (mut text, mut part) = (Vec::new(), [0; 2048]);
                loop {
                    let read = socket.read(&mut part).await.unwrap_or(0);
                    assert!(
                        read > 0,
                        "a stream ended: {}",
                        String::from_utf8_lossy(&text)
                    );
                    text.extend_from_slice(&part[..read]);
                    let Some(count) = last_count(asked, &text) else {
                        continue;
                    };
                    text.clear();
                    let at = began.elapsed().as_micros() as u64;
                    told[n].at.store(at, Ordering::Relaxed);
                    told[n].count.store(count, Ordering::Release);
                    if std::mem::take(&mut is_first) {
                        has_begun.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            // No more at once than the backlog of a socket takes.
            while n >= 500 + begun.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        while begun.load(Ordering::Relaxed) < count {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "not all streams open"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("{count} streams opened in {:.1?}", began.elapsed());
        // Until the change stream has them all.
        std::thread::sleep(Duration::from_secs(2));
        Self {
            told,
            began,
            runtime: Some(runtime),
        }
    }

    /// Waits until all are told this count: how long after these moments each was.
    fn until(&self, count: u64, acknowledged: &[Instant]) -> Latencies {
        let since = Instant::now();
        let is_told = |told: &LastTold| told.count.load(Ordering::Acquire) == count;
        while !self.told.iter().all(is_told) {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "not all are told"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = self.told.iter().enumerate().map(|(n, told)| {
            let at = self.began + Duration::from_micros(told.at.load(Ordering::Relaxed));
            at.saturating_duration_since(acknowledged[n % acknowledged.len()])
        });
        Latencies::new(took.collect())
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

fn query(asked: Asked, n: usize) -> Vec<u8> {
    let reader = reader(asked, n);
    let lists = match asked {
        Asked::Team => format!("teams={TEAM}"),
        Asked::Others | Asked::Load => {
            // Two subscribers of one reader ask differently.
            let cap = 1_000_000 - n / READERS;
            let peers: Vec<String> = peers(reader).map(|peer| format!("peer{peer}")).collect();
            format!("cap={cap}&peers={}", peers.join(","))
        }
    };
    format!(
        "GET /v1/unread/stream?user=reader{reader}&{lists} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ_KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// The total of the last counts in what was received, once their event is whole.
fn last_count(asked: Asked, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let name = match asked {
        Asked::Team => "\"team1\":",
        Asked::Others | Asked::Load => "\"total\":",
    };
    let rest = &text[text.rfind(name)? + name.len()..];
    rest.contains("\n\n").then_some(())?;
    let end = rest.find([',', '}'])?;
    rest[..end].parse().ok()
}

/// Sends a message to each subscriber, and gives when each was acknowledged.
fn tell_each(server: &Server, count: usize, round: usize) -> Vec<Instant> {
    let bodies: Vec<Vec<u8>> = (0..count)
        .map(|n| {
            let reader = READERS + n;
            let peer = peers(reader).next().unwrap();
            request(&message(FIRST + round * count + n, reader, peer).to_string())
        })
        .collect();
    acknowledged(server, &bodies)
}

fn tell_team(server: &Server, round: usize) -> Vec<Instant> {
    let mut body: Value = message(FIRST + round, 0, 0);
    body["convType"] = json!("TEAM");
    body["to"] = json!(TEAM);
    acknowledged(server, &[request(&body.to_string())])
}

fn acknowledged(server: &Server, bodies: &[Vec<u8>]) -> Vec<Instant> {
    load::alone(async || {
        let lanes = (0..64).map(|lane| async move {
            let mut connection = Connection::open(&server.address).await;
            let mut moments = Vec::new();
            for (n, body) in bodies.iter().enumerate().skip(lane).step_by(64) {
                connection.ask(body).await;
                moments.push((n, Instant::now()));
            }
            moments
        });
        let mut moments = futures_util::future::join_all(lanes).await.concat();
        moments.sort_unstable_by_key(|(n, _)| *n);
        moments.into_iter().map(|(_, at)| at).collect()
    })
}

fn server(bench: &Bench, count: usize) -> Server {
    bench.drop_database(DATABASE);
    let connections = (count + CONNECTIONS + 1000).to_string();
    let settings = [
        ("IM_CALLBACK__HTTP__MAX_CONNECTIONS", connections),
        (
            "IM_CALLBACK__STREAM__MAX_SUBSCRIBERS",
            (count + 100).to_string(),
        ),
    ];
    Server::start_with(Who::Service, &bench.uri, DATABASE, &settings)
}

/// Callbacks a second.
fn rate(server: &Server, first: usize, count: usize) -> f64 {
    let requests = requests(first..first + count);
    load::closed(&server.address, &requests, CONNECTIONS).rate
}

/// What subscribers cost the ingest, and how soon each is told of a message of its own.
pub fn streams(bench: &mut Bench) {
    let (count, callbacks) = (bench.size(10_000), bench.size(60_000));
    rlimit::increase_nofile_limit(count as u64 + 4096).unwrap();
    let (mut of_others, mut of_load, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let (mut last, mut p99, mut team) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let server = server(bench, count);
        rate(&server, 0, callbacks / 6);
        let mut first = callbacks;
        let mut next_rate = |server: &Server| {
            first += callbacks;
            rate(server, first, callbacks)
        };
        // With streams between two without, since a larger database is slower.
        let mut without = next_rate(&server);
        for (asked, ratios) in [(Asked::Others, &mut of_others), (Asked::Load, &mut of_load)] {
            let subscribers = Subscribers::open(&server, asked, count);
            let with = next_rate(&server);
            if asked == Asked::Others {
                for round in 0..3 {
                    let acknowledged = tell_each(&server, count, turn * 3 + round);
                    let took = subscribers.until(round as u64 + 1, &acknowledged);
                    println!(
                        "a message to each of {count} subscribers: told after p50 {:.0} ms, p99 {:.0} ms, the last {:.0} ms",
                        took.percentile(50.0),
                        took.percentile(99.0),
                        took.percentile(100.0)
                    );
                    last.push(took.percentile(100.0));
                    p99.push(took.percentile(99.0));
                }
            }
            drop(subscribers);
            std::thread::sleep(Duration::from_secs(1));
            let after = next_rate(&server);
            let ratio = with / ((without + after) / 2.0);
            println!(
                "{without:.0} callbacks a second without streams, {with:.0} with, {after:.0} after: {ratio:.2}"
            );
            ratios.push(ratio);
            without = after;
        }
        let subscribers = Subscribers::open(&server, Asked::Team, count);
        let acknowledged = tell_team(&server, turn);
        let took = subscribers.until(1, &acknowledged);
        println!(
            "a message to a team of {count} subscribers: told after p50 {:.0} ms, the last {:.0} ms",
            took.percentile(50.0),
            took.percentile(100.0)
        );
        team.push(took.percentile(100.0));
        memory.push(server.rss());
        println!("{:.0} MiB", server.rss());
        drop(subscribers);
        drop(server);
    }
    bench.drop_database(DATABASE);
    let results = &mut bench.results;
    let subscribers = format!("{count} subscribers");
    results.goal(
        format!("{subscribers}: resident memory, with the ingest of all this"),
        median(memory),
        "MiB",
        at_most(256.0, 192.0),
    );
    results.goal(
        format!("{subscribers}, a message to each at once: the last is told after"),
        median(last),
        "ms",
        at_most(1000.0, 500.0),
    );
    results.goal(
        format!("{subscribers} who ask about one team, one message: the last is told after"),
        median(team),
        "ms",
        at_most(1000.0, 500.0),
    );
    results.goal(
        format!("ingest with {subscribers} whom it does not concern ÷ without"),
        median(of_others),
        "",
        at_least(0.9, 0.95),
    );
    results.goal(
        format!("ingest with {subscribers} whom all of it concerns ÷ without"),
        median(of_load),
        "",
        at_least(0.5, 0.9),
    );
}
