//! NetEase Yunxin (网易云信, NIM): message copies (消息抄送).
//!
//! [`signature`] verifies a callback, [`decode()`] decodes its body, [`wire`] contains the provider's names and
//! the types of its fields. Section numbers in comments refer to the provider notes that the project was built
//! from; the facts that matter are repeated where they are used.

mod decode;
mod effects;
mod parts;
mod rules;
pub mod signature;
pub mod wire;

use std::time::Duration;

use super::ids::Account;
use super::{Credentials, Reply};

pub use decode::decode;
pub use effects::{change_keys, receipt_keys};
pub use rules::{NeteaseRules, held_back};

/// An app at the provider.
#[derive(Debug)]
pub struct Netease {
    /// Its key and secrets.
    pub credentials: Credentials,
    /// How far `CurTime` may be from now, in either direction. `None` accepts any time, since late redeliveries
    /// are legitimate and replays change nothing.
    pub freshness: Option<Duration>,
    /// Its settings for decoding.
    pub rules: NeteaseRules,
}

/// The reply that the provider counts as delivered.
pub const REPLY: Reply = Reply {
    content_type: Some("application/json"),
    body: r#"{"code":200}"#,
};

/// Whether the provider counts a response with this status as delivered: 200, and also 500 (spec, section 1).
pub fn takes_as_delivered(status: u16) -> bool {
    matches!(status, 200 | 500)
}

/// An `accid` in lower case. The provider lower-cases accids on its side, but copies may contain them as the
/// client spelled them (spec, section 4).
pub fn account(id: &str) -> Account {
    Account::new(id.to_lowercase())
}
