//! Decodes a verified body into events.
//!
//! All callbacks come to one address, and no field names the kind of a body, so it is recognized by its shape.
//! Messages come as forms (全量消息路由); recalls and deletions (消息操作状态同步) and online statuses (用户在线状态) come as JSON.
//!
//! Decoding is lenient where the provider is inconsistent, and strict where a guess would make a count wrong: an
//! event that acts on messages, marks or presence needs the fields for its effect, otherwise the body becomes a
//! dead letter. An event without effect is stored whatever its fields are.

use std::borrow::Cow;

use super::RongcloudRules;
use super::operation::operation;
use super::route::route;
use crate::callback::VerifiedCallback;
use crate::callback::columns::{Columns, Value};
use crate::callback::event::{
    Decoded, Effect, Event, EventType, Product, Reason, Record, Undecodable,
};
use crate::callback::fields::{
    Result, digest, millis, optional, parse_body, required, undecodable,
};
use crate::callback::ids::{Account, Millis, natural_key};
use crate::callback::json::{Fields, RawValue};
use crate::callback::presence::{LogoutReason, Presence, PresenceChange};

/// Decodes a body that was received at `arrived`. Never fails: what cannot be decoded is part of the result.
pub fn decode<'r>(
    callback: &'r VerifiedCallback<'_>,
    arrived: Millis,
    rules: &RongcloudRules,
) -> Decoded<'r> {
    let body = callback.body();
    match body.trim_ascii_start().first() {
        None => Decoded::default(), // a probe of the address
        Some(b'{') => object(body, arrived).unwrap_or_else(Decoded::from),
        Some(b'[') => list(body, arrived).unwrap_or_else(Decoded::from),
        Some(_) => match route(body, arrived, rules) {
            Ok(event) => event.into(),
            Err(undecodable) => undecodable.into(),
        },
    }
}

fn object(body: &[u8], arrived: Millis) -> Result<Decoded<'_>> {
    let Some(fields) = parse_body(body)? else {
        return Ok(Decoded::default());
    };
    if is_online_status(&fields) {
        online_status(fields, arrived).map(Decoded::from)
    } else if fields.contains("eventType") && fields.contains("originalMsgInfo") {
        operation(body, fields).map(Decoded::from)
    } else {
        Ok(unknown(body, Columns::as_sent(fields)))
    }
}

/// A list of online statuses. A bad one does not block the others: they take effect, and the body also becomes a
/// dead letter.
fn list(body: &[u8], arrived: Millis) -> Result<Decoded<'_>> {
    let elements: Vec<&RawValue> = serde_json::from_slice(body).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        undecodable("", Reason::NotJson { line, column })
    })?;
    let elements: Vec<_> = elements
        .into_iter()
        .map(|element| Fields::parse(element.get().as_bytes()).ok())
        .collect();
    if !elements.iter().flatten().any(is_online_status) {
        let mut payload = Columns::default();
        let raw: &RawValue = serde_json::from_slice(body).expect("it was JSON above");
        payload.push("body", Value::Json(Cow::Borrowed(raw)));
        return Ok(unknown(body, payload));
    }
    let mut decoded = Decoded::default();
    for (i, element) in elements.into_iter().enumerate() {
        let event = element
            .ok_or_else(|| undecodable("", Reason::BadValue("an object")))
            .and_then(|fields| online_status(fields, arrived));
        match event {
            Ok(event) => decoded.events.push(event),
            Err(Undecodable { reason, path }) => {
                let path = path.replacen('$', &format!("$[{i}]"), 1);
                let first = Undecodable { reason, path };
                decoded.undecodable.get_or_insert(first);
            }
        }
    }
    Ok(decoded)
}

/// JSON of an undocumented shape. Its key is the digest of the body: nothing else is certain to be the same in a
/// redelivery.
fn unknown<'a>(body: &[u8], payload: Columns<'a>) -> Decoded<'a> {
    let key = natural_key(["json", &digest(body)]);
    Event::Record(record("unknown", "unknown", key, payload)).into()
}

fn is_online_status(fields: &Fields<'_>) -> bool {
    fields.contains("userid") && fields.contains("status")
}

/// A user's connection that opened (`status` 0) or closed (1 by itself, 2 by a logout). A user may have several at
/// once, with different `sessionId`s.
fn online_status(fields: Fields<'_>, arrived: Millis) -> Result<Event<'_>> {
    let logout = |reason| PresenceChange::Logout(Some(reason));
    let account = Account::new(required(&fields, "userid")?);
    let status = required(&fields, "status")?.into_owned();
    let (kind, change) = match status.as_str() {
        "0" => ("login", PresenceChange::Login),
        "1" => ("logout", logout(LogoutReason::Disconnected)),
        "2" => ("logout", logout(LogoutReason::Logout)),
        _ => return Err(undecodable("status", Reason::BadValue("0, 1 or 2"))),
    };
    let at = millis(&fields, "time")?;
    let text = |name| optional(&fields, name).unwrap_or_default();
    let (device_id, client_type) = (text("sessionId").into_owned(), text("os").to_uppercase());
    let key = natural_key([
        "online",
        account.as_str(),
        &device_id,
        &client_type,
        &status,
        &at.get().to_string(),
    ]);
    let accounts = vec![("userid", account.clone())];
    let presence = Presence {
        account,
        device_id,
        client_type,
        change,
        at,
    };
    Ok(Event::Record(Record {
        accounts,
        at: Some(("time", at)),
        effect: Effect::presence(presence, arrived),
        ..record(kind, "online_status", key, Columns::as_sent(fields))
    }))
}

/// A record without accounts, time or effect.
pub fn record<'a>(
    kind: &'static str,
    event_type: &str,
    key: String,
    payload: Columns<'a>,
) -> Record<'a> {
    Record {
        key,
        product: Product::Im,
        event_type: EventType::Word(event_type.to_owned()),
        kind,
        accounts: Vec::new(),
        at: None,
        payload,
        effect: Effect::None,
    }
}
