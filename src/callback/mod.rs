//! Verifying and decoding callbacks, by provider.
//!
//! Nothing in this folder does I/O, reads a clock, or depends on HTTP or MongoDB; `tests/tidy.rs` checks that. A
//! callback passes through its types in this order:
//!
//! [`RawCallback`] (untrusted bytes) → [`Provider::verify`] → [`VerifiedCallback`] (the only type with a body to
//! decode) → [`Provider::decode`] → [`Decoded`] events, with typed [`columns`].
//!
//! Each provider has a folder. The rest of the program uses only [`Provider`], except that `config/apps.rs` and
//! `cli/client.rs` build the providers' settings.

pub mod columns;
mod credentials;
pub mod derived;
mod digest_headers;
pub mod event;
mod fields;
pub mod ids;
pub mod json;
pub mod netease;
mod order;
pub mod presence;
mod provider;
mod received;
pub mod rongcloud;
pub mod wildfire;
pub mod yuntongxun;

pub use credentials::Credentials;
pub use event::{Decoded, Event};
pub use order::OrderIdAt;
pub use provider::{Provider, ProviderName, Reply, Signed, VerifyError, looks_signed};
pub use received::{Envelope, Origin, Received};

/// The head of a request as it was received. Nothing in it is trusted yet.
#[derive(Clone, Copy)]
pub struct Head<'r> {
    /// The method, in capitals.
    pub method: &'r str,
    /// The path below the app's address, with its slash. Empty if the request goes to the app itself.
    pub path: &'r str,
    /// The query string, without its `?`.
    pub query: &'r str,
    /// Looks up a header by its case-insensitive name.
    pub header: &'r dyn Fn(&str) -> Option<&'r str>,
}

/// One HTTP request as it was received.
pub struct RawCallback<'r> {
    /// Its head.
    pub head: Head<'r>,
    /// Its body, unchanged: signatures cover these bytes, not a parsed form of them.
    pub body: &'r [u8],
}

/// A callback that is proven to come from the provider.
///
/// Only [`Provider::verify`] makes one from a request (the fields are private), so an unverified body cannot be
/// decoded. A callback that was verified earlier comes back by [`VerifiedCallback::kept`], which `tests/tidy.rs`
/// allows in one place.
///
/// ```compile_fail,E0451
/// let forged = im_callback::callback::VerifiedCallback { body: b"{}", envelope: Default::default() };
/// ```
pub struct VerifiedCallback<'r> {
    body: &'r [u8],
    envelope: Envelope,
}

impl<'r> VerifiedCallback<'r> {
    /// A callback that was verified when it was received, and comes back from the spool or a dead letter. Its
    /// signature is not stored, since the secret may have been replaced.
    pub fn kept(received: &'r Received) -> Self {
        Self {
            body: &received.body,
            envelope: received.envelope.clone(),
        }
    }

    /// The body, unchanged.
    pub fn body(&self) -> &'r [u8] {
        self.body
    }

    /// The other parts of the request that decoding needs.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}
