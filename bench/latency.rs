//! How long a callback waits for its acknowledgement.

use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::ClientOptions;

use crate::app::App;
use crate::load::{self, Connection, Latencies};
use crate::results::{AtRate, PERCENTILES, at_most};
use crate::servers::{Server, Who, make_indexes};
use crate::{Bench, TURNS, callbacks, confirmed, median};

const DATABASE: &str = "im_bench_latency";

/// One callback at a time, alternating with the driver's `insert_one` of the same document on one connection.
pub fn lone(bench: &mut Bench) {
    let turns: Vec<(f64, f64)> = (0..TURNS).map(|_| lone_turn(bench)).collect();
    let ratios = turns.iter().map(|(service, driver)| service / driver);
    let what = "one lone callback at a time: p50 ÷ one `insert_one`";
    let ratio = median(ratios.collect());
    bench.results.goal(what, ratio, "", at_most(1.2, 1.1));
}

/// The median latencies, in milliseconds.
fn lone_turn(bench: &Bench) -> (f64, f64) {
    const BESIDE: &str = "im_bench_insert_one";
    const WARM: usize = 50;
    bench.drop_database(DATABASE);
    bench.drop_database(BESIDE);
    make_indexes(&bench.uri, BESIDE);
    let server = Server::start(Who::Service, &bench.uri, DATABASE);
    let numbers = (0..).filter(|n| callbacks::is_message(*n));
    let numbers: Vec<usize> = numbers.take(WARM + bench.size(1000)).collect();
    let app = App::new();
    let (service, driver) = load::alone(async || {
        let mut options = ClientOptions::parse(&bench.uri).await.unwrap();
        options.write_concern = Some(confirmed());
        options.max_pool_size = Some(1);
        let database = Client::with_options(options).unwrap().database(BESIDE);
        let messages = database.collection::<RawDocumentBuf>("messages");
        let mut connection = Connection::open(&server.address).await;
        let (mut service, mut driver) = (Vec::new(), Vec::new());
        for n in &numbers {
            let message = callbacks::body(*n);
            let (request, document) = (
                callbacks::request(&message.to_string()),
                app.document(&message),
            );
            let began = Instant::now();
            connection.ask(&request).await;
            service.push(began.elapsed());
            let began = Instant::now();
            messages.insert_one(document).await.unwrap();
            driver.push(began.elapsed());
        }
        (service, driver)
    });
    bench.check_stored(Who::Service, DATABASE, &numbers);
    drop(server);
    assert_eq!(
        bench.count(BESIDE, "messages", doc! {}),
        numbers.len() as u64
    );
    bench.drop_database(DATABASE);
    bench.drop_database(BESIDE);
    let median = |took: &[Duration]| Latencies::new(took[WARM..].to_vec()).percentile(50.0);
    let (service, driver) = (median(&service), median(&driver));
    println!("one callback: p50 {service:.2} ms; `insert_one`: p50 {driver:.2} ms");
    (service, driver)
}

/// Open loop at parts of the maximal rate.
pub fn over_rates(bench: &mut Bench) {
    const PARTS: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];
    let maximum = bench.maximum();
    let rates = PARTS.map(|part| part * maximum);
    let turns: Vec<Vec<[f64; 4]>> = (0..TURNS).map(|_| turn(bench, &rates)).collect();
    for (at, rate) in rates.into_iter().enumerate() {
        let percentiles =
            [0, 1, 2, 3].map(|p| median(turns.iter().map(|turn| turn[at][p]).collect()));
        if PARTS[at] == 0.5 {
            let what = "p99 at half the maximal rate, open loop";
            bench
                .results
                .goal(what, percentiles[2], "ms", at_most(20.0, 10.0));
        }
        bench.results.latencies.push(AtRate { rate, percentiles });
    }
}

