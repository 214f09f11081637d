use super::*;
use crate::callback::Provider;

const APP_ID: &str = "8aaf0708567b3c0f015690f4b0e60d2f";
const TOKEN: &str = "token-of-today";
const TIME: &str = "1440570500855";

const PUSH: &[u8] = include_bytes!("../../../tests/samples/yuntongxun/push_msg.constructed.json");

/// Body, MD5, and CheckSum over the MD5 in small letters and in capitals, made with `openssl` and not by this
/// code: `openssl md5 <BODY` and `printf %s APP_ID TOKEN MD5 TIME | openssl md5`, without the spaces.
const VECTORS: &[(&[u8], &str, &str, &str)] = &[
    (
        PUSH,
        "56c49e2c526b9c4fbbde182d51fdd017",
        "eb998592c70389972e439cce11f07784",
        "48d9f2156b090231b2b634a4722275af",
    ),
    (
        b"{\"a\":1}",
        "bb6cb5c68df4652941caf652a366f2d8",
        "3f02f62fecde3515b95615177382e4a0",
        "3df964e2e318847de78e0f8610afcbed",
    ),
    (
        b"\x00\xff not JSON\r\n",
        "730c808af9a1c42317a0c2f31cdc8f7c",
        "aebfc3c94294db469ab2b2cc56a5ccb1",
        "6a646d7eede19e2f4fdde6beb5ae02bc",
    ),
    (
        "你好 👋".as_bytes(),
        "cac6688cea8f1e7cd9229920d7bb1c4b",
        "deae4510809d8c2aed72000b9854f8c9",
        "187157706e5891932e049838ee613bef",
    ),
    (
        b"",
        "d41d8cd98f00b204e9800998ecf8427e",
        "ff00ae529affc68a4d8e33c25d32ac1d",
        "c8093d61c2a769e5f2a050c84feed62c",
    ),
];

/// The CheckSum of the second vector with another token, and with a time in seconds.
const BY_PREVIOUS_TOKEN: &str = "73baa0011a90ec050a021f6d2420903b";
const IN_SECONDS: (&str, &str) = ("1440570500", "af99ef00062bd50771bbf814d1dc0016");

fn app(tokens: &[&str], freshness: Option<Duration>) -> Yuntongxun {
    Yuntongxun {
        credentials: Credentials {
            app_key: APP_ID.to_owned(),
            secrets: tokens.iter().map(|token| (*token).into()).collect(),
        },
        freshness,
    }
}

type Headers<'h> = [(&'h str, &'h str)];

/// Verifies 99.145 s after the time of signing, and also checks the head alone.
fn check(app: &Yuntongxun, body: &[u8], headers: &Headers<'_>) -> Result<Envelope, VerifyError> {
    let header = |name: &str| {
        let mut headers = headers.iter();
        let found = headers.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    };
    let head = Head {
        method: "POST",
        path: "",
        query: "from=im",
        header: &header,
    };
    let now = Millis::nearest(1_440_570_600_000);
    let verified = app.verify(&RawCallback { head, body }, now);
    let by_head = app.verify_head(&head, now);
    match &verified {
        Ok(_) => assert_eq!(by_head, Ok(())),
        Err(VerifyError::Md5Differs) => {}
        Err(error) => assert_eq!(by_head, Err(*error)),
    }
    verified
}

#[test]
fn the_published_formula_is_computed_and_accepted() {
    let app = app(&["another", TOKEN], None);
    for (body, md5, checksum, _) in VECTORS {
        let headers = [(MD5, *md5), (CHECKSUM, *checksum), (CUR_TIME, TIME)];
        let verified = check(&app, body, &headers);
        let verified = verified.expect("a published signature");
        assert_eq!(&*verified.query, "from=im");
        assert_eq!(verified.header("curtime"), Some(TIME));
    }
    let signer = self::app(&[TOKEN, "another"], None);
    let signed = signer.sign(VECTORS[0].0, Millis::nearest(1_440_570_500_855));
    let made = |name| signed.headers.iter().find(|(n, _)| *n == name);
    assert_eq!(made(MD5), Some(&(MD5, VECTORS[0].1.to_owned())));
    assert_eq!(made(CHECKSUM), Some(&(CHECKSUM, VECTORS[0].2.to_owned())));
    assert_eq!(made(CUR_TIME), Some(&(CUR_TIME, TIME.to_owned())));
}

#[test]
fn hex_of_either_case_is_accepted() {
    let app = app(&[TOKEN], None);
    for (body, md5, checksum, over_capitals) in VECTORS {
        let (capitals, sum) = (md5.to_uppercase(), checksum.to_uppercase());
        for (md5, sum) in [
            (*md5, sum.as_str()),
            (&capitals, &sum),
            (&capitals, checksum),
            (&capitals, over_capitals),
        ] {
            let headers = [(MD5, md5), (CHECKSUM, sum), (CUR_TIME, TIME)];
            assert!(check(&app, body, &headers).is_ok(), "{md5} {sum}");
        }
        let headers = [(MD5, *md5), (CHECKSUM, over_capitals), (CUR_TIME, TIME)];
        let refused = check(&app, body, &headers).map(drop);
        assert_eq!(refused, Err(VerifyError::ChecksumDiffers));
    }
}

