//! The same happenings as each provider tells of them, as requests that only lack an address.

use im_callback::callback::ids::Millis;
use im_callback::callback::netease::{self, Netease};
use im_callback::callback::rongcloud::{self, Rongcloud, Weight};
use im_callback::callback::wildfire::{self, Wildfire};
use im_callback::callback::{Credentials, Provider};
use serde_json::json;

use super::trace::{self, Happening, Sort, account, message_id, team};
use super::{APP_KEY, Answer, SECRET, send};

/// How a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Netease,
    Rongcloud,
    Wildfire,
}

/// A callback that is not signed yet.
pub struct Unsigned {
    pub route: &'static str,
    pub body: Vec<u8>,
}

pub const WILDFIRE_SECRET: &str = "a-long-path-secret";
const START: i64 = 1_700_000_000_000;

impl Dialect {
    pub const ALL: [Self; 3] = [Self::Netease, Self::Rongcloud, Self::Wildfire];

    /// The app's name in the configuration.
    pub fn app(self) -> &'static str {
        match self {
            Self::Netease => "otc",
            Self::Rongcloud => "rong",
            Self::Wildfire => "wild",
        }
    }

    /// The sections of the apps that the usual configuration of tests does not have.
    pub fn other_apps() -> String {
        format!(
            r#"
            [[apps]]
            name = "rong"
            provider = "rongcloud"
            app_key = "{APP_KEY}"
            app_secrets = ["{SECRET}"]
            order_id = {{ field = "content", pointer = "/extra/orderId" }}
            custom_types = {{ "app:tip" = "stored" }}
            [[apps]]
            name = "wild"
            provider = "wildfire"
            app_secrets = ["{WILDFIRE_SECRET}"]
            order_id = {{ field = "payload", pointer = "/extra/orderId" }}
            "#
        )
    }

    /// A message's id, as it is stored.
    pub fn message_id(self, case: &str, n: usize) -> String {
        match self {
            Self::Netease | Self::Rongcloud => message_id(case, n),
            Self::Wildfire => wildfire_id(case, n).to_string(),
        }
    }

    /// An account of a case, spelled in one of the ways that mean the same.
    pub fn account(self, case: &str, n: usize, spelling: usize) -> String {
        match self {
            Self::Netease => account(case, n, spelling),
            Self::Rongcloud | Self::Wildfire => who(case, n),
        }
    }

    /// What of a trace this provider can tell.
    pub fn heard(self, trace: &[Happening]) -> Vec<Happening> {
        let heard = |happening: &Happening| match happening {
            Happening::Edit { .. } | Happening::Joined { .. } if self != Self::Netease => {
                Happening::Receipts(Vec::new())
            }
            Happening::TeamRead { .. } if self == Self::Rongcloud => {
                Happening::Receipts(Vec::new())
            }
            other => other.clone(),
        };
        trace.iter().map(heard).collect()
    }

    /// The callbacks that tell of each happening.
    pub fn callbacks(self, case: &str, trace: &[Happening]) -> Vec<Vec<Unsigned>> {
        let told = |(n, happening)| match self {
            Self::Netease => unreachable!("told at once below"),
            Self::Rongcloud => rongcloud(case, trace, n, happening),
            Self::Wildfire => wildfire(case, trace, n, happening),
        };
        match self {
            Self::Netease => trace::bodies(case, trace)
                .into_iter()
                .map(|body| vec![unsigned("", body.to_string())])
                .collect(),
            _ => trace.iter().enumerate().map(told).collect(),
        }
    }

    /// A callback that can be verified and not decoded.
    pub fn undecodable(self) -> Unsigned {
        match self {
            Self::Netease => unsigned("", "{\"eventType\":1,\"convType\":\"PERSON\"}"),
            Self::Rongcloud => unsigned("", "objectName=RC%3ATxtMsg&channelType=PERSON"),
            Self::Wildfire => unsigned("message", "{\"messageId\":1}"),
        }
    }

    /// The provider with the tests' settings, without a service around it.
    pub fn provider(self) -> Provider {
        let credentials = |secret: &str| Credentials {
            app_key: APP_KEY.to_owned(),
            secrets: vec![secret.into()],
        };
        match self {
            Self::Netease => Provider::Netease(Netease {
                credentials: credentials(SECRET),
                freshness: None,
                rules: netease::NeteaseRules::default(),
            }),
            Self::Rongcloud => Provider::Rongcloud(Rongcloud {
                credentials: credentials(SECRET),
                freshness: None,
                rules: rongcloud::RongcloudRules {
                    types: std::collections::HashMap::new(),
                    other_types: Weight::Counted,
                    order_id: None,
                },
            }),
            Self::Wildfire => Provider::Wildfire(Wildfire {
                credentials: credentials(WILDFIRE_SECRET),
                rules: wildfire::WildfireRules::default(),
            }),
        }
    }

    /// The request that delivers a callback to a service at `url`.
    pub fn request(
        self,
        http: &reqwest::Client,
        url: &str,
        callback: &Unsigned,
    ) -> reqwest::RequestBuilder {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = Millis::nearest(now.unwrap().as_millis() as i64);
        let signed = self.provider().sign(&callback.body, callback.route, now);
        let (app, path, query) = (self.app(), &signed.path, &signed.query);
        let request = http
            .post(format!("{url}/callbacks/{app}{path}?{query}"))
            .body(callback.body.clone());
        let headers = signed.headers.iter();
        headers.fold(request, |request, (name, value)| {
            request.header(*name, value)
        })
    }

    pub async fn deliver(self, http: &reqwest::Client, url: &str, callback: &Unsigned) -> Answer {
        let answer = send(self.request(http, url, callback), &[]).await;
        assert_eq!(answer.status, 200, "{self:?} {answer:?}");
        answer
    }
}

