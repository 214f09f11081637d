//! The provider's names: message types and their weight, conversations, and the types of parameters.

use std::borrow::Cow;

use super::Weight;
use crate::callback::columns::Value;
use crate::callback::event::Class;
use crate::callback::json::{Json, RawValue, nested, scalar, view};

/// "I have read your messages" (单聊已读回执).
pub const READ: &str = "RC:ReadNtf";
/// "Who has read this?", a request in a group.
pub const RECEIPT_REQUEST: &str = "RC:RRReqMsg";
/// "I have read these", the answer in a group.
pub const RECEIPT_RESPONSE: &str = "RC:RRRspMsg";
/// What a user has read, sent to the user's other devices.
pub const READ_SYNC: &str = "RC:SRSMsg";
/// A message is recalled.
pub const RECALL: &str = "RC:RcCmd";

/// The weight of the provider's own message types, from its SDK's table (spec, section 2.5), since no callback
/// contains it. `None` for types that are not the provider's, or are newer than the table.
pub fn weight(object_name: &str) -> Option<Weight> {
    Some(match object_name {
        "RC:TxtMsg"
        | "RC:ImgMsg"
        | "RC:VcMsg"
        | "RC:HQVCMsg"
        | "RC:ImgTextMsg"
        | "RC:FileMsg"
        | "RC:LBSMsg"
        | "RC:SightMsg"
        | "RC:GIFMsg"
        | "RC:PSImgTxtMsg"
        | "RC:PSMultiImgTxtMsg"
        | "RC:CombineMsg"
        | "RC:CombineV2Msg"
        | "RC:ReferenceMsg"
        | "RC:StreamMsg"
        | "RC:RLStart"
        | "RC:RLEnd"
        | "RCJrmf:RpMsg"
        | "RCJrmf:RpOpendMsg" => Weight::Counted,
        "RC:InfoNtf" | "RC:ContactNtf" | "RC:ProfileNtf" | "RC:CmdNtf" | "RC:GrpNtf"
        | "RC:RcNtf" | RECALL => Weight::Stored,
        READ
        | RECEIPT_REQUEST
        | RECEIPT_RESPONSE
        | READ_SYNC
        | "RC:RRMsg"
        | "RC:TypSts"
        | "RC:CmdMsg"
        | "RC:PSCmd"
        | "RC:MsgExMsg"
        | "RC:Delivered"
        | "RC:LogCmdMsg"
        | "RC:InterceptMsg"
        | "RC:chrmKVNotiMsg"
        | "RC:RLJoin"
        | "RC:RLQuit"
        | "RC:RL"
        | "RC:CCConfigChangeRequestMsg" => Weight::Status,
        // Customer service and calls. A voice message, `RC:VcMsg`, is neither.
        other if other.starts_with("RC:Cs") || other.starts_with("RC:VC") => Weight::Status,
        _ => return None,
    })
}

/// Whether `content` in the JSON of this type is a thumbnail or a sound in base64, and not text.
pub fn has_binary_content(object_name: &str) -> bool {
    matches!(
        object_name,
        "RC:ImgMsg" | "RC:VcMsg" | "RC:SightMsg" | "RC:LBSMsg"
    )
}

/// A kind of conversation (`channelType`, `conversationType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Its messages are stored as messages of this class.
    Class(Class),
    /// Everything in it is stored as an event of this kind.
    Recorded(&'static str),
}

impl Channel {
    /// Parses the name, in any case, or its number.
    pub fn parse(sent: &str) -> Self {
        match sent.trim().to_ascii_uppercase().as_str() {
            "PERSON" | "1" => Self::Class(Class::P2p),
            // A discussion is a small group.
            "PERSONS" | "2" | "GROUP" | "3" => Self::Class(Class::Team),
            "ULTRAGROUP" | "10" => Self::Class(Class::SuperTeam),
            "NOTIFY" | "6" => Self::Class(Class::CustomPerson),
            "TEMPGROUP" | "4" => Self::Recorded("chatroom_message"),
            // Includes CUSTOMERSERVICE (5), MC (7) and MP (8).
            _ => Self::Recorded("unknown_conversation"),
        }
    }
}

/// The event kind of a recall.
pub fn recall_kind(class: Class) -> &'static str {
    match class {
        Class::P2p | Class::CustomPerson => "recall",
        Class::Team | Class::SuperTeam | Class::CustomTeam => "team_recall",
    }
}

/// The name under which a recall's time is stored with its message. One recall may come both as a command in the
/// conversation (`msgTimestamp`) and as an operation (`optTime`); with one name, the earlier time is kept.
pub const RECALL_TIME: &str = "msgTimestamp";

/// A field of a recall, in the type in which it is stored.
pub fn of_recall<'a>(name: &str, raw: Cow<'a, RawValue>) -> Value<'a> {
    match name {
        "isAdmin" | "isDelete" => Value::flag(raw),
        "sentTime" | "optTime" => Value::int(raw),
        "channelId" | "extra" | "source" => Value::text(raw),
        _ => Value::Json(raw),
    }
}

