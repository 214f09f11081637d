//! What the documents of an account's devices say together, at a time. Pure.
//!
//! A logout may come without the device's id, although the login had one. So the document of a kind of client, whose
//! `deviceId` is null, is about every device of that kind: its logout puts each offline that has logged in or been heard
//! of no later. One exception: a device that was kicked was kicked by another, which may be of the same kind, and which
//! logged in shortly before. For that one the last logout that is no kick is looked at. Earlier kicks need not be: who
//! is the last to log in shortly before a kick is that before each kick between the two.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use crate::callback::ids::Millis;
use crate::callback::presence::LogoutReason;

/// The most devices of a user that are shown.
pub const MOST_DEVICES: usize = 20;

/// How long after a login the provider tells of the device that was kicked by it.
const KICKED_WITHIN: Duration = Duration::from_secs(60);

/// Whether a user or a device is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PresenceState {
    /// It is.
    Online,
    /// It was never seen, or was last seen online too long ago.
    Unknown,
    /// It is not.
    Offline,
}

/// What is known of a user.
#[derive(Debug, PartialEq, Eq)]
pub struct UserPresence {
    /// Online if a device is; otherwise unknown if a device is, or none was ever seen.
    pub state: PresenceState,
    /// Since when; `None` if unknown.
    pub since: Option<Millis>,
    /// The time of the last event of any device.
    pub last_seen: Option<Millis>,
    /// The devices, at most [`MOST_DEVICES`]: those online first, then the unknown ones, and the newest first of each.
    pub devices: Vec<DevicePresence>,
}

/// What is known of a device.
#[derive(Debug, PartialEq, Eq)]
pub struct DevicePresence {
    /// Its kind of client; empty if unknown.
    pub client_type: String,
    /// Its id; `None` if its events name none.
    pub device_id: Option<String>,
    /// Whether it is online.
    pub state: PresenceState,
    /// Since when; `None` if unknown.
    pub since: Option<Millis>,
    /// The time of its last event.
    pub last_seen: Millis,
    /// Why it went offline, if it is and the provider said so.
    pub logout_reason: Option<String>,
}

/// A device, as stored: the facts, each the last of its kind.
#[derive(Debug, Clone)]
pub struct StoredDevice {
    pub client_type: String,
    pub device_id: Option<String>,
    pub login: Option<Millis>,
    pub heartbeat: Option<Millis>,
    pub logout: Option<StoredLogout>,
}

/// A logout, as stored.
#[derive(Debug, Clone)]
pub struct StoredLogout {
    pub at: Millis,
    pub reason: Option<String>,
}

/// The logouts of a kind of client that came without a device's id.
#[derive(Debug)]
pub struct LogoutsOfKind {
    /// The last.
    pub last: StoredLogout,
    /// The last that is no kick by another device.
    pub plain: Option<StoredLogout>,
}

/// The newest devices of an account.
#[derive(Debug, Default)]
pub struct StoredDevices {
    pub devices: Vec<StoredDevice>,
    /// By kind of client.
    pub logouts_of_kinds: HashMap<String, LogoutsOfKind>,
    /// Whether there are more devices that may be online.
    pub is_truncated: bool,
}

impl StoredDevices {
    /// What the devices mean now.
    pub fn presence(&self, now: Millis, unknown_after: Duration) -> UserPresence {
        let read = |device| self.device(device, now, unknown_after);
        let mut devices: Vec<_> = self.devices.iter().map(read).collect();
        devices.sort_by(|a, b| {
            let key = |device: &DevicePresence| (device.state, Reverse(device.last_seen));
            let names =
                |device: &DevicePresence| (device.client_type.clone(), device.device_id.clone());
            key(a).cmp(&key(b)).then_with(|| names(a).cmp(&names(b)))
        });
        let state = match devices.first().map(|first| first.state) {
            // Those that were not read may be online.
            Some(PresenceState::Offline) if self.is_truncated => PresenceState::Unknown,
            Some(state) => state,
            None => PresenceState::Unknown,
        };
        let of_state = devices.iter().filter(|device| device.state == state);
        let since = of_state.filter_map(|device| device.since);
        let user = UserPresence {
            state,
            since: match state {
                PresenceState::Online => since.min(),
                PresenceState::Offline => since.max(),
                PresenceState::Unknown => None,
            },
            last_seen: devices.iter().map(|device| device.last_seen).max(),
            devices: Vec::new(),
        };
        devices.truncate(MOST_DEVICES);
        UserPresence { devices, ..user }
    }

    fn device(
        &self,
        device: &StoredDevice,
        now: Millis,
        unknown_after: Duration,
    ) -> DevicePresence {
        let of_kind = self.logout_of_kind(device);
        let at = |logout: Option<&StoredLogout>| logout.map(|logout| logout.at);
        let seen = device.seen();
        // A device that was offline already is not the one that a later logout of its kind is about.
        let ended_by = if !device.is_online() {
            device.logout.as_ref()
        } else {
            of_kind.filter(|logout| Some(logout.at) >= seen)
        };
        let (state, since) = match (ended_by, seen) {
            (Some(logout), _) => (PresenceState::Offline, Some(logout.at)),
            (None, Some(seen)) if is_within(seen, now, unknown_after) => {
                let before = at(device.logout.as_ref()).max(at(of_kind));
                let login = device.login.filter(|login| Some(*login) > before);
                (PresenceState::Online, login.or(device.heartbeat))
            }
            (None, _) => (PresenceState::Unknown, None),
        };
        let last_seen = at(ended_by).max(seen).unwrap_or(Millis::nearest(0));
        DevicePresence {
            client_type: device.client_type.clone(),
            device_id: device.device_id.clone(),
            state,
            since,
            last_seen,
            logout_reason: ended_by.and_then(|logout| logout.reason.clone()),
        }
    }

    /// The last logout of the device's kind that may be about this device.
    fn logout_of_kind(&self, device: &StoredDevice) -> Option<&StoredLogout> {
        device.device_id.as_ref()?;
        let LogoutsOfKind { last, plain } = self.logouts_of_kinds.get(&device.client_type)?;
        match self.has_kicked(device, last) {
            true => plain.as_ref(),
            false => Some(last),
        }
    }

    /// Whether this device is the one that kicked the device which this logout is about: the last of its kind to log in
    /// until then, and shortly before.
    fn has_kicked(&self, device: &StoredDevice, logout: &StoredLogout) -> bool {
        if logout.reason.as_deref() != Some(LogoutReason::KICKED_BY_DEVICE) {
            return false;
        }
        let of_kind = self
            .devices
            .iter()
            .filter(|other| other.device_id.is_some() && other.client_type == device.client_type);
        let logins = of_kind.filter_map(|other| other.login);
        let last = logins.filter(|login| *login <= logout.at).max();
        let is_last = device.login.is_some() && device.login == last;
        is_last && last.is_some_and(|login| is_within(login, logout.at, KICKED_WITHIN))
    }
}

impl StoredDevice {
    /// Whether the device is online by its own document.
    pub fn is_online(&self) -> bool {
        self.seen() > self.logout.as_ref().map(|logout| logout.at)
    }

    /// When the device was last known to be online.
    fn seen(&self) -> Option<Millis> {
        self.login.max(self.heartbeat)
    }
}

/// Whether the earlier time is at most so long before the later one. A clock that is ahead makes nothing old.
fn is_within(earlier: Millis, later: Millis, most: Duration) -> bool {
    let age = u128::try_from(later.get() - earlier.get());
    age.is_ok_and(|age| age <= most.as_millis()) || earlier > later
}
