//! Decodes a verified body into events.
//!
//! Decoding is lenient where the provider is inconsistent (strings or numbers, JSON text or values, missing and
//! new fields), and strict where a guess would make a count wrong: an event that acts on messages, marks or
//! presence needs the fields for its effect, otherwise the body becomes a dead letter. An event without effect is
//! stored whatever its fields are.

use super::NeteaseRules;
use super::effects::{conversation_read, edit, heartbeat, presence, recall, receipt};
use super::parts::{lower, message_ref, record};
use super::wire::{self, Kind};
use crate::callback::VerifiedCallback;
use crate::callback::columns::{Columns, Value};
use crate::callback::event::{
    Class, Decoded, Effect, Event, EventType, Message, Product, Reason, Record, Undecodable,
};
use crate::callback::fields::{
    Result, digest, elements, millis, optional, optional_millis, own, parse_body, required,
    undecodable,
};
use crate::callback::ids::{Millis, natural_key};
use crate::callback::json::{Fields, Json, nested, view};

/// Decodes a body that was received at `arrived`. Never fails: what cannot be decoded is part of the result.
pub fn decode<'r>(
    callback: &'r VerifiedCallback<'_>,
    arrived: Millis,
    rules: &NeteaseRules,
) -> Decoded<'r> {
    let body = callback.body();
    let fields = match parse_body(body) {
        Ok(Some(fields)) => fields,
        Ok(None) => return Decoded::default(), // the console's address probe
        Err(undecodable) => return undecodable.into(),
    };
    let decoder = NeteaseDecoder {
        body,
        arrived,
        rules,
        product: callback.envelope().header("type"),
        has_room_data: has_room_data(&fields),
    };
    decoder.chat(fields)
}

/// RTC 2.0 sends `{"eventType":N,"data":{…}}`. Chat events may get a `data` field, too, so a body is taken as
/// RTC's only if it is no chat message, no list, and no event with an effect.
fn has_room_data(fields: &Fields<'_>) -> bool {
    !fields.contains("convType")
        && fields
            .get("data")
            .is_some_and(|data| matches!(view(&nested(data)), Json::Object(_)))
}

struct NeteaseDecoder<'r, 'd> {
    body: &'r [u8],
    arrived: Millis,
    rules: &'d NeteaseRules,
    product: Option<&'r str>,
    has_room_data: bool,
}

