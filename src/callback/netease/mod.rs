//! NetEase Yunxin (网易云信, NIM): message copies (消息抄送).
//!
//! [`signature`] proves who sent a body, [`decode()`] reads it (single fields in
//! `fields`), [`wire`] holds the provider's names.
//! Section numbers in comments are those of the provider notes the project was built from; the facts
//! that bind are restated where they are used.

mod decode;
mod fields;
pub mod signature;
pub mod wire;

pub use decode::{OrderIdAt, Rules, decode};
pub use signature::{Signature, Verifier, VerifyError, sign};
