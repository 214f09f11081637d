//! Reads the newest devices of some accounts.
//!
//! An account may have thousands of documents: RongCloud has a new device id for each connection. Of each account the
//! index `account` finds the newest devices that are online by their own documents, and the newest that are not; others
//! are not read. This is one query for many accounts, in which MongoDB looks up each account by itself. What devices
//! that are online share with a kind of client, a logout without a device's id, is looked up by `_id`.

use std::collections::HashMap;

use mongodb::bson::{Document, RawArray, RawBsonRef, RawDocument, doc};
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;

use super::PresenceSettings;
use super::state::{
    LogoutsOfKind, MOST_DEVICES, StoredDevice, StoredDevices, StoredLogout, UserPresence,
};
use crate::callback::ids::{AppName, Millis, natural_key};
use crate::store::error::StoreError;
use crate::store::indexes::ACCOUNT;
use crate::store::marks::documents;
use crate::store::{Store, collection};

/// The most devices of an account that are read of those online by their own documents. A logout that was lost leaves
/// one behind.
const MOST_ONLINE: usize = 50;

/// Accounts in one query, which limits what is in memory at once.
const ACCOUNTS_AT_ONCE: usize = 100;

/// The devices by account.
type ByAccount = HashMap<String, StoredDevices>;

impl Store {
    /// What is known of these accounts now. One that was never seen is absent from the result.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or the index is not there yet.
    pub async fn presence(
        &self,
        app: &AppName,
        accounts: &[&str],
        now: Millis,
        settings: PresenceSettings,
    ) -> Result<HashMap<String, UserPresence>, StoreError> {
        let within = self.settings.query_timeout;
        let read = async {
            let mut all = HashMap::with_capacity(accounts.len());
            for some in accounts.chunks(ACCOUNTS_AT_ONCE) {
                let found = self.devices(app, some).await?;
                let presence = found.into_iter().map(|(account, devices)| {
                    (account, devices.presence(now, settings.unknown_after))
                });
                all.extend(presence);
            }
            Ok(all)
        };
        self.presence_turns.take(within, read).await
    }

    /// The newest devices of each account that has any.
    pub(in crate::store) async fn devices(
        &self,
        app: &AppName,
        accounts: &[&str],
    ) -> Result<ByAccount, StoreError> {
        let presence = self.collection(collection::PRESENCE)?;
        let query = presence
            .aggregate(newest_devices(app, accounts))
            .hint(Hint::Name(ACCOUNT.to_owned()))
            .batch_size(u32::MAX >> 1)
            .max_time(self.settings.query_timeout);
        let rows = self.all_batches(query.batch()).await?;
        let mut all = documents(&rows)
            .map(|row| account_devices(row?))
            .collect::<Option<ByAccount>>()
            .ok_or_else(unreadable)?;
        all.retain(|_, found| !found.devices.is_empty());
        self.add_logouts_of_kinds(app, &mut all).await?;
        Ok(all)
    }

    async fn add_logouts_of_kinds(
        &self,
        app: &AppName,
        all: &mut ByAccount,
    ) -> Result<(), StoreError> {
        let mut ids: Vec<String> = Vec::new();
        for (account, found) in &*all {
            let named = found.devices.iter().filter(|d| d.device_id.is_some());
            let online = named.filter(|device| device.is_online());
            ids.extend(online.map(|d| natural_key([app.as_str(), account, &d.client_type])));
        }
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let presence = self.collection(collection::PRESENCE)?;
        let find = presence
            .find(doc! { "_id": { "$in": ids }, "deviceId": null })
            .projection(fields(&["account", "plainLogoutAt", "plainLogoutReason"]))
            .hint(Hint::Name("_id_".to_owned()))
            .batch_size(u32::MAX >> 1)
            .max_time(self.settings.query_timeout);
        let batches: Vec<RawBatch> = self.batches(find).await?;
        for kind in documents(&batches) {
            let read = kind.and_then(|kind| {
                let plain = logout(kind, "plainLogoutAt", "plainLogoutReason");
                Some((kind.get_str("account").ok()?, device(kind)?, plain))
            });
            let (account, kind, plain) = read.ok_or_else(unreadable)?;
            if let (Some(found), Some(last)) = (all.get_mut(account), kind.logout) {
                let logouts = LogoutsOfKind { last, plain };
                found.logouts_of_kinds.insert(kind.client_type, logouts);
            }
        }
        Ok(())
    }
}

