//! The signature of a callback.
//!
//! The provider sends `MD5`, the digest of the body; `CurTime`, milliseconds since 1970 in decimal;
//! `CheckSum`, `sha1(AppSecret + MD5 + CurTime)` over the three texts; and mostly `AppKey`. Both
//! digests are checked: `CheckSum` alone leaves the body open to exchange, `MD5` alone proves nothing.
//! All hashing is over the raw bytes and all comparing in constant time.

use std::time::Duration;

use hex::FromHex;
use md5::Md5;
use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};
use subtle::{Choice, ConstantTimeEq};

use crate::callback::ids::Millis;
use crate::callback::{RawCallback, VerifiedCallback};

/// The header with the body's digest.
pub const MD5: &str = "MD5";
/// The header with the signature.
pub const CHECKSUM: &str = "CheckSum";
/// The header with the time of signing.
pub const CUR_TIME: &str = "CurTime";
/// The header with the application's key; not every copy has it.
pub const APP_KEY: &str = "AppKey";
/// The header by which other products on the same address name themselves; not signed.
pub const PRODUCT: &str = "type";

/// The signature headers of one callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Lower-case hex.
    pub md5: String,
    /// Lower-case hex.
    pub checksum: String,
    /// Milliseconds since 1970, in decimal.
    pub cur_time: String,
}

/// Signs a body as the provider does.
pub fn sign(body: &[u8], secret: &SecretString, cur_time: Millis) -> Signature {
    let md5 = hex::encode(Md5::digest(body));
    let cur_time = cur_time.get().to_string();
    let checksum = hex::encode(checksum(secret, &md5, &cur_time));
    Signature {
        md5,
        checksum,
        cur_time,
    }
}

fn checksum(secret: &SecretString, md5: &str, cur_time: &str) -> [u8; 20] {
    Sha1::new()
        .chain_update(secret.expose_secret())
        .chain_update(md5)
        .chain_update(cur_time)
        .finalize()
        .into()
}

/// Checks callbacks of one app.
#[derive(Debug)]
pub struct Verifier {
    /// The application's key at the provider.
    pub app_key: String,
    /// The live secrets: any of them may have signed, so that a secret can be replaced without a
    /// moment in which callbacks are refused.
    pub secrets: Vec<SecretString>,
    /// How far `CurTime` may be from now, either way. `None` takes any time, since a late redelivery
    /// is legitimate and a replay changes nothing.
    pub freshness: Option<Duration>,
}

/// Why a callback is not the provider's. No variant carries a value of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A signature header is absent; the field is its name.
    #[error("the header `{0}` is missing")]
    MissingHeader(&'static str),
    /// `AppKey` is present and is not this app's.
    #[error("the header `AppKey` is not this app's key")]
    AppKeyDiffers,
    /// `MD5` is not the digest of the body that came.
    #[error("the header `MD5` is not the body's digest")]
    Md5Differs,
    /// No live secret makes this `CheckSum`.
    #[error("the header `CheckSum` was made with none of the app's secrets")]
    CheckSumDiffers,
    /// The signature is right and older, or further in the future, than the app's window allows.
    #[error("the header `CurTime` is outside the app's freshness window")]
    NotFresh,
}

/// The signature headers as they came.
struct Sent<'r> {
    md5: &'r str,
    checksum: &'r str,
    cur_time: &'r str,
}

