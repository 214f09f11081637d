//! Random traces of logins, logouts, kicks and heartbeats, permuted, repeated, and split over batches and two running
//! instances. After each group both instances answer what the oracle says of the events told so far, and at the end
//! each document has the facts that the oracle finds.
//!
//! The oracle knows no facts and no maxima: it sorts the events of a device and walks through them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use serde_json::{Value, json};

use super::{HOUR, MINUTE, ask_at, because, event, now, text};
use crate::support::trace::delivery;
use crate::support::{Instance, TestApp, config, deliver, mongodb_uri};

const ACCOUNTS: usize = 2;
const KINDS: [&str; 2] = ["IOS", "PC"];
/// Few times, so that many events share one. A kick is told of within three.
const STEP: i64 = 20_000;
const UNKNOWN_AFTER: &str = "presence.unknown_after = \"1h\"";
const WORDS: [(i32, &str); 5] = [
    (1, "logout"),
    (2, "disconnected"),
    (3, "kicked_by_device"),
    (4, "kicked_by_policy"),
    (77, "77"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Login,
    Logout(Option<usize>),
    Heartbeat,
}

#[derive(Debug, Clone)]
struct Happened {
    account: usize,
    /// `None` if the event names none.
    device: Option<usize>,
    kind: usize,
    what: What,
    step: i64,
    is_old: bool,
}

fn happened() -> impl Strategy<Value = Happened> {
    let what = prop_oneof![
        4 => Just(What::Login),
        2 => Just(What::Logout(None)),
        4 => prop::sample::select((0..WORDS.len()).collect::<Vec<_>>()).prop_map(|word| What::Logout(Some(word))),
        2 => Just(What::Logout(Some(2))),
        3 => Just(What::Heartbeat),
    ];
    (
        0..ACCOUNTS,
        prop::option::weighted(0.7, 0..3_usize),
        prop::bool::weighted(0.15),
        what,
        0..8_i64,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(account, device, is_other_kind, what, step, is_old)| {
            // A device is usually of one kind. Two devices share a kind, so that a kick among them is ambiguous.
            let usual = device.unwrap_or(step as usize) % 2;
            let kind = if is_other_kind { 1 - usual } else { usual };
            Happened {
                account,
                device,
                kind,
                what,
                step,
                is_old,
            }
        })
}

/// A login, then a logout and a kick that name no device, so shortly after that the device may be the one that kicked.
fn logout_before_kick() -> impl Strategy<Value = Vec<Happened>> {
    let others = prop::sample::select(vec![None, Some(0), Some(1), Some(3)]);
    (0..ACCOUNTS, 0..3_usize, 0..6_i64, 0..2_i64, others).prop_map(
        |(account, id, step, later, word)| {
            let happened = |device, what, step| Happened {
                account,
                device,
                kind: id % 2,
                what,
                step,
                is_old: false,
            };
            vec![
                happened(Some(id), What::Login, step),
                happened(None, What::Logout(word), step + later),
                happened(None, What::Logout(Some(2)), step + 2),
            ]
        },
    )
}

impl Happened {
    fn at(&self, now: i64) -> i64 {
        let start = if self.is_old {
            now - 3 * HOUR
        } else {
            now - 20 * MINUTE
        };
        start + self.step * STEP
    }

    fn body(&self, case: &str, now: i64) -> Value {
        let account = name(case, self.account);
        let device = self.device.map_or(String::new(), |n| format!("d{n}"));
        let at = self.at(now);
        let told = |kind| event(kind, &account, KINDS[self.kind], &device, at);
        match self.what {
            What::Login => told(2),
            What::Heartbeat => told(42),
            What::Logout(None) => told(3),
            What::Logout(Some(word)) => because(told(3), WORDS[word].0),
        }
    }
}

fn name(case: &str, account: usize) -> String {
    format!("{case}-user{account}")
}

/// An event of the oracle's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    at: i64,
    /// Last of those at the same time.
    is_logout: bool,
    is_login: bool,
    /// Nothing is before any word.
    reason: Option<&'static str>,
    kind: &'static str,
}

impl Seen {
    fn of(happened: &Happened, now: i64) -> Self {
        let reason = match happened.what {
            What::Logout(Some(word)) => Some(WORDS[word].1),
            _ => None,
        };
        Self {
            at: happened.at(now),
            is_logout: matches!(happened.what, What::Logout(_)),
            is_login: happened.what == What::Login,
            reason,
            kind: KINDS[happened.kind],
        }
    }
}

/// What a walk through a device's events comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Walked {
    is_online: bool,
    since: i64,
    last: i64,
    reason: Option<&'static str>,
}

fn walk(events: &[Seen]) -> Walked {
    let mut events = events.to_vec();
    events.sort();
    let (mut is_online, mut since, mut by_login, mut reason) = (false, 0, false, None);
    for event in &events {
        if event.is_logout {
            (is_online, by_login, since, reason) = (false, false, event.at, event.reason);
        } else if event.is_login {
            (is_online, by_login, since) = (true, true, event.at);
        } else if !by_login {
            (is_online, since) = (true, event.at);
        }
    }
    let last = events.last().unwrap().at;
    Walked {
        is_online,
        since,
        last,
        reason,
    }
}

