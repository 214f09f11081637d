//! `kill -9` of the service again and again, at random moments and between the commands of a commit, while the line to
//! MongoDB is cut, stalled or slow: everything acknowledged is stored exactly once, every count agrees with the oracle,
//! and soon so does `state`. `make chaos` runs it for longer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database, IndexModel};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use crate::oracle::{check_counts, found};
use crate::support::dialect::Dialect;
use crate::support::mongod::Mongod;
use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::trace::{ACCOUNTS, Happening, bodies, delivery, outcome, trace};
use crate::support::{database_name, documents, http, mongodb_uri, skip};

/// How much a run does: `make chaos` asks for more than `make test`.
pub fn asked_for(variable: &str, otherwise: u64) -> u64 {
    let asked = std::env::var(variable).ok();
    asked.map_or(otherwise, |n| n.parse().expect("a number"))
}

/// Whether a run is long and has the machine to itself, so that its times are meaningful.
fn is_long() -> bool {
    std::env::var_os("CHAOS_OUTAGE_SECONDS").is_some()
}

/// A random number from a range.
pub fn between(from: u64, to: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    from + u64::from_le_bytes(bytes) % (to - from)
}

/// A trace and an order of delivery.
fn episode() -> (Vec<Happening>, Vec<Vec<usize>>) {
    let strategy = trace().prop_flat_map(|trace| {
        let groups = delivery(trace.len());
        (proptest::strategy::Just(trace), groups)
    });
    let tree = strategy.new_tree(&mut TestRunner::default()).unwrap();
    let (trace, groups) = tree.current();
    (trace, groups.into_iter().map(|(_, group)| group).collect())
}

/// Senders, and what they know.
struct Senders {
    http: reqwest::Client,
    url: String,
    done: AtomicBool,
    acknowledged: AtomicUsize,
    episodes: Mutex<Vec<(String, Vec<Happening>)>>,
    /// Messages that were sent once, and those that were acknowledged.
    once: Mutex<Vec<u64>>,
}

impl Senders {
    fn new(process: &Process) -> Self {
        Self {
            http: http(),
            url: format!("http://{}", process.address),
            done: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            episodes: Mutex::default(),
            once: Mutex::default(),
        }
    }

    async fn deliver_once(&self, body: &[u8]) -> bool {
        let status = try_deliver(&self.http, &self.url, body).await;
        let allowed = matches!(status, None | Some(200 | 503));
        assert!(allowed, "answered {status:?}");
        let acknowledged = status == Some(200);
        let counted = usize::from(acknowledged);
        self.acknowledged.fetch_add(counted, Ordering::Relaxed);
        acknowledged
    }

