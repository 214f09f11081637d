//! Random traces through real HTTP into a real database, permuted, repeated, and split over batches and two running
//! instances. After each acknowledgement every count agrees with the oracle, on both instances and however far `state`
//! lags; once it has caught up, every `state` does.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use im_callback::app::connect;
use im_callback::store::reconcile::{ReconcileScope, Report};
use mongodb::Database;
use mongodb::bson::doc;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use serde_json::{Value, json};

use crate::support::dialect::Dialect;
use crate::support::trace::{
    ACCOUNTS, Happening, ORDERS, Outcome, delivery, message_id, outcome, trace,
};
use crate::support::{Instance, READ_KEY, TestApp, config, documents, mongodb_uri};

/// Each in a database of its own, so that the three run side by side.
#[test]
fn counts_are_right_at_once_while_state_stands_still() {
    any_order_repetition_and_splitting(Dialect::Netease, "1h");
}

#[test]
fn counts_are_right_at_once_while_state_follows_slowly() {
    any_order_repetition_and_splitting(Dialect::Netease, "300ms");
}

#[test]
fn counts_are_right_at_once_while_state_follows_at_once() {
    any_order_repetition_and_splitting(Dialect::Netease, "1ms");
}

#[test]
fn counts_of_rongcloud_are_right_at_once() {
    any_order_repetition_and_splitting(Dialect::Rongcloud, "300ms");
}

#[test]
fn counts_of_wildfire_are_right_at_once() {
    any_order_repetition_and_splitting(Dialect::Wildfire, "300ms");
}

fn any_order_repetition_and_splitting(dialect: Dialect, delay: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let delay = format!("reconcile.delay = \"{delay}\"\n{}", Dialect::other_apps());
    let (app, second) = runtime.block_on(async {
        let app = TestApp::with(&delay).await;
        let second = config(&mongodb_uri(), app.database.name(), &delay);
        (app, Instance::start(second))
    });
    let case = AtomicU32::new(0);
    let cases = trace().prop_flat_map(|trace| {
        let deliveries = delivery(trace.len());
        (Just(trace), deliveries)
    });
    let mut runner = TestRunner::new(Config {
        cases: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/it/oracle.proptest-regressions",
        ))),
        ..Config::default()
    });
    let played = std::sync::Mutex::new(Vec::new());
    let result = runner.run(&cases, |(trace, deliveries)| {
        let trace = dialect.heard(&trace);
        let case = format!("c{}", case.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(play(dialect, &app, &second, &case, &trace, &deliveries));
        played.lock().unwrap().push((case, trace));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(async {
        if delay.contains("1h") {
            let store = connect(&config(&mongodb_uri(), app.database.name(), "")).await;
            let store = store.unwrap();
            let mut report = Report::default();
            store
                .reconcile(ReconcileScope::All, &mut report)
                .await
                .unwrap();
            assert!(report.behind > 0, "{report:?}");
            assert_eq!(report.disagreed, 0, "{report:?}");
            store.close().await;
        } else {
            for instance in [&app.instance, &second] {
                app.until_at(instance, |ready| ready["state"]["pairs"] == 0)
                    .await;
            }
        }
        for (case, trace) in played.into_inner().unwrap() {
            let found = found(dialect, &app.database, &case, &trace).await;
            assert_eq!(found, outcome(&case, &trace), "case {case}");
        }
        tokio::task::spawn_blocking(move || drop(second))
            .await
            .unwrap();
        app.end().await;
    });
}

/// Delivers a trace, and asks all counts of both instances after each group of callbacks.
async fn play(
    dialect: Dialect,
    app: &TestApp,
    second: &Instance,
    case: &str,
    trace: &[Happening],
    deliveries: &[(usize, Vec<usize>)],
) {
    let callbacks = dialect.callbacks(case, trace);
    // What has not been told yet has not happened; positions are part of a message's name.
    let mut told = vec![Happening::Receipts(Vec::new()); trace.len()];
    for (instance, group) in deliveries {
        let instance = [&app.instance, second][*instance];
        let url = instance.url("");
        let sent = group.iter().flat_map(|n| &callbacks[*n]);
        let sent = sent.map(|callback| dialect.deliver(&app.http, &url, callback));
        join_all(sent).await;
        for n in group {
            told[*n] = trace[*n].clone();
        }
        let expected = outcome(case, &told);
        let urls = [app.instance.url(""), second.url("")];
        let asked = urls.iter().flat_map(|url| {
            let (http, expected) = (&app.http, &expected);
            (0..ACCOUNTS)
                .map(move |reader| check_counts(dialect, http, url, case, reader, expected))
        });
        join_all(asked).await;
    }
}

/// What the database says of a case.
pub async fn found(
    dialect: Dialect,
    database: &Database,
    case: &str,
    trace: &[Happening],
) -> Outcome {
    let app = dialect.app();
    let mut found = Outcome::default();
    for n in 0..trace.len() {
        let id = message_id(case, n);
        let stored = dialect.message_id(case, n);
        let filter = doc! { "app": app, "msgidServer": stored, "receivedAt": { "$exists": true } };
        for message in documents(database, "messages", filter).await {
            let state = message.get_i32("state").ok();
            let text = message.get_str("body").unwrap().to_owned();
            assert!(
                found.messages.insert(id.clone(), (state, text)).is_none(),
                "{id} is there twice"
            );
        }
    }
    let number = |text: &str| {
        text.rsplit(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let mine = doc! { "app": app, "account": { "$regex": format!("^{case}-") } };
    for presence in documents(database, "presence", mine).await {
        let device = (
            number(presence.get_str("account").unwrap()),
            number(presence.get_str("deviceId").unwrap()),
        );
        found
            .online
            .insert(device, presence.get_str("state").unwrap() == "online");
    }
    let unread = doc! { "app": app, "state": 0, "to": { "$regex": format!("^{case}-") } };
    for message in documents(database, "messages", unread).await {
        let (to, from) = (
            number(message.get_str("to").unwrap()),
            number(message.get_str("fromAccount").unwrap()),
        );
        *found.unread.entry((to, from)).or_default() += 1;
        if let Ok(order) = message.get_str("orderId") {
            *found.by_order.entry((to, number(order))).or_default() += 1;
        }
    }
    found
}

/// What an instance answers about a reader.
pub async fn check_counts(
    dialect: Dialect,
    http: &reqwest::Client,
    url: &str,
    case: &str,
    reader: usize,
    expected: &Outcome,
) {
    let peers: Vec<_> = (0..ACCOUNTS).map(|n| dialect.account(case, n, n)).collect();
    let orders: Vec<_> = (0..ORDERS).map(|n| format!("{case}-order{n}")).collect();
    let user = dialect.account(case, reader, 1);
    let question = json!({ "app": dialect.app(), "user": user, "peers": peers, "orders": orders });
    let answer = http
        .post(format!("{url}/v1/unread"))
        .bearer_auth(READ_KEY)
        .json(&question)
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    let count = |by: &std::collections::BTreeMap<(usize, usize), u64>, n: usize| {
        by.get(&(reader, n)).copied().unwrap_or_default()
    };
    let mut total = 0;
    for (n, peer) in peers.iter().enumerate() {
        assert_eq!(
            answer["peers"][peer],
            count(&expected.unread, n),
            "{question} {answer}"
        );
        total += count(&expected.unread, n);
    }
    for (n, order) in orders.iter().enumerate() {
        assert_eq!(
            answer["orders"][order],
            count(&expected.by_order, n),
            "{question} {answer}"
        );
    }
    assert_eq!(
        (&answer["user"], &answer["total"]),
        (&json!(user), &json!(total))
    );
}
