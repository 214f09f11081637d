//! A replica set of three nodes changes its primary under load: every callback is taken, none is lost, none
//! is double.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::json;
use tokio::task::block_in_place;

use crate::support::mongod::ReplicaSet;
use crate::support::process::{Process, try_deliver};
use crate::support::{database_name, http, skip};

const LANES: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_are_killed_or_step_down_cost_nothing() {
    let Some(mut set) = ReplicaSet::start().await else {
        skip("MONGOD names no program");
        return;
    };
    let name = database_name();
    let mut process = Process::new(&set.uri(), &name, "");
    block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lane = |lane: usize| {
        let (http, url, done, sent) = (&http, &url, &done, &sent);
        async move {
            let mut n = lane;
            while !done.load(Ordering::Relaxed) {
                let message = json!({
                    "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "ann",
                    "msgType": "TEXT", "body": "x", "msgidServer": n,
                    "msgTimestamp": 1_700_000_000_000_usize + n,
                });
                // Each goes out once: all that is asked of the provider.
                let taken = try_deliver(http, url, message.to_string().as_bytes()).await;
                assert_eq!(taken, Some(200));
                sent.fetch_add(1, Ordering::Relaxed);
                n += LANES;
            }
        }
    };
    let trouble = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        set.step_down().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..2 {
            let killed = set.kill_primary().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            set.restart(killed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        set.step_down().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(trouble, join_all((0..LANES).map(lane)));
    process.until_drained(&http).await;

    let sent = sent.into_inner() as u64;
    let client = Client::with_uri_str(set.uri()).await.unwrap();
    let messages = client.database(&name).collection::<Document>("messages");
    assert_eq!(messages.count_documents(doc! {}).await.unwrap(), sent);
    let question = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(process.ask(&http, &question).await.json()["total"], sent);
}
