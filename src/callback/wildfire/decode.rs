//! Decodes a verified body into events.
//!
//! As for the other providers, decoding is lenient where nothing depends on it, and strict where a guess would
//! make a count wrong: an event that acts on messages, marks or presence needs the fields for its effect,
//! otherwise the body becomes a dead letter.

use std::borrow::Cow;

use super::WildfireRules;
use super::wire::{self, Persist, RouteKind};
use crate::callback::VerifiedCallback;
use crate::callback::columns::{Columns, Value};
use crate::callback::event::{
    COMMON_COLUMNS, Class, Conversation, Decoded, Effect, Event, EventType, Message, MessageRef,
    Product, ReadMark, Reason, Recall, Record,
};
use crate::callback::fields::{
    Result, accounts, digest, millis, optional, optional_millis, parse_body, part, read_up_to,
    required, time, undecodable, within,
};
use crate::callback::ids::{Account, Millis, natural_key};
use crate::callback::json::{Fields, scalar};
use crate::callback::presence::{LogoutReason, Presence, PresenceChange};

/// Decodes a body that was received at `arrived`. Never fails: what cannot be decoded is part of the result.
pub fn decode<'r>(
    callback: &'r VerifiedCallback<'_>,
    arrived: Millis,
    rules: &WildfireRules,
) -> Decoded<'r> {
    let fields = match parse_body(callback.body()) {
        Ok(None) => return Decoded::default(),
        Ok(Some(fields)) => Ok(fields),
        Err(undecodable) => Err(undecodable),
    };
    let decoder = WildfireDecoder {
        route: &callback.envelope().route,
        body: callback.body(),
        arrived,
        rules,
    };
    decoder.events(fields).unwrap_or_else(Decoded::from)
}

struct WildfireDecoder<'r, 'd> {
    route: &'r str,
    body: &'r [u8],
    arrived: Millis,
    rules: &'d WildfireRules,
}

