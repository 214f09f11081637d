//! A verified body becomes events.
//!
//! Decoding is lenient where the provider is loose (strings or numbers, JSON text or values, absent
//! and new fields) and strict where a guess would make a badge wrong: an event that acts on messages,
//! marks or presence needs the fields it acts by, else the body is kept as a dead letter. Kinds that
//! act on nothing are stored whatever their fields are.

use std::borrow::Cow;

use super::fields::{
    Result, digest, elements, message_ref, millis, optional, optional_millis, own, read_up_to,
    required, undecodable,
};
use super::wire::{self, Kind};
use crate::callback::VerifiedCallback;
use crate::callback::event::{
    Class, Conversation, Counts, Decoded, Edit, Effect, Event, EventType, Message, MessageRef,
    Presence, Product, ReadMark, Reason, Recall, Record, Undecodable,
};
use crate::callback::ids::{Account, Millis, natural_key};
use crate::callback::json::{Fields, Json, NotAnObject, nested, scalar, scalar_at, view};

/// What an app's settings say about decoding.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Whether messages of type TIPS count as unread.
    pub count_tips: bool,
    /// Where a message carries the id of its order.
    pub order_id: Option<OrderIdAt>,
}

/// A place in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderIdAt {
    /// The field: `ext`, `attach` or `body`.
    pub field: &'static str,
    /// A JSON pointer (RFC 6901) into it.
    pub pointer: String,
}

/// The longest order id that is believed, in bytes. Whatever a pointer finds beyond it is no id.
const MAX_ORDER_ID: usize = 256;

/// Decodes a body that came at `arrived`. Never fails: what cannot be decoded is part of the result.
pub fn decode<'r>(callback: &VerifiedCallback<'r>, arrived: Millis, rules: &Rules) -> Decoded<'r> {
    let body = callback.body();
    if body.trim_ascii().is_empty() {
        return Decoded::default(); // the console's address probe
    }
    let fields = match Fields::parse(body) {
        Ok(fields) if fields.is_empty() => return Decoded::default(), // the manual probe
        Ok(fields) => fields,
        Err(NotAnObject::Syntax { line, column }) => {
            return failed("$", Reason::NotJson { line, column });
        }
        Err(NotAnObject::OtherType) => return failed("$", Reason::NotAnObject),
    };
    let decoder = Decoder {
        body,
        arrived,
        rules,
        product: callback.product(),
        has_room_data: has_room_data(&fields),
    };
    decoder.chat(fields)
}

fn failed<'a>(path: &str, reason: Reason) -> Decoded<'a> {
    Decoded {
        events: Vec::new(),
        undecodable: Some(Undecodable {
            reason,
            path: path.to_owned(),
        }),
    }
}

/// RTC 2.0 sends `{"eventType":N,"data":{…}}`. A chat event may have `data` too one day, so this tells whose a
/// body is only where chat can make nothing of it.
fn has_room_data(fields: &Fields<'_>) -> bool {
    !fields.contains("convType")
        && fields
            .get("data")
            .is_some_and(|data| matches!(view(&nested(data)), Json::Object(_)))
}

struct Decoder<'r, 'd> {
    body: &'r [u8],
    arrived: Millis,
    rules: &'d Rules,
    product: Option<&'r str>,
    has_room_data: bool,
}

