//! What a message takes on disk.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use crate::results::{Sizes, at_most};
use crate::servers::{Server, Who};
use crate::{Bench, TURNS, callbacks, load};

const DATABASE: &str = "im_bench_disk";

/// The collection `messages` after a load of the usual mix.
pub fn a_message(bench: &mut Bench) {
    let mut turns: Vec<Sizes> = (0..TURNS).map(|_| turn(bench)).collect();
    turns.sort_by(|a, b| a.on_disk().total_cmp(&b.on_disk()));
    let sizes = turns.swap_remove(TURNS / 2);
    let what = "bytes on disk a message (data + indexes) ÷ its JSON";
    let ratio = sizes.on_disk() / sizes.json;
    bench.results.goal(what, ratio, "", at_most(1.5, 1.0));
    bench.results.disk = Some(sizes);
}

fn turn(bench: &Bench) -> Sizes {
    /// Requests that are kept in memory at once.
    const PORTION: usize = 25_000;
    bench.drop_database(DATABASE);
    let server = Server::start(Who::Service, &bench.uri, DATABASE);
    let numbers = Vec::from_iter(0..bench.size(375_000));
    for portion in numbers.chunks(PORTION) {
        let requests = callbacks::requests(portion.iter().copied());
        load::closed(&server.address, &requests, 256);
    }
    bench.check_stored(Who::Service, DATABASE, &numbers);
    drop(server);
    let bodies = numbers.iter().filter(|n| callbacks::is_message(**n));
    let json: usize = bodies.map(|n| callbacks::body(*n).to_string().len()).sum();
    let sizes = sizes(bench, json as f64);
    bench.drop_database(DATABASE);
    println!(
        "a message: {:.0} bytes as JSON, {:.0} on disk",
        sizes.json,
        sizes.on_disk()
    );
    sizes
}

/// A number of whichever type MongoDB chose.
fn number(value: &Bson) -> f64 {
    match value {
        Bson::Int32(number) => f64::from(*number),
        Bson::Int64(number) => *number as f64,
        Bson::Double(number) => *number,
        other => panic!("{other} is no number"),
    }
}

fn sizes(bench: &Bench, json: f64) -> Sizes {
    bench.checkpoint();
    let found: Vec<Document> = bench
        .runtime
        .block_on(async {
            let stats = [doc! { "$collStats": { "storageStats": {} } }];
            let messages = bench.collection(DATABASE, "messages");
            messages.aggregate(stats).await?.try_collect().await
        })
        .unwrap();
    let stats = found[0].get_document("storageStats").unwrap();
    let messages = number(&stats["count"]);
    let indexes = stats.get_document("indexSizes").unwrap().iter();
    Sizes {
        json: json / messages,
        data: number(&stats["storageSize"]) / messages,
        indexes: indexes
            .map(|(name, bytes)| (name.clone(), number(bytes) / messages))
            .collect(),
    }
}
