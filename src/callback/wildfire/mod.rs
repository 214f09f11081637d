//! Wildfire IM (野火IM): event callbacks (事件回调), one address for each kind of event.
//!
//! The provider signs nothing, so a callback is proven by a secret segment of the path, an allowlist of addresses,
//! or both. No body names its kind of event; the path after the secret, the *route*, does. `route` checks the
//! path, [`decode()`] decodes bodies, [`wire`] contains the provider's names and the types of its fields. (Spec,
//! section 1; the provider's receiver `IMCallbackController.java` in wildfirechat/app-server.)

mod decode;
mod route;
mod rules;
#[cfg(test)]
mod tests;
pub mod wire;

use super::{Credentials, Reply};

pub use decode::{change_keys, decode, receipt_keys};
pub use rules::WildfireRules;

/// An app at the provider.
#[derive(Debug)]
pub struct Wildfire {
    /// The secrets are path segments, because the provider signs nothing; without any, the app's allowlist of
    /// addresses is its only protection. There is no key.
    pub credentials: Credentials,
    /// Its settings for decoding.
    pub rules: WildfireRules,
}

/// Empty: for its synchronous hook (`sensitive.remote_server_url`) the provider would send the body instead of the
/// message.
pub const REPLY: Reply = Reply {
    content_type: None,
    body: "",
};

/// Whether the provider forgets a callback after a response with this status. It looks at no status itself; its
/// HTTP client (OkHttp) repeats a request once after 408, and after a 503 that asks for an immediate retry, which
/// this service never sends.
pub fn takes_as_delivered(status: u16) -> bool {
    status != 408
}