fn unsigned(route: &'static str, body: impl Into<Vec<u8>>) -> Unsigned {
    Unsigned {
        route,
        body: body.into(),
    }
}

/// An account of a case; these providers know only one spelling of it.
fn who(case: &str, n: usize) -> String {
    account(case, n, 0)
}

/// A message's receiver.
fn receiver(case: &str, to: usize, sort: Sort) -> String {
    match sort.is_to_team() {
        true => team(case, to),
        false => who(case, to),
    }
}

/// The sender and the receiver of a message, which a recall names again.
fn parties(case: &str, trace: &[Happening], message: usize) -> (String, String) {
    match trace.get(message) {
        Some(Happening::Message { from, to, sort, .. }) => {
            (who(case, *from), receiver(case, *to, *sort))
        }
        _ => (case.to_owned(), case.to_owned()),
    }
}

fn form(parameters: &[(&str, String)]) -> Unsigned {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    unsigned("", form.extend_pairs(parameters).finish())
}

fn rongcloud(case: &str, trace: &[Happening], n: usize, happening: &Happening) -> Vec<Unsigned> {
    let read = |i: usize, reader: usize, peer: usize, at: i64| {
        form(&[
            ("channelType", "PERSON".to_owned()),
            ("fromUserId", who(case, reader)),
            ("toUserId", who(case, peer)),
            ("objectName", "RC:ReadNtf".to_owned()),
            (
                "content",
                json!({ "lastMessageSendTime": START + at, "type": 1 }).to_string(),
            ),
            ("msgTimestamp", (START + 200).to_string()),
            ("msgUID", format!("{case}-read-{n}-{i}")),
        ])
    };
    match happening {
        Happening::Message {
            from,
            to,
            at,
            sort,
            order,
        } => {
            let mut content = json!({ "content": format!("text {n}"), "extra": "" });
            if let Some(order) = order {
                let extra = json!({ "orderId": format!("{case}-order{order}") });
                content["extra"] = json!(extra.to_string());
            }
            let channel = match sort {
                Sort::SystemNotice => "NOTIFY",
                sort if sort.is_to_team() => "GROUP",
                _ => "PERSON",
            };
            let object = match sort {
                Sort::Tips => "app:tip",
                Sort::Notification | Sort::TeamNotification => "RC:InfoNtf",
                _ => "RC:TxtMsg",
            };
            let held_back = [Sort::Blacklisted, Sort::Antispam, Sort::TeamAntispam].contains(sort);
            vec![form(&[
                ("channelType", channel.to_owned()),
                ("fromUserId", who(case, *from)),
                ("toUserId", receiver(case, *to, *sort)),
                ("objectName", object.to_owned()),
                ("content", content.to_string()),
                ("msgTimestamp", (START + at).to_string()),
                ("msgUID", message_id(case, n)),
                ("sensitiveType", u8::from(held_back).to_string()),
            ])]
        }
        Happening::Receipts(receipts) => receipts
            .iter()
            .enumerate()
            .map(|(i, (reader, peer, at))| read(i, *reader, *peer, *at))
            .collect(),
        Happening::Read { reader, peer, at } => vec![read(0, *reader, *peer, *at)],
        Happening::Recall { message } => {
            let (from, to) = parties(case, trace, *message);
            let id = message_id(case, *message);
            let is_to_team = matches!(
                trace.get(*message),
                Some(Happening::Message { sort, .. }) if sort.is_to_team()
            );
            let (kind, channel) = if is_to_team {
                (3, "GROUP")
            } else {
                (1, "PERSON")
            };
            let command = json!({ "messageUId": id, "conversationType": kind, "isAdmin": 0 });
            let operation = json!({
                "eventType": 1, "fromUserId": &from, "optTime": START + 100,
                "conversationInfo": { "conversationType": kind, "targetId": &to },
                "originalMsgInfo": { "messageId": &id, "messageTime": START },
                "recallMsgInfo": { "isAdmin": false },
            });
            // Where both ways are switched on, a recall comes twice.
            vec![
                form(&[
                    ("channelType", channel.to_owned()),
                    ("fromUserId", from),
                    ("toUserId", to),
                    ("objectName", "RC:RcCmd".to_owned()),
                    ("content", command.to_string()),
                    ("msgTimestamp", (START + 100).to_string()),
                    ("msgUID", format!("{case}-recall-{n}")),
                ]),
                unsigned("", operation.to_string()),
            ]
        }
        Happening::Edit { .. } | Happening::TeamRead { .. } | Happening::Joined { .. } => {
            Vec::new()
        }
        Happening::Login {
            account,
            device,
            at,
            online,
        } => {
            let status = json!([{
                "userid": who(case, *account), "status": if *online { "0" } else { "1" }, "os": "iOS",
                "time": START + at, "sessionId": format!("device{device}"),
            }]);
            vec![unsigned("", status.to_string())]
        }
    }
}

