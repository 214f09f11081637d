//! Yuntongxun (容联云通讯): message copies (消息抄送). The provider publishes their signature, but not their bodies.
//!
//! A callback is verified by the published formula, `CheckSum = MD5(AppId + AppToken + MD5 + CurTime)`, and its
//! body is stored whole as one event of the kind `raw`. Decoding fields would be guessing, and a wrong guess could
//! make a count wrong. Nothing is lost: once real bodies are known, stored ones can be decoded. (The provider's
//! pages: console.yuntongxun.com/doc/sdk/server/2_5_1_13.html.)

#[cfg(test)]
mod tests;

use std::time::Duration;

use hex::FromHex;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::columns::{Columns, Value};
use super::credentials::{in_millis, is_fresh};
use super::digest_headers::{CHECKSUM, CUR_TIME, DigestHeaders, MD5};
use super::event::{Decoded, Effect, Event, EventType, Product, Record};
use super::fields::digest;
use super::ids::{Millis, natural_key};
use super::{
    Credentials, Envelope, Head, RawCallback, Reply, Signed, VerifiedCallback, VerifyError,
};

/// An app at the provider.
#[derive(Debug)]
pub struct Yuntongxun {
    /// `AppId` as the key, `AppToken` as the secret.
    pub credentials: Credentials,
    /// How far `CurTime` may be from now, in either direction; `None` accepts any time.
    pub freshness: Option<Duration>,
}

/// The provider requires status 200 and nothing else.
pub const REPLY: Reply = Reply {
    content_type: None,
    body: "",
};

/// Decodes a body: one event of the kind `raw`.
pub fn decode<'r>(callback: &'r VerifiedCallback<'_>) -> Decoded<'r> {
    let body = callback.body();
    if body.trim_ascii().is_empty() {
        return Decoded::default();
    }
    let mut payload = Columns::default();
    payload.push(
        "body",
        match std::str::from_utf8(body) {
            Ok(text) => Value::Text(text.into()),
            Err(_) => Value::Bytes(body.into()),
        },
    );
    let headers = [("contentType", CONTENT_TYPE), ("curTime", CUR_TIME_KEPT)];
    for (name, header) in headers {
        if let Some(value) = callback.envelope().header(header) {
            payload.push(name, Value::Text(value.into()));
        }
    }
    Event::Record(Record {
        key: natural_key(["raw", &digest(body)]),
        product: Product::Im,
        event_type: EventType::Word("raw".to_owned()),
        kind: "raw",
        accounts: Vec::new(),
        at: None,
        payload,
        effect: Effect::None,
    })
    .into()
}

/// The names under which headers are stored.
const CONTENT_TYPE: &str = "content-type";
const CUR_TIME_KEPT: &str = "curtime";

impl Yuntongxun {
    /// Checks everything that does not need the body.
    ///
    /// # Errors
    /// [`VerifyError`], but never [`VerifyError::Md5Differs`].
    pub fn verify_head(&self, head: &Head<'_>, now: Millis) -> Result<(), VerifyError> {
        self.check_signed(&DigestHeaders::find(head)?, now)
    }

    /// Checks headers and body. That `MD5` is the body's digest is not documented, but otherwise the signature
    /// would not cover the body.
    ///
    /// # Errors
    /// [`VerifyError`]; the body must then not be used.
    pub fn verify(&self, raw: &RawCallback<'_>, now: Millis) -> Result<Envelope, VerifyError> {
        let sent = DigestHeaders::find(&raw.head)?;
        sent.check_body(raw.body)?;
        self.check_signed(&sent, now)?;
        let envelope = Envelope {
            query: raw.head.query.into(),
            ..Envelope::default()
        };
        Ok(envelope
            .with_header(CONTENT_TYPE, (raw.head.header)(CONTENT_TYPE))
            .with_header(CUR_TIME_KEPT, Some(sent.cur_time)))
    }

    /// Checks that one of the secrets yields the `CheckSum`, and that the signature is fresh. The unit of
    /// `CurTime` is not published, so both seconds and milliseconds are accepted.
    fn check_signed(&self, sent: &DigestHeaders<'_>, now: Millis) -> Result<(), VerifyError> {
        let checksum =
            <[u8; 16]>::from_hex(sent.checksum).map_err(|_| VerifyError::ChecksumDiffers)?;
        let app_id = &self.credentials.app_key;
        let is_signed = self.credentials.any(|token| {
            sent.any_spelling(|md5| make(app_id, token, md5, sent.cur_time).ct_eq(&checksum))
        });
        if !is_signed {
            return Err(VerifyError::ChecksumDiffers);
        }
        if !is_fresh(
            self.freshness,
            sent.cur_time.parse().ok().map(in_millis),
            now,
        ) {
            return Err(VerifyError::NotFresh);
        }
        Ok(())
    }

    /// Signs a body: the headers for it.
    pub fn sign(&self, body: &[u8], now: Millis) -> Signed {
        let cur_time = now.get().to_string();
        let md5 = hex::encode(Md5::digest(body));
        let (app_id, token) = (&self.credentials.app_key, self.credentials.newest());
        let checksum = hex::encode(make(app_id, token, &md5, &cur_time));
        Signed {
            headers: vec![
                ("Content-Type", "application/json".to_owned()),
                (CUR_TIME, cur_time),
                (MD5, md5),
                (CHECKSUM, checksum),
            ],
            ..Signed::default()
        }
    }
}

fn make(app_id: &str, token: &str, md5: &str, cur_time: &str) -> [u8; 16] {
    Md5::new()
        .chain_update(app_id)
        .chain_update(token)
        .chain_update(md5)
        .chain_update(cur_time)
        .finalize()
        .into()
}
