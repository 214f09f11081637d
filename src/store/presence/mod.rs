//! Presence: which devices of an account are online.
//!
//! - `statement` merges an event into its device's document. The document has three facts, each a maximum: the last
//!   login, the last logout with its reason, and the last heartbeat. That of a kind of client has a fourth, the last
//!   logout that is no kick. All else is derived from them, so neither order nor repetition matters.
//! - `query` reads the newest devices of some accounts, and never more of an account than a limit, however many
//!   documents it has.
//! - `state` is the one place that says what the documents mean together: which device a logout without a device's id is
//!   about, and when nobody can know whether a device is online.

mod query;
mod state;
mod statement;

use std::time::Duration;

pub use query::newest_devices;
pub use state::{DevicePresence, MOST_DEVICES, PresenceState, UserPresence};
pub(super) use statement::presence_change;

/// What is configured of presence.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// The age of a device's last login or heartbeat beyond which nobody knows whether it is still online.
    pub unknown_after: Duration,
}
