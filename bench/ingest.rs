//! Callbacks a second, closed loop: each connection sends its next callback when the last is acknowledged.

use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::options::ClientOptions;
use serde_json::Value;

use crate::app::App;
use crate::load::{self, Connection, Outcome};
use crate::results::{Rates, at_least, at_most};
use crate::servers::{Server, Who, make_indexes};
use crate::{Bench, TURNS, callbacks, confirmed, median};

const DATABASE: &str = "im_bench_ingest";

/// The service and everything it is compared with, in turns.
pub fn over_connections(bench: &mut Bench, connections: &[usize]) {
    for connections in connections {
        let turns: Vec<Turn> = (0..TURNS).map(|_| Turn::run(bench, *connections)).collect();
        let over_turns = |figure: &dyn Fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
        let rates = Rates {
            connections: *connections,
            service: over_turns(&|turn| turn.service.outcome.rate),
            express: over_turns(&|turn| turn.express),
            rust: over_turns(&|turn| turn.rust),
            no_op: over_turns(&|turn| turn.no_op),
            bare: over_turns(&|turn| turn.bare),
            limit: over_turns(&Turn::limit),
        };
        let to_express = over_turns(&|turn| turn.service.outcome.rate / turn.express);
        let to_limit = over_turns(&|turn| turn.service.outcome.rate / turn.limit());
        let goals = match connections {
            64 => Some((at_least(7.0, 14.0), at_least(0.45, 0.6))),
            256 => Some((at_least(11.0, 20.0), at_least(0.6, 0.75))),
            _ => None,
        };
        if let Some((express, limit)) = goals {
            let what = format!("ingest, {connections} connections");
            bench
                .results
                .goal(format!("{what}, ÷ Express"), to_express, "", express);
            bench
                .results
                .goal(format!("{what}, ÷ limit"), to_limit, "", limit);
        }
        match connections {
            256 => bench.maximum = Some(rates.service),
            1000 => {
                let memory = over_turns(&|turn| turn.service.memory);
                let what = "resident memory at saturation, 1,000 connections";
                bench
                    .results
                    .goal(what, memory, "MiB", at_most(128.0, 64.0));
            }
            _ => {}
        }
        bench.results.rates.push(rates);
    }
}

struct Turn {
    service: Delivered,
    express: f64,
    rust: f64,
    no_op: f64,
    bare: f64,
}

impl Turn {
    fn run(bench: &Bench, connections: usize) -> Self {
        let deliver = |who, most: usize| {
            // Few connections are slow ones.
            let n = bench.size(most).min(connections * 2000);
            deliver(bench, who, &Vec::from_iter(0..n), connections)
        };
        Self {
            service: deliver(Who::Service, 60_000.max(connections * 100)),
            express: deliver(Who::Express, 15_000).outcome.rate,
            rust: deliver(Who::Rust, 15_000).outcome.rate,
            no_op: deliver(Who::NoOp, 200_000).outcome.rate,
            bare: bare(bench),
        }
    }

    /// Both jobs done on the same cores.
    fn limit(&self) -> f64 {
        1.0 / (1.0 / self.no_op + 1.0 / self.bare)
    }
}

/// Only the service, to try its settings.
pub fn service_alone(bench: &Bench, connections: &[usize]) {
    for connections in connections {
        let n = bench.size(40_000).min(connections * 2000);
        deliver(bench, Who::Service, &Vec::from_iter(0..n), *connections);
    }
}

/// Callbacks a second when every message is read in the end, and `state` says so within the time that is measured.
pub fn sustained(bench: &mut Bench) {
    for (connections, goal) in [(64, at_least(7.0, 14.0)), (256, at_least(11.0, 20.0))] {
        let ratios = (0..TURNS).map(|_| {
            let rate = |who, most| sustained_rate(bench, who, bench.size(most), connections);
            rate(Who::Service, 60_000) / rate(Who::Express, 15_000)
        });
        let ratio = median(ratios.collect());
        let what =
            format!("sustained, {connections} connections: all read, `state` too, ÷ Express");
        bench.results.goal(what, ratio, "", goal);
    }
}

