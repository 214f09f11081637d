//! The answers about dead letters as JSON. The command `im-callback dead-letters` prints the same.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::dead_letters::{DeadLetter, Heading};

/// A page of dead letters, the newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadLetterPage<'l> {
    /// The dead letters, without their bodies.
    pub dead_letters: Vec<DeadLetterHead<'l>>,
    /// The `before` of the next page; `null` on the last page.
    #[schema(required)]
    pub next: Option<String>,
}

/// A dead letter without its body.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterHead<'l> {
    /// The app and the digest of the callback.
    #[schema(example = "otc/0a1b2c")]
    id: &'l str,
    /// The app that the callback was for.
    app: &'l str,
    /// Why it is here, for programs.
    #[schema(example = "not_json")]
    code: &'l str,
    /// Why it is here, for people.
    reason: &'l str,
    /// The place in the body.
    path: &'l str,
    /// The app's provider.
    provider: &'l str,
    /// The kind of callback, of a provider whose path says it.
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'l str,
    /// The query string, of a provider that signs in it.
    #[serde(skip_serializing_if = "str::is_empty")]
    query: &'l str,
    /// The headers that decoding needs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'l str, &'l str>,
    /// When it arrived. `null` if somebody changed it to what RFC 3339 cannot say.
    #[schema(format = DateTime, required)]
    received_at: Option<String>,
}

impl<'l> From<&'l Heading> for DeadLetterHead<'l> {
    fn from(heading: &'l Heading) -> Self {
        let headers = heading.envelope.headers.iter();
        Self {
            id: &heading.id,
            app: &heading.app,
            code: &heading.code,
            reason: &heading.reason,
            path: &heading.path,
            provider: &heading.provider,
            route: &heading.envelope.route,
            query: &heading.envelope.query,
            headers: headers.map(|(name, value)| (&**name, &**value)).collect(),
            received_at: heading.received_at.try_to_rfc3339_string().ok(),
        }
    }
}

/// A dead letter with its body: as text, or in hexadecimal if it is not UTF-8.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WholeDeadLetter<'l> {
    /// All but the body.
    #[serde(flatten)]
    head: DeadLetterHead<'l>,
    /// The body, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    body: Option<&'l str>,
    /// The body in hexadecimal, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    body_hex: Option<String>,
}

impl<'l> From<&'l DeadLetter> for WholeDeadLetter<'l> {
    fn from(dead_letter: &'l DeadLetter) -> Self {
        let text = std::str::from_utf8(&dead_letter.received.body).ok();
        Self {
            head: DeadLetterHead::from(&dead_letter.heading),
            body: text,
            body_hex: text
                .is_none()
                .then(|| hex::encode(&dead_letter.received.body)),
        }
    }
}

/// The outcome of an operation on a dead letter.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterOutcome<'l> {
    /// The dead letter's id.
    pub id: &'l str,
    /// `stored` or `dropped`.
    pub outcome: &'static str,
}
