//! How many unread messages a reader has from 20 peers, asked over HTTP.

use std::time::Instant;

use mongodb::bson::doc;
use serde_json::Value;

use crate::callbacks::{Stored, message, request, requests};
use crate::history::{self, PEERS, READERS, peers};
use crate::load::{self, Connection, Latencies};
use crate::results::{WithStored, at_least, at_most};
use crate::servers::{READ_KEY, Server, Who};
use crate::stored::eventually;
use crate::{Bench, TURNS, median};

const CONNECTIONS: usize = 32;

/// What asks for a reader's unread messages of all the reader's peers.
fn query(reader: usize) -> Vec<u8> {
    let peers: Vec<String> = peers(reader).map(|peer| format!("peer{peer}")).collect();
    format!(
        "GET /v1/unread?user=reader{reader}&peers={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ_KEY}\r\n\r\n",
        peers.join(",")
    )
    .into_bytes()
}

/// So many queries, of one reader after the other.
fn queries(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| query(n * 7 % READERS)).collect()
}

/// The counts in an answer, by the reader's peers in their order.
fn counts(who: Who, reader: usize, answer: &[u8]) -> Vec<u64> {
    let answer: Value = serde_json::from_slice(answer).unwrap();
    let counts = match who {
        Who::Service => &answer["peers"],
        _ => &answer,
    };
    // By hand, a peer without unread messages is not in the answer.
    let count = |peer| counts[format!("peer{peer}")].as_u64().unwrap_or_default();
    peers(reader).map(count).collect()
}

/// Checks the answers to some readers.
fn check(who: Who, server: &Server) {
    let wanted: Vec<u64> = (0..PEERS).map(history::unread).collect();
    load::alone(async || {
        let mut connection = Connection::open(&server.address).await;
        for reader in (0..READERS).step_by(50) {
            let answer = connection.ask(&query(reader)).await;
            assert_eq!(
                counts(who, reader, answer),
                wanted,
                "{} of reader{reader}",
                who.name()
            );
        }
    });
}

impl Bench {
    /// A database with so many messages, and a server that has answered queries of it for a while: at its
    /// start the service has other work, too.
    fn filled(&self, who: Who, database: &str, total: usize) -> Server {
        history::fill(self, database, total);
        let server = Server::start(who, &self.uri, database);
        check(who, &server);
        load::closed(&server.address, &queries(2000), CONNECTIONS);
        server
    }
}

/// Queries a second, compared with an aggregate written by hand.
pub fn beside_express(bench: &mut Bench) {
    let everybody = [
        (Who::Service, "im_bench_unread", 20_000),
        (Who::Express, "im_bench_unread_by_hand", 5_000),
    ];
    let servers = everybody.map(|(who, database, _)| bench.filled(who, database, 100_000));
    let ratios = (0..TURNS).map(|_| {
        let rates = [0, 1].map(|at| {
            let (who, _, n) = everybody[at];
            let outcome = load::closed(&servers[at].address, &queries(bench.size(n)), CONNECTIONS);
            println!(
                "{:>15}: {:.0} queries a second, p50 {:.2} ms, p99 {:.2} ms",
                who.name(),
                outcome.rate,
                outcome.took.percentile(50.0),
                outcome.took.percentile(99.0),
            );
            outcome.rate
        });
        rates[0] / rates[1]
    });
    let ratio = median(ratios.collect());
    drop(servers);
    for (_, database, _) in everybody {
        bench.drop_database(database);
    }
    let what = "unread of 20 peers, queries a second ÷ Express";
    bench.results.goal(what, ratio, "", at_least(5.0, 20.0));
}

/// Open loop, at a rate that a service at rest takes with ease.
fn calm(bench: &Bench, server: &Server) -> Latencies {
    const RATE: f64 = 200.0;
    let count = if bench.quick { 200 } else { 1600 };
    load::open(&server.address, &queries(count), RATE, CONNECTIONS).took
}