/// A parameter of a message, in the type in which it is stored.
pub fn typed<'a>(name: &str, raw: Cow<'a, RawValue>) -> Value<'a> {
    match name {
        "msgTimestamp" | "timestamp" => Value::int(raw),
        "content" => Value::nested(raw),
        "aiGenerated" => Value::flag(raw),
        "groupUserIds" => match ids(&raw) {
            Some(ids) => Value::Texts(ids),
            None => Value::Json(raw),
        },
        _ => Value::text(raw),
    }
}

/// User ids: repeated parameters, or a list in one parameter, as JSON or as `[ann, bob]`, which is not JSON.
fn ids(raw: &RawValue) -> Option<Vec<String>> {
    match view(&nested(raw)) {
        Json::Array(items) => {
            let lists = items.iter().map(|item| Some(listed(&scalar(item)?)));
            Some(lists.collect::<Option<Vec<_>>>()?.concat())
        }
        Json::Text(text) => Some(listed(&text)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
    }
}

/// The ids in `[ann, bob]`; a text without brackets is one id.
fn listed(text: &str) -> Vec<String> {
    let text = text.trim();
    let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ids: Vec<_> = match list {
        Some(list) => list.split(',').map(str::trim).collect(),
        None => vec![text],
    };
    let ids = ids.into_iter().filter(|id| !id.is_empty());
    ids.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_providers_table_tells_the_weight_of_its_types() {
        let table = [
            (
                Weight::Counted,
                "TxtMsg ImgMsg VcMsg HQVCMsg ImgTextMsg FileMsg LBSMsg SightMsg GIFMsg PSImgTxtMsg \
                 PSMultiImgTxtMsg CombineMsg CombineV2Msg ReferenceMsg StreamMsg RLStart RLEnd",
            ),
            (
                Weight::Stored,
                "InfoNtf ContactNtf ProfileNtf CmdNtf GrpNtf RcNtf RcCmd",
            ),
            (
                Weight::Status,
                "ReadNtf RRReqMsg RRRspMsg RRMsg SRSMsg TypSts CmdMsg PSCmd MsgExMsg Delivered LogCmdMsg \
                 InterceptMsg chrmKVNotiMsg RLJoin RLQuit RL CsHs CsEnd VCInvite VCHangup \
                 CCConfigChangeRequestMsg",
            ),
        ];
        for (expected, names) in table {
            for name in names.split_whitespace() {
                assert_eq!(weight(&format!("RC:{name}")), Some(expected), "{name}");
                assert_eq!(weight(name), None, "{name}");
            }
        }
        assert_eq!(weight("RCJrmf:RpMsg"), Some(Weight::Counted));
        assert_eq!(weight("RCJrmf:RpOpendMsg"), Some(Weight::Counted));
        for other in ["app:order", "RC:NewMsg", "rc:txtmsg", "RC:cs", ""] {
            assert_eq!(weight(other), None, "{other}");
        }
    }

    #[test]
    fn conversations_are_words_in_any_case_or_numbers() {
        for (sent, expected) in [
            ("PERSON 1 person", Channel::Class(Class::P2p)),
            ("PERSONS 2 GROUP 3 group", Channel::Class(Class::Team)),
            ("ULTRAGROUP 10 UltraGroup", Channel::Class(Class::SuperTeam)),
            ("NOTIFY 6", Channel::Class(Class::CustomPerson)),
            ("TEMPGROUP 4", Channel::Recorded("chatroom_message")),
            (
                "CUSTOMERSERVICE 5 MC 7 MP 8 0 9 11 01 X",
                Channel::Recorded("unknown_conversation"),
            ),
        ] {
            for sent in sent.split_whitespace() {
                assert_eq!(Channel::parse(sent), expected, "{sent}");
            }
        }
    }

    #[test]
    fn lists_of_users_are_lists_however_they_are_sent() {
        let list = |json: &str| {
            let raw = RawValue::from_string(json.to_owned()).expect("test JSON");
            ids(&raw)
        };
        let two = || Some(vec!["543".to_owned(), "567".to_owned()]);
        for json in [
            r#"["543","567"]"#,
            r#""[543,567]""#,
            r#""[\"543\", \"567\"]""#,
            r#"["[543]","567"]"#,
            "[543,567]",
        ] {
            assert_eq!(list(json), two(), "{json}");
        }
        let names = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(list(r#""[Ann, bob]""#), names(&["Ann", "bob"]));
        assert_eq!(list(r#""[0543,00]""#), names(&["0543", "00"]));
        assert_eq!(list(r#""543""#), names(&["543"]));
        assert_eq!(list(r#""""#), names(&[]));
        assert_eq!(list(r#""[]""#), names(&[]));
        assert_eq!(list(r#"[{"a":1}]"#), None);
    }
}
