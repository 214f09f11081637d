//! Data for the unread queries: 5,000 readers with 20 peers each, of whose messages only the newest 50,000 are
//! unread, one from each of ten peers, however many are stored. In the service's own documents and indexes.

use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};

use crate::Bench;
use crate::app::App;
use crate::callbacks::{self, APP, sent_at};
use crate::servers::make_indexes;

pub const READERS: usize = 5000;
/// The peers of a reader.
pub const PEERS: usize = 20;
/// The unread messages of a reader, each from another peer.
const UNREAD: usize = 10;
/// The documents of one insert.
const BATCH: usize = 1000;

/// A reader's peers, those with an unread message last.
pub fn peers(reader: usize) -> impl Iterator<Item = usize> {
    (0..PEERS).map(move |peer| (reader + peer * 25) % 500)
}

/// What a reader has unread from a peer.
pub fn unread(peer_of_reader: usize) -> u64 {
    u64::from(peer_of_reader >= PEERS - UNREAD)
}

/// Fills a database that the service will find in order. `total` is a multiple of 100,000.
pub fn fill(bench: &Bench, database: &str, total: usize) {
    assert_eq!(total % (READERS * PEERS), 0);
    bench.drop_database(database);
    make_indexes(&bench.uri, database);
    let read_before = total - READERS * UNREAD;
    let read_up_to = sent_at(read_before) as i64 - 1;
    insert(bench, database, "messages", total, move |app, n| {
        let reader = n % READERS;
        let peer = peers(reader).nth(n / READERS % PEERS).unwrap();
        let message = callbacks::message(n, reader, peer);
        let mut document = Document::try_from(app.document(&message)).unwrap();
        if n < read_before {
            document.insert("state", 1);
            document.insert("readAt", DateTime::from_millis(read_up_to));
        }
        document
    });
    insert(
        bench,
        database,
        "read_marks",
        READERS * PEERS,
        move |_, n| {
            let reader = n % READERS;
            let peer = peers(reader).nth(n / READERS).unwrap();
            let id = doc! { "app": APP, "reader": format!("reader{reader}"), "peer": format!("peer{peer}") };
            let mut mark = doc! { "_id": id.clone() };
            mark.extend(id);
            mark.insert("readUpTo", read_up_to);
            mark.insert("updatedAt", DateTime::from_millis(read_up_to));
            mark
        },
    );
}

/// Adds unread messages of one pair, later than all of [`fill`].
pub fn add_unread(
    bench: &Bench,
    database: &str,
    (reader, peer): (usize, usize),
    numbers: std::ops::Range<usize>,
) {
    let first = numbers.start;
    insert(bench, database, "messages", numbers.len(), move |app, n| {
        let message = callbacks::message(first + n, reader, peer);
        Document::try_from(app.document(&message)).unwrap()
    });
}

/// Inserts as many documents as are made of the numbers from 0, four batches at a time.
fn insert(
    bench: &Bench,
    database: &str,
    name: &str,
    count: usize,
    document: impl Fn(&App, usize) -> Document + Send + Copy + 'static,
) {
    let collection: Collection<Document> = bench.collection(database, name);
    let lane = |lane: usize| {
        let collection = collection.clone();
        async move {
            let app = App::new();
            for first in (lane * BATCH..count).step_by(4 * BATCH) {
                let numbers = first..count.min(first + BATCH);
                let documents: Vec<Document> = numbers.map(|n| document(&app, n)).collect();
                collection
                    .insert_many(documents)
                    .ordered(false)
                    .await
                    .unwrap();
            }
        }
    };
    let lanes: Vec<_> = (0..4).map(|n| bench.runtime.spawn(lane(n))).collect();
    for lane in lanes {
        bench.runtime.block_on(lane).unwrap();
    }
    let stored = bench.count(database, name, doc! {});
    assert!(stored >= count as u64);
    bench.checkpoint();
}