/// The query for the newest devices of some accounts, one row for each; public so that a test can ask for its plan. The
/// first stages make rows of accounts, for which MongoDB before 5.1 has no stage of its own; without any document of
/// the app there are none, and nothing is to be found either.
pub fn newest_devices(app: &AppName, accounts: &[&str]) -> Vec<Document> {
    let newest = |state: &str, most: usize| {
        doc! { "$lookup": {
            "from": collection::PRESENCE,
            "let": { "account": "$account" },
            "pipeline": [
                { "$match": {
                    "app": app.as_str(), "state": state, "$expr": { "$eq": ["$account", "$$account"] },
                } },
                { "$sort": { "lastEventTime": -1 } },
                { "$limit": most as i64 },
                { "$project": fields(&[]) },
            ],
            "as": state,
        } }
    };
    vec![
        doc! { "$match": { "app": app.as_str() } },
        doc! { "$limit": 1 },
        doc! { "$project": { "_id": 0, "account": { "$literal": accounts } } },
        doc! { "$unwind": "$account" },
        newest("online", MOST_ONLINE + 1),
        newest("offline", MOST_DEVICES),
    ]
}

fn fields(more: &[&str]) -> Document {
    let mut projection = doc! {
        "_id": 0, "deviceId": 1, "clientType": 1, "state": 1, "lastEventAt": 1, "loginAt": 1, "logoutAt": 1,
        "logoutReason": 1, "heartbeatAt": 1,
    };
    for name in more {
        projection.insert(*name, 1);
    }
    projection
}

fn account_devices(row: &RawDocument) -> Option<(String, StoredDevices)> {
    let account = row.get_str("account").ok()?.to_owned();
    let list = |name: &str| -> Option<Vec<StoredDevice>> {
        let list: &RawArray = row.get_array(name).ok()?;
        let devices = list.into_iter().map(|item| match item.ok()? {
            RawBsonRef::Document(item) => device(item),
            _ => None,
        });
        devices.collect()
    };
    let mut devices = list("online")?;
    let is_truncated = devices.len() > MOST_ONLINE;
    devices.truncate(MOST_ONLINE);
    devices.extend(list("offline")?);
    let found = StoredDevices {
        devices,
        is_truncated,
        ..StoredDevices::default()
    };
    Some((account, found))
}

/// A device's document, perhaps of an older version, whose only fact is its state.
fn device(document: &RawDocument) -> Option<StoredDevice> {
    let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
    let (mut login, heartbeat) = (time(document, "loginAt"), time(document, "heartbeatAt"));
    let mut logout = logout(document, "logoutAt", "logoutReason");
    if login.is_none() && heartbeat.is_none() && logout.is_none() {
        let at = time(document, "lastEventAt")?;
        if document.get_str("state").ok()? == "online" {
            login = Some(at);
        } else {
            logout = Some(StoredLogout { at, reason: None });
        }
    }
    Some(StoredDevice {
        client_type: text("clientType").unwrap_or_default(),
        device_id: text("deviceId"),
        login,
        heartbeat,
        logout,
    })
}

fn time(document: &RawDocument, name: &str) -> Option<Millis> {
    let at = document.get_datetime(name).ok()?;
    Some(Millis::nearest(at.timestamp_millis()))
}

fn logout(document: &RawDocument, at: &str, reason: &str) -> Option<StoredLogout> {
    let reason = document.get_str(reason).ok().map(str::to_owned);
    let at = time(document, at)?;
    Some(StoredLogout { at, reason })
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("a document of presence is unreadable".to_owned())
}
