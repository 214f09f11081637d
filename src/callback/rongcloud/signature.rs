//! The signature of a callback.
//!
//! The provider sends a nonce, the time of signing, and `signature = hex(sha1(AppSecret + nonce + time))` of the
//! texts as they are sent. Their names depend on the product and its age (spec, section 2.3): in the query
//! `nonce`, `signTimestamp` or `timestamp`, `signature` and sometimes `appKey`; or in headers, `RC-Nonce` and so
//! on, which audit results send without `RC-`. Some bodies have a `timestamp` of their own, so a body is never
//! searched for the signature. All comparisons are in constant time.
//!
//! Neither the body nor the rest of the query is covered: anyone who has seen one signature can send forged bodies
//! as long as it is fresh.

use std::borrow::Cow;

use hex::FromHex;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use url::form_urlencoded;

use super::Rongcloud;
use crate::callback::credentials::{in_millis, is_fresh};
use crate::callback::fields::digest;
use crate::callback::ids::Millis;
use crate::callback::{Envelope, Head, Signed, VerifyError};

/// The query parameter with the app's key.
const APP_KEY: &str = "appKey";
/// The query parameter with the nonce.
const NONCE: &str = "nonce";
/// The query parameter with the time of signing.
const SIGN_TIMESTAMP: &str = "signTimestamp";
/// The query parameter with the time of signing if `signTimestamp` is absent.
const TIMESTAMP: &str = "timestamp";
/// The query parameter with the signature.
const SIGNATURE: &str = "signature";
/// A header that is stored with a dead letter.
const CONTENT_TYPE: &str = "content-type";

/// The names of one set of signature headers.
struct HeaderNames {
    app_key: &'static str,
    nonce: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

/// The known sets, in the order in which they are tried.
const HEADERS: [HeaderNames; 2] = [
    HeaderNames {
        app_key: "RC-App-Key",
        nonce: "RC-Nonce",
        timestamp: "RC-Timestamp",
        signature: "RC-Signature",
    },
    HeaderNames {
        app_key: "App-Key",
        nonce: "Nonce",
        timestamp: "Timestamp",
        signature: "Signature",
    },
];

/// The value of a parameter that is given twice, as for headers: it is present, and equals no expected value.
const GIVEN_TWICE: &str = "\u{fffd}";

/// Milliseconds in a day.
const DAY: i64 = 24 * 60 * 60 * 1000;

fn make(secret: &str, nonce: &str, timestamp: &str) -> [u8; 20] {
    Sha1::new()
        .chain_update(secret)
        .chain_update(nonce)
        .chain_update(timestamp)
        .finalize()
        .into()
}

/// Whether a request has a signature, by any of its names.
pub fn is_there(head: &Head<'_>) -> bool {
    let mut headers = HEADERS.iter();
    parameter(head.query, SIGNATURE).is_some()
        || headers.any(|names| (head.header)(names.signature).is_some())
}

/// The signature and its parameters, unchanged.
struct RongcloudParameters<'r> {
    app_key: Option<Cow<'r, str>>,
    nonce: Cow<'r, str>,
    timestamp: Cow<'r, str>,
    signature: Cow<'r, str>,
}

impl<'r> RongcloudParameters<'r> {
    /// Takes all from the query if it has a signature, otherwise from the first set of headers that has one. Sets
    /// are never mixed.
    fn find(head: &Head<'r>) -> Result<Self, VerifyError> {
        let found = match parameter(head.query, SIGNATURE) {
            Some(signature) => Self::in_query(head.query, signature),
            None => HEADERS
                .iter()
                .find_map(|names| Some((names, (head.header)(names.signature)?)))
                .and_then(|(names, signature)| Self::in_headers(head, names, signature)),
        };
        found.ok_or(VerifyError::MissingSignature)
    }

    /// Whether a time in seconds may be the end of an earlier one in milliseconds, whose first digits were moved into
    /// the nonce. Nothing separates the two in what is signed, so the signature of `5` and `1771795000000` is also
    /// valid for `5177` and `1795000000`, nine months later. Of a thousand nonces of digits, some seven look so by
    /// chance.
    fn may_be_shifted(&self, now: Millis) -> bool {
        const TWO_YEARS: i64 = 2 * 365 * 24 * 60 * 60 * 1000;
        let seconds = &*self.timestamp;
        let moved = self.nonce.len().checked_sub(3);
        let moved = moved.and_then(|at| self.nonce.get(at..));
        let whole = moved.and_then(|moved| format!("{moved}{seconds}").parse::<i64>().ok());
        seconds.len() == 10
            && whole.is_some_and(|whole| (-DAY..=TWO_YEARS).contains(&(now.get() - whole)))
    }