/// The percentiles at each rate, on one service.
fn turn(bench: &Bench, rates: &[f64]) -> Vec<[f64; 4]> {
    const CONNECTIONS: usize = 256;
    let seconds = if bench.quick { 1.0 } else { 8.0 };
    bench.drop_database(DATABASE);
    let server = Server::start(Who::Service, &bench.uri, DATABASE);
    let warm = bench.size(20_000);
    load::closed(&server.address, &callbacks::requests(0..warm), CONNECTIONS);
    let mut next = warm;
    let mut percentiles = Vec::new();
    for rate in rates {
        let end = next + (rate * seconds) as usize;
        let requests = callbacks::requests(next..end);
        let outcome = load::open(&server.address, &requests, *rate, CONNECTIONS);
        percentiles.push(PERCENTILES.map(|percent| outcome.took.percentile(percent)));
        println!(
            "{rate:>6.0} a second due, {:>6.0} answered: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
            outcome.rate,
            outcome.took.percentile(50.0),
            outcome.took.percentile(99.0),
            outcome.took.percentile(99.9),
        );
        next = end;
    }
    bench.check_stored(Who::Service, DATABASE, &Vec::from_iter(0..next));
    drop(server);
    bench.drop_database(DATABASE);
    percentiles
}

/// How long after a receipt's acknowledgement its message has `state: 1`, during a load of half the maximal rate.
pub fn until_state_follows(bench: &mut Bench) {
    let rate = bench.maximum() / 2.0;
    let turns = (0..TURNS).map(|_| state_follows(bench, rate));
    let slowest = median(turns.collect());
    let what = "`state` follows a receipt at half the maximal rate: p99";
    bench.results.goal(what, slowest, "s", at_most(2.0, 1.5));
}

/// The slowest hundredth, in seconds.
fn state_follows(bench: &Bench, rate: f64) -> f64 {
    /// Beyond the numbers of the load beside it.
    const FIRST: usize = 1_000_000;
    let (asked, seconds) = (bench.size(200), if bench.quick { 3.0 } else { 8.0 });
    bench.drop_database(DATABASE);
    let server = Server::start(Who::Service, &bench.uri, DATABASE);
    let beside = callbacks::requests(0..(rate * seconds) as usize);
    let took = std::thread::scope(|scope| {
        let load = scope.spawn(|| load::open(&server.address, &beside, rate, 256));
        let took = load::alone(async || {
            let client = Client::with_uri_str(&bench.uri).await.unwrap();
            let messages = client.database(DATABASE).collection::<Document>("messages");
            let probes = (0..asked).map(|n| {
                let (messages, server) = (&messages, &server);
                async move {
                    // One after the other over most of the time, and each for itself.
                    tokio::time::sleep(Duration::from_secs_f64(
                        seconds * 0.8 / asked as f64 * n as f64,
                    ))
                    .await;
                    let mut connection = Connection::open(&server.address).await;
                    let number = FIRST + n;
                    let pair = (5000 + n, 0);
                    let message = callbacks::message(number, pair.0, pair.1);
                    connection
                        .ask(&callbacks::request(&message.to_string()))
                        .await;
                    let receipt = callbacks::receipt(pair, number).to_string();
                    connection.ask(&callbacks::request(&receipt)).await;
                    let began = Instant::now();
                    let id = format!("otc/p2p/{}", message["msgidServer"].as_str().unwrap());
                    let read = doc! { "_id": id, "state": 1 };
                    while messages.find_one(read.clone()).await.unwrap().is_none() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    began.elapsed()
                }
            });
            futures_util::future::join_all(probes).await
        });
        load.join().unwrap();
        took
    });
    drop(server);
    bench.drop_database(DATABASE);
    let took = Latencies::new(took);
    let (p50, p99) = (
        took.percentile(50.0) / 1000.0,
        took.percentile(99.0) / 1000.0,
    );
    println!("`state` follows among {rate:.0} callbacks a second: p50 {p50:.2} s, p99 {p99:.2} s");
    p99
}
