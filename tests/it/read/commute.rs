//! The site's reads commute with messages and receipts. A read of an order depends on what is unread when it comes, so it
//! is told alone, and the oracle plays the trace as it was told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use mongodb::bson::doc;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use super::{end, read_at};
use crate::support::{Instance, READ_KEY, TestApp, deliver, send};
use crate::trace::{SENT, receipt};

/// What happens in a case, between ann and bob, at a time; with an order by its number.
#[derive(Debug, Clone)]
enum Step {
    Message(usize, i64),
    Receipt(i64),
    SiteRead(i64),
    SiteReadOfOrder(usize, i64),
}

/// Site reads commute with messages and receipts: in any order, repeated, and over two instances, counts are what the
/// largest time says, and the documents are the same. A read of an order reads the conversation if it has unread
/// messages of that order, and nothing if it has not, although `state` is behind.
#[test]
fn site_reads_commute_with_messages_and_receipts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (app, second) = runtime.block_on(async {
        let app = TestApp::start().await;
        let second = app.second_instance();
        (app, second)
    });
    let case = AtomicU32::new(0);
    let at = || 0..12_i64;
    let step = prop_oneof![
        4 => (0..2_usize, at()).prop_map(|(order, at)| Step::Message(order, at)),
        1 => at().prop_map(Step::Receipt),
        1 => at().prop_map(Step::SiteRead),
        3 => (0..2_usize, at()).prop_map(|(order, at)| Step::SiteReadOfOrder(order, at)),
    ];
    let steps = prop::collection::vec(step, 1..12);
    let cases = steps.prop_flat_map(|steps| {
        let twice: Vec<_> = (0..steps.len()).chain(0..steps.len()).collect();
        (Just(steps), Just(twice).prop_shuffle())
    });
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&cases, |(steps, order)| {
        let case = format!("c{}", case.fetch_add(1, Ordering::Relaxed));
        let instances = [&app.instance, &second];
        runtime.block_on(async {
            for told in at_once(&steps, &order) {
                let sent = told
                    .iter()
                    .map(|n| take(&app, instances[n % 2], &case, *n, &steps[*n]));
                join_all(sent).await;
            }
            let expected = unread(&steps, &order);
            check(&app, instances, &case, &steps, expected).await;
        });
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(async {
        app.until_followed().await;
        app.until_at(&second, |ready| ready["state"]["pairs"] == 0).await;
        // Every message that a mark covers is read by its `state`, too.
        for mark in app.documents("read_marks", doc! {}).await {
            let behind = doc! {
                "to": mark.get_str("reader").unwrap(), "fromAccount": mark.get_str("peer").unwrap(), "state": 0,
                "msgTimestamp": { "$lte": mark.get_i64("readUpTo").unwrap() },
            };
            assert_eq!(app.documents("messages", behind).await.len(), 0, "{mark}");
        }
        end(second).await;
        app.end().await;
    });
}

/// What is told at once: pairs, but a read of an order alone.
fn at_once(steps: &[Step], order: &[usize]) -> Vec<Vec<usize>> {
    let is_alone = |n: usize| matches!(steps[n], Step::SiteReadOfOrder(..));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &n in order {
        match groups.last_mut() {
            Some(group) if group.len() == 1 && !is_alone(n) && !is_alone(group[0]) => group.push(n),
            _ => groups.push(vec![n]),
        }
    }
    groups
}

/// The oracle: how many messages are unread after all was told in this order.
fn unread(steps: &[Step], order: &[usize]) -> u64 {
    let (mut messages, mut mark) = (BTreeMap::new(), -1);
    for n in order {
        match steps[*n] {
            Step::Message(order, at) => drop(messages.insert(*n, (order, at))),
            Step::Receipt(at) | Step::SiteRead(at) => mark = mark.max(at),
            Step::SiteReadOfOrder(read, up_to) => {
                let mut all = messages.values();
                if all.any(|(order, at)| *order == read && *at > mark && *at <= up_to) {
                    mark = up_to;
                }
            }
        }
    }
    messages.values().filter(|(_, at)| *at > mark).count() as u64
}

/// Compares counts and records with what has happened.
async fn check(app: &TestApp, instances: [&Instance; 2], case: &str, all: &[Step], expected: u64) {
    let question = json!({ "user": format!("{case}-bob"), "peers": [format!("{case}-ann")] });
    for instance in instances {
        let key = format!("Bearer {READ_KEY}");
        let request = app.http.post(instance.url("/v1/unread"));
        let request = request.body(question.to_string());
        let answer = send(request, &[("Authorization", &key)]).await.json();
        assert_eq!(answer["total"], expected, "{all:?}");
    }
    let records = doc! { "kind": "site_read", "reader": format!("{case}-bob"), "payload.order": { "$exists": false } };
    let records = app.documents("events", records).await.len();
    let mut times: Vec<_> = all
        .iter()
        .filter_map(|step| match step {
            Step::SiteRead(at) => Some(*at),
            _ => None,
        })
        .collect();
    times.sort_unstable();
    times.dedup();
    assert_eq!(records, times.len(), "{all:?}");
}

async fn take(app: &TestApp, instance: &Instance, case: &str, n: usize, step: &Step) {
    let (ann, bob) = (format!("{case}-ann"), format!("{case}-bob"));
    let time = |at: i64| SENT + at;
    match step {
        Step::Message(order, at) => {
            let message = json!({
                "eventType": 1, "convType": "PERSON", "to": bob, "fromAccount": ann, "msgType": "TEXT",
                "body": "the-text", "msgTimestamp": time(*at), "msgidServer": format!("{case}-{n}"),
                "ext": { "orderId": format!("{case}-o{order}") },
            });
            let body = message.to_string();
            deliver(&app.http, instance, body.as_bytes())
                .await
                .expect_ok();
        }
        Step::Receipt(at) => {
            let body = receipt(&bob, &ann, time(*at));
            deliver(&app.http, instance, body.as_bytes())
                .await
                .expect_ok();
        }
        Step::SiteRead(at) => {
            let report = json!({ "user": bob, "peer": ann, "up_to": time(*at) });
            assert_eq!(read_at(&app.http, instance, &report).await.status, 200);
        }
        Step::SiteReadOfOrder(order, at) => {
            let order = format!("{case}-o{order}");
            let report = json!({ "user": bob, "order": order, "up_to": time(*at) });
            assert_eq!(read_at(&app.http, instance, &report).await.status, 200);
        }
    }
}