/// The same unread messages, more and more of others.
pub fn over_history(bench: &mut Bench) {
    let sizes = match bench.quick {
        true => [100_000, 200_000, 300_000],
        false => [100_000, 500_000, 1_500_000],
    };
    let database = |stored: usize| format!("im_bench_history_{stored}");
    let servers = sizes.map(|stored| bench.filled(Who::Service, &database(stored), stored));
    let turn = |_| {
        [0, 1, 2].map(|at| {
            let took = calm(bench, &servers[at]);
            let (p50, p99) = (took.percentile(50.0), took.percentile(99.0));
            println!(
                "{:>7} messages stored: p50 {p50:.2} ms, p99 {p99:.2} ms",
                sizes[at]
            );
            (p50, p99)
        })
    };
    let turns: Vec<[(f64, f64); 3]> = (0..TURNS).map(turn).collect();
    drop(servers);
    let ratio = median(turns.iter().map(|turn| turn[2].1 / turn[0].1).collect());
    let what = "its p99 at 1.5 million stored messages ÷ at 100 thousand";
    bench.results.goal(what, ratio, "", at_most(1.5, 1.1));
    for (at, stored) in sizes.into_iter().enumerate() {
        bench.drop_database(&database(stored));
        bench.results.history.push(WithStored {
            stored,
            p50: median(turns.iter().map(|turn| turn[at].0).collect()),
            p99: median(turns.iter().map(|turn| turn[at].1).collect()),
        });
    }
}

/// A reader with 200,000 unread messages from one peer. Another message precedes each query, so that no answer can be
/// cached.
pub fn hot(bench: &mut Bench) {
    const DATABASE: &str = "im_bench_hot";
    /// Beyond the readers and the numbers that the database is filled with.
    const READER: usize = READERS;
    const FIRST: usize = 1_000_000;
    let server = bench.filled(Who::Service, DATABASE, 100_000);
    let peer = peers(READER).next().unwrap();
    let many = bench.size(200_000);
    history::add_unread(bench, DATABASE, (READER, peer), FIRST..FIRST + many);
    let asks = bench.size(200);
    let turn = |turn: usize| {
        let took = load::alone(async || {
            let mut connection = Connection::open(&server.address).await;
            let mut took = Vec::new();
            for n in (many + turn * asks..).take(asks) {
                let another = message(FIRST + n, READER, peer).to_string();
                connection.ask(&request(&another)).await;
                let began = Instant::now();
                let answer = connection.ask(&query(READER)).await;
                took.push(began.elapsed());
                assert_eq!(counts(Who::Service, READER, answer)[0], n as u64 + 1);
            }
            took
        });
        let took = Latencies::new(took);
        let p99 = took.percentile(99.0);
        println!(
            "{many} unread: p50 {:.2} ms, p99 {p99:.2} ms",
            took.percentile(50.0)
        );
        p99
    };
    let p99 = median((0..TURNS).map(turn).collect());
    drop(server);
    bench.drop_database(DATABASE);
    let what = "a reader with 200,000 unread from one peer: p99 of the query";
    bench.results.goal(what, p99, "ms", at_most(50.0, 10.0));
}

/// Queries during callbacks at half the maximal rate, compared with none.
pub fn beside_ingest(bench: &mut Bench) {
    const DATABASE: &str = "im_bench_unread_and_ingest";
    const FILLED: usize = 100_000;
    let rate = bench.maximum() / 2.0;
    // Longer than the queries take.
    let count = (rate * if bench.quick { 1.5 } else { 9.0 }) as usize;
    let server = bench.filled(Who::Service, DATABASE, FILLED);
    let first = 1_000_000;
    let turn = |turn: usize| {
        bench.checkpoint();
        let idle = calm(bench, &server).percentile(99.0);
        let callbacks = requests((first + turn * count..).take(count));
        let busy = std::thread::scope(|scope| {
            let ingest = scope.spawn(|| load::open(&server.address, &callbacks, rate, 256));
            let busy = calm(bench, &server).percentile(99.0);
            let ingested = ingest.join().unwrap().rate;
            assert!(ingested > 0.9 * rate, "{ingested:.0} of {rate:.0} a second");
            println!("p99 {idle:.2} ms idle, {busy:.2} ms among {ingested:.0} callbacks a second");
            busy
        });
        busy / idle
    };
    let ratio = median((0..TURNS).map(turn).collect());
    let sent = Stored::of(first..first + TURNS * count);
    let count = |name| bench.count(DATABASE, name, doc! {});
    let wanted = (FILLED as u64 + sent.messages, sent.events);
    eventually(|| (count("messages"), count("events")), &wanted);
    drop(server);
    bench.drop_database(DATABASE);
    let what = "unread p99 while ingest runs at half its maximum ÷ idle";
    bench.results.goal(what, ratio, "", at_most(3.0, 2.0));
}