/// The kind of client of the newest event, and of several at once the greatest.
fn kind_of(events: &[Seen]) -> &'static str {
    let last = events.iter().map(|event| event.at).max();
    let newest = events.iter().filter(|event| Some(event.at) == last);
    newest.map(|event| event.kind).max().unwrap()
}

/// The events of an account by device; a device without an id by its kind.
type Devices = BTreeMap<(Option<usize>, &'static str), Vec<Seen>>;

fn devices(events: &[Happened], account: usize, now: i64) -> Devices {
    let mut devices = Devices::new();
    for happened in events.iter().filter(|happened| happened.account == account) {
        let unnamed = match happened.device {
            None => KINDS[happened.kind],
            Some(_) => "",
        };
        let seen = Seen::of(happened, now);
        devices
            .entry((happened.device, unnamed))
            .or_default()
            .push(seen);
    }
    devices
}

/// The logouts of a device's kind that may be about it: all but those by which the device itself kicked another.
fn logouts_of_kind(devices: &Devices, id: usize) -> Vec<Seen> {
    let kind = kind_of(&devices[&(Some(id), "")]);
    let of_kind = devices.get(&(None, kind)).into_iter().flatten();
    let logouts = of_kind.filter(|event| event.is_logout);
    let about_it = logouts.filter(|logout| !is_kicker(devices, id, kind, logout));
    about_it.copied().collect()
}

fn is_kicker(devices: &Devices, id: usize, kind: &str, logout: &Seen) -> bool {
    let last_logins = devices.iter().filter_map(|((other, _), events)| {
        let login = events
            .iter()
            .filter(|event| event.is_login)
            .map(|e| e.at)
            .max()?;
        (other.is_some() && kind_of(events) == kind).then_some((login, *other))
    });
    let before: Vec<_> = last_logins
        .filter(|(login, _)| *login <= logout.at)
        .collect();
    let last = before.iter().map(|(login, _)| *login).max();
    let may_kick = last.is_some_and(|login| logout.at - login <= 60_000);
    let is_last = before.contains(&(last.unwrap_or_default(), Some(id)));
    logout.reason == Some("kicked_by_device") && may_kick && is_last
}

fn expected(events: &[Happened], account: usize, now: i64) -> Value {
    let devices = devices(events, account, now);
    let mut told = Vec::new();
    for ((id, _), events) in &devices {
        let mut walked = walk(events);
        if let (true, Some(id)) = (walked.is_online, *id) {
            walked = walk(&[&events[..], &logouts_of_kind(&devices, id)].concat());
        }
        let state = match walked.is_online {
            true if now - walked.last > HOUR => "unknown",
            true => "online",
            false => "offline",
        };
        let mut device = json!({
            "client_type": kind_of(events), "state": state, "last_seen": text(walked.last),
        });
        if let Some(id) = id {
            device["device_id"] = json!(format!("d{id}"));
        }
        if state != "unknown" {
            device["since"] = json!(text(walked.since));
        }
        if let ("offline", Some(reason)) = (state, walked.reason) {
            device["logout_reason"] = json!(reason);
        }
        told.push((state, walked, device));
    }
    if told.is_empty() {
        return json!({ "state": "unknown", "devices": [] });
    }
    let states: BTreeSet<_> = told.iter().map(|(state, ..)| *state).collect();
    let order = ["online", "unknown", "offline"];
    let state = order
        .into_iter()
        .find(|state| states.contains(state))
        .unwrap();
    let last = told.iter().map(|(_, walked, _)| walked.last).max().unwrap();
    let mut user = json!({ "state": state, "last_seen": text(last) });
    let of_state = told.iter().filter(|(other, ..)| *other == state);
    let begins: Vec<_> = of_state.map(|(_, walked, _)| walked.since).collect();
    match state {
        "online" => user["since"] = json!(text(*begins.iter().min().unwrap())),
        "offline" => user["since"] = json!(text(*begins.iter().max().unwrap())),
        _ => {}
    }
    told.sort_by_key(|(state, walked, device)| {
        let rank = order.iter().position(|other| other == state);
        let names = ["client_type", "device_id"].map(|n| device[n].as_str().map(str::to_owned));
        (rank, -walked.last, names)
    });
    let devices = told.into_iter().map(|(_, _, device)| device);
    user["devices"] = devices.collect();
    user
}

/// The fields of a device's document that follow from its events. That of a kind also has the last logout that is no
/// kick.
fn expected_fields(events: &[Seen], is_of_kind: bool) -> BTreeMap<&'static str, Value> {
    let walked = walk(events);
    let last = |is_it: fn(&Seen) -> bool| {
        events
            .iter()
            .filter(|event| is_it(event))
            .map(|event| event.at)
            .max()
    };
    let logouts = || events.iter().filter(|event| event.is_logout);
    let logout = logouts().max_by_key(|event| (event.at, event.reason));
    let plain = logouts().filter(|event| event.reason != Some("kicked_by_device"));
    let plain = plain.max_by_key(|event| (event.at, event.reason));
    let state = if walked.is_online {
        "online"
    } else {
        "offline"
    };
    let mut fields = BTreeMap::from([
        ("state", json!(state)),
        ("since", json!(walked.since)),
        ("clientType", json!(kind_of(events))),
        ("lastEventTime", json!(walked.last)),
        ("lastEventAt", json!(walked.last)),
    ]);
    for (date, last) in [
        ("loginAt", last(|event| event.is_login)),
        ("logoutAt", last(|event| event.is_logout)),
        (
            "heartbeatAt",
            last(|event| !event.is_login && !event.is_logout),
        ),
    ] {
        if let Some(last) = last {
            fields.insert(date, json!(last));
        }
    }
    if let Some(reason) = logout.and_then(|logout| logout.reason) {
        fields.insert("logoutReason", json!(reason));
    }
    if let (true, Some(plain)) = (is_of_kind, plain) {
        fields.insert("plainLogoutAt", json!(plain.at));
        let reason = plain.reason.map(|reason| json!(reason));
        fields.extend(reason.map(|reason| ("plainLogoutReason", reason)));
    }
    fields
}

