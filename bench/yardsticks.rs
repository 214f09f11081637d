//! The yardsticks of ingest: the service beside what it is compared with, on one MongoDB, with one write
//! concern, in turns.
//!
//! `make bench` runs it; `make bench CONNECTIONS="64 256"` chooses the numbers of connections, and the word
//! `service` among them leaves the others out. `BENCH_SET_INGEST__COMMITS_IN_FLIGHT=4` tries a setting. The load
//! signs distinct callbacks beforehand, and what counts is what is in MongoDB afterwards. The *limit* is both
//! jobs done on the same cores: 1 / (1 / no-op + 1 / bare mongod).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed"
)]

mod by_hand;
mod callbacks;
mod load;
mod memory;
mod servers;

use std::time::Instant;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, IndexModel};
use tokio::runtime::Runtime;

use callbacks::{messages_in, requests};
use servers::{Server, Who};

/// What every write here waits for.
pub fn confirmed() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
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
    let service_only = words.iter().any(|word| word == "service");
    let bench = Bench {
        client: runtime.block_on(Client::with_uri_str(&uri)).unwrap(),
        runtime,
        uri,
    };
    let connections = words
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect::<Vec<usize>>();
    let connections = if connections.is_empty() {
        vec![64, 256]
    } else {
        connections
    };
    for connections in connections {
        if service_only {
            bench.ingest_of(Who::Service, 40_000, connections);
        } else {
            bench.ingest(connections);
        }
    }
}

struct Bench {
    runtime: Runtime,
    client: Client,
    uri: String,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Bench {
    fn drop_database(&self, name: &str) {
        self.runtime
            .block_on(async { self.client.database(name).drop().await })
            .unwrap();
    }

    /// Callbacks a second of all that takes some, in turns.
    fn ingest(&self, connections: usize) {
        let everybody = [Who::Service, Who::Express, Who::Rust, Who::NoOp];
        let mut rates = vec![Vec::new(); everybody.len() + 1];
        for _ in 0..3 {
            for (who, rates) in everybody.iter().zip(&mut rates) {
                let n = match who {
                    Who::Service => 60_000,
                    Who::NoOp => 200_000,
                    Who::Express | Who::Rust => 15_000,
                };
                rates.push(self.ingest_of(*who, n, connections));
            }
            let bare = self.bare();
            println!("{:>15}  {bare:>8.0} documents a second", "bare mongod");
            rates[everybody.len()].push(bare);
        }
        let medians: Vec<f64> = rates.into_iter().map(median).collect();
        let limit = 1.0 / (1.0 / medians[3] + 1.0 / medians[4]);
        println!(
            "{connections} connections: {:.0} a second; {:.1} x Express, {:.1} x Rust by hand, {:.2} x limit ({limit:.0})",
            medians[0],
            medians[0] / medians[1],
            medians[0] / medians[2],
            medians[0] / limit,
        );
    }

    fn ingest_of(&self, who: Who, n: usize, connections: usize) -> f64 {
        let database = "im_bench_ingest";
        self.drop_database(database);
        let server = Server::start(who, &self.uri, database);
        let all = requests(0..n);
        // What is small at first, such as the pool of connections, is no part of it.
        let (warm, all) = all.split_at(n / 10);
        load::closed(&server.address, warm, connections);
        let outcome = load::closed(&server.address, all, connections);
        let rss = server.rss();
        drop(server);
        if who != Who::NoOp {
            let messages = self
                .client
                .database(database)
                .collection::<Document>("messages");
            let stored = self
                .runtime
                .block_on(async { messages.count_documents(doc! {}).await });
            assert_eq!(
                stored.unwrap(),
                messages_in(n),
                "{} lost or doubled some",
                who.name()
            );
        }
        self.drop_database(database);
        println!(
            "{:>15}  {:>8.0} a second, p50 {:.2} ms, p99 {:.2} ms, {rss:.0} MiB",
            who.name(),
            outcome.rate,
            outcome.percentile(50.0),
            outcome.percentile(99.0),
        );
        outcome.rate
    }

    /// Documents a second that MongoDB takes from the driver, 500 at once, four times at the same time, with
    /// the service's indexes.
    fn bare(&self) -> f64 {
        const BATCH: usize = 500;
        const DOCUMENTS: usize = 100_000;
        let name = "im_bench_bare";
        self.drop_database(name);
        let rate = self.runtime.block_on(async {
            let mut options = ClientOptions::parse(&self.uri).await.unwrap();
            options.write_concern = Some(confirmed());
            let database = Client::with_options(options).unwrap().database(name);
            let messages = database.collection::<Document>("messages");
            for (keys, filter) in [
                (
                    doc! { "app": 1, "to": 1, "state": 1, "fromAccount": 1, "msgTimestamp": 1 },
                    doc! { "state": 0 },
                ),
                (
                    doc! { "app": 1, "to": 1, "state": 1, "orderId": 1 },
                    doc! { "state": 0, "orderId": { "$exists": true } },
                ),
            ] {
                let mut index = IndexModel::builder().keys(keys).build();
                let options = index.options.get_or_insert_default();
                options.partial_filter_expression = Some(filter);
                messages.create_index(index).await.unwrap();
            }
            let numbers = (0..).filter(|n| callbacks::is_message(*n)).take(DOCUMENTS);
            let documents: Vec<Document> = numbers.map(document).collect();
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
            DOCUMENTS as f64 / began.elapsed().as_secs_f64()
        });
        self.drop_database(name);
        rate
    }
}

/// A message as the service stores it.
fn document(n: usize) -> Document {
    let body = callbacks::body(n);
    let fields = body.as_object().unwrap().iter();
    let mut message: Document = fields
        .map(|(k, v)| (k.clone(), v.as_str().unwrap().into()))
        .collect();
    message.insert("_id", format!("otc/p2p/{n}"));
    message.insert("app", "otc");
    message.insert("provider", "netease");
    message.insert("orderId", format!("A-{}", n % 1000));
    message.insert("msgTimestamp", 1_700_000_000_000 + n as i64);
    message.insert("state", 0);
    message.insert("receivedAt", DateTime::now());
    message
}