    fn in_query(query: &'r str, signature: Cow<'r, str>) -> Option<Self> {
        Some(Self {
            app_key: parameter(query, APP_KEY),
            nonce: parameter(query, NONCE)?,
            timestamp: parameter(query, SIGN_TIMESTAMP).or_else(|| parameter(query, TIMESTAMP))?,
            signature,
        })
    }

    fn in_headers(head: &Head<'r>, names: &HeaderNames, signature: &'r str) -> Option<Self> {
        let header = |name| (head.header)(name).map(Cow::Borrowed);
        Some(Self {
            app_key: header(names.app_key),
            nonce: header(names.nonce)?,
            timestamp: header(names.timestamp)?,
            signature: signature.into(),
        })
    }
}

/// A parameter of a query, percent-decoded.
fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(n, _)| n == name);
    let (_, value) = values.next()?;
    Some(match values.next() {
        Some(_) => GIVEN_TWICE.into(),
        None => value,
    })
}

/// A query without the parameters of the signature.
fn unsigned(query: &str) -> String {
    let signing = [APP_KEY, NONCE, SIGN_TIMESTAMP, TIMESTAMP, SIGNATURE];
    let parameters = form_urlencoded::parse(query.as_bytes());
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters.filter(|(name, _)| !signing.contains(&&**name)))
        .finish()
}

impl Rongcloud {
    /// Checks a request. `now` is for the freshness window.
    ///
    /// # Errors
    /// [`VerifyError::MissingSignature`], [`VerifyError::AppKeyDiffers`], [`VerifyError::SignatureDiffers`] and
    /// [`VerifyError::NotFresh`]; the body must then not be used.
    pub fn verify(&self, head: &Head<'_>, now: Millis) -> Result<Envelope, VerifyError> {
        let sent = RongcloudParameters::find(head)?;
        let app_key = sent.app_key.as_deref();
        if app_key.is_some_and(|key| !self.credentials.has_app_key(key)) {
            return Err(VerifyError::AppKeyDiffers);
        }
        let signature =
            <[u8; 20]>::from_hex(&*sent.signature).map_err(|_| VerifyError::SignatureDiffers)?;
        let is_signed = self
            .credentials
            .any(|secret| make(secret, &sent.nonce, &sent.timestamp).ct_eq(&signature));
        if !is_signed {
            return Err(VerifyError::SignatureDiffers);
        }
        // The documents specify milliseconds; older ones, and one capture, have seconds.
        // No time begins with a zero, unless digits were moved into the nonce.
        let time = Some(&*sent.timestamp).filter(|time| !time.starts_with('0'));
        let signed_at = time.and_then(|time| time.parse().ok()).map(in_millis);
        if !is_fresh(self.freshness, signed_at, now)
            || (self.freshness.is_some() && sent.may_be_shifted(now))
        {
            return Err(VerifyError::NotFresh);
        }
        let envelope = Envelope {
            query: unsigned(head.query).into(),
            ..Envelope::default()
        };
        Ok(envelope.with_header(CONTENT_TYPE, (head.header)(CONTENT_TYPE)))
    }

