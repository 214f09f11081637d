//! Random traces through real HTTP into a real database, permuted, repeated, and split over batches and two running
//! instances. After each acknowledgement every count agrees with the oracle, on both instances and however far `state`
//! lags; once it has caught up, every `state` does.

use std::collections::BTreeMap;
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
    ACCOUNTS, Happening, ORDERS, Outcome, TEAMS, delivery, message_id, outcome, team, trace,
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

/// What the database says of a case. It does not say what is unread in teams.
pub async fn found(
    dialect: Dialect,
    database: &Database,
    case: &str,
    trace: &[Happening],
) -> Outcome {
    let app = dialect.app();
    let mut found = Outcome {
        in_team: outcome(case, trace).in_team,
        ..Outcome::default()
    };
    for n in 0..trace.len() {
        let id = message_id(case, n);
        let stored = dialect.message_id(case, n);
        let filter = doc! { "app": app, "msgidServer": stored, "receivedAt": { "$exists": true } };
        for message in documents(database, "messages", filter).await {
            let state = message.get_i32("state").ok();
            if let Ok(counts) = message.get_bool("countsInTeam") {
                found.counts_in_team.insert(id.clone(), counts);
            }
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
        let order = message.get_str("orderId").ok().map(number);
        if let Some(order) = order {
            *found.by_order.entry((to, order)).or_default() += 1;
        }
        let sent_at = message.get_datetime("sentAt").unwrap();
        found
            .left
            .push((to, from, order, sent_at.timestamp_millis()));
    }
    found.left.sort_unstable();
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
    let teams: Vec<_> = (0..TEAMS).map(|n| team(case, n)).collect();
    let question = json!({
        "app": dialect.app(), "user": user, "peers": peers, "orders": orders, "teams": teams, "order_peers": true,
    });
    let answer = ask(http, url, &question).await;
    let count = |by: &BTreeMap<(usize, usize), u64>, n: usize| {
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
    for (n, team) in teams.iter().enumerate() {
        assert_eq!(
            answer["teams"][team],
            count(&expected.in_team, n),
            "{question} {answer}"
        );
    }
    assert_eq!(
        (&answer["user"], &answer["total"], &answer["total_of"]),
        (&json!(user), &json!(total), &json!("peers"))
    );
    let stored = |n| dialect.account(case, n, 0);
    let lists = newest_first(&expected.left, reader, stored, |n| orders[n].clone());
    for (n, order) in orders.iter().enumerate() {
        let peers = lists
            .orders
            .iter()
            .find(|entry| entry["order"] == orders[n]);
        let peers = peers.map_or(json!({}), |entry| entry["peers"].clone());
        assert_eq!(answer["order_peers"][order], peers, "{question} {answer}");
    }
    check_overview(dialect, http, url, &user, total, &lists, 1 + reader % 2 * 9).await;
}

async fn ask(http: &reqwest::Client, url: &str, question: &Value) -> Value {
    let asked = http.post(format!("{url}/v1/unread")).bearer_auth(READ_KEY);
    let answer = asked.json(question).send().await.unwrap();
    answer.json().await.unwrap()
}

/// The lists of an overview, without the messages.
struct ExpectedLists {
    peers: Vec<Value>,
    orders: Vec<Value>,
}

fn newest_first(
    left: &[(usize, usize, Option<usize>, i64)],
    reader: usize,
    account: impl Fn(usize) -> String,
    order_id: impl Fn(usize) -> String,
) -> ExpectedLists {
    let mut by_peer: BTreeMap<String, (i64, u64)> = BTreeMap::new();
    let mut by_order: BTreeMap<String, (i64, BTreeMap<String, u64>)> = BTreeMap::new();
    for (_, peer, order, at) in left.iter().filter(|(to, ..)| *to == reader) {
        let (newest, unread) = by_peer.entry(account(*peer)).or_default();
        (*newest, *unread) = ((*newest).max(*at), *unread + 1);
        if let Some(order) = order {
            let (newest, peers) = by_order.entry(order_id(*order)).or_default();
            *newest = (*newest).max(*at);
            *peers.entry(account(*peer)).or_default() += 1;
        }
    }
    let peer = |(peer, (at, unread))| {
        (
            at,
            json!({ "peer": peer, "unread": unread, "last_timestamp": at }),
        )
    };
    let order = |(order, (at, peers)): (String, (i64, BTreeMap<String, u64>))| {
        let unread: u64 = peers.values().sum();
        let entry =
            json!({ "order": order, "unread": unread, "peers": peers, "last_timestamp": at });
        (at, entry)
    };
    let sorted = |mut entries: Vec<(i64, Value)>| {
        // Stable: where times are equal, by id.
        entries.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        entries.into_iter().map(|(_, entry)| entry).collect()
    };
    ExpectedLists {
        peers: sorted(by_peer.into_iter().map(peer).collect()),
        orders: sorted(by_order.into_iter().map(order).collect()),
    }
}

/// All of a user, its pages glued together.
async fn check_overview(
    dialect: Dialect,
    http: &reqwest::Client,
    url: &str,
    user: &str,
    total: u64,
    expected: &ExpectedLists,
    limit: usize,
) {
    let (mut peers, mut orders) = (Vec::new(), Vec::new());
    let mut after = Value::Null;
    for page in 0.. {
        assert!(page <= expected.peers.len() + expected.orders.len());
        let question =
            json!({ "app": dialect.app(), "user": user, "limit": limit, "after": after });
        let page = ask(http, url, &question).await;
        assert_eq!(page["total"], total, "{question} {page}");
        for (list, all) in [("peers", &mut peers), ("orders", &mut orders)] {
            for entry in page["newest"][list].as_array().unwrap() {
                let mut entry = entry.clone();
                let entry = entry.as_object_mut().unwrap();
                let last = entry.remove("last").unwrap();
                assert!(last["text"].is_string(), "{last}");
                entry.remove("last_at").unwrap();
                all.push(json!(entry));
            }
        }
        match page.get("next") {
            Some(next) => after = next.clone(),
            None => break,
        }
    }
    assert_eq!(peers, expected.peers, "{user}");
    assert_eq!(orders, expected.orders, "{user}");
}