impl<'r> NeteaseDecoder<'r, '_> {
    /// An event of an audio or video room (RTC 2.0).
    fn room(&self, fields: Fields<'r>) -> Decoded<'r> {
        match event_type(&fields) {
            Ok(event_type) => {
                let key = natural_key(["rtc", &event_type.to_string(), &digest(self.body)]);
                let record = record(&wire::RTC, event_type, key, fields, Effect::None);
                let product = Product::Rtc;
                Event::Record(Record { product, ..record }).into()
            }
            Err(undecodable) => undecodable.into(),
        }
    }

    fn chat(&self, fields: Fields<'r>) -> Decoded<'r> {
        let is_question = looks_synchronous(&fields);
        let spare = self.has_room_data.then(|| fields.clone());
        match self.events(fields) {
            Ok(decoded) => decoded,
            // Everything else was decoded as chat, so the body is neither RTC's nor a synchronous callback.
            Err(ahead) if ahead.reason == Reason::TimeAhead => ahead.into(),
            Err(_) if let Some(fields) = spare => self.room(fields),
            Err(Undecodable { path, .. }) if is_question => {
                let reason = Reason::SynchronousCallback;
                Undecodable { reason, path }.into()
            }
            Err(undecodable) => undecodable.into(),
        }
    }

    fn events(&self, fields: Fields<'r>) -> Result<Decoded<'r>> {
        let event_type = event_type(&fields)?;
        let EventType::Number(number) = event_type else {
            return Ok(self.as_it_came(&wire::UNKNOWN, event_type, fields));
        };
        let kind = wire::kind_of(number);
        match number {
            1 => self.conversation(event_type, fields),
            2 | 3 => presence(kind, event_type, fields, self.arrived).map(Decoded::from),
            7 => recall(kind, event_type, Class::P2p, fields).map(Decoded::from),
            8 => recall(kind, event_type, Class::Team, fields).map(Decoded::from),
            25 => recall(kind, event_type, Class::SuperTeam, fields).map(Decoded::from),
            11 | 12 | 20 => Ok(self.list(kind, event_type, fields)),
            30 => self.receipts(kind, event_type, fields),
            42 => Ok(self.heartbeat(kind, event_type, fields)),
            85 => conversation_read(kind, event_type, fields, self.arrived).map(Decoded::from),
            89 => edit(kind, event_type, Class::P2p, fields).map(Decoded::from),
            90 => edit(kind, event_type, Class::Team, fields).map(Decoded::from),
            91 => edit(kind, event_type, Class::SuperTeam, fields).map(Decoded::from),
            _ => Ok(self.as_it_came(kind, event_type, fields)),
        }
    }

    /// An event without effect. Its key is the digest of the body: for an unknown kind, nothing else is certain to
    /// be the same in a redelivery.
    fn as_it_came(&self, kind: &Kind, event_type: EventType, fields: Fields<'r>) -> Decoded<'r> {
        if self.has_room_data {
            return self.room(fields);
        }
        let key = natural_key([event_type.to_string().as_str(), &digest(self.body)]);
        let mut record = record(kind, event_type, key, fields, Effect::None);
        // The header is not signed. So it only labels an event that chat does not know, and is not part of its
        // key.
        if self.says_rtc() {
            record.product = Product::Rtc;
            record.kind = wire::RTC.name;
        }
        Event::Record(record).into()
    }

    /// A heartbeat keeps the key it has without an effect, under which earlier versions stored it.
    fn heartbeat(&self, kind: &Kind, event_type: EventType, fields: Fields<'r>) -> Decoded<'r> {
        let Some(presence) = heartbeat(&fields) else {
            return self.as_it_came(kind, event_type, fields);
        };
        let key = natural_key([event_type.to_string().as_str(), &digest(self.body)]);
        let effect = Effect::presence(presence, self.arrived);
        Event::Record(record(kind, event_type, key, fields, effect)).into()
    }

    fn says_rtc(&self) -> bool {
        self.product
            .is_some_and(|product| product.to_ascii_lowercase().contains("rtc"))
    }

    fn conversation(&self, event_type: EventType, fields: Fields<'r>) -> Result<Decoded<'r>> {
        let conv_type = required(&fields, "convType")?;
        let class = match conv_type.to_ascii_uppercase().as_str() {
            "PERSON" => Class::P2p,
            "TEAM" => Class::Team,
            "SUPER_TEAM" => Class::SuperTeam,
            "CUSTOM_PERSON" => Class::CustomPerson,
            "CUSTOM_TEAM" => Class::CustomTeam,
            _ => return Ok(self.as_it_came(&wire::UNKNOWN_CONVERSATION, event_type, fields)),
        };
        let message = message_ref(&fields, class, "msgidServer")?;
        if class == Class::P2p {
            // A count depends on both, and must not be guessed.
            required(&fields, "fromAccount")?;
            millis(&fields, "msgTimestamp")?;
        }
        let sent_at = optional_millis(&fields, "msgTimestamp");
        let columns = Columns::of(fields, |name, raw| match name {
            "eventType" => Value::Number(1),
            "to" if class.is_to_account() => lower(Value::text(raw)),
            "fromAccount" => lower(Value::text(raw)),
            name => wire::typed(name, raw),
        });
        Ok(Event::Message(Message {
            derived: self.rules.derive(class, &columns),
            message,
            sent_at: sent_at.unwrap_or_default(),
            columns,
            extra: Columns::default(),
        })
        .into())
    }

    /// One event for each element of `objects`; one event of the whole body if that is not a list of objects.
    fn list(&self, kind: &Kind, event_type: EventType, fields: Fields<'r>) -> Decoded<'r> {
        let Some(elements) = fields.get("objects").and_then(elements) else {
            return self.as_it_came(kind, event_type, fields);
        };
        let parsed: Vec<_> = elements
            .iter()
            .map(|e| (digest(e.as_bytes()), own(e)))
            .collect();
        if parsed.is_empty() || parsed.iter().any(|(_, element)| element.is_none()) {
            return self.as_it_came(kind, event_type, fields);
        }
        let mut envelope = ListEnvelope::of(fields);
        let event = |(digest, element): (String, Option<Fields<'r>>)| {
            let key = natural_key([event_type.to_string().as_str(), &digest]);
            let payload = envelope.around(element?);
            let record = record(kind, event_type.clone(), key, payload, Effect::None);
            Some(Event::Record(record))
        };
        Decoded {
            events: parsed.into_iter().filter_map(event).collect(),
            undecodable: None,
        }
    }

    /// Read receipts (30): usually a list in `objects`; by the provider's table they may also be fields of the
    /// body itself. A bad receipt does not block the others: they take effect, and the body also becomes a dead
    /// letter.
    fn receipts(
        &self,
        kind: &Kind,
        event_type: EventType,
        fields: Fields<'r>,
    ) -> Result<Decoded<'r>> {
        let Some(objects) = fields.get("objects") else {
            return receipt(kind, event_type, fields, self.arrived).map(Decoded::from);
        };
        let elements = elements(objects)
            .ok_or_else(|| undecodable("objects", Reason::BadValue("a list of receipts")))?;
        if elements.is_empty() {
            return Ok(self.as_it_came(kind, event_type, fields));
        }
        let mut envelope = ListEnvelope::of(fields);
        let mut decoded = Decoded::default();
        for (i, element) in elements.iter().enumerate() {
            let event = own(element)
                .ok_or_else(|| undecodable("", Reason::BadValue("an object")))
                .and_then(|element| {
                    let fields = envelope.around(element);
                    receipt(kind, event_type.clone(), fields, self.arrived)
                });
            match event {
                Ok(event) => decoded.events.push(event),
                Err(Undecodable { reason, path }) => {
                    let path = path.replacen('$', &format!("$.objects[{i}]"), 1);
                    let first = Undecodable { reason, path };
                    decoded.undecodable.get_or_insert(first);
                }
            }
        }
        Ok(decoded)
    }
}

/// The fields beside a list in a body. `eventType` is added to every element; the others only to the first, so
/// that splitting a body does not multiply its size.
struct ListEnvelope<'a> {
    event_type: Fields<'a>,
    rest: Fields<'a>,
}

impl<'a> ListEnvelope<'a> {
    fn of(mut fields: Fields<'a>) -> Self {
        fields.remove("objects");
        let event_type = fields.take("eventType");
        Self {
            event_type,
            rest: fields,
        }
    }

    fn around(&mut self, mut element: Fields<'a>) -> Fields<'a> {
        element.add_missing(&self.event_type);
        element.add_missing(&std::mem::take(&mut self.rest));
        element
    }
}

fn event_type(fields: &Fields<'_>) -> Result<EventType> {
    let Some(sent) = optional(fields, "eventType") else {
        // Some versions send phone calls (10) with `"type":"CALL"` and without a number.
        return match optional(fields, "type") {
            Some(word) if word.eq_ignore_ascii_case("CALL") => Ok(EventType::Number(10)),
            _ => Err(undecodable("eventType", Reason::MissingField)),
        };
    };
    Ok(match sent.trim().parse() {
        Ok(number) => EventType::Number(number),
        Err(_) => EventType::Word(sent.into_owned()),
    })
}

/// Whether an undecodable body looks like the provider's synchronous callback. It names the client's address
/// differently from copies, and its messages have neither `convType` nor a server id, because they are not sent
/// yet.
fn looks_synchronous(fields: &Fields<'_>) -> bool {
    fields.contains("fromClientIp")
        || fields.contains("fromClientPort")
        || (fields.contains("fromAccount")
            && fields.contains("msgTimestamp")
            && !fields.contains("convType")
            && !fields.contains("msgidServer"))
}
