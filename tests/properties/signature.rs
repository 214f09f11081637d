//! A verifier accepts what was signed with one of its secrets, within its window, and nothing else. NetEase and
//! Yuntongxun have the same headers and different formulas.

use std::time::Duration;

use im_callback::callback::ids::Millis;
use im_callback::callback::netease::signature::{APP_KEY, CHECKSUM, CUR_TIME, MD5, PRODUCT};
use im_callback::callback::netease::{Netease, NeteaseRules};
use im_callback::callback::yuntongxun::Yuntongxun;
use im_callback::callback::{Credentials, Head, Provider, RawCallback};

use crate::choices::Choices;

/// Secrets that begin and end alike.
const SECRETS: &[&str] = &[
    "current-secret",
    "current-secre",
    "urrent-secret",
    "CURRENT-SECRET",
    "current-secret0",
    "密钥",
];
const KEY: &str = "app-key";
const WINDOWS: &[u64] = &[0, 1, 300, u64::MAX];

pub fn holds(data: &[u8]) {
    let mut choices = Choices::new(data);
    let is_netease = !choices.once_in(3);
    let secret = choices.of(SECRETS);
    let secrets: Vec<_> = (0..choices.below(4)).map(|_| choices.of(SECRETS)).collect();
    let freshness = (!choices.once_in(2)).then(|| Duration::from_secs(choices.of(WINDOWS)));
    let at = 1_440_570_500_000 + choices.below(1000) as i64;
    let now = match choices.below(4) {
        0 => at,
        1 => at + choices.below(2001) as i64 - 1000,
        2 => at + 300_000 * (choices.below(3) as i64 - 1) + choices.below(3) as i64 - 1,
        _ => choices.of(&[i64::MIN, i64::MAX, -1, 0]),
    };
    let now = Millis::nearest(now);
    let signed = choices.bytes(60).to_vec();
    let cur_time_made = at.to_string();
    let app = |secrets: &[&str]| {
        let credentials = Credentials {
            app_key: KEY.to_owned(),
            secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        };
        if is_netease {
            Provider::Netease(Netease {
                credentials,
                freshness,
                rules: NeteaseRules::default(),
            })
        } else {
            Provider::Yuntongxun(Yuntongxun {
                credentials,
                freshness,
            })
        }
    };
    let made = app(&[secret])
        .sign(&signed, "", Millis::nearest(at))
        .headers;
    let made = |name: &str| made.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    let (md5_made, checksum_made) = (made(MD5), made(CHECKSUM));

    let mut body = signed.clone();
    if choices.once_in(4) {
        body = choices.bytes(60).to_vec();
    }
    let md5 = near(&md5_made, &mut choices);
    let checksum = near(&checksum_made, &mut choices);
    let cur_time = near(&cur_time_made, &mut choices);
    let app_key = match choices.below(4) {
        0 => None,
        1 => near(KEY, &mut choices),
        _ => Some(KEY.to_owned()),
    };
    let product = choices.once_in(2).then(|| choices.text(20));

    let headers = [
        (MD5, &md5),
        (CHECKSUM, &checksum),
        (CUR_TIME, &cur_time),
        (APP_KEY, &app_key),
        (PRODUCT, &product),
    ];
    let header = |name: &str| {
        let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| value.as_deref())
    };
    let raw = RawCallback {
        body: &body,
        head: Head {
            method: "POST",
            path: "",
            query: "",
            header: &header,
        },
    };
    let provider = app(&secrets);
    let verified = provider.verify(&raw, now);

    // Hex has two cases, and every other byte must be the one that was made.
    let is_hex = |sent: &Option<String>, made: &str| {
        sent.as_ref().is_some_and(|s| s.eq_ignore_ascii_case(made))
    };
    let age = Duration::from_millis(at.abs_diff(now.get()));
    let right = body == signed
        && is_hex(&md5, &md5_made)
        && is_hex(&checksum, &checksum_made)
        && cur_time.as_ref() == Some(&cur_time_made)
        && (!is_netease || app_key.as_ref().is_none_or(|key| key == KEY))
        && secrets.contains(&secret)
        && freshness.is_none_or(|window| age <= window);
    match verified {
        Ok(verified) => {
            assert!(right, "accepted what was not signed: {headers:?}");
            assert_eq!(verified.body(), &body[..]);
            let product = product.as_deref().filter(|_| is_netease);
            assert_eq!(verified.envelope().header("type"), product);
        }
        Err(error) => assert!(!right, "{error}: {headers:?}"),
    }
}

/// A header's value as it was made, nearly so, or not at all.
pub fn near(made: &str, choices: &mut Choices<'_>) -> Option<String> {
    let mut value = made.to_owned();
    match choices.below(16) {
        0..6 => {}
        6 => return None,
        7 => value.make_ascii_uppercase(),
        8 => value.truncate(choices.below(value.len())),
        9 => value.insert(
            choices.below(value.len() + 1),
            choices.of(&[' ', '0', '\0', '+', 'é']),
        ),
        10 => value.insert_str(0, choices.of(&["+", "0", "-", " ", "0x"])),
        11 => value.push_str(made),
        12 => {
            let at = choices.below(value.len());
            let with = choices.of(&["0", "f", "A", "9", "\u{212a}", "１"]);
            value.replace_range(at..=at, with);
        }
        13 => {
            let at = choices.below(value.len());
            value[at..].make_ascii_uppercase();
        }
        _ => value = choices.text(50),
    }
    Some(value)
}