impl<'r> Decoder<'r, '_> {
    /// An event of an audio or video room.
    fn room(&self, fields: Fields<'r>) -> Decoded<'r> {
        match event_type(&fields) {
            Ok(event_type) => {
                let key = natural_key(["rtc", &event_type.to_string(), &digest(self.body)]);
                let record = record(&wire::RTC, event_type, key, fields, Effect::None);
                one(Event::Record(Record {
                    product: Product::Rtc,
                    ..record
                }))
            }
            Err(Undecodable { reason, path }) => failed(&path, reason),
        }
    }

    fn chat(&self, fields: Fields<'r>) -> Decoded<'r> {
        let is_question = looks_synchronous(&fields);
        let spare = self.has_room_data.then(|| fields.clone());
        match self.events(fields) {
            Ok(decoded) => decoded,
            // Chat can read all of it but the time, so it is neither a room's nor a question.
            Err(Undecodable {
                reason: Reason::TimeAhead,
                path,
            }) => failed(&path, Reason::TimeAhead),
            Err(_) if let Some(fields) = spare => self.room(fields),
            Err(Undecodable { path, .. }) if is_question => {
                failed(&path, Reason::SynchronousCallback)
            }
            Err(Undecodable { reason, path }) => failed(&path, reason),
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
            2 | 3 => presence(kind, event_type, fields).map(one),
            7 => recall(kind, event_type, Class::P2p, fields).map(one),
            8 => recall(kind, event_type, Class::Team, fields).map(one),
            25 => recall(kind, event_type, Class::SuperTeam, fields).map(one),
            11 | 12 | 20 => Ok(self.list(kind, event_type, fields)),
            30 => self.receipts(kind, event_type, fields),
            85 => conversation_read(kind, event_type, fields, self.arrived).map(one),
            89 => edit(kind, event_type, Class::P2p, fields).map(one),
            90 => edit(kind, event_type, Class::Team, fields).map(one),
            91 => edit(kind, event_type, Class::SuperTeam, fields).map(one),
            _ => Ok(self.as_it_came(kind, event_type, fields)),
        }
    }

    /// An event that acts on nothing. Its key is the digest of its bytes, the one thing that every
    /// redelivery repeats whatever the kind's fields are.
    fn as_it_came(&self, kind: &Kind, event_type: EventType, fields: Fields<'r>) -> Decoded<'r> {
        if self.has_room_data {
            return self.room(fields);
        }
        let key = natural_key([event_type.to_string().as_str(), &digest(self.body)]);
        let mut record = record(kind, event_type, key, fields, Effect::None);
        // The header is not signed: it may label what chat can make nothing of, and is part of no key.
        if self.says_rtc() {
            record.product = Product::Rtc;
            record.kind = wire::RTC.name;
        }
        one(Event::Record(record))
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
        let from = optional(&fields, "fromAccount").map(|from| Account::new(&from));
        let sent_at = optional_millis(&fields, "msgTimestamp");
        // Only a badge needs the two, and it must not be guessed.
        let counts = match class {
            Class::P2p => {
                let peer = Account::new(&required(&fields, "fromAccount")?);
                let sent_at = millis(&fields, "msgTimestamp")?;
                let counts = self.counts(&message, &peer, &fields);
                counts.then_some(Counts { peer, sent_at })
            }
            Class::Team | Class::SuperTeam | Class::CustomPerson | Class::CustomTeam => None,
        };
        Ok(one(Event::Message(Message {
            order_id: self.order_id(&fields),
            message,
            from,
            sent_at: sent_at.unwrap_or_default(),
            counts,
            fields,
        })))
    }

    /// Whether a person's message counts as unread until read or recalled: one that the provider delivers
    /// to another person and that an app shows as a message.
    fn counts(&self, message: &MessageRef, from: &Account, fields: &Fields<'_>) -> bool {
        let flag = |name| {
            optional(fields, name).is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"))
        };
        let msg_type = optional(fields, "msgType").unwrap_or_default();
        message.to != from.as_str()
            && !msg_type.eq_ignore_ascii_case("NOTIFICATION")
            && (self.rules.count_tips || !msg_type.eq_ignore_ascii_case("TIPS"))
            && !flag("blacklist")
            && !flag("antispam")
    }

    fn order_id(&self, fields: &Fields<'_>) -> Option<String> {
        let at = self.rules.order_id.as_ref()?;
        scalar_at(fields.get(at.field)?, &at.pointer)
            .filter(|id| (1..=MAX_ORDER_ID).contains(&id.len()))
    }

    /// One event for each element of `objects`; the whole body as one where it is no list of objects.
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
        let mut envelope = Envelope::of(fields);
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

    /// Read receipts of 30: mostly a list in `objects`, by the provider's table perhaps fields of the
    /// body itself. A bad element does not hold up its neighbours: they take effect, and the body is
    /// kept as a dead letter beside them.
    fn receipts(
        &self,
        kind: &Kind,
        event_type: EventType,
        fields: Fields<'r>,
    ) -> Result<Decoded<'r>> {
        let Some(objects) = fields.get("objects") else {
            return receipt(kind, event_type, fields, self.arrived).map(one);
        };
        let elements = elements(objects)
            .ok_or_else(|| undecodable("objects", Reason::BadValue("a list of receipts")))?;
        if elements.is_empty() {
            return Ok(self.as_it_came(kind, event_type, fields));
        }
        let mut envelope = Envelope::of(fields);
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

/// What stands beside a list in a body. `eventType` goes with every element; whatever else there may be
/// goes with the first one alone, so that a body does not grow by being taken apart.
struct Envelope<'a> {
    event_type: Fields<'a>,
    rest: Fields<'a>,
}

impl<'a> Envelope<'a> {
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

fn one(event: Event<'_>) -> Decoded<'_> {
    Decoded {
        events: vec![event],
        undecodable: None,
    }
}

fn event_type(fields: &Fields<'_>) -> Result<EventType> {
    let Some(sent) = optional(fields, "eventType") else {
        // Phone calls (10) are sent with `"type":"CALL"` and no number by some versions.
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

/// Whether a body that cannot be decoded may be a question of the provider's synchronous callback: those
/// name the client's address otherwise than copies do, and their messages have neither `convType` nor a
/// server id, the message not being sent yet.
fn looks_synchronous(fields: &Fields<'_>) -> bool {
    fields.contains("fromClientIp")
        || fields.contains("fromClientPort")
        || (fields.contains("fromAccount")
            && fields.contains("msgTimestamp")
            && !fields.contains("convType")
            && !fields.contains("msgidServer"))
}

fn record<'a>(
    kind: &Kind,
    event_type: EventType,
    key: String,
    payload: Fields<'a>,
    effect: Effect,
) -> Record<'a> {
    let accounts = kind
        .accounts
        .iter()
        .filter_map(|name| optional(&payload, name).map(|account| (*name, Account::new(&account))));
    Record {
        key,
        product: Product::Im,
        event_type,
        kind: kind.name,
        accounts: accounts.collect(),
        at: kind
            .time
            .and_then(|name| Some((name, millis(&payload, name).ok()?))),
        payload,
        effect,
    }
}

fn presence<'a>(kind: &Kind, event_type: EventType, fields: Fields<'a>) -> Result<Event<'a>> {
    let account = Account::new(&required(&fields, "accid")?);
    let at = millis(&fields, "timestamp")?;
    let device_id = optional(&fields, "deviceId")
        .unwrap_or_default()
        .into_owned();
    let client_type = wire::client_type(&optional(&fields, "clientType").unwrap_or_default());
    let key = natural_key([
        event_type.to_string().as_str(),
        account.as_str(),
        &device_id,
        &client_type,
        &at.get().to_string(),
    ]);
    let online = event_type == EventType::Number(2);
    // A login that the provider refused brought nobody online.
    let refused = online && optional(&fields, "code").is_some_and(|code| code != "200");
    let effect = if refused {
        Effect::None
    } else {
        Effect::Presence(Presence {
            account,
            device_id,
            client_type,
            online,
            at,
        })
    };
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

fn recall<'a>(
    kind: &Kind,
    event_type: EventType,
    class: Class,
    fields: Fields<'a>,
) -> Result<Event<'a>> {
    let message = message_ref(&fields, class, "msgId")?;
    let key = natural_key([event_type.to_string().as_str(), &message.id]);
    let from = optional(&fields, "from").map(|from| Account::new(&from));
    let effect = Effect::Recall(Recall {
        message,
        at: optional_millis(&fields, "deleteTime")?,
        by: from.filter(|_| class == Class::P2p),
    });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

fn edit<'a>(
    kind: &Kind,
    event_type: EventType,
    class: Class,
    fields: Fields<'a>,
) -> Result<Event<'a>> {
    let message = message_ref(&fields, class, "msgId")?;
    let at = millis(&fields, "modifyTime")?;
    let key = natural_key([
        event_type.to_string().as_str(),
        &message.id,
        &at.get().to_string(),
    ]);
    let effect = Effect::Edit(Edit {
        message,
        at,
        by: optional(&fields, "modifyAccountId").map(|by| Account::new(&by)),
        text: fields.get("text").and_then(scalar).map(Cow::into_owned),
    });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

/// `fromAccount` is the reader and `toAccount` the peer whose messages were read; the provider's SDK
/// headers define the time as "everything before it is read".
fn receipt<'a>(
    kind: &Kind,
    event_type: EventType,
    fields: Fields<'a>,
    arrived: Millis,
) -> Result<Event<'a>> {
    let reader = Account::new(&required(&fields, "fromAccount")?);
    let peer = Account::new(&required(&fields, "toAccount")?);
    let up_to = read_up_to(&fields, "timestamp", arrived)?;
    let key = natural_key([
        event_type.to_string().as_str(),
        reader.as_str(),
        peer.as_str(),
        &up_to.get().to_string(),
        &optional(&fields, "msgidClient").unwrap_or_default(),
        &optional(&fields, "clientType").unwrap_or_default(),
    ]);
    let effect = Effect::Read(ReadMark {
        reader,
        of: Conversation::Peer(peer),
        up_to,
    });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

fn conversation_read<'a>(
    kind: &Kind,
    event_type: EventType,
    fields: Fields<'a>,
    arrived: Millis,
) -> Result<Event<'a>> {
    let reader = Account::new(&required(&fields, "accid")?);
    let up_to = read_up_to(&fields, "ackMsgTime", arrived)?;
    let team = optional(&fields, "ackTeamId").map(Cow::into_owned);
    let is_team = match optional(&fields, "msgType").as_deref() {
        Some("0") => false,
        Some("1") => true,
        _ => team.is_some(),
    };
    let of = match team {
        Some(team) if is_team => Conversation::Team(team),
        None if is_team => return Err(undecodable("ackTeamId", Reason::MissingField)),
        _ => Conversation::Peer(Account::new(&required(&fields, "ackAccid")?)),
    };
    let (side, other) = match &of {
        Conversation::Peer(peer) => ("peer", peer.as_str()),
        Conversation::Team(team) => ("team", team.as_str()),
    };
    let key = natural_key([
        event_type.to_string().as_str(),
        reader.as_str(),
        side,
        other,
        &up_to.get().to_string(),
    ]);
    let effect = Effect::Read(ReadMark { reader, of, up_to });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}
