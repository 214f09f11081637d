//! Callbacks a second, side by side: this service, and the handler a user would write by hand, which
//! awaits one `insert_one` per callback. Same MongoDB, same write concern, same load, in turns.
//!
//! `make bench` runs it; `make bench CONNECTIONS="64 256"` chooses the numbers of connections. The service is the release binary in a process of its own; so is the
//! hand-written handler (this program again, with the argument `by-hand`). The load signs distinct
//! callbacks beforehand, and what counts is what is in MongoDB afterwards.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::future::join_all;
use im_callback::callback::RawCallback;
use im_callback::callback::ids::Millis;
use im_callback::callback::netease::{Verifier, sign};
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Collection};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECRET: &str = "bench-secret";
const APP_KEY: &str = "bench-key";
const CALLBACKS: usize = 30_000;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    let uri = std::env::var("MONGODB_URI").expect("MONGODB_URI is not set; run `make bench`");
    if std::env::args().any(|argument| argument == "by-hand") {
        return by_hand(&uri).await;
    }
    let client = Client::with_uri_str(&uri).await.unwrap();
    println!(
        "{CALLBACKS} callbacks a run (80 % messages, 15 % receipts, 5 % logins), {ROUNDS} rounds in turns"
    );
    println!(
        "{:>11}  {:<12} {:>8}  {:>9}  {:>9}  {:>8}",
        "connections", "handler", "per s", "p50 ms", "p99 ms", "RSS MiB"
    );
    let asked: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    for connections in if asked.is_empty() {
        vec![1, 64, 256]
    } else {
        asked
    } {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for (who, rates) in ["im-callback", "by hand"].into_iter().zip(&mut rates) {
                let database = format!(
                    "im_bench_{}_{connections}_{round}",
                    who.replace([' ', '-'], "_")
                );
                client.database(&database).drop().await.unwrap();
                let run = run(who, &uri, &client, &database, connections).await;
                println!(
                    "{connections:>11}  {who:<12} {:>8.0}  {:>9.2}  {:>9.2}  {:>8.1}",
                    run.rate, run.p50, run.p99, run.rss
                );
                rates.push(run.rate);
                client.database(&database).drop().await.unwrap();
            }
        }
        let [ours, theirs] = rates.map(median);
        println!(
            "{connections:>11}  median: {ours:.0} against {theirs:.0} a second, {:.1} times",
            ours / theirs
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
    rss: f64,
}

async fn run(who: &str, uri: &str, client: &Client, database: &str, connections: usize) -> Run {
    // A lone connection shows latency; it needs fewer callbacks to do so.
    let n = if connections == 1 {
        CALLBACKS / 10
    } else {
        CALLBACKS
    };
    let server = Server::start(who, uri, database);
    let requests: Vec<Vec<u8>> = (0..n).map(|i| request(&body(i).to_string())).collect();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let lanes = (0..connections).map(|_| async {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut took = Vec::new();
        let mut answer = [0_u8; 1024];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = requests.get(i) else {
                return took;
            };
            let sent = Instant::now();
            socket.write_all(request).await.unwrap();
            let length = socket.read(&mut answer).await.unwrap();
            assert!(
                answer[..length].starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&answer[..length])
            );
            took.push(sent.elapsed());
        }
    });
    let mut took: Vec<Duration> = join_all(lanes).await.concat();
    let elapsed = started.elapsed();
    let rss = server.rss();
    drop(server);
    let messages = client.database(database).collection::<Document>("messages");
    let expected = (0..n).filter(|i| is_message(*i)).count();
    assert_eq!(
        messages.count_documents(doc! {}).await.unwrap(),
        expected as u64,
        "{who} lost or doubled"
    );
    took.sort_unstable();
    let ms = |at: usize| took[at].as_secs_f64() * 1000.0;
    Run {
        rate: n as f64 / elapsed.as_secs_f64(),
        p50: ms(n / 2),
        p99: ms(n * 99 / 100),
        rss,
    }
}

fn is_message(i: usize) -> bool {
    i % 20 < 16
}

/// A callback of the mix: 5,000 readers, 500 peers.
fn body(i: usize) -> Value {
    let (reader, peer) = (
        format!("reader{}", i * 7 % 5000),
        format!("peer{}", i * 13 % 500),
    );
    let at = 1_700_000_000_000 + i;
    if is_message(i) {
        return json!({
            "eventType": "1", "convType": "PERSON", "to": reader, "fromAccount": peer, "fromNick": peer,
            "fromClientType": "IOS", "fromDeviceId": "B0BFF2EB-E2E1-4063-9E73-92FB926BF388", "msgType": "TEXT",
            "body": "Is it still there? I could come by tonight.", "msgTimestamp": at.to_string(),
            "msgidServer": i.to_string(), "msgidClient": format!("b0b703ea-3e10-453e-8650-{i:012}"),
            "resendFlag": "0", "ext": format!("{{\"orderId\":\"A-{}\"}}", i % 1000),
        });
    }
    if i % 20 < 19 {
        let receipt = json!([{ "fromAccount": reader, "toAccount": peer, "clientType": "AOS", "timestamp": at }]);
        return json!({ "eventType": "30", "objects": receipt.to_string() });
    }
    json!({
        "eventType": "2", "accid": reader, "clientType": "AOS", "code": "200", "clientIp": "10.0.0.1",
        "deviceId": format!("device-{reader}"), "timestamp": at.to_string(),
    })
}

