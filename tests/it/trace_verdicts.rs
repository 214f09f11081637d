//! The verdict of a trace agrees with what is counted, whatever has happened; and the keys by which it finds events are
//! those that events have.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use im_callback::callback::event::Effect;
use im_callback::callback::ids::{AppName, Millis};
use im_callback::callback::{Envelope, Event, Origin, Received, VerifiedCallback};
use im_callback::store::trace::verdict::{StateAgreement, UnreadRule};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::oracle::check_counts;
use crate::support::TestApp;
use crate::support::dialect::Dialect;
use crate::support::trace::{ACCOUNTS, Happening, delivery, message_id, outcome, trace};
use crate::trace::ask;

#[test]
fn verdicts_of_netease_are_what_is_counted() {
    verdicts_are_what_is_counted(Dialect::Netease, "1h");
}

#[test]
fn verdicts_are_what_is_counted_while_state_follows() {
    verdicts_are_what_is_counted(Dialect::Netease, "20ms");
}

#[test]
fn verdicts_of_rongcloud_are_what_is_counted() {
    verdicts_are_what_is_counted(Dialect::Rongcloud, "50ms");
}

#[test]
fn verdicts_of_wildfire_are_what_is_counted() {
    verdicts_are_what_is_counted(Dialect::Wildfire, "1h");
}

