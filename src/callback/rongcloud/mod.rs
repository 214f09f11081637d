//! RongCloud (融云): routed messages (全量消息路由), operations on messages (消息操作状态同步), and online statuses (用户在线状态).
//!
//! [`signature`] verifies a callback, [`decode()`] recognizes a body by its shape; `route` decodes routed
//! messages, `operation` operations, and `types` contains the provider's names. Section numbers in comments refer
//! to the provider notes that the project was built from; the facts that matter are repeated where they are used.

mod decode;
mod operation;
mod route;
mod rules;
pub mod signature;
mod types;

use std::time::Duration;

use super::{Credentials, Reply};

pub use decode::decode;
pub use operation::change_keys;
pub use rules::{RongcloudRules, Weight, held_back};

/// An app at the provider.
#[derive(Debug)]
pub struct Rongcloud {
    /// `App-Key` and its secrets.
    pub credentials: Credentials,
    /// How far the time of signing may be from now, in either direction; `None` accepts any time. The signature
    /// does not cover the body: without a window, anyone who has seen one signed query could send forged bodies
    /// forever.
    pub freshness: Option<Duration>,
    /// Its settings for decoding.
    pub rules: RongcloudRules,
}

/// The reply of the provider's own receiver. The provider only looks at the status.
pub const REPLY: Reply = Reply {
    content_type: Some("text/plain; charset=utf-8"),
    body: "ok",
};
