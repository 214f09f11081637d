//! A replica set of three nodes changes its primary under load: every callback is acknowledged and stored once, counts
//! are right, and `state` follows.

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
    // Each goes out once: all that is asked of the provider.
    let deliver = async |body: serde_json::Value| {
        let taken = try_deliver(&http, &url, body.to_string().as_bytes()).await;
        assert_eq!(taken, Some(200));
    };
    // A lane's messages have a reader of their own, who has read all of them but the last few.
    let lane = async |lane: usize| {
        let reader = format!("bob{lane}");
        let mut n = 0;
        while !done.load(Ordering::Relaxed) {
            let at = 1_700_000_000_000_usize + n;
            deliver(json!({
                "eventType": 1, "convType": "PERSON", "to": reader, "fromAccount": "ann",
                "msgType": "TEXT", "body": "a text that no log may have", "msgidServer": format!("{lane}-{n}"),
                "msgTimestamp": at,
            }))
            .await;
            if n % 4 == 3 {
                deliver(json!({
                    "eventType": 30, "fromAccount": reader, "toAccount": "ann", "timestamp": at,
                }))
                .await;
            }
            sent.fetch_add(1, Ordering::Relaxed);
            n += 1;
        }
        (reader, n % 4)
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
    let (unread, ()) = tokio::join!(join_all((0..LANES).map(lane)), trouble);
    process.until_drained(&http).await;

    for (reader, unread) in &unread {
        let question = json!({ "user": reader, "peers": ["ann"] });
        let counted = process.ask(&http, &question).await.json();
        assert_eq!(counted["total"], *unread, "{reader}");
    }
    let client = Client::with_uri_str(set.uri()).await.unwrap();
    let messages = client.database(&name).collection::<Document>("messages");
    let sent = sent.into_inner() as u64;
    assert_eq!(messages.count_documents(doc! {}).await.unwrap(), sent);
    process.until_followed(&http).await;
    for (reader, unread) in &unread {
        let to_read = messages.count_documents(doc! { "to": reader, "state": 0 });
        assert_eq!(to_read.await.unwrap(), *unread as u64, "{reader}");
    }
}