fn sustained_rate(bench: &Bench, who: Who, count: usize, connections: usize) -> f64 {
    bench.drop_database(DATABASE);
    let server = Server::start(who, &bench.uri, DATABASE);
    let requests = callbacks::requests(0..count);
    let (warm, measured) = requests.split_at(count / 10);
    load::closed(&server.address, warm, connections);
    let began = Instant::now();
    load::closed(&server.address, measured, connections);
    let read = callbacks::last_receipts(0..count);
    load::closed(&server.address, &read, connections);
    if who == Who::Service {
        load::alone(async || {
            let mut connection = Connection::open(&server.address).await;
            let ready = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
            while !is_at_rest(connection.ask(ready).await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let rate = (measured.len() + read.len()) as f64 / began.elapsed().as_secs_f64();
    if who == Who::Service {
        let unread = bench.count(DATABASE, "messages", doc! { "state": 0 });
        assert_eq!(unread, 0);
    }
    drop(server);
    bench.drop_database(DATABASE);
    let name = who.name();
    println!("{name:>15}, {connections:>4} connections: {rate:>8.0} a second until all is read");
    rate
}

/// Whether nothing waits in the spool, and `state` has followed.
fn is_at_rest(ready: &[u8]) -> bool {
    let ready: Value = serde_json::from_slice(ready).unwrap();
    (&ready["spool"]["bytes"], &ready["state"]["pairs"]) == (&0.into(), &0.into())
}

/// Half of the callbacks are repeats, compared with none.
pub fn repeats(bench: &mut Bench) {
    let n = bench.size(80_000);
    let (clean, repeated) = (
        Vec::from_iter(0..n),
        Vec::from_iter(callbacks::half_repeated(n)),
    );
    let ratios = (0..TURNS).map(|_| {
        let rate = |numbers: &[usize]| deliver(bench, Who::Service, numbers, 256).outcome.rate;
        let clean = rate(&clean);
        rate(&repeated) / clean
    });
    let ratio = median(ratios.collect());
    let what = "half of the callbacks repeats ÷ clean";
    bench.results.goal(what, ratio, "", at_least(0.8, 1.0));
}

/// The outcome of a load whose callbacks are all stored.
struct Delivered {
    outcome: Outcome,
    /// The largest resident memory of who took them, in MiB.
    memory: f64,
}

fn deliver(bench: &Bench, who: Who, numbers: &[usize], connections: usize) -> Delivered {
    bench.drop_database(DATABASE);
    let server = Server::start(who, &bench.uri, DATABASE);
    let requests = callbacks::requests(numbers.iter().copied());
    // What is small at first, such as the pool of connections, is no part of it.
    let (warm, measured) = requests.split_at(requests.len() / 10);
    load::closed(&server.address, warm, connections);
    let outcome = load::closed(&server.address, measured, connections);
    let memory = server.rss();
    bench.check_stored(who, DATABASE, numbers);
    drop(server);
    bench.drop_database(DATABASE);
    println!(
        "{:>15}, {connections:>4} connections: {:>8.0} a second, p50 {:.2} ms, p99 {:.2} ms, {memory:.0} MiB",
        who.name(),
        outcome.rate,
        outcome.took.percentile(50.0),
        outcome.took.percentile(99.0),
    );
    Delivered { outcome, memory }
}

impl Bench {
    /// Callbacks a second of the service over 256 connections.
    pub fn maximum(&mut self) -> f64 {
        if let Some(maximum) = self.maximum {
            return maximum;
        }
        let numbers = Vec::from_iter(0..self.size(60_000));
        let rates = (0..TURNS).map(|_| deliver(self, Who::Service, &numbers, 256).outcome.rate);
        let maximum = median(rates.collect());
        self.maximum = Some(maximum);
        maximum
    }
}

/// Messages a second that MongoDB takes from the driver, 500 at once, four times at the same time, with
/// the service's indexes.
fn bare(bench: &Bench) -> f64 {
    const BATCH: usize = 500;
    let name = "im_bench_bare";
    bench.drop_database(name);
    make_indexes(&bench.uri, name);
    let app = App::new();
    let numbers = (0..).filter(|n| callbacks::is_message(*n));
    let documents: Vec<RawDocumentBuf> = numbers
        .take(bench.size(100_000))
        .map(|n| app.document(&callbacks::body(n)))
        .collect();
    let rate = bench.runtime.block_on(async {
        let mut options = ClientOptions::parse(&bench.uri).await.unwrap();
        options.write_concern = Some(confirmed());
        let database = Client::with_options(options).unwrap().database(name);
        let messages = database.collection::<RawDocumentBuf>("messages");
        let began = Instant::now();
        let lanes = (0..4).map(|lane| {
            let (messages, documents) = (&messages, &documents);
            async move {
                for batch in documents.chunks(BATCH).skip(lane).step_by(4) {
                    messages.insert_many(batch).ordered(false).await.unwrap();
                }
            }
        });
        futures_util::future::join_all(lanes).await;
        documents.len() as f64 / began.elapsed().as_secs_f64()
    });
    let stored = bench.count(name, "messages", doc! {});
    assert_eq!(stored, documents.len() as u64);
    bench.drop_database(name);
    println!("{:>15}: {rate:.0} documents a second", "bare mongod");
    rate
}
