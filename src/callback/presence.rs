//! What events say of an account's devices.

use std::borrow::Cow;

use super::ids::{Account, Millis};

/// What an event says of a device.
#[derive(Debug)]
pub struct Presence {
    /// The device's account.
    pub account: Account,
    /// The device's id; empty if the provider does not send it.
    pub device_id: String,
    /// The kind of client, by its upper-case name such as `IOS`; empty if unknown.
    pub client_type: String,
    /// What happened.
    pub change: PresenceChange,
    /// When. The newest of a device's events wins.
    pub at: Millis,
}

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceChange {
    /// It went online.
    Login,
    /// It went offline, and why, if that is known.
    Logout(Option<LogoutReason>),
    /// It was still online.
    Heartbeat,
}

/// Why a device went offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutReason {
    /// Its user logged out.
    Logout,
    /// Its connection ended.
    Disconnected,
    /// Another device of the account took its place.
    KickedByDevice,
    /// The provider or the app's server ended its connection.
    KickedByPolicy,
    /// A number of the provider's that is not documented.
    Other(i32),
}

impl LogoutReason {
    /// The stored word for [`LogoutReason::KickedByDevice`].
    pub const KICKED_BY_DEVICE: &'static str = "kicked_by_device";

    /// The word that is stored. A number that is not documented stays a number.
    pub fn word(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Logout => "logout",
            Self::Disconnected => "disconnected",
            Self::KickedByDevice => Self::KICKED_BY_DEVICE,
            Self::KickedByPolicy => "kicked_by_policy",
            Self::Other(number) => return Cow::Owned(number.to_string()),
        })
    }
}
