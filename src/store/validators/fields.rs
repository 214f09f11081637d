//! The types of the fields in each collection. `docs/data-model.md` has the same table for people; a test compares
//! them.

use crate::store::collection;

/// A field and the BSON types, by MongoDB's names, that it may have.
#[derive(Debug, Clone, Copy)]
pub struct SchemaField {
    /// Its name.
    pub name: &'static str,
    /// Its types.
    pub types: &'static [&'static str],
    /// Whether every document has it.
    pub is_required: bool,
}

/// The fields of a collection that have a fixed type. All others are allowed, too: providers add fields.
#[derive(Debug, Clone, Copy)]
pub struct CollectionFields {
    /// The collection.
    pub collection: &'static str,
    /// Its fields.
    pub fields: &'static [SchemaField],
}

const STRING: &[&str] = &["string"];
const INT: &[&str] = &["int"];
const LONG: &[&str] = &["long"];
const DATE: &[&str] = &["date"];
const BOOLEAN: &[&str] = &["bool"];
const DOCUMENT: &[&str] = &["object"];
const ARRAY: &[&str] = &["array"];
const NESTED: &[&str] = &["object", "array", "string"];

const fn required(name: &'static str, types: &'static [&'static str]) -> SchemaField {
    SchemaField {
        name,
        types,
        is_required: true,
    }
}

const fn optional(name: &'static str, types: &'static [&'static str]) -> SchemaField {
    SchemaField {
        name,
        types,
        is_required: false,
    }
}

/// Every collection that callbacks write to.
pub const FIELDS: &[CollectionFields] = &[
    CollectionFields {
        collection: collection::MESSAGES,
        fields: MESSAGES,
    },
    CollectionFields {
        collection: collection::READ_MARKS,
        fields: READ_MARKS,
    },
    CollectionFields {
        collection: collection::PRESENCE,
        fields: PRESENCE,
    },
    CollectionFields {
        collection: collection::EVENTS,
        fields: EVENTS,
    },
    CollectionFields {
        collection: collection::DEAD_LETTERS,
        fields: DEAD_LETTERS,
    },
];

/// A recall or an edit may leave a document before its message arrives, so only what these write is required.
const MESSAGES: &[SchemaField] = &[
    required("_id", STRING),
    required("app", STRING),
    required("provider", STRING),
    required("to", STRING),
    optional("eventType", INT),
    optional("convType", STRING),
    optional("fromAccount", STRING),
    optional("fromNick", STRING),
    optional("fromDeviceId", STRING),
    optional("fromClientType", STRING),
    optional("msgType", STRING),
    optional("body", STRING),
    optional("msgidClient", STRING),
    optional("msgidServer", STRING),
    optional("resendFlag", STRING),
    optional("msgTimestamp", LONG),
    optional("sentAt", DATE),
    optional("attach", NESTED),
    optional("ext", NESTED),
    optional("yidunRes", NESTED),
    optional("aiParams", NESTED),
    optional("tMembers", ARRAY),
    optional("antispam", BOOLEAN),
    optional("blacklist", BOOLEAN),
    optional("state", INT),
    optional("readAt", DATE),
    optional("conversation", STRING),
    optional("orderId", STRING),
    optional("countsInTeam", BOOLEAN),
    optional("joined", ARRAY),
    optional("recall", DOCUMENT),
    optional("edits", ARRAY),
    optional("originalBody", STRING),
    optional("receivedAt", DATE),
    optional("extra", DOCUMENT),
];

const READ_MARKS: &[SchemaField] = &[
    required("_id", DOCUMENT),
    optional("app", STRING),
    optional("reader", STRING),
    optional("peer", STRING),
    optional("team", STRING),
    required("readUpTo", LONG),
    optional("updatedAt", DATE),
];

const PRESENCE: &[SchemaField] = &[
    required("_id", STRING),
    required("app", STRING),
    required("account", STRING),
    required("state", STRING),
    optional("provider", STRING),
    optional("device", STRING),
    optional("deviceId", &["string", "null"]),
    optional("clientType", STRING),
    optional("since", DATE),
    optional("loginAt", DATE),
    optional("logoutAt", DATE),
    optional("logoutReason", STRING),
    optional("plainLogoutAt", DATE),
    optional("plainLogoutReason", STRING),
    optional("heartbeatAt", DATE),
    optional("lastEventTime", LONG),
    optional("lastEventAt", DATE),
];

const EVENTS: &[SchemaField] = &[
    required("_id", STRING),
    required("app", STRING),
    required("provider", STRING),
    required("kind", STRING),
    required("receivedAt", DATE),
    required("payload", DOCUMENT),
    optional("product", STRING),
    optional("eventType", &["int", "string"]),
    optional("accid", STRING),
    optional("fromAccount", STRING),
    optional("toAccount", STRING),
    optional("from", STRING),
    optional("to", STRING),
    optional("ackAccid", STRING),
    optional("operator", STRING),
    optional("timestamp", LONG),
    optional("deleteTime", LONG),
    optional("at", DATE),
];

const DEAD_LETTERS: &[SchemaField] = &[
    required("_id", STRING),
    required("app", STRING),
    required("provider", STRING),
    required("code", STRING),
    required("reason", STRING),
    required("path", STRING),
    required("body", &["string", "binData"]),
    required("receivedAt", DATE),
    optional("route", STRING),
    optional("query", STRING),
    optional("headers", DOCUMENT),
    optional("product", STRING),
];