#[test]
fn each_fault_has_its_error() {
    let (body, md5, sum, _) = VECTORS[1];
    let (other_md5, other_sum) = (VECTORS[0].1, VECTORS[0].2);
    let (all, missing) = (
        &[(MD5, md5), (CHECKSUM, sum), (CUR_TIME, TIME)],
        VerifyError::MissingHeader,
    );
    let app = app(&[TOKEN], None);
    for (i, header) in [MD5, CHECKSUM, CUR_TIME].into_iter().enumerate() {
        let mut headers = all.to_vec();
        headers.remove(i);
        assert_eq!(check(&app, body, &headers).map(drop), Err(missing(header)));
    }
    for (body, i, value, expected) in [
        (&b"{\"a\":2}"[..], 0, md5, VerifyError::Md5Differs),
        (b"", 0, md5, VerifyError::Md5Differs),
        (body, 0, other_md5, VerifyError::Md5Differs),
        (body, 0, "", VerifyError::Md5Differs),
        (body, 0, "zz", VerifyError::Md5Differs),
        (body, 1, other_sum, VerifyError::ChecksumDiffers),
        (body, 1, BY_PREVIOUS_TOKEN, VerifyError::ChecksumDiffers),
        (body, 1, &sum[..30], VerifyError::ChecksumDiffers),
        (body, 1, md5, VerifyError::ChecksumDiffers),
        (body, 2, "1440570500856", VerifyError::ChecksumDiffers),
        (body, 2, "", VerifyError::ChecksumDiffers),
    ] {
        let mut headers = all.to_vec();
        headers[i].1 = value;
        assert_eq!(
            check(&app, body, &headers).map(drop),
            Err(expected),
            "{value}"
        );
    }
    let headers = [(MD5, md5), (CHECKSUM, BY_PREVIOUS_TOKEN), (CUR_TIME, TIME)];
    let both = self::app(&[TOKEN, "token-of-before"], None);
    assert!(check(&both, body, &headers).is_ok());
    let none = self::app(&[], None);
    assert_eq!(
        check(&none, body, all).map(drop),
        Err(VerifyError::ChecksumDiffers)
    );
    let mut other_app = self::app(&[TOKEN], None);
    other_app.credentials.app_key = "another".to_owned();
    assert_eq!(
        check(&other_app, body, all).map(drop),
        Err(VerifyError::ChecksumDiffers)
    );
}

#[test]
fn a_freshness_window_takes_seconds_and_milliseconds() {
    let (body, md5, sum, _) = VECTORS[1];
    for (time, sum) in [(TIME, sum), IN_SECONDS] {
        let headers = [(MD5, md5), (CHECKSUM, sum), (CUR_TIME, time)];
        for (seconds, expected) in [(100, Ok(())), (99, Err(VerifyError::NotFresh))] {
            let app = app(&[TOKEN], Some(Duration::from_secs(seconds)));
            assert_eq!(check(&app, body, &headers).map(drop), expected, "{time}");
        }
    }
}

/// Any body becomes one event that contains all of it, and a redelivery has the same key.
#[test]
fn a_body_is_kept_whole() {
    let provider = Provider::Yuntongxun(app(&[TOKEN], None));
    let now = Millis::nearest(1_440_570_600_000);
    let mut keys = Vec::new();
    for (body, ..) in VECTORS {
        let signed = provider.sign(body, "", now);
        let header = |name: &str| {
            let mut headers = signed.headers.iter();
            let found = headers.find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        let head = Head {
            method: "POST",
            path: "",
            query: "",
            header: &header,
        };
        let raw = RawCallback { head, body };
        let verified = provider.verify(&raw, now).expect("what was signed");
        let decoded = provider.decode(&verified, now);
        assert_eq!(decoded.undecodable, None);
        let record = match &decoded.events[..] {
            [Event::Record(record)] => record,
            [] => {
                assert_eq!(*body, b"");
                continue;
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(record.kind, "raw");
        assert!(matches!(record.effect, Effect::None));
        let kept = match record.payload.get("body") {
            Some(Value::Text(text)) => text.as_bytes(),
            Some(Value::Bytes(bytes)) => bytes,
            _ => panic!("no body"),
        };
        assert_eq!(kept, *body);
        let type_kept = record.payload.text("contentType");
        assert_eq!(type_kept.as_deref(), Some("application/json"));
        keys.push(record.key.clone());
    }
    keys.dedup();
    assert_eq!(keys.len(), VECTORS.len() - 1);
    assert!(keys.iter().all(|key| key.starts_with("raw/")));
}

#[test]
fn debug_shows_no_token() {
    assert!(!format!("{:?}", app(&[TOKEN], None)).contains(TOKEN));
}
