//! Measures the service and the yardsticks that it is compared with, on one MongoDB, with one write concern, in
//! turns. `docs/benchmarks.md` has the method and the results of the last run.
//!
//! `make bench` runs it all, and writes the table and the plots of the documentation. Parts of it:
//! `make bench ONLY="ingest unread"`, `make bench CONNECTIONS="64 256"` (ingest alone),
//! `make bench ONLY=service CONNECTIONS=64` (only the service's own ingest), and `QUICK=1` makes everything
//! small, to try the program itself. `BENCH_SET_INGEST__COMMITS_IN_FLIGHT=4` tries a setting of the service.
//!
//! # Map
//! - What is measured: [`ingest`], [`latency`], [`disk`], [`streams`], and [`unread`] over the data of [`history`].
//! - What it is compared with: [`by_hand`] and `express/server.js`; `bare` in [`ingest`].
//! - How: [`callbacks`] is the load, [`load`] sends it, [`servers`] starts what answers, [`stored`] looks at
//!   what is in MongoDB afterwards.
//! - What comes of it: [`results`], shown by [`report`] and [`plots`].

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed"
)]

mod app;
mod by_hand;
mod callbacks;
mod disk;
mod history;
mod ingest;
mod latency;
mod load;
mod memory;
mod plots;
mod report;
mod results;
mod servers;
mod stored;
mod streams;
mod unread;

use mongodb::Client;
use mongodb::options::{Acknowledgment, WriteConcern};
use tokio::runtime::Runtime;

use results::Results;

/// Every figure is the median of so many turns.
const TURNS: usize = 3;
/// The parts that can be asked for by name.
const PARTS: [&str; 9] = [
    "ingest",
    "sustained",
    "repeats",
    "lone",
    "latency",
    "state",
    "unread",
    "streams",
    "disk",
];

/// What every write here waits for.
pub fn confirmed() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the measurements share.
pub struct Bench {
    runtime: Runtime,
    client: Client,
    uri: String,
    quick: bool,
    /// Callbacks a second of the service over 256 connections, once that is known.
    maximum: Option<f64>,
    results: Results,
}

impl Bench {
    /// A size of a measurement, or a small one.
    fn size(&self, full: usize) -> usize {
        if self.quick { full / 20 } else { full }
    }
}

fn main() {
    let uri = std::env::var("MONGODB_URI").expect("MONGODB_URI is not set; run `make bench`");
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let runtime = Runtime::new().unwrap();
    let database = std::env::var("BENCH_DATABASE").unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("serve-by-hand") => return runtime.block_on(by_hand::serve(&uri, &database)),
        Some("serve-no-op") => {
            return actix_web::rt::System::new().block_on(by_hand::serve_no_op());
        }
        _ => {}
    }
    callbacks::begin_now();
    callbacks::check();
    let mut bench = Bench {
        client: runtime.block_on(Client::with_uri_str(&uri)).unwrap(),
        runtime,
        uri,
        quick: std::env::var("QUICK").is_ok_and(|quick| !quick.is_empty()),
        maximum: None,
        results: Results::default(),
    };
    let is_whole = words.is_empty();
    measure(&mut bench, &words);
    report::print(&bench.results);
    if is_whole {
        let settings_are_tried = std::env::vars().any(|(name, _)| name.starts_with("BENCH_SET_"));
        let is_real = !bench.quick && !settings_are_tried;
        report::write(&bench.results, &report::Machine::of(&bench), is_real);
    }
}

/// The parts that were asked for; all of them when none was.
fn measure(bench: &mut Bench, words: &[String]) {
    let (connections, parts): (Vec<&String>, Vec<&String>) =
        words.iter().partition(|word| word.parse::<usize>().is_ok());
    let connections: Vec<usize> = connections.iter().map(|n| n.parse().unwrap()).collect();
    for part in &parts {
        let is_known = PARTS.contains(&part.as_str()) || *part == "service";
        assert!(is_known, "`{part}` is none of {PARTS:?}, service");
    }
    let asked = |part: &str| match (parts.is_empty(), connections.is_empty()) {
        (true, true) => true,
        (true, false) => part == "ingest",
        (false, _) => parts.iter().any(|asked| *asked == part),
    };
    let connections = match connections.is_empty() {
        true => vec![1, 16, 64, 256, 1000],
        false => connections.clone(),
    };
    if parts.iter().any(|part| *part == "service") {
        ingest::service_alone(bench, &connections);
    }
    if asked("ingest") {
        ingest::over_connections(bench, &connections);
    }
    if asked("sustained") {
        ingest::sustained(bench);
    }
    if asked("lone") {
        latency::lone(bench);
    }
    if asked("latency") {
        latency::over_rates(bench);
    }
    if asked("state") {
        latency::until_state_follows(bench);
    }
    if asked("repeats") {
        ingest::repeats(bench);
    }
    if asked("unread") {
        unread::beside_express(bench);
        unread::over_history(bench);
        unread::hot(bench);
        unread::beside_ingest(bench);
    }
    if asked("streams") {
        streams::streams(bench);
    }
    if asked("disk") {
        disk::a_message(bench);
    }
}