    /// Signs a body: the query, and the header with the body's type. The nonce is derived from the body, because
    /// nothing here is random.
    pub fn sign(&self, body: &[u8], now: Millis) -> Signed {
        let timestamp = now.get().to_string();
        let nonce = &digest(body)[..16];
        let signature = make(self.credentials.newest(), nonce, &timestamp);
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair(APP_KEY, &self.credentials.app_key)
            .append_pair(NONCE, nonce)
            .append_pair(SIGN_TIMESTAMP, &timestamp)
            .append_pair(SIGNATURE, &hex::encode(signature))
            .finish();
        let content_type = match body {
            [b'{' | b'[', ..] => "application/json",
            _ => "application/x-www-form-urlencoded",
        };
        Signed {
            query,
            headers: vec![("Content-Type", content_type.to_owned())],
            ..Signed::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{RongcloudRules, Weight};
    use super::*;
    use crate::callback::Credentials;

    /// The provider's own example (docs.rongcloud.cn/im/server/signature).
    const KEY: &str = "uwd1c0sxdlx2";
    const SECRET: &str = "Y1W2MeFwwwRxa0";
    const TIME: &str = "1408710653000";
    const SIGNED: &str = "30be0bbca9c9b2e27578701e9fda2358a814c88f";
    /// Of the same secret and nonce at 1408710653491, by `openssl sha1`.
    const SIGNED_LATER: &str = "dd11a264276f438b045b3b236a2741ddc89d48df";
    /// What another page of the provider prints for that; it was not made with this secret.
    const MISPRINTED: &str = "45beb7cc7307889a8e711219a47b7cf6a5b000e8";
    /// Of the same secret and nonce at 1408710653, in seconds, by `openssl sha1`.
    const SIGNED_IN_SECONDS: &str = "3f7088873939e033bac1c1787eff5f3ba3a1c2d8";

    fn app(secrets: &[&str], freshness: Option<Duration>) -> Rongcloud {
        Rongcloud {
            credentials: Credentials {
                app_key: KEY.to_owned(),
                secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
            },
            freshness,
            rules: RongcloudRules {
                types: Default::default(),
                other_types: Weight::Counted,
                order_id: None,
            },
        }
    }

    fn verify(
        app: &Rongcloud,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Envelope, VerifyError> {
        let header = |name: &str| {
            let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| *value)
        };
        let head = Head {
            method: "POST",
            path: "",
            query,
            header: &header,
        };
        // 100 s after `TIME`.
        app.verify(&head, Millis::nearest(1_408_710_753_000))
    }

    fn check(query: &str, headers: &[(&str, &str)]) -> Result<(), VerifyError> {
        verify(&app(&["another", SECRET], None), query, headers).map(drop)
    }

    #[test]
    fn known_signatures_are_accepted_and_the_misprinted_one_is_not() {
        let later = "1408710653491";
        for (time, signature, expected) in [
            (TIME, SIGNED, Ok(())),
            (later, SIGNED_LATER, Ok(())),
            (later, MISPRINTED, Err(VerifyError::SignatureDiffers)),
            ("1408710653", SIGNED_IN_SECONDS, Ok(())),
        ] {
            let query = format!("nonce=14314&signTimestamp={time}&signature={signature}");
            assert_eq!(check(&query, &[]), expected, "{query}");
        }
        assert_eq!(hex::encode(make(SECRET, "14314", TIME)), SIGNED);
    }

    #[test]
    fn every_naming_of_the_signature_is_accepted() {
        let upper = SIGNED.to_uppercase();
        for query in [
            format!("appKey={KEY}&signTimestamp={TIME}&nonce=14314&signature={SIGNED}"),
            format!("nonce=14314&timestamp={TIME}&signature={upper}"),
            format!("timestamp=1&nonce=%31%34314&signTimestamp={TIME}&signature={SIGNED}"),
        ] {
            assert_eq!(check(&query, &[]), Ok(()), "{query}");
        }
        for prefix in ["RC-", "", "rc-"] {
            let name = |name: &str| format!("{prefix}{name}");
            let (key, nonce) = (name("App-Key"), name("Nonce"));
            let (time, signature) = (name("Timestamp"), name("Signature"));
            let headers = [
                (&*nonce, "14314"),
                (&*time, TIME),
                (&*signature, SIGNED),
                (&*key, KEY),
            ];
            assert_eq!(check("", &headers), Ok(()), "{prefix}");
            assert_eq!(check("nonce=1&timestamp=2", &headers[..3]), Ok(()));
            let wrong = [headers[0], headers[1], headers[2], (&*key, "other")];
            assert_eq!(check("", &wrong), Err(VerifyError::AppKeyDiffers));
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        use VerifyError::{AppKeyDiffers, MissingSignature, SignatureDiffers};
        let right = format!("nonce=14314&signTimestamp={TIME}&signature={SIGNED}");
        let short = &SIGNED[..38];
        for (query, expected) in [
            (String::new(), MissingSignature),
            (
                format!("nonce=14314&signTimestamp={TIME}"),
                MissingSignature,
            ),
            (format!("nonce=14314&signature={SIGNED}"), MissingSignature),
            (
                format!("timestamp={TIME}&signature={SIGNED}"),
                MissingSignature,
            ),
            (format!("appKey=other&{right}"), AppKeyDiffers),
            (format!("appKey=&{right}"), AppKeyDiffers),
            (format!("appKey={KEY}&appKey={KEY}&{right}"), AppKeyDiffers),
            (format!("nonce=14314&{right}"), SignatureDiffers),
            (format!("signTimestamp={TIME}&{right}"), SignatureDiffers),
            (format!("signature={SIGNED}&{right}"), SignatureDiffers),
            (
                format!("nonce=14315&signTimestamp={TIME}&signature={SIGNED}"),
                SignatureDiffers,
            ),
            (
                format!(
                    "nonce=14314&signTimestamp=1408710653001&timestamp={TIME}&signature={SIGNED}"
                ),
                SignatureDiffers,
            ),
            (
                format!("nonce=14314&signTimestamp={TIME}&signature={short}"),
                SignatureDiffers,
            ),
            (
                format!("nonce=14314&signTimestamp={TIME}&signature="),
                SignatureDiffers,
            ),
        ] {
            assert_eq!(check(&query, &[]), Err(expected), "{query}");
        }
        let one_secret = app(&["another"], None);
        let refused = verify(&one_secret, &right, &[]).map(drop);
        assert_eq!(refused, Err(SignatureDiffers));
    }

    #[test]
    fn parameters_and_headers_are_not_mixed() {
        let (nonce, time) = (("RC-Nonce", "14314"), ("RC-Timestamp", TIME));
        let headers = [nonce, time, ("RC-Signature", SIGNED)];
        let wrong = format!("signature={}", MISPRINTED);
        assert_eq!(check(&wrong, &headers), Err(VerifyError::MissingSignature));
        let wrong = format!("nonce=14314&timestamp={TIME}&signature={MISPRINTED}");
        assert_eq!(check(&wrong, &headers), Err(VerifyError::SignatureDiffers));
        let mixed = [nonce, time, ("Signature", SIGNED)];
        assert_eq!(check("", &mixed), Err(VerifyError::MissingSignature));
    }

    #[test]
    fn a_freshness_window_refuses_what_is_outside_it() {
        let millis = format!("nonce=14314&timestamp={TIME}&signature={SIGNED}");
        let seconds = format!("nonce=14314&timestamp=1408710653&signature={SIGNED_IN_SECONDS}");
        for query in [millis, seconds] {
            for (seconds, expected) in [(100, Ok(())), (99, Err(VerifyError::NotFresh))] {
                let app = app(&[SECRET], Some(Duration::from_secs(seconds)));
                assert_eq!(verify(&app, &query, &[]).map(drop), expected, "{query}");
            }
        }
    }

    #[test]
    fn the_envelope_keeps_no_signature() {
        let query = format!(
            "a=1%262&nonce=14314&appKey={KEY}&timestamp=1&signTimestamp={TIME}&%E4%BD%A0=x+y&signature={SIGNED}"
        );
        let headers = [("Content-Type", "text/x"), ("Authorization", "secret")];
        let kept = verify(&app(&[SECRET], None), &query, &headers).expect("a signed request");
        let expected = Envelope {
            query: "a=1%262&%E4%BD%A0=x+y".into(),
            ..Envelope::default()
        };
        assert_eq!(kept, expected.with_header("content-type", Some("text/x")));
    }

    #[test]
    fn our_own_signatures_are_accepted() {
        let app = app(&[SECRET, "previous"], Some(Duration::ZERO));
        let now = Millis::nearest(1_408_710_753_000);
        for (body, content_type) in [
            (&b"a=1"[..], "application/x-www-form-urlencoded"),
            (b"[{}]", "application/json"),
            (b"{}", "application/json"),
            (b"", "application/x-www-form-urlencoded"),
        ] {
            let signed = app.sign(body, now);
            assert!(signed.query.starts_with("appKey=uwd1c0sxdlx2&nonce="));
            assert_eq!(signed.headers, [("Content-Type", content_type.to_owned())]);
            assert_eq!(verify(&app, &signed.query, &[]).map(drop), Ok(()));
        }
        assert_ne!(app.sign(b"a", now).query, app.sign(b"b", now).query);
    }

    /// Nothing separates nonce and time in what is signed, so a captured query can be cut in another place.
    #[test]
    fn milliseconds_that_are_passed_off_as_seconds_are_refused() {
        let minute = Some(Duration::from_secs(60));
        let query = |nonce: &str, time: &str| {
            let signature = hex::encode(make(SECRET, nonce, time));
            format!("nonce={nonce}&timestamp={time}&signature={signature}")
        };
        // `verify` says that now is 1408710753 s.
        let real = query("14314", "1381408710753");
        let cut = query("14314138", "1408710753");
        let signature = |query: &str| query.rsplit('=').next().map(str::to_owned);
        assert_eq!(signature(&real), signature(&cut));
        let app = app(&[SECRET], minute);
        assert_eq!(
            verify(&app, &cut, &[]).map(drop),
            Err(VerifyError::NotFresh)
        );
        // The same with a zero in front, which parsing would ignore.
        let zero = query("143141801", "01408710753");
        assert_eq!(
            verify(&app, &zero, &[]).map(drop),
            Err(VerifyError::NotFresh)
        );
        // None of these is a time of the last two years.
        for nonce in [
            "14314",
            "a",
            "14314038",
            "1431413x",
            "819344537",
            "14314101",
            "14314190",
        ] {
            let genuine = query(nonce, "1408710753");
            assert_eq!(verify(&app, &genuine, &[]).map(drop), Ok(()), "{nonce}");
        }
    }
}