fn fields(document: &Document) -> BTreeMap<&str, Value> {
    const IDENTITY: [&str; 6] = ["_id", "app", "provider", "account", "device", "deviceId"];
    let others = document
        .iter()
        .filter(|(name, _)| !IDENTITY.contains(&name.as_str()));
    let read = others.map(|(name, value)| {
        let value = match value.as_datetime() {
            Some(at) => json!(at.timestamp_millis()),
            None => json!(value.as_i64())
                .as_i64()
                .map_or_else(|| json!(value.as_str()), |n| json!(n)),
        };
        (name.as_str(), value)
    });
    read.collect()
}

/// Delivers a trace, and asks both instances after each group.
async fn play(
    app: &TestApp,
    second: &Instance,
    case: &str,
    trace: &[Happened],
    deliveries: &[(usize, Vec<usize>)],
) {
    let now = now();
    let mut told = BTreeSet::new();
    let users: Vec<_> = (0..ACCOUNTS).map(|n| name(case, n)).collect();
    let question = json!({ "users": users });
    for (instance, group) in deliveries {
        let instance = [&app.instance, second][*instance];
        let bodies = group.iter().map(|n| trace[*n].body(case, now).to_string());
        let sent = bodies.map(async |body| deliver(&app.http, instance, body.as_bytes()).await);
        for answer in join_all(sent).await {
            answer.expect_ok();
        }
        told.extend(group.iter().copied());
        let events: Vec<_> = told.iter().map(|n| trace[*n].clone()).collect();
        for asked in [&app.instance, second] {
            let answer = ask_at(app, asked, &question).await.json();
            for (n, user) in users.iter().enumerate() {
                let expected = expected(&events, n, now);
                assert_eq!(answer["users"][user], expected, "{case} {user}");
            }
        }
    }
    for (n, user) in users.iter().enumerate() {
        let devices = devices(trace, n, now);
        let stored = app.documents("presence", doc! { "account": user }).await;
        assert_eq!(stored.len(), devices.len(), "{stored:?}");
        for ((id, kind), events) in &devices {
            let device = id.map_or((*kind).to_owned(), |id| format!("d{id}"));
            let document = stored
                .iter()
                .find(|d| d.get_str("device").ok() == Some(&device))
                .unwrap();
            assert_eq!(document.get_str("deviceId").is_ok(), id.is_some());
            let expected = expected_fields(events, id.is_none());
            assert_eq!(fields(document), expected, "{document}");
        }
    }
}

#[test]
fn answers_and_documents_agree_with_the_oracle_in_any_order() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (app, second) = runtime.block_on(async {
        let app = TestApp::with(UNKNOWN_AFTER).await;
        let second = config(&mongodb_uri(), app.database.name(), UNKNOWN_AFTER);
        (app, Instance::start(second))
    });
    let case = AtomicU32::new(0);
    let some = prop::collection::vec(happened(), 1..12);
    let special = prop::option::weighted(0.3, logout_before_kick());
    let trace =
        (some, special).prop_map(|(some, special)| [some, special.unwrap_or_default()].concat());
    let cases = trace.prop_flat_map(|trace| {
        let deliveries = delivery(trace.len());
        (Just(trace), deliveries)
    });
    let mut runner = TestRunner::new(Config {
        cases: 120,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/it/presence/oracle.proptest-regressions",
        ))),
        ..Config::default()
    });
    let result = runner.run(&cases, |(trace, deliveries)| {
        let case = format!("c{}", case.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(play(&app, &second, &case, &trace, &deliveries));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(async {
        tokio::task::spawn_blocking(move || drop(second))
            .await
            .unwrap();
        app.end().await;
    });
}
