//! What a callback means: verification and decoding, by provider.
//!
//! Nothing in this folder does I/O, reads a clock, or knows HTTP or MongoDB; `tests/tidy.rs` holds
//! that. The way through it is the order of its types:
//!
//! [`RawCallback`] (bytes nobody trusts) → a provider's verifier, such as [`netease::Verifier`] →
//! [`VerifiedCallback`] (the only type with a body to decode) → [`Decoded`] events.

pub mod event;
pub mod ids;
pub mod json;
pub mod netease;

pub use event::{Decoded, Event};

/// One HTTP request as it came. Nothing in it is trusted yet.
pub struct RawCallback<'r> {
    /// The request's body, byte for byte: signatures cover these bytes, not a parsed form of them.
    pub body: &'r [u8],
    /// Looks a header up by name, whatever the name's case. `None` when it is absent.
    pub header: &'r dyn Fn(&str) -> Option<&'r str>,
}

/// A callback whose signature is right.
///
/// Only a provider's verifier makes one of a request (the fields are private), so a body that nobody
/// signed cannot be decoded. What was verified once and kept since comes back by
/// [`VerifiedCallback::kept`], which `tests/tidy.rs` allows in one place.
///
/// ```compile_fail,E0451
/// let forged = im_callback::callback::VerifiedCallback { body: b"{}", product: None };
/// ```
pub struct VerifiedCallback<'r> {
    body: &'r [u8],
    product: Option<&'r str>,
}

impl<'r> VerifiedCallback<'r> {
    /// A callback that was verified when it came, and has been kept since in the spool or as a dead
    /// letter. Its signature is not kept: the secret that made it may have been replaced.
    pub fn kept(body: &'r [u8], product: Option<&'r str>) -> Self {
        Self { body, product }
    }

    /// The body, byte for byte as it was signed.
    pub fn body(&self) -> &'r [u8] {
        self.body
    }

    /// The `type` header, by which some products that share an address tell themselves apart.
    /// It is not covered by the signature, so nothing but a label may depend on it.
    pub fn product(&self) -> Option<&'r str> {
        self.product
    }
}
