//! The update statement of presence.
//!
//! An update pipeline of two stages: the first raises the fact that the event is about, the second derives the other
//! fields from the facts. Everything that a provider sent is put into `$literal`, so that a text such as `$device`
//! stays a text.

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

use crate::callback::Origin;
use crate::callback::ids::natural_key;
use crate::callback::presence::{Presence, PresenceChange};
use crate::store::bson::raw;
use crate::store::statements::is_there;

/// Merges an event into the document of its device, or of its kind of client if it names no device.
pub fn presence_change(origin: &Origin, presence: &Presence) -> RawDocumentBuf {
    let device: &str = if presence.device_id.is_empty() {
        &presence.client_type
    } else {
        &presence.device_id
    };
    let id = natural_key([origin.app.as_str(), presence.account.as_str(), device]);
    let mut facts = identity(origin, presence, device);
    facts.extend(times(presence));
    raw(&doc! {
        "q": { "_id": id },
        "u": [{ "$set": facts }, { "$set": derived() }],
        "upsert": true,
    })
}

fn identity(origin: &Origin, presence: &Presence, device: &str) -> Document {
    let at = presence.at.get();
    let last = if_null("$lastEventTime", Bson::Null);
    let client_type = literal(&presence.client_type);
    // An explicit null, so that a reader sees that the document is for a kind of client and not for a device.
    let device_id = match presence.device_id.as_str() {
        "" => Bson::Null,
        id => literal(id).into(),
    };
    doc! {
        "app": literal(origin.app.as_str()),
        "provider": if_null("$provider", literal(origin.provider.as_str())),
        "account": literal(presence.account.as_str()),
        "device": literal(device),
        "deviceId": if_null("$deviceId", device_id),
        // The newest event's. Of two at the same time the greater one, so that their order does not matter.
        "clientType": { "$switch": {
            "branches": [
                { "case": { "$gt": [at, &last] }, "then": &client_type },
                { "case": { "$eq": [at, &last] }, "then": { "$max": ["$clientType", &client_type] } },
            ],
            "default": "$clientType",
        } },
    }
}

/// The facts. A document of an older version has only its state, which is the last of what happened.
fn times(presence: &Presence) -> Document {
    let of_older = |state: &str, facts: &[&str]| {
        let mut all = vec![doc! { "$eq": ["$state", state] }];
        all.extend(facts.iter().map(|fact| doc! { "$not": [is_there(fact)] }));
        doc! { "$cond": [{ "$and": all }, "$lastEventTime", "$$REMOVE"] }
    };
    let login = if_null(
        "$loginTime",
        of_older("online", &["$loginTime", "$heartbeatTime"]),
    );
    let logout = if_null("$logoutTime", of_older("offline", &["$logoutTime"]));
    let at = presence.at.get();
    let raised = |fact: &Document| doc! { "$max": [fact, at] };
    let mut facts = doc! { "loginTime": &login, "logoutTime": &logout };
    match presence.change {
        PresenceChange::Login => {
            facts.insert("loginTime", raised(&login));
        }
        PresenceChange::Logout(reason) => {
            let known = if_null(logout.clone(), Bson::Null);
            let (new, greater) = match reason {
                Some(reason) => {
                    let word = literal(&reason.word());
                    let greater = doc! { "$max": ["$logoutReason", &word] };
                    (word.into(), greater.into())
                }
                None => (Bson::from("$$REMOVE"), Bson::from("$logoutReason")),
            };
            facts.insert("logoutTime", raised(&logout));
            facts.insert(
                "logoutReason",
                doc! { "$switch": {
                    "branches": [
                        { "case": { "$gt": [at, &known] }, "then": new },
                        { "case": { "$eq": [at, &known] }, "then": greater },
                    ],
                    "default": "$logoutReason",
                } },
            );
        }
        PresenceChange::Heartbeat => {
            facts.insert("heartbeatTime", doc! { "$max": ["$heartbeatTime", at] });
        }
    }
    facts
}

/// What follows from the facts. A login and a logout in the same millisecond mean offline. A heartbeat after the last
/// logout means online: its login was lost, or is late.
fn derived() -> Document {
    let logout = if_null("$logoutTime", Bson::Null);
    let is_online = doc! { "$gt": [{ "$max": ["$loginTime", "$heartbeatTime"] }, &logout] };
    let began = doc! { "$switch": {
        "branches": [
            { "case": { "$not": [&is_online] }, "then": "$logoutTime" },
            { "case": { "$gt": ["$loginTime", &logout] }, "then": "$loginTime" },
        ],
        "default": "$heartbeatTime",
    } };
    let last = doc! { "$max": ["$loginTime", "$logoutTime", "$heartbeatTime"] };
    let date_of = |time: &str| doc! { "$cond": [is_there(time), { "$toDate": time }, "$$REMOVE"] };
    doc! {
        "state": { "$cond": [is_online, "online", "offline"] },
        "since": { "$toDate": began },
        "lastEventTime": &last,
        "lastEventAt": { "$toDate": last },
        "loginAt": date_of("$loginTime"),
        "logoutAt": date_of("$logoutTime"),
        "heartbeatAt": date_of("$heartbeatTime"),
    }
}

fn literal(text: &str) -> Document {
    doc! { "$literal": text }
}

fn if_null(value: impl Into<Bson>, otherwise: impl Into<Bson>) -> Document {
    doc! { "$ifNull": [value.into(), otherwise.into()] }
}