impl Verifier {
    /// Checks what can be checked before the body is there: `CheckSum` covers `MD5`, not the body itself.
    /// Who has no secret fails here, so that large bodies need not be taken from strangers.
    ///
    /// # Errors
    /// [`VerifyError`], and never [`VerifyError::Md5Differs`].
    pub fn verify_head<'r>(
        &self,
        header: &dyn Fn(&str) -> Option<&'r str>,
        now: i64,
    ) -> Result<(), VerifyError> {
        self.check_signed(&self.sent(header)?, now)
    }

    /// Checks headers and body; `now`, in milliseconds since 1970, matters to a freshness window.
    ///
    /// # Errors
    /// [`VerifyError`]; the body must then not be looked at.
    pub fn verify<'r>(
        &self,
        raw: &RawCallback<'r>,
        now: i64,
    ) -> Result<VerifiedCallback<'r>, VerifyError> {
        let sent = self.sent(raw.header)?;
        let md5: [u8; 16] = Md5::digest(raw.body).into();
        let sent_digest = <[u8; 16]>::from_hex(sent.md5).map_err(|_| VerifyError::Md5Differs)?;
        if !bool::from(md5.ct_eq(&sent_digest)) {
            return Err(VerifyError::Md5Differs);
        }
        self.check_signed(&sent, now)?;
        Ok(VerifiedCallback {
            body: raw.body,
            product: (raw.header)(PRODUCT),
        })
    }

    fn sent<'r>(&self, header: &dyn Fn(&str) -> Option<&'r str>) -> Result<Sent<'r>, VerifyError> {
        let needed = |name| header(name).ok_or(VerifyError::MissingHeader(name));
        let sent = Sent {
            md5: needed(MD5)?,
            checksum: needed(CHECKSUM)?,
            cur_time: needed(CUR_TIME)?,
        };
        if let Some(app_key) = header(APP_KEY)
            && !bool::from(app_key.as_bytes().ct_eq(self.app_key.as_bytes()))
        {
            return Err(VerifyError::AppKeyDiffers);
        }
        Ok(sent)
    }

    /// Whether one of the secrets made the `CheckSum`, and recently enough.
    fn check_signed(&self, sent: &Sent<'_>, now: i64) -> Result<(), VerifyError> {
        let sent_checksum =
            <[u8; 20]>::from_hex(sent.checksum).map_err(|_| VerifyError::CheckSumDiffers)?;
        // Where a sender or a proxy changed the case of `MD5`, the signature may cover either
        // spelling; both name the same digest.
        let lower = sent.md5.to_ascii_lowercase();
        let spellings = if lower == sent.md5 {
            &[lower.as_str()][..]
        } else {
            &[lower.as_str(), sent.md5][..]
        };
        let mut signed = Choice::from(0);
        for secret in &self.secrets {
            for md5 in spellings {
                signed |= checksum(secret, md5, sent.cur_time).ct_eq(&sent_checksum);
            }
        }
        if !bool::from(signed) {
            return Err(VerifyError::CheckSumDiffers);
        }

        if let Some(window) = self.freshness {
            let sent: i64 = sent.cur_time.parse().map_err(|_| VerifyError::NotFresh)?;
            if u128::from(sent.abs_diff(now)) > window.as_millis() {
                return Err(VerifyError::NotFresh);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";
    const CUR_TIME_VALUE: &str = "1440570500855";

    /// Body, MD5 and CheckSum, made with `openssl` by `scripts/signature-vectors.sh`, not by this code.
    const VECTORS: &[(&[u8], &str, &str)] = &[
        (
            include_bytes!("../../../tests/samples/netease/001_person_text.json"),
            "976c63dc4263a5cf82d53daa435be67c",
            "dc0a041e40e61518275ab8e45cea383b99f355ce",
        ),
        (
            include_bytes!("../../../tests/samples/netease/030_p2p_read_receipt.json"),
            "f919daaf576a891f85cba7090067b243",
            "252fb95af3feacfd5c11666bc9fd7b1a4cb19058",
        ),
        (
            include_bytes!("../../../tests/samples/netease/007_recall_p2p.json"),
            "1b9700a072a1aaf128c63a2ad8399ed5",
            "718a971f970d4aebe50653f5a53721f0403e73cb",
        ),
        (
            b"",
            "d41d8cd98f00b204e9800998ecf8427e",
            "e8ca37becd4d890c1527d6b374061e4eb42c98c3",
        ),
        (
            b"{}",
            "99914b932bd37a50b983c5e7c90ae93b",
            "69953b05a3d9ff44ce9f06780b23fff7705b892e",
        ),
        (
            "{\"eventType\":\"1\",\"body\":\"你好 👋\"}".as_bytes(),
            "eea8259467615edf8bbce516ecccf860",
            "d358c9a5a7af193059d9dec10334c8fbbb1e8ca0",
        ),
        (
            b"\x00\xff not JSON\r\n",
            "730c808af9a1c42317a0c2f31cdc8f7c",
            "5081a52a0a10d3f01b176ffb6b248925401e5569",
        ),
    ];

    fn verifier() -> Verifier {
        Verifier {
            app_key: "key".to_owned(),
            secrets: vec!["another".into(), SECRET.into()],
            freshness: None,
        }
    }

    fn check(
        verifier: &Verifier,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<(), VerifyError> {
        let header = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| *v)
        };
        let raw = RawCallback {
            body,
            header: &header,
        };
        let now = 1_440_570_600_000;
        let verified = verifier.verify(&raw, now);
        // The head alone says the same of all but the body.
        let head = verifier.verify_head(&header, now);
        match &verified {
            Ok(verified) => assert_eq!((verified.body(), head), (body, Ok(()))),
            Err(VerifyError::Md5Differs) => {}
            Err(error) => assert_eq!(head, Err(*error)),
        }
        verified.map(|_| ())
    }

    #[test]
    fn known_signatures_are_made_and_accepted() {
        for (body, md5, checksum) in VECTORS {
            let made = sign(
                body,
                &SECRET.into(),
                Millis::new(1_440_570_500_855).expect("a time"),
            );
            assert_eq!(
                (made.md5.as_str(), made.checksum.as_str()),
                (*md5, *checksum)
            );
            let headers = [
                (MD5, *md5),
                (CHECKSUM, checksum),
                (CUR_TIME, CUR_TIME_VALUE),
            ];
            assert_eq!(check(&verifier(), body, &headers), Ok(()));
        }
    }

    #[test]
    fn hex_of_either_case_is_accepted() {
        let (body, md5, checksum) = VECTORS[0];
        let (upper_md5, upper_sum) = (md5.to_uppercase(), checksum.to_uppercase());
        let headers = [
            (MD5, upper_md5.as_str()),
            (CHECKSUM, &upper_sum),
            (CUR_TIME, CUR_TIME_VALUE),
        ];
        assert_eq!(check(&verifier(), body, &headers), Ok(()));
        // The other reading: the signature covers the upper-case text that was sent.
        // printf %s 0123456789abcdef976C63DC4263A5CF82D53DAA435BE67C1440570500855 | openssl sha1
        let headers = [
            (MD5, upper_md5.as_str()),
            (CHECKSUM, "0e9ebfa606484462b1f75f997caf09de2e7320cc"),
            (CUR_TIME, CUR_TIME_VALUE),
        ];
        assert_eq!(check(&verifier(), body, &headers), Ok(()));
    }

    #[test]
    fn each_fault_has_its_error() {
        let (body, md5, sum) = VECTORS[0];
        let other_md5 = VECTORS[1].1;
        let time = CUR_TIME_VALUE;
        type Case<'c> = (&'c [u8], &'c [(&'c str, &'c str)], VerifyError);
        let cases: &[Case<'_>] = &[
            (
                body,
                &[(CHECKSUM, sum), (CUR_TIME, time)],
                VerifyError::MissingHeader(MD5),
            ),
            (
                body,
                &[(MD5, md5), (CUR_TIME, time)],
                VerifyError::MissingHeader(CHECKSUM),
            ),
            (
                body,
                &[(MD5, md5), (CHECKSUM, sum)],
                VerifyError::MissingHeader(CUR_TIME),
            ),
            (
                body,
                &[
                    (MD5, md5),
                    (CHECKSUM, sum),
                    (CUR_TIME, time),
                    (APP_KEY, "other"),
                ],
                VerifyError::AppKeyDiffers,
            ),
            (
                b"{}",
                &[(MD5, md5), (CHECKSUM, sum), (CUR_TIME, time)],
                VerifyError::Md5Differs,
            ),
            (
                body,
                &[(MD5, other_md5), (CHECKSUM, sum), (CUR_TIME, time)],
                VerifyError::Md5Differs,
            ),
            (
                body,
                &[(MD5, "zz"), (CHECKSUM, sum), (CUR_TIME, time)],
                VerifyError::Md5Differs,
            ),
            (
                body,
                &[(MD5, ""), (CHECKSUM, sum), (CUR_TIME, time)],
                VerifyError::Md5Differs,
            ),
            (
                body,
                &[(MD5, md5), (CHECKSUM, sum), (CUR_TIME, "1440570500856")],
                VerifyError::CheckSumDiffers,
            ),
            (
                body,
                &[(MD5, md5), (CHECKSUM, &sum[..38]), (CUR_TIME, time)],
                VerifyError::CheckSumDiffers,
            ),
        ];
        for (body, headers, expected) in cases {
            assert_eq!(
                check(&verifier(), body, headers),
                Err(*expected),
                "{headers:?}"
            );
        }
        let only_other = Verifier {
            secrets: vec!["another".into()],
            ..verifier()
        };
        let headers = [(MD5, md5), (CHECKSUM, sum), (CUR_TIME, time)];
        assert_eq!(
            check(&only_other, body, &headers),
            Err(VerifyError::CheckSumDiffers)
        );
    }

    #[test]
    fn a_freshness_window_refuses_what_is_outside_it() {
        let (body, md5, sum) = VECTORS[0];
        let headers = [(MD5, md5), (CHECKSUM, sum), (CUR_TIME, CUR_TIME_VALUE)];
        // `check` says that now is 99.145 s after the signature.
        for (seconds, expected) in [(100, Ok(())), (99, Err(VerifyError::NotFresh))] {
            let verifier = Verifier {
                freshness: Some(Duration::from_secs(seconds)),
                ..verifier()
            };
            assert_eq!(check(&verifier, body, &headers), expected, "{seconds} s");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", verifier()).contains(SECRET));
    }
}