    /// Delivers until acknowledged, like a provider that retries.
    async fn deliver(&self, body: &[u8]) {
        while !self.deliver_once(body).await {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whole traces one after the other, each delivery repeated until it is acknowledged.
    async fn play_traces(&self, lane: usize) {
        let mut n = 0;
        while !self.done.load(Ordering::Relaxed) {
            n += 1;
            let case = format!("k{lane}x{n}");
            let (trace, groups) = episode();
            let bodies: Vec<_> = bodies(&case, &trace)
                .iter()
                .map(|b| b.to_string())
                .collect();
            for group in groups {
                join_all(group.iter().map(|i| self.deliver(bodies[*i].as_bytes()))).await;
            }
            self.episodes.lock().unwrap().push((case, trace));
        }
    }

    /// Messages that are sent once, like by a provider that never retries.
    async fn send_once(&self) {
        for id in 1.. {
            if self.done.load(Ordering::Relaxed) {
                return;
            }
            let message = json!({
                "eventType": 1, "convType": "PERSON", "to": "once", "fromAccount": "sender",
                "msgType": "TEXT", "body": "a text that no log may have", "msgTimestamp": 1_700_000_000_000_u64 + id,
                "msgidServer": format!("once-{id}"),
            });
            if self.deliver_once(message.to_string().as_bytes()).await {
                self.once.lock().unwrap().push(id);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks everything against the oracle.
    async fn check(&self, process: &Process, database: &Database) {
        // The oracle looks by what no query of the service does.
        for (collection, key) in [
            ("messages", "msgidServer"),
            ("messages", "to"),
            ("presence", "account"),
        ] {
            let index = IndexModel::builder().keys(doc! { key: 1 }).build();
            let documents = database.collection::<Document>(collection);
            documents.create_index(index).await.unwrap();
        }
        let episodes = self.episodes.lock().unwrap().clone();
        for (case, trace) in &episodes {
            let expected = outcome(case, trace);
            for reader in 0..ACCOUNTS {
                check_counts(
                    Dialect::Netease,
                    &self.http,
                    &self.url,
                    case,
                    reader,
                    &expected,
                )
                .await;
            }
        }
        process.until_followed(&self.http).await;
        let since = Instant::now();
        for (case, trace) in &episodes {
            let expected = outcome(case, trace);
            // The walk at its start, which may still be running, finds the notes lost in the kill.
            let mut is_found = found(Dialect::Netease, database, case, trace).await;
            while is_found != expected && since.elapsed() < Duration::from_secs(60) {
                sleep(Duration::from_millis(100)).await;
                is_found = found(Dialect::Netease, database, case, trace).await;
            }
            assert_eq!(is_found, expected, "case {case}");
        }
        let stored = documents(database, "messages", doc! { "to": "once" }).await;
        let ids: Vec<_> = stored
            .iter()
            .map(|m| m.get_str("msgidServer").unwrap())
            .collect();
        let once = self.once.lock().unwrap().clone();
        let lost = once
            .iter()
            .filter(|id| !ids.contains(&&*format!("once-{id}")))
            .count();
        assert_eq!(lost, 0, "acknowledged messages that are not stored");
        let question = json!({ "user": "once", "peers": ["sender"] });
        let counted = process.ask(&self.http, &question).await.json();
        assert_eq!(counted["total"], stored.len());
        assert!(
            documents(database, "dead_letters", doc! {})
                .await
                .is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing_and_doubles_nothing() {
    let kills = asked_for("CHAOS_KILLS", 12);
    let proxy = Proxy::to(&mongodb_uri()).await;
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, "");
    block_in_place(|| process.start());
    let senders = Senders::new(&process);
    let killer = async {
        for _ in 0..kills {
            let line = [
                Line::Open,
                Line::Open,
                Line::Cut,
                Line::Reset,
                Line::Stalled,
                Line::HalfAnswers,
                Line::Slow(20),
            ][between(0, 7) as usize];
            sleep(Duration::from_millis(between(0, 300))).await;
            proxy.set(line);
            // Sometimes long enough for the outage to be detected.
            let more = if between(0, 3) == 0 { 3500 } else { 300 };
            sleep(Duration::from_millis(between(0, more))).await;
            block_in_place(|| process.kill());
            if between(0, 2) == 0 {
                proxy.set(Line::Open);
            }
            block_in_place(|| process.start());
        }
        proxy.set(Line::Open);
        senders.done.store(true, Ordering::Relaxed);
    };
    let traces = join_all((0..8).map(|lane| senders.play_traces(lane)));
    tokio::join!(killer, traces, senders.send_once());
    process.until_drained(&senders.http).await;

    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    senders.check(&process, &database).await;
    let reconciled = block_in_place(|| process.run(&["reconcile", "--dry-run", "--json"]));
    let report = serde_json::from_slice::<serde_json::Value>(&reconciled.stdout).unwrap();
    let wrong = (&report["behind"], &report["disagreed"]);
    assert_eq!(wrong, (&json!(0), &json!(0)), "{report}");
    let acknowledged = senders.acknowledged.load(Ordering::Relaxed);
    let episodes = senders.episodes.lock().unwrap().len();
    eprintln!(
        "{kills} kills: {acknowledged} callbacks acknowledged, 0 lost, 0 doubled; {episodes} traces as the oracle says"
    );
    assert!(episodes > 0 && acknowledged > 0);
    database.drop().await.unwrap();
}

/// The commands of a commit, side by side, of which one is blocked.
const STEPS: &[(&str, &str)] = &[
    ("message", "insert"),
    ("receipt", "insert"),
    ("receipt", "update"),
    ("recall", "update"),
    ("recall", "insert"),
];

fn word(what: &str, n: usize) -> String {
    let at = 1_700_000_000_000_usize + n;
    let word = match what {
        "message" => json!({
            "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "ann", "body": "a text that no log may have",
            "msgType": "TEXT", "msgTimestamp": at, "msgidServer": n,
        }),
        "receipt" => json!({
            "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": at,
        }),
        "recall" => json!({
            "eventType": 7, "msgId": n, "from": "ann", "to": "bob", "deleteTime": at,
        }),
        other => panic!("{other}"),
    };
    word.to_string()
}

/// MongoDB blocks one command of a commit, and the service is killed then. After the next delivery the count is right
/// at once, and `state` soon.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_steps_of_a_commit_it_finishes_them_the_next_time() {
    let _turn = crate::failpoints::TURN.lock().await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    if !crate::failpoints::are_there(&client).await {
        return;
    }
    let name = database_name();
    let uri = mongodb_uri();
    let joint = if uri.contains('?') { "&" } else { "/?" };
    let mut process = Process::new(&format!("{uri}{joint}appName=steps"), &name, "");
    block_in_place(|| process.start());
    let http = http();
    let url = format!("http://{}", process.address);
    process.until_drained(&http).await;
    let deliver = async |body: &str| try_deliver(&http, &url, body.as_bytes()).await;
    // A first of each, so that the driver is connected and the collections are there.
    for what in ["message", "receipt", "recall"] {
        assert_eq!(deliver(&word(what, 0)).await, Some(200));
    }
    let question = json!({ "user": "bob", "peers": ["ann"] });
    for (n, (what, command)) in (1..).zip(STEPS) {
        let n = n * 10;
        let other = if *what == "message" {
            "receipt"
        } else {
            "message"
        };
        assert_eq!(deliver(&word(other, n)).await, Some(200));
        let hold = doc! {
            "appName": "steps", "failCommands": [*command], "blockConnection": true,
            "blockTimeMS": 1200,
        };
        crate::failpoints::fail(&client, "steps", "alwaysOn", hold).await;
        let body = word(what, n);
        let (told, ()) = tokio::join!(deliver(&body), async {
            sleep(Duration::from_millis(400)).await;
            block_in_place(|| process.kill());
        });
        crate::failpoints::off(&client).await;
        assert_eq!(told, None, "{what} held at {command}");
        block_in_place(|| process.start());
        process.until_drained(&http).await;
        assert_eq!(deliver(&body).await, Some(200));
        let counted = process.ask(&http, &question).await.json();
        assert_eq!(counted["total"], 0, "{what} held at {command}: {counted}");
        process.until_followed(&http).await;
        let database = client.database(&name);
        let message = documents(&database, "messages", doc! { "msgidServer": n.to_string() }).await;
        assert_eq!(message.len(), 1);
        let state = message[0].get_i32("state").ok();
        assert_eq!(state, Some(1), "{what} held at {command}");
    }
    client.database(&name).drop().await.unwrap();
}

/// MongoDB is killed for a while under a steady rate of callbacks, each of which is sent once; the service, too,
/// while MongoDB is still away.
#[tokio::test(flavor = "multi_thread")]
async fn while_mongodb_is_dead_everything_is_taken_and_stored_afterwards() {
    let seconds = asked_for("CHAOS_OUTAGE_SECONDS", 5);
    let Some(mut mongod) = Mongod::start(true).await else {
        skip("MONGOD names no program");
        return;
    };
    let name = database_name();
    let mut process = Process::new(&mongod.uri(), &name, "");
    block_in_place(|| process.start());
    let http = http();
    process.until_drained(&http).await;
    let load = Load::new(&process);
    load.run(Duration::from_secs(2)).await;
    load.report("MongoDB there");

    block_in_place(|| mongod.kill());
    load.run(Duration::from_secs(seconds)).await;
    let (all, later) = load.report("MongoDB dead");
    assert!(
        !is_long() || (all < 3000.0 && later < 50.0),
        "callbacks take too long"
    );
    // The service dies, too, and restarts without MongoDB.
    block_in_place(|| {
        process.kill();
        process.start();
    });
    load.run(Duration::from_secs(2)).await;
    load.report("and the service begun anew");

    block_in_place(|| mongod.restart());
    let since = Instant::now();
    load.run(Duration::from_secs(2)).await;
    process.until_drained(&load.http).await;
    eprintln!(
        "drained {:.1} s after MongoDB's start",
        since.elapsed().as_secs_f64()
    );
    load.report("MongoDB back");

    let sent = load.next.load(Ordering::Relaxed);
    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    let messages = client.database(&name).collection::<Document>("messages");
    assert_eq!(
        messages.count_documents(doc! {}).await.unwrap(),
        sent as u64
    );
    let question = json!({ "user": "bob", "peers": ["ann"] });
    let counted = process.ask(&load.http, &question).await.json();
    assert_eq!(counted["total"], sent);
}

/// An outage under full load, and a drain under the same load.
#[tokio::test(flavor = "multi_thread")]
async fn the_spool_drains_beside_live_traffic() {
    let seconds = asked_for("CHAOS_OUTAGE_SECONDS", 3);
    let proxy = Proxy::to(&mongodb_uri()).await;
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, "");
    block_in_place(|| process.start());
    let http = http();
    process.until_drained(&http).await;
    let (url, next) = (format!("http://{}", process.address), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    let lane = async || {
        while !done.load(Ordering::Relaxed) {
            let body = word("message", next.fetch_add(1, Ordering::Relaxed));
            assert_eq!(try_deliver(&http, &url, body.as_bytes()).await, Some(200));
        }
    };
    let watch = async {
        proxy.set(Line::Cut);
        sleep(Duration::from_secs(seconds)).await;
        let spooled = next.load(Ordering::Relaxed);
        proxy.set(Line::Open);
        let since = Instant::now();
        process.until_drained(&http).await;
        let took = since.elapsed().as_secs_f64();
        let (n, live) = (spooled as f64, next.load(Ordering::Relaxed) - spooled);
        eprintln!(
            "{spooled} callbacks spooled in {seconds} s ({:.0}/s); drained in {took:.2} s \
             ({:.0}/s) beside {live} live ones",
            n / seconds as f64,
            n / took,
        );
        assert!(
            !is_long() || n / took >= n / seconds as f64,
            "it drains too slowly"
        );
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(watch, join_all((0..64).map(|_| lane())));
    process.until_drained(&http).await;
    let sent = next.into_inner();
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    let messages = database.collection::<Document>("messages");
    assert_eq!(
        messages.count_documents(doc! {}).await.unwrap(),
        sent as u64
    );
    let question = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(process.ask(&http, &question).await.json()["total"], sent);
    database.drop().await.unwrap();
}

/// Messages at a steady 400 a second, independent of the answers. Each is sent once and must be acknowledged.
struct Load {
    http: reqwest::Client,
    url: String,
    next: AtomicUsize,
    /// How long each took since the last report, by the time it was sent.
    took: Mutex<Vec<(Duration, Duration)>>,
}

impl Load {
    fn new(process: &Process) -> Self {
        Self {
            http: http(),
            url: format!("http://{}", process.address),
            next: AtomicUsize::new(0),
            took: Mutex::default(),
        }
    }

    async fn run(&self, during: Duration) {
        let begun = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_micros(2500));
        let mut answers = JoinSet::new();
        while begun.elapsed() < during {
            tick.tick().await;
            let body = word("message", self.next.fetch_add(1, Ordering::Relaxed));
            let (http, url) = (self.http.clone(), self.url.clone());
            answers.spawn(async move {
                let at = begun.elapsed();
                let status = try_deliver(&http, &url, body.as_bytes()).await;
                assert_eq!(status, Some(200));
                (at, begun.elapsed() - at)
            });
        }
        while let Some(answer) = answers.join_next().await {
            self.took.lock().unwrap().push(answer.unwrap());
        }
    }

    /// Prints how long callbacks took, all of them and those from the third second on, in milliseconds.
    fn report(&self, when: &str) -> (f64, f64) {
        let took = std::mem::take(&mut *self.took.lock().unwrap());
        let p99 = |from: Duration| {
            let mut took: Vec<_> = took
                .iter()
                .filter(|(at, _)| *at >= from)
                .map(|(_, t)| *t)
                .collect();
            took.sort();
            took.get(took.len() * 99 / 100)
                .map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0)
        };
        let (all, later) = (p99(Duration::ZERO), p99(Duration::from_secs(3)));
        eprintln!(
            "{when}: {} callbacks, all 200; p99 {all:.1} ms, from the third second on {later:.1} ms",
            took.len()
        );
        (all, later)
    }
}
