//! The signature of a callback.
//!
//! The provider sends `MD5`, the digest of the body; `CurTime`, milliseconds since 1970 in decimal; `CheckSum`,
//! `sha1(AppSecret + MD5 + CurTime)` of the three texts; and usually `AppKey`. Both digests are checked:
//! `CheckSum` alone does not cover the body, and `MD5` alone proves nothing. Hashes are taken of the raw bytes,
//! and compared in constant time.

use hex::FromHex;
use md5::Md5;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use super::Netease;
use crate::callback::credentials::is_fresh;
use crate::callback::digest_headers::DigestHeaders;
pub use crate::callback::digest_headers::{CHECKSUM, CUR_TIME, MD5};
use crate::callback::ids::Millis;
use crate::callback::{Envelope, Head, RawCallback, Signed, VerifyError};

/// The header with the application's key; not every copy has it.
pub const APP_KEY: &str = "AppKey";
/// The header by which other products on the same address identify themselves; not signed.
pub const PRODUCT: &str = "type";

/// Signs a body as the provider does: `MD5` and `CheckSum`, both in lower-case hex.
pub fn sign(body: &[u8], secret: &str, cur_time: &str) -> (String, String) {
    let md5 = hex::encode(Md5::digest(body));
    let checksum = hex::encode(checksum(secret, &md5, cur_time));
    (md5, checksum)
}

fn checksum(secret: &str, md5: &str, cur_time: &str) -> [u8; 20] {
    Sha1::new()
        .chain_update(secret)
        .chain_update(md5)
        .chain_update(cur_time)
        .finalize()
        .into()
}

impl Netease {
    /// Checks everything that does not need the body: `CheckSum` covers `MD5`, not the body itself.
    ///
    /// # Errors
    /// [`VerifyError`], but never [`VerifyError::Md5Differs`].
    pub fn verify_head(&self, head: &Head<'_>, now: Millis) -> Result<(), VerifyError> {
        self.check_signed(&self.sent(head)?, now)
    }

    /// Checks headers and body. `now` is for the freshness window.
    ///
    /// # Errors
    /// [`VerifyError`]; the body must then not be used.
    pub fn verify(&self, raw: &RawCallback<'_>, now: Millis) -> Result<Envelope, VerifyError> {
        let sent = self.sent(&raw.head)?;
        sent.check_body(raw.body)?;
        self.check_signed(&sent, now)?;
        let envelope = Envelope {
            query: raw.head.query.into(),
            ..Envelope::default()
        };
        Ok(envelope.with_header(PRODUCT, (raw.head.header)(PRODUCT)))
    }

    fn sent<'r>(&self, head: &Head<'r>) -> Result<DigestHeaders<'r>, VerifyError> {
        let sent = DigestHeaders::find(head)?;
        let app_key = (head.header)(APP_KEY);
        if app_key.is_some_and(|key| !self.credentials.has_app_key(key)) {
            return Err(VerifyError::AppKeyDiffers);
        }
        Ok(sent)
    }

    /// Checks that one of the secrets yields the `CheckSum`, and that the signature is fresh.
    fn check_signed(&self, sent: &DigestHeaders<'_>, now: Millis) -> Result<(), VerifyError> {
        let sent_checksum =
            <[u8; 20]>::from_hex(sent.checksum).map_err(|_| VerifyError::ChecksumDiffers)?;
        let is_signed = self.credentials.any(|secret| {
            sent.any_spelling(|md5| checksum(secret, md5, sent.cur_time).ct_eq(&sent_checksum))
        });
        if !is_signed {
            return Err(VerifyError::ChecksumDiffers);
        }
        if !is_fresh(self.freshness, sent.cur_time.parse().ok(), now) {
            return Err(VerifyError::NotFresh);
        }
        Ok(())
    }

    /// Signs a body: the headers for it.
    pub fn sign(&self, body: &[u8], now: Millis) -> Signed {
        let cur_time = now.get().to_string();
        let (md5, checksum) = sign(body, self.credentials.newest(), &cur_time);
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        if !self.credentials.app_key.is_empty() {
            headers.push((APP_KEY, self.credentials.app_key.clone()));
        }
        headers.extend([(CUR_TIME, cur_time), (MD5, md5), (CHECKSUM, checksum)]);
        Signed {
            headers,
            ..Signed::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::callback::Credentials;
    use crate::callback::netease::NeteaseRules;

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

    fn with_secrets(secrets: &[&str], freshness: Option<Duration>) -> Netease {
        Netease {
            credentials: Credentials {
                app_key: "key".to_owned(),
                secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
            },
            freshness,
            rules: NeteaseRules::default(),
        }
    }

    fn verifier() -> Netease {
        with_secrets(&["another", SECRET], None)
    }

    fn check(verifier: &Netease, body: &[u8], headers: &[(&str, &str)]) -> Result<(), VerifyError> {
        let header = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| *v)
        };
        let head = Head {
            method: "POST",
            path: "",
            query: "",
            header: &header,
        };
        let now = Millis::nearest(1_440_570_600_000);
        let verified = verifier.verify(&RawCallback { head, body }, now);
        // Without the body, everything but `MD5` can be checked.
        let head = verifier.verify_head(&head, now);
        match &verified {
            Ok(_) => assert_eq!(head, Ok(())),
            Err(VerifyError::Md5Differs) => {}
            Err(error) => assert_eq!(head, Err(*error)),
        }
        verified.map(|_| ())
    }

    #[test]
    fn reference_signatures_are_computed_and_accepted() {
        for (body, md5, checksum) in VECTORS {
            let made = sign(body, SECRET, CUR_TIME_VALUE);
            assert_eq!((made.0.as_str(), made.1.as_str()), (*md5, *checksum));
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
        // The signature may also cover the upper-case text that was sent:
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
                VerifyError::ChecksumDiffers,
            ),
            (
                body,
                &[(MD5, md5), (CHECKSUM, &sum[..38]), (CUR_TIME, time)],
                VerifyError::ChecksumDiffers,
            ),
        ];
        for (body, headers, expected) in cases {
            assert_eq!(
                check(&verifier(), body, headers),
                Err(*expected),
                "{headers:?}"
            );
        }
        let only_other = with_secrets(&["another"], None);
        let headers = [(MD5, md5), (CHECKSUM, sum), (CUR_TIME, time)];
        assert_eq!(
            check(&only_other, body, &headers),
            Err(VerifyError::ChecksumDiffers)
        );
    }

    #[test]
    fn a_freshness_window_refuses_what_is_outside_it() {
        let (body, md5, sum) = VECTORS[0];
        let headers = [(MD5, md5), (CHECKSUM, sum), (CUR_TIME, CUR_TIME_VALUE)];
        // `check` verifies 99.145 s after the time of signing.
        for (seconds, expected) in [(100, Ok(())), (99, Err(VerifyError::NotFresh))] {
            let verifier = with_secrets(&[SECRET], Some(Duration::from_secs(seconds)));
            assert_eq!(check(&verifier, body, &headers), expected, "{seconds} s");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", verifier()).contains(SECRET));
    }
}