impl<'r> WildfireDecoder<'r, '_> {
    /// The route is checked before the body's errors: on an unknown route, a body may legitimately not be JSON.
    fn events(&self, fields: Result<Fields<'r>>) -> Result<Decoded<'r>> {
        let event = match self.route {
            route if wire::MESSAGES.contains(&route) => self.message(fields?),
            wire::RECALL => self.recall(fields?),
            wire::READ => self.read(fields?),
            wire::ONLINE => self.online(fields?),
            wire::CENSOR => Err(undecodable("", Reason::SynchronousCallback)),
            route => match wire::stored(route) {
                Some(kind) => Ok(self.as_it_came(kind, fields?)),
                None => Err(undecodable("", Reason::UnknownRoute)),
            },
        };
        event.map(Decoded::from)
    }

    /// An event without effect. Its key is the digest of the body, because most of these have neither an id nor a
    /// time.
    fn as_it_came(&self, kind: &RouteKind, fields: Fields<'r>) -> Event<'r> {
        let key = natural_key([self.route, &digest(self.body)]);
        self.record(kind, key, fields, Effect::None)
    }

    fn record(
        &self,
        kind: &RouteKind,
        key: String,
        payload: Fields<'r>,
        effect: Effect<'r>,
    ) -> Event<'r> {
        Event::Record(Record {
            key,
            product: Product::Im,
            event_type: EventType::Word(self.route.to_owned()),
            kind: kind.name,
            accounts: accounts(&payload, kind.accounts, |id| Account::new(id)),
            at: time(&payload, kind.time),
            payload: Columns::as_sent(payload),
            effect,
        })
    }

    fn message(&self, fields: Fields<'r>) -> Result<Event<'r>> {
        let conv = Conv::of(&fields, "conv")?;
        let Some(class) = conv.class() else {
            return Ok(self.as_it_came(conv.message_kind(), fields));
        };
        let payload = part(&fields, "payload");
        let persist = payload.as_ref().map_err(Clone::clone).and_then(persist);
        let persist = match class {
            // A count depends on it, and must not be guessed.
            Class::P2p => Some(persist?),
            _ => persist.ok(),
        };
        if persist.is_some_and(|persist| !persist.is_kept()) {
            return Ok(self.as_it_came(&wire::STATUS_MESSAGE, fields));
        }
        let message = conv.message_ref(class, message_id(&fields)?)?;
        if class == Class::P2p {
            required(&fields, "sender")?;
            millis(&fields, "timestamp")?;
            conv.line()?;
        }
        let sent_at = optional_millis(&fields, "timestamp").unwrap_or_default();
        let text = payload.ok().as_ref().and_then(text);
        let (columns, extra) = columns(class, &message, text, fields);
        Ok(Event::Message(Message {
            derived: self.rules.derive(class, &columns),
            message,
            sent_at,
            columns,
            extra,
        }))
    }

    /// The body contains the whole message, and who recalled it. The provider sends this only once.
    fn recall(&self, fields: Fields<'r>) -> Result<Event<'r>> {
        let recalled = part(&fields, "message")?;
        let conv = within("message", Conv::of(&recalled, "conv"))?;
        let (class, kind) = match conv.class() {
            Some(class @ Class::P2p) => (class, &wire::RECALLED),
            Some(class) => (class, &wire::TEAM_RECALLED),
            None => return Ok(self.as_it_came(&wire::RECALLED, fields)),
        };
        let message = message_id(&recalled).and_then(|id| conv.message_ref(class, id));
        let message = within("message", message)?;
        let by = optional(&fields, "userId").map(Account::new);
        let at = optional_millis(&fields, "timestamp")?;
        let key = natural_key([
            self.route,
            &message.id,
            by.as_ref().map_or("", Account::as_str),
            &at.map_or(String::new(), |at| at.get().to_string()),
        ]);
        let mut rest = fields.clone();
        rest.remove("message");
        rest.remove("userId");
        let effect = Effect::Recall(Recall {
            message,
            at: at.map(|at| ("timestamp", at)),
            by,
            rest: Columns::of(rest, wire::typed),
        });
        Ok(self.record(kind, key, fields, effect))
    }

    /// `user` has read the conversation up to `readTime`. In a private conversation the target is the peer.
    fn read(&self, fields: Fields<'r>) -> Result<Event<'r>> {
        let kind = &wire::CONVERSATION_READ;
        let conv = Conv::of(&fields, "conversation")?;
        let class = match conv.class() {
            Some(class) if conv.line()? == self.rules.line => class,
            _ => return Ok(self.as_it_came(kind, fields)),
        };
        let reader = Account::new(required(&fields, "user")?);
        let target = conv.target()?;
        let up_to = read_up_to(&fields, "readTime", self.arrived)?;
        let key = natural_key([
            self.route,
            reader.as_str(),
            class.as_str(),
            &target,
            &up_to.get().to_string(),
        ]);
        let of = match class {
            Class::P2p => Conversation::Peer(Account::new(target)),
            _ => Conversation::Team(target),
        };
        let effect = Effect::Read(ReadMark { reader, of, up_to });
        Ok(self.record(kind, key, fields, effect))
    }

    /// Reads the top level only: in `sessions` the provider's server swaps `clientId` and `userId`, and the
    /// `status` there may be outdated (spec, section 1.3).
    fn online(&self, fields: Fields<'r>) -> Result<Event<'r>> {
        let status = required(&fields, "status")?.trim().to_owned();
        let logout = |reason| PresenceChange::Logout(Some(reason));
        let (change, kind) = match status.as_str() {
            "0" => (PresenceChange::Login, &wire::LOGIN),
            "1" => (logout(LogoutReason::Disconnected), &wire::LOGOUT),
            "-1" => (logout(LogoutReason::Logout), &wire::LOGOUT),
            _ => return Ok(self.as_it_came(&wire::UNKNOWN_STATUS, fields)),
        };
        let account = Account::new(required(&fields, "userId")?);
        let at = millis(&fields, "timestamp")?;
        let device_id = optional(&fields, "clientId")
            .unwrap_or_default()
            .into_owned();
        let client_type = wire::client_type(&optional(&fields, "platform").unwrap_or_default());
        let key = natural_key([
            self.route,
            account.as_str(),
            &device_id,
            &client_type,
            &status,
            &at.get().to_string(),
        ]);
        let presence = Presence {
            account,
            device_id,
            client_type,
            change,
            at,
        };
        let effect = Effect::presence(presence, self.arrived);
        Ok(self.record(kind, key, fields, effect))
    }
}

/// A conversation in a body.
struct Conv {
    /// Its field.
    name: &'static str,
    /// `type`, as digits.
    sort: String,
    fields: Fields<'static>,
}

impl Conv {
    fn of(fields: &Fields<'_>, name: &'static str) -> Result<Self> {
        let fields = part(fields, name)?;
        let sort = within(name, required(&fields, "type"))?.trim().to_owned();
        Ok(Self { name, sort, fields })
    }

    /// The class of its messages; `None` if they are stored as events.
    fn class(&self) -> Option<Class> {
        match self.sort.as_str() {
            "0" => Some(Class::P2p),
            "1" => Some(Class::Team),
            _ => None,
        }
    }

    /// The event kind of its messages if they have no class.
    fn message_kind(&self) -> &'static RouteKind {
        match self.sort.as_str() {
            "2" => &wire::CHATROOM_MESSAGE,
            "3" => &wire::CHANNEL_MESSAGE,
            "4" => &wire::THINGS_MESSAGE,
            "5" => &wire::SECRET_MESSAGE,
            _ => &wire::UNKNOWN_CONVERSATION,
        }
    }

    fn target(&self) -> Result<String> {
        within(self.name, required(&self.fields, "target")).map(Cow::into_owned)
    }

    fn line(&self) -> Result<i64> {
        let number = match self.fields.get("line") {
            None => Some(0),
            Some(line) => scalar(line).and_then(|line| wire::line(Some(&line))),
        };
        let bad = || undecodable("line", Reason::BadValue("a whole number"));
        within(self.name, number.ok_or_else(bad))
    }

    fn message_ref(&self, class: Class, id: String) -> Result<MessageRef> {
        let to = self.target()?;
        Ok(MessageRef { class, id, to })
    }
}

/// A message's columns: under the provider's names, except for those that messages of all providers have. And
/// fields that were sent under the name of such a column; none are known.
fn columns<'r>(
    class: Class,
    message: &MessageRef,
    text: Option<String>,
    fields: Fields<'r>,
) -> (Columns<'r>, Columns<'r>) {
    let (mut columns, mut extra) = (Columns::with_capacity(16), Columns::default());
    columns.push("convType", Value::Text(class.conv_type().into()));
    columns.push("to", Value::Text(message.to.clone().into()));
    for (name, raw) in fields {
        match &*name {
            "messageId" => columns.push("msgidServer", Value::Text(message.id.clone().into())),
            "sender" => columns.push("fromAccount", Value::text(raw)),
            "timestamp" => columns.push("msgTimestamp", Value::int(raw)),
            taken if COMMON_COLUMNS.contains(&taken) => extra.push(name, Value::Json(raw)),
            _ => {
                let value = wire::typed(&name, raw);
                columns.push(name, value);
            }
        }
    }
    if let Some(text) = text {
        columns.push("body", Value::Text(text.into()));
    }
    (columns, extra)
}

/// The text of a text message (1). For other types the field contains a digest for searches.
fn text(payload: &Fields<'_>) -> Option<String> {
    let is_text = optional(payload, "type")?.trim() == "1";
    let text = payload.get("searchableContent").and_then(scalar);
    text.filter(|_| is_text).map(Cow::into_owned)
}

fn persist(payload: &Fields<'_>) -> Result<Persist> {
    let bad = || undecodable("persistFlag", Reason::BadValue("a whole number"));
    let flag = required(payload, "persistFlag");
    within(
        "payload",
        flag.and_then(|flag| Persist::parse(&flag).ok_or_else(bad)),
    )
}

/// A message's id, an `i64`, which exceeds the precision of a float. An id that was rounded to a float is
/// rejected, because it may be another message's; so is 0, which means that there is none.
fn message_id(fields: &Fields<'_>) -> Result<String> {
    let id = required(fields, "messageId")?.trim().parse::<i64>();
    match id {
        Ok(id @ 1..) => Ok(id.to_string()),
        _ => Err(undecodable(
            "messageId",
            Reason::BadValue("a whole number above zero"),
        )),
    }
}

/// The records of a message's recall: each has this key, or a longer one.
pub fn change_keys(message: &MessageRef) -> Vec<String> {
    vec![natural_key([wire::RECALL, &message.id])]
}

/// The records of a conversation's receipts: after this the key goes on with the receipt's time.
pub fn receipt_keys(reader: &Account, of: &Conversation) -> Vec<String> {
    let (class, target) = match of {
        Conversation::Peer(peer) => (Class::P2p, peer.as_str()),
        Conversation::Team(team) => (Class::Team, &**team),
    };
    vec![natural_key([
        wire::READ,
        reader.as_str(),
        class.as_str(),
        target,
    ])]
}
