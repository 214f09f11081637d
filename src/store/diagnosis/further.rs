//! What else the doctor says of MongoDB: options, version and disk.

use std::time::Duration;

use bytesize::ByteSize;
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions};
use tokio::time::timeout;

use super::login::Login;
use crate::check::Check;

pub(super) const OPTIONS: &str = "mongodb.options";
pub(super) const VERSION: &str = "mongodb.version";
pub(super) const DISK: &str = "mongodb.disk";

/// How long each of these questions waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Options of the connection string that contradict what the service does.
pub(super) fn of_options(options: &ClientOptions) -> Check {
    let concern = options.write_concern.clone().unwrap_or_default();
    let is_majority = matches!(concern.w, None | Some(Acknowledgment::Majority));
    if !is_majority || concern.journal == Some(false) {
        return Check::warning(
            OPTIONS,
            "mongodb.uri sets a write concern (w, journal), which callbacks do not follow: they always wait for a majority and its journal",
            "remove w and journal from mongodb.uri",
        );
    }
    if options.direct_connection == Some(true) {
        return Check::warning(
            OPTIONS,
            "mongodb.uri has directConnection=true, so the service does not find another primary after a fail-over",
            "write replicaSet=NAME instead, with all members' addresses",
        );
    }
    Check::ok(OPTIONS, "nothing in mongodb.uri contradicts the service")
}

/// A command's reply, if there is one in time.
async fn told(login: &Login, database: Option<&str>, command: Document) -> Option<Document> {
    let database = match database {
        Some(name) => &login.database.client().database(name),
        None => &login.database,
    };
    let asked = async { database.run_command(command).await };
    timeout(PATIENCE, asked).await.ok()?.ok()
}

pub(super) async fn version(login: &Login) -> Check {
    let reply = told(login, Some("admin"), doc! { "buildInfo": 1 }).await;
    let Some(version) = reply
        .as_ref()
        .and_then(|reply| reply.get_str("version").ok())
    else {
        return Check::not_checked(VERSION, "MongoDB does not tell its version");
    };
    let ask = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
    // Most users lack the right to ask, and it is seldom of interest.
    let compatible = told(login, Some("admin"), ask).await;
    let compatible = compatible.and_then(|reply| {
        let parameter = reply.get_document("featureCompatibilityVersion").ok()?;
        parameter.get_str("version").ok().map(str::to_owned)
    });
    of_version(version, compatible.as_deref())
}

fn of_version(version: &str, compatible: Option<&str>) -> Check {
    let major = |version: &str| version.split('.').next()?.parse::<u32>().ok();
    let way_out = "update MongoDB to 6.0 or later";
    match (major(version), compatible.and_then(major)) {
        (Some(..6), _) => Check::error(
            VERSION,
            format!(
                "MongoDB {version} is too old: edits of messages need $sortArray, which came after 5.0"
            ),
            way_out,
        ),
        (_, Some(..6)) => Check::warning(
            VERSION,
            format!(
                "MongoDB {version} behaves as {} (featureCompatibilityVersion)",
                compatible.unwrap_or_default()
            ),
            "run setFeatureCompatibilityVersion when no older member is left",
        ),
        (Some(6), _) => Check::ok(VERSION, format!("MongoDB {version}")),
        _ => Check::ok(
            VERSION,
            format!("MongoDB {version}; the service is tested with 6.0"),
        ),
    }
}

/// How much is free on the disk of MongoDB's primary, if it may be asked.
pub(super) async fn disk(login: &Login) -> Option<Check> {
    let reply = told(login, None, doc! { "dbStats": 1 }).await?;
    let bytes = |name: &str| {
        let number = reply.get(name)?;
        let bytes = number
            .as_f64()
            .or_else(|| number.as_i64().map(|n| n as f64));
        bytes
            .or_else(|| number.as_i32().map(f64::from))
            .map(|n| n as u64)
    };
    // Zero while the database does not exist.
    let total = bytes("fsTotalSize").filter(|total| *total > 0)?;
    Some(of_disk(total, bytes("fsUsedSize")?))
}

fn of_disk(total: u64, used: u64) -> Check {
    let free = total.saturating_sub(used);
    let found = format!(
        "{} of {} free at MongoDB's primary",
        ByteSize(free),
        ByteSize(total)
    );
    if free < total / 20 {
        return Check::warning(
            DISK,
            found,
            "make room, or set a retention: with a full disk MongoDB stops, and callbacks fill the spool",
        );
    }
    Check::ok(DISK, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckResult;

    #[test]
    fn versions_are_judged_by_what_the_service_uses() {
        let result = |version, compatible| of_version(version, compatible).result;
        assert_eq!(result("4.4.29", None), CheckResult::Error);
        assert_eq!(result("5.0.1", Some("5.0")), CheckResult::Error);
        assert_eq!(result("6.0.5", Some("6.0")), CheckResult::Ok);
        assert_eq!(result("6.0.5", Some("5.0")), CheckResult::Warning);
        assert_eq!(result("8.0.0", None), CheckResult::Ok);
    }

    #[test]
    fn a_nearly_full_disk_is_a_warning() {
        assert_eq!(of_disk(1000, 940).result, CheckResult::Ok);
        assert_eq!(of_disk(1000, 960).result, CheckResult::Warning);
    }
}
