//! Random traces of an app's events, their callbacks, and an oracle for the result, whatever the order, the repetitions
//! and the batches.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

/// One thing that happens. Accounts are numbers below [`ACCOUNTS`], messages are numbered by position.
#[derive(Debug, Clone)]
pub enum Happening {
    Message {
        from: usize,
        to: usize,
        at: i64,
        sort: Sort,
        order: Option<usize>,
    },
    /// eventType 30, perhaps several in one callback.
    Receipts(Vec<(usize, usize, i64)>),
    /// eventType 85
    Read {
        reader: usize,
        peer: usize,
        at: i64,
    },
    Recall {
        message: usize,
    },
    Edit {
        message: usize,
        at: i64,
        text: u8,
    },
    Login {
        account: usize,
        device: usize,
        at: i64,
        online: bool,
    },
}

/// What makes a message count or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Text,
    Tips,
    Notification,
    Blacklisted,
    Antispam,
    SystemNotice,
    Team,
}

pub const ACCOUNTS: usize = 3;
pub const ORDERS: usize = 2;
const MESSAGES: usize = 12;
const START: i64 = 1_700_000_000_000;

/// A trace: messages first, so that they can be named by position, then the rest.
pub fn trace() -> impl Strategy<Value = Vec<Happening>> {
    let account = || 0..ACCOUNTS;
    let at = || 0..20_i64;
    let sort = prop_oneof![
        8 => Just(Sort::Text),
        1 => Just(Sort::Tips),
        1 => Just(Sort::Notification),
        1 => Just(Sort::Blacklisted),
        1 => Just(Sort::Antispam),
        1 => Just(Sort::SystemNotice),
        1 => Just(Sort::Team),
    ];
    let order = prop::option::of(0..ORDERS);
    let message =
        (account(), account(), at(), sort, order).prop_map(|(from, to, at, sort, order)| {
            Happening::Message {
                from,
                to,
                at,
                sort,
                order,
            }
        });
    let receipt = (account(), account(), at());
    let other = prop_oneof![
        4 => prop::collection::vec(receipt, 1..3).prop_map(Happening::Receipts),
        2 => (account(), account(), at())
            .prop_map(|(reader, peer, at)| Happening::Read { reader, peer, at }),
        2 => (0..MESSAGES).prop_map(|message| Happening::Recall { message }),
        2 => (0..MESSAGES, at(), any::<u8>())
            .prop_map(|(message, at, text)| Happening::Edit { message, at, text }),
        1 => (account(), 0..2_usize, at(), any::<bool>())
            .prop_map(|(account, device, at, online)| Happening::Login { account, device, at, online }),
    ];
    let messages = prop::collection::vec(message, 1..MESSAGES);
    let others = prop::collection::vec(other, 0..10);
    (messages, others).prop_map(|(messages, others)| [messages, others].concat())
}

/// An order of delivery: every position at least once, some again, in groups that go out at once, each
/// to one of two instances.
pub fn delivery(happenings: usize) -> impl Strategy<Value = Vec<(usize, Vec<usize>)>> {
    let repeats = prop::collection::vec(0..happenings, 0..=happenings);
    let order = repeats.prop_map(move |again| (0..happenings).chain(again).collect::<Vec<_>>());
    (
        order.prop_shuffle(),
        prop::collection::vec((0..2_usize, 1..8_usize), 64),
    )
        .prop_map(|(order, groups)| {
            let mut order = order.into_iter();
            let mut delivery = Vec::new();
            for (instance, size) in groups.into_iter().cycle() {
                let group: Vec<_> = order.by_ref().take(size).collect();
                if group.is_empty() {
                    return delivery;
                }
                delivery.push((instance, group));
            }
            delivery
        })
}

/// An account of a case, spelled in one of several ways.
pub fn account(case: &str, n: usize, spelling: usize) -> String {
    let plain = format!("{case}-user{n}");
    match spelling % 3 {
        0 => plain,
        1 => plain.to_uppercase(),
        _ => plain.replace("user", "User"),
    }
}

pub fn message_id(case: &str, n: usize) -> String {
    format!("{case}-{n}")
}

