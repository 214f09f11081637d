//! The update statement of presence.
//!
//! An update pipeline: facts of a document that an older version wrote, then the fact that the event is about, then
//! what follows from the facts. MongoDB reads the pipeline anew for each event, which is most of the cost of an event, so
//! it is short. Everything that a provider sent is put into `$literal`, so that a text such as `$device` stays a text.

use std::sync::LazyLock;

use mongodb::bson::{
    DateTime, Document, RawArrayBuf, RawBsonRef, RawDocumentBuf, cstr, doc, rawbson, rawdoc,
};

use crate::callback::Origin;
use crate::callback::ids::natural_key;
use crate::callback::presence::{LogoutReason, Presence, PresenceChange};
use crate::store::bson::{date, raw};

/// The stages that are the same for every event: before its own, and after it.
static BEFORE: LazyLock<RawDocumentBuf> = LazyLock::new(|| raw(&of_older()));
static AFTER: LazyLock<[RawDocumentBuf; 2]> = LazyLock::new(|| derived().map(|stage| raw(&stage)));

/// Merges an event into the document of its device, or of its kind of client if it names no device.
pub fn presence_change(origin: &Origin, presence: &Presence) -> RawDocumentBuf {
    let device: &str = if presence.device_id.is_empty() {
        &presence.client_type
    } else {
        &presence.device_id
    };
    let (app, account) = (origin.app.as_str(), presence.account.as_str());
    let id = natural_key([app, account, device]);
    let mut stages = RawArrayBuf::new();
    stages.push(&**BEFORE);
    stages.push(rawdoc! { "$set": event(origin, presence) });
    AFTER.iter().for_each(|stage| stages.push(&**stage));
    rawdoc! {
        "q": { "_id": id, "app": app, "account": account, "device": device },
        "u": stages,
        "upsert": true,
    }
}

/// A document of an older version has no facts. Its state is the last thing that happened.
fn of_older() -> Document {
    // In an array what is absent becomes null.
    doc! { "$set": {
        "loginAt": { "$cond": [
            { "$eq": [["$state", "$loginAt", "$heartbeatAt"], ["online", null, null]] },
            "$lastEventAt",
            "$loginAt",
        ] },
        "logoutAt": { "$cond": [
            { "$eq": [["$state", "$logoutAt"], ["offline", null]] },
            "$lastEventAt",
            "$logoutAt",
        ] },
    } }
}

/// What the event says.
fn event(origin: &Origin, presence: &Presence) -> RawDocumentBuf {
    let at = date(presence.at);
    // An explicit null, so that a reader sees that the document is for a kind of client and not for a device.
    let device_id = match presence.device_id.as_str() {
        "" => RawBsonRef::Null,
        id => RawBsonRef::String(id),
    };
    let mut fields = rawdoc! {
        "provider": { "$ifNull": ["$provider", { "$literal": origin.provider.as_str() }] },
        "deviceId": { "$ifNull": ["$deviceId", { "$literal": device_id }] },
        "clientType": newest(at, "$lastEventAt", Some(&presence.client_type), "$clientType"),
    };
    let latest = |fact: &str| rawdoc! { "$max": [fact, at] };
    match presence.change {
        PresenceChange::Login => fields.append(cstr!("loginAt"), latest("$loginAt")),
        PresenceChange::Heartbeat => fields.append(cstr!("heartbeatAt"), latest("$heartbeatAt")),
        PresenceChange::Logout(reason) => {
            let word = reason.map(|reason| reason.word());
            let newest_reason = |at_field, field| newest(at, at_field, word.as_deref(), field);
            let reasons = newest_reason("$logoutAt", "$logoutReason");
            fields.append(cstr!("logoutAt"), latest("$logoutAt"));
            fields.append(cstr!("logoutReason"), reasons);
            let is_kick = reason == Some(LogoutReason::KickedByDevice);
            if presence.device_id.is_empty() && !is_kick {
                let reasons = newest_reason("$plainLogoutAt", "$plainLogoutReason");
                fields.append(cstr!("plainLogoutAt"), latest("$plainLogoutAt"));
                fields.append(cstr!("plainLogoutReason"), reasons);
            }
        }
    }
    fields
}

/// The text that the event has for a field, if the event is the newest that had one. Of two at the same time the greater
/// text, so that their order does not matter; nothing is less than any text.
fn newest(at: DateTime, known_at: &str, text: Option<&str>, known: &str) -> RawDocumentBuf {
    let text = text.map_or(RawBsonRef::Null, RawBsonRef::String);
    let then = match text {
        RawBsonRef::Null => rawbson!("$$REMOVE"),
        text => rawbson!({ "$literal": text }),
    };
    rawdoc! { "$cond": [
        { "$gt": [{ "$literal": [at, text] }, [known_at, known]] },
        then,
        known,
    ] }
}

/// What follows from the facts, in two stages, of which the second reads what the first has set. A login and a logout in
/// the same millisecond mean offline. A heartbeat after the last logout means online: its login was lost, or is late.
fn derived() -> [Document; 2] {
    [
        doc! { "$set": {
            "since": { "$switch": {
                "branches": [
                    { "case": { "$gt": ["$loginAt", "$logoutAt"] }, "then": "$loginAt" },
                    { "case": { "$gt": ["$heartbeatAt", "$logoutAt"] }, "then": "$heartbeatAt" },
                ],
                "default": "$logoutAt",
            } },
            "lastEventAt": { "$max": ["$loginAt", "$logoutAt", "$heartbeatAt"] },
        } },
        doc! { "$set": {
            "state": { "$cond": [{ "$gt": ["$since", "$logoutAt"] }, "online", "offline"] },
            "lastEventTime": { "$toLong": "$lastEventAt" },
        } },
    ]
}
