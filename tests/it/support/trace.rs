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
    /// eventType 85 of a team.
    TeamRead {
        reader: usize,
        team: usize,
        at: i64,
    },
    /// A team's notice.
    Joined {
        account: usize,
        team: usize,
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
    TeamNotification,
    TeamAntispam,
}

impl Sort {
    /// Whether it is to a team, of the number of its receiver.
    pub fn is_to_team(self) -> bool {
        matches!(
            self,
            Self::Team | Self::TeamNotification | Self::TeamAntispam
        )
    }
}

pub const ACCOUNTS: usize = 3;
pub const TEAMS: usize = ACCOUNTS;
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
        4 => Just(Sort::Team),
        1 => Just(Sort::TeamNotification),
        1 => Just(Sort::TeamAntispam),
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
        2 => (account(), 0..TEAMS, at())
            .prop_map(|(reader, team, at)| Happening::TeamRead { reader, team, at }),
        1 => (account(), 0..TEAMS, at())
            .prop_map(|(account, team, at)| Happening::Joined { account, team, at }),
        2 => (0..MESSAGES).prop_map(|message| Happening::Recall { message }),
        2 => (0..MESSAGES, at(), any::<u8>())
            .prop_map(|(message, at, text)| Happening::Edit { message, at, text }),
        1 => (account(), 0..2_usize, at(), any::<bool>())
            .prop_map(|(account, device, at, online)| Happening::Login { account, device, at, online }),
    ];
    let messages = prop::collection::vec(message, 1..MESSAGES);
    let others = prop::collection::vec(other, 0..12);
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

pub fn team(case: &str, n: usize) -> String {
    format!("{case}-Team{n}")
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
            if sort.is_to_team() {
                body["convType"] = json!("TEAM");
                body["to"] = json!(team(case, *to));
            }
            match sort {
                Sort::Text | Sort::Team => {}
                Sort::Tips => body["msgType"] = json!("TIPS"),
                Sort::Notification | Sort::TeamNotification => {
                    body["msgType"] = json!("NOTIFICATION")
                }
                Sort::Blacklisted => body["blacklist"] = json!("true"),
                Sort::Antispam | Sort::TeamAntispam => body["antispam"] = json!(true),
                Sort::SystemNotice => body["convType"] = json!("CUSTOM_PERSON"),
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
        Happening::TeamRead {
            reader,
            team: number,
            at,
        } => json!({
            "eventType": "85", "msgType": "1", "accid": who(*reader), "ackTeamId": team(case, *number),
            "ackMsgTime": time(*at),
        }),
        Happening::Joined {
            account,
            team: number,
            at,
        } => {
            // Invited, let in, or having accepted an invitation.
            let (from, what, data) = match n % 3 {
                0 => (
                    who((account + 1) % ACCOUNTS),
                    0,
                    json!({ "ids": ["x", who(*account)] }),
                ),
                1 => (
                    who((account + 1) % ACCOUNTS),
                    5,
                    json!({ "id": who(*account) }),
                ),
                _ => (
                    who(*account),
                    9,
                    json!({ "id": who((account + 1) % ACCOUNTS) }),
                ),
            };
            json!({
                "eventType": 1, "convType": "TEAM", "msgType": "NOTIFICATION", "body": format!("text {n}"),
                "fromAccount": from, "to": team(case, *number), "msgTimestamp": time(*at),
                "msgidServer": message_id(case, n), "tMembers": "[x, y]",
                "attach": text_or_value(json!({ "id": what, "data": data })),
            })
        }
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

/// The bodies of a whole trace. A recall or an edit needs its message's receiver, and is of another type for a team's.
pub fn bodies(case: &str, trace: &[Happening]) -> Vec<Value> {
    let body_of = |(n, happening): (usize, &Happening)| {
        let mut told = body(case, n, happening);
        if let Happening::Recall { message } | Happening::Edit { message, .. } = happening
            && let Some(Happening::Message { from, to, sort, .. }) = trace.get(*message)
        {
            told["from"] = json!(account(case, *from, n));
            told["to"] = json!(account(case, *to, n + 1));
            if sort.is_to_team() {
                let is_recall = matches!(happening, Happening::Recall { .. });
                told["eventType"] = json!(if is_recall { 8 } else { 90 });
                told["to"] = json!(team(case, *to));
            }
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
    /// Unread messages: their reader, peer, order and time.
    pub left: Vec<(usize, usize, Option<usize>, i64)>,
    /// By message that counts in its team unless recalled: whether it does.
    pub counts_in_team: BTreeMap<String, bool>,
    /// By reader and team: unread messages. Not in the database.
    pub in_team: BTreeMap<(usize, usize), u64>,
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
        let can_change = *sort != Sort::SystemNotice;
        let is_recalled = can_change
            && trace
                .iter()
                .any(|other| matches!(other, Happening::Recall { message } if *message == n));
        let counts = *sort == Sort::Text && from != to;
        let latest = trace.iter().filter_map(|other| match other {
            Happening::Edit { message, at, text } if can_change && *message == n => {
                Some((*at, format!("edit {text}")))
            }
            _ => None,
        });
        let text = latest.max().map_or(format!("text {n}"), |(_, text)| text);
        let state = counts.then_some(i32::from(is_read || is_recalled));
        outcome.messages.insert(message_id(case, n), (state, text));
        if *sort == Sort::Team {
            outcome
                .counts_in_team
                .insert(message_id(case, n), !is_recalled);
            for reader in (0..ACCOUNTS).filter(|reader| reader != from && !is_recalled) {
                if since(trace, reader, *to).is_none_or(|since| *at > since) {
                    *outcome.in_team.entry((reader, *to)).or_default() += 1;
                }
            }
        }
        if state == Some(0) {
            outcome.left.push((*to, *from, *order, START + at));
            *outcome.unread.entry((*to, *from)).or_default() += 1;
            if let Some(order) = order {
                *outcome.by_order.entry((*to, *order)).or_default() += 1;
            }
        }
    }
    outcome.left.sort_unstable();
    for (n, happening) in trace.iter().enumerate() {
        if let Happening::Joined { .. } = happening {
            let notice = (None, format!("text {n}"));
            outcome.messages.insert(message_id(case, n), notice);
        }
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

/// From when on a team's messages are unread for a member: after its mark, or else since it joined.
fn since(trace: &[Happening], member: usize, of: usize) -> Option<i64> {
    let marks = trace.iter().filter_map(|other| match other {
        Happening::TeamRead { reader, team, at } if (*reader, *team) == (member, of) => Some(*at),
        _ => None,
    });
    let joins = trace.iter().filter_map(|other| match other {
        Happening::Joined { account, team, at } if (*account, *team) == (member, of) => Some(*at),
        _ => None,
    });
    marks.max().or_else(|| joins.max())
}