fn wildfire(case: &str, trace: &[Happening], n: usize, happening: &Happening) -> Vec<Unsigned> {
    let read_of = |reader: usize, kind: u8, target: String, at: i64| {
        let body = json!({
            "user": who(case, reader), "readTime": START + at,
            "conversation": { "type": kind, "target": target, "line": 0 },
        });
        unsigned("message_read", body.to_string())
    };
    let read = |reader, peer, at| read_of(reader, 0, who(case, peer), at);
    match happening {
        Happening::Message { .. } => vec![unsigned(
            "message",
            wildfire_message(case, n, happening).to_string(),
        )],
        Happening::Receipts(receipts) => receipts
            .iter()
            .map(|(reader, peer, at)| read(*reader, *peer, *at))
            .collect(),
        Happening::Read { reader, peer, at } => vec![read(*reader, *peer, *at)],
        Happening::TeamRead {
            reader,
            team: number,
            at,
        } => vec![read_of(*reader, 1, team(case, *number), *at)],
        Happening::Recall { message } => {
            let recalled = match trace.get(*message) {
                Some(recalled @ Happening::Message { .. }) => {
                    wildfire_message(case, *message, recalled)
                }
                _ => json!({
                    "messageId": wildfire_id(case, *message), "sender": case,
                    "conv": { "type": 0, "target": case, "line": 0 },
                }),
            };
            let body = json!({
                "message": recalled, "userId": case, "timestamp": START + 100, "isAdmin": false,
            });
            vec![unsigned("recall_message", body.to_string())]
        }
        Happening::Edit { .. } | Happening::Joined { .. } => Vec::new(),
        Happening::Login {
            account,
            device,
            at,
            online,
        } => {
            let body = json!({
                "userId": who(case, *account), "clientId": format!("device{device}"), "platform": 1,
                "status": if *online { 0 } else { 1 }, "timestamp": START + at,
            });
            vec![unsigned("user/online", body.to_string())]
        }
    }
}

fn wildfire_message(case: &str, n: usize, happening: &Happening) -> serde_json::Value {
    let Happening::Message {
        from,
        to,
        at,
        sort,
        order,
    } = happening
    else {
        unreachable!("only a message is recalled")
    };
    let extra = order.map(|order| json!({ "orderId": format!("{case}-order{order}") }));
    let (persist, line) = match sort {
        Sort::Text | Sort::Team => (3, 0),
        // A conversation of another line is another one.
        Sort::Antispam | Sort::TeamAntispam => (3, 1),
        Sort::Tips
        | Sort::Notification
        | Sort::Blacklisted
        | Sort::SystemNotice
        | Sort::TeamNotification => (1, 0),
    };
    json!({
        "messageId": wildfire_id(case, n), "sender": who(case, *from), "timestamp": START + at,
        "conv": {
            "type": u8::from(sort.is_to_team()), "target": receiver(case, *to, *sort), "line": line,
        },
        "payload": {
            "type": 1, "searchableContent": format!("text {n}"), "persistFlag": persist,
            "extra": extra.map(|extra| extra.to_string()).unwrap_or_default(),
        },
        "toUsers": [],
    })
}

/// A number above what a float holds, as this provider's ids are.
fn wildfire_id(case: &str, n: usize) -> i64 {
    let case: i64 = case
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap();
    432_595_101_554_835_586 + case * 1000 + n as i64
}