/// The callback of an event. Scalars are sent as text or number, nested parts as text or value, in turns.
pub fn body(case: &str, n: usize, happening: &Happening) -> Value {
    let time = |at: i64| {
        if n.is_multiple_of(2) {
            json!(START + at)
        } else {
            json!((START + at).to_string())
        }
    };
    let text_or_value = |value: Value| {
        if n.is_multiple_of(3) {
            json!(value.to_string())
        } else {
            value
        }
    };
    let who = |account_: usize| account(case, account_, n + account_);
    match happening {
        Happening::Message {
            from,
            to,
            at,
            sort,
            order,
        } => {
            let mut body = json!({
                "eventType": "1", "convType": "PERSON", "msgType": "TEXT", "body": format!("text {n}"),
                "fromAccount": who(*from), "to": who(*to), "msgTimestamp": time(*at),
                "msgidServer": message_id(case, n), "msgidClient": format!("client-{n}"),
            });
            match sort {
                Sort::Text => {}
                Sort::Tips => body["msgType"] = json!("TIPS"),
                Sort::Notification => body["msgType"] = json!("NOTIFICATION"),
                Sort::Blacklisted => body["blacklist"] = json!("true"),
                Sort::Antispam => body["antispam"] = json!(true),
                Sort::SystemNotice => body["convType"] = json!("CUSTOM_PERSON"),
                Sort::Team => body["convType"] = json!("TEAM"),
            }
            if let Some(order) = order {
                body["ext"] = text_or_value(json!({ "orderId": format!("{case}-order{order}") }));
            }
            body
        }
        Happening::Receipts(receipts) => {
            let objects: Vec<_> = receipts
                .iter()
                .map(|(reader, peer, at)| json!({
                    "fromAccount": who(*reader), "toAccount": who(*peer), "timestamp": time(*at),
                }))
                .collect();
            json!({ "eventType": 30, "objects": text_or_value(json!(objects)) })
        }
        Happening::Read { reader, peer, at } => json!({
            "eventType": "85", "msgType": "0", "accid": who(*reader), "ackAccid": who(*peer),
            "ackMsgTime": time(*at),
        }),
        Happening::Recall { message } => json!({
            "eventType": "7", "msgId": message_id(case, *message), "deleteTime": time(100),
            "from": case, "to": case,
        }),
        Happening::Edit { message, at, text } => json!({
            "eventType": "89", "msgId": message_id(case, *message), "modifyTime": time(*at),
            "from": case, "to": case, "text": format!("edit {text}"),
        }),
        Happening::Login {
            account,
            device,
            at,
            online,
        } => json!({
            "eventType": if *online { "2" } else { "3" }, "accid": who(*account), "clientType": "IOS",
            "code": 200, "deviceId": format!("device{device}"), "timestamp": time(*at),
        }),
    }
}

/// The bodies of a whole trace. A recall or an edit needs its message's receiver. Only one-to-one messages have these
/// kinds of recalls and edits.
pub fn bodies(case: &str, trace: &[Happening]) -> Vec<Value> {
    let body_of = |(n, happening): (usize, &Happening)| {
        let mut told = body(case, n, happening);
        if let Happening::Recall { message } | Happening::Edit { message, .. } = happening
            && let Some(Happening::Message { from, to, .. }) = trace.get(*message)
        {
            told["from"] = json!(account(case, *from, n));
            told["to"] = json!(account(case, *to, n + 1));
        }
        told
    };
    trace.iter().enumerate().map(body_of).collect()
}

/// What must come of a trace.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// By message: its `state`, and its text.
    pub messages: BTreeMap<String, (Option<i32>, String)>,
    /// By reader and peer: unread messages.
    pub unread: BTreeMap<(usize, usize), u64>,
    /// By reader and order: unread messages.
    pub by_order: BTreeMap<(usize, usize), u64>,
    /// By account and device: whether it is online.
    pub online: BTreeMap<(usize, usize), bool>,
}

/// The oracle: the rules of `docs/data-model.md`, applied to the set of all events.
pub fn outcome(case: &str, trace: &[Happening]) -> Outcome {
    let mut outcome = Outcome::default();
    for (n, happening) in trace.iter().enumerate() {
        let Happening::Message {
            from,
            to,
            at,
            sort,
            order,
        } = happening
        else {
            continue;
        };
        let is_read = trace.iter().any(|other| match other {
            Happening::Receipts(rs) => rs
                .iter()
                .any(|(r, p, up_to)| (r, p) == (to, from) && up_to >= at),
            Happening::Read {
                reader,
                peer,
                at: up_to,
            } => (reader, peer) == (to, from) && up_to >= at,
            _ => false,
        });
        let person = !matches!(sort, Sort::Team | Sort::SystemNotice);
        let is_recalled = person
            && trace
                .iter()
                .any(|other| matches!(other, Happening::Recall { message } if *message == n));
        let counts = *sort == Sort::Text && from != to;
        let latest = trace.iter().filter_map(|other| match other {
            Happening::Edit { message, at, text } if person && *message == n => {
                Some((*at, format!("edit {text}")))
            }
            _ => None,
        });
        let text = latest.max().map_or(format!("text {n}"), |(_, text)| text);
        let state = counts.then_some(i32::from(is_read || is_recalled));
        outcome.messages.insert(message_id(case, n), (state, text));
        if state == Some(0) {
            *outcome.unread.entry((*to, *from)).or_default() += 1;
            if let Some(order) = order {
                *outcome.by_order.entry((*to, *order)).or_default() += 1;
            }
        }
    }
    for happening in trace {
        if let Happening::Login {
            account, device, ..
        } = happening
        {
            let newest = trace.iter().filter_map(|other| match other {
                Happening::Login {
                    account: a,
                    device: d,
                    at,
                    online,
                } if (a, d) == (account, device) => Some((*at, !online)),
                _ => None,
            });
            outcome.online.insert(
                (*account, *device),
                newest.max().is_some_and(|(_, gone)| !gone),
            );
        }
    }
    outcome
}