fn request(body: &str) -> Vec<u8> {
    let now = Millis::new(1_700_000_000_000).unwrap();
    let signature = sign(body.as_bytes(), &SECRET.into(), now);
    format!(
        "POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAppKey: {APP_KEY}\r\n\
         CurTime: {}\r\nMD5: {}\r\nCheckSum: {}\r\nContent-Length: {}\r\n\r\n{body}",
        signature.cur_time,
        signature.md5,
        signature.checksum,
        body.len()
    )
    .into_bytes()
}

/// A handler in a process of its own, ended with its owner.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(who: &str, uri: &str, database: &str) -> Self {
        let mut command = if who == "by hand" {
            let mut this = Command::new(std::env::current_exe().unwrap());
            this.arg("by-hand");
            this
        } else {
            let mut service = Command::new(env!("CARGO_BIN_EXE_im-callback"));
            service.arg("serve");
            service
        };
        let apps = format!(
            r#"[{{name="otc",provider="netease",app_key="{APP_KEY}",app_secrets=["{SECRET}"],order_id={{field="ext",pointer="/orderId"}}}}]"#
        );
        command
            .env_remove("IM_CALLBACK_CONFIG")
            .env("IM_CALLBACK__HTTP__LISTEN", "127.0.0.1:0")
            .env("IM_CALLBACK__MONGODB__URI", uri)
            .env("IM_CALLBACK__MONGODB__DATABASE", database)
            .env("IM_CALLBACK__APPS", apps)
            .env("BENCH_DATABASE", database)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut address = None;
        let mut line = String::new();
        // The service says that its indexes are there after its address, the handler has none.
        let ready = if who == "by hand" {
            "address="
        } else {
            "indexes are present"
        };
        while address.is_none() || !line.contains(ready) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "{who} ended at once");
            if let Some((_, found)) = line.split_once("address=") {
                address = Some(found.trim().to_owned());
            }
        }
        std::thread::spawn(move || log.lines().for_each(drop));
        Self {
            child,
            address: address.unwrap(),
        }
    }

    /// The largest resident memory so far, in MiB.
    fn rss(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        kib / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The handler a user would write: verify, parse, one awaited write.
async fn by_hand(uri: &str) {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.max_pool_size = Some(64);
    let concern = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build();
    options.write_concern = Some(concern);
    let database = std::env::var("BENCH_DATABASE").unwrap();
    let database = Client::with_options(options).unwrap().database(&database);
    let collections = ["messages", "logins"].map(|name| database.collection::<Document>(name));
    // What a receipt updates by; without it every receipt would scan the collection.
    let keys = doc! { "to": 1, "fromAccount": 1, "msgTimestamp": 1 };
    collections[0]
        .create_index(mongodb::IndexModel::builder().keys(keys).build())
        .await
        .unwrap();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(collections.clone()))
            .route("/callbacks/otc", web::post().to(store))
    })
    .bind("127.0.0.1:0")
    .unwrap();
    eprintln!("address={}", server.addrs()[0]);
    server.run().await.unwrap();
}

async fn store(
    request: HttpRequest,
    body: web::Bytes,
    collections: web::Data<[Collection<Document>; 2]>,
) -> HttpResponse {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let verifier = Verifier {
        app_key: APP_KEY.to_owned(),
        secrets: vec![SECRET.into()],
        freshness: None,
    };
    let raw = RawCallback {
        body: &body,
        header: &header,
    };
    if verifier.verify(&raw, 0).is_err() {
        return HttpResponse::Forbidden().finish();
    }
    let [messages, logins] = collections.as_ref();
    let event: Value = serde_json::from_slice(&body).unwrap();
    let stored = match event["eventType"].as_str() {
        Some("1") => {
            let mut message: Document = event
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str().unwrap().into()))
                .collect();
            message.insert(
                "_id",
                format!("otc/p2p/{}", event["msgidServer"].as_str().unwrap()),
            );
            message.insert(
                "msgTimestamp",
                event["msgTimestamp"]
                    .as_str()
                    .unwrap()
                    .parse::<i64>()
                    .unwrap(),
            );
            message.insert("state", 0);
            message.insert("receivedAt", DateTime::now());
            messages.insert_one(message).await.map(drop)
        }
        Some("30") => {
            let receipts: Value = serde_json::from_str(event["objects"].as_str().unwrap()).unwrap();
            let filter = doc! {
                "to": receipts[0]["fromAccount"].as_str(), "fromAccount": receipts[0]["toAccount"].as_str(),
                "msgTimestamp": { "$lte": receipts[0]["timestamp"].as_i64() }, "state": 0,
            };
            messages
                .update_many(filter, doc! { "$set": { "state": 1 } })
                .await
                .map(drop)
        }
        _ => {
            let login =
                doc! { "accid": event["accid"].as_str(), "timestamp": event["timestamp"].as_str() };
            logins.insert_one(login).await.map(drop)
        }
    };
    match stored {
        Ok(()) => HttpResponse::Ok().body(r#"{"code":200}"#),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}