fn verdicts_are_what_is_counted(dialect: Dialect, delay: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let more = format!("reconcile.delay = \"{delay}\"\n{}", Dialect::other_apps());
    let app = runtime.block_on(TestApp::with(&more));
    let case = AtomicU32::new(0);
    let cases = trace().prop_flat_map(|trace| {
        let deliveries = delivery(trace.len());
        (Just(trace), deliveries)
    });
    let mut runner = TestRunner::new(Config {
        cases: 25,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&cases, |(trace, deliveries)| {
        let trace = dialect.heard(&trace);
        let case = format!("c{}", case.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(play(dialect, &app, &case, &trace, &deliveries));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(app.end());
}

async fn play(
    dialect: Dialect,
    app: &TestApp,
    case: &str,
    trace: &[Happening],
    deliveries: &[(usize, Vec<usize>)],
) {
    let callbacks = dialect.callbacks(case, trace);
    let url = app.instance.url("");
    for (_, group) in deliveries {
        let sent = group.iter().flat_map(|n| &callbacks[*n]);
        join_all(sent.map(|callback| dialect.deliver(&app.http, &url, callback))).await;
    }
    let expected = outcome(case, trace);
    let mut counted: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for (n, happening) in trace.iter().enumerate() {
        let Happening::Message { from, to, .. } = happening else {
            continue;
        };
        let id = dialect.message_id(case, n);
        let answer = ask(app, &format!("app={}&id={id}", dialect.app())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // A recall of a person's message leaves a tombstone if the message of this id is a team's or a notice.
        let answer = answer.json();
        let messages = answer["messages"].as_array().unwrap().iter();
        let mut received = messages.filter(|m| !m["receivedAt"].is_null());
        let message = received.next().unwrap();
        assert!(received.next().is_none(), "{answer}");
        let (state, _) = &expected.messages[&message_id(case, n)];
        check(message, *state);
        if message["verdict"]["counts"] == true {
            *counted.entry((*to, *from)).or_default() += 1;
        }
    }
    assert_eq!(counted, expected.unread, "{trace:?}");
    for reader in 0..ACCOUNTS {
        check_counts(dialect, &app.http, &url, case, reader, &expected).await;
    }
}

/// A message's trace, against the `state` that it has in the end by the oracle.
fn check(message: &Value, state: Option<i32>) {
    let rule = message["verdict"]["rule"].as_str().unwrap();
    assert_eq!(message["verdict"]["counts"], state == Some(0), "{message}");
    match state {
        None => assert!(!["recalled", "read", "unread"].contains(&rule), "{message}"),
        Some(0) => assert_eq!(rule, "unread", "{message}"),
        Some(_) => assert!(["recalled", "read"].contains(&rule), "{message}"),
    }
    let agreement = message["state"]["agreement"].as_str().unwrap();
    assert!(["agrees", "behind"].contains(&agreement), "{message}");
    let covers = message["marks"]
        .as_array()
        .unwrap()
        .iter()
        .any(|mark| mark["covers"] == true);
    if rule == "read" {
        assert!(covers, "{message}");
        // Whatever raised the mark is an event, unless its key does not name the pair.
        let receipts = &message["receipts"];
        let found = receipts["found"].as_array().map(Vec::len);
        assert!(receipts.is_null() || found > Some(0), "{message}");
    }
    assert!(rule != "unread" || !covers, "{message}");
}

/// Every recall and edit is found by its message's keys, every receipt by its pair's, with its time after them.
#[test]
fn events_are_found_by_the_keys_they_have() {
    for dialect in Dialect::ALL {
        // Wildfire IM has numbers for ids; the others may have what a key escapes.
        let case = if dialect == Dialect::Wildfire {
            "c1"
        } else {
            "c/%"
        };
        let seen = std::cell::Cell::new([0; 2]);
        let mut runner = TestRunner::new(Config {
            cases: 100,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&trace(), |trace| {
            for callback in dialect.callbacks(case, &trace).into_iter().flatten() {
                let [changes, receipts] = seen.get();
                let (c, r) = found_by_keys(dialect, callback.route, callback.body);
                seen.set([changes + c, receipts + r]);
            }
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{dialect:?} {failure}");
        }
        let [changes, receipts] = seen.get();
        assert!(changes > 20, "{dialect:?}");
        assert!(
            receipts > 20 || dialect == Dialect::Rongcloud,
            "{dialect:?}"
        );
    }
}

/// How many changes and receipts a callback has. Those of RongCloud that come as commands have other keys.
fn found_by_keys(dialect: Dialect, route: &str, body: Vec<u8>) -> (u32, u32) {
    let provider = dialect.provider();
    let name = provider.name();
    let received = Received {
        origin: Origin {
            app: AppName::new("a").unwrap(),
            provider: name,
            received_at: Millis::nearest(1_700_000_000_000),
        },
        envelope: Envelope {
            route: route.into(),
            ..Envelope::default()
        },
        body: Bytes::from(body),
    };
    let verified = VerifiedCallback::kept(&received);
    let decoded = provider.decode(&verified, received.origin.received_at);
    let (mut changes, mut receipts) = (0, 0);
    for event in &decoded.events {
        let Event::Record(record) = event else {
            continue;
        };
        let message = match &record.effect {
            Effect::Recall(recall) => Some(&recall.message),
            Effect::Edit(edit) => Some(&edit.message),
            _ => None,
        };
        if let Some(message) = message
            && !record.key.starts_with("route/")
        {
            let keys = name.change_keys(message);
            let is_found = |key: &String| {
                let rest = record.key.strip_prefix(key.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            assert!(keys.iter().any(is_found), "{} {keys:?}", record.key);
            changes += 1;
        }
        if let Effect::Read(mark) = &record.effect
            && let Some(keys) = name.receipt_keys(&mark.reader, &mark.of)
        {
            let at = mark.up_to.get().to_string();
            let is_found = |key: &String| {
                let rest = record.key.strip_prefix(key.as_str());
                let time = rest.and_then(|rest| rest.strip_prefix('/')?.split('/').next());
                time == Some(&at)
            };
            assert!(keys.iter().any(is_found), "{} {keys:?}", record.key);
            receipts += 1;
        }
    }
    (changes, receipts)
}

/// The rules and cases are a public interface.
#[test]
fn every_rule_is_documented() {
    const DOCS: &str = include_str!("../../docs/trace.md");
    let rules = UnreadRule::all().map(UnreadRule::code);
    let cases = StateAgreement::ALL.map(StateAgreement::code);
    for code in rules.chain(cases) {
        assert!(DOCS.contains(&format!("| `{code}` |")), "{code}");
    }
}
