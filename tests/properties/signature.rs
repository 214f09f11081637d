//! A verifier accepts what was signed with one of its secrets, within its window, and nothing else.

use std::time::Duration;

use im_callback::callback::RawCallback;
use im_callback::callback::ids::Millis;
use im_callback::callback::netease::signature::{APP_KEY, CHECKSUM, CUR_TIME, MD5, PRODUCT};
use im_callback::callback::netease::{Verifier, sign};

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
    let signed = choices.bytes(60).to_vec();
    let made = sign(&signed, &secret.into(), Millis::new(at).unwrap());

    let mut body = signed.clone();
    if choices.once_in(4) {
        body = choices.bytes(60).to_vec();
    }
    let md5 = near(&made.md5, &mut choices);
    let checksum = near(&made.checksum, &mut choices);
    let cur_time = near(&made.cur_time, &mut choices);
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
        header: &header,
    };
    let verifier = Verifier {
        app_key: KEY.to_owned(),
        secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        freshness,
    };
    let verified = verifier.verify(&raw, now);

    // Hex has two cases, and every other byte must be the one that was made.
    let is_hex = |sent: &Option<String>, made: &str| {
        sent.as_ref().is_some_and(|s| s.eq_ignore_ascii_case(made))
    };
    let age = Duration::from_millis(at.abs_diff(now));
    let right = body == signed
        && is_hex(&md5, &made.md5)
        && is_hex(&checksum, &made.checksum)
        && cur_time.as_ref() == Some(&made.cur_time)
        && app_key.as_ref().is_none_or(|key| key == KEY)
        && secrets.contains(&secret)
        && freshness.is_none_or(|window| age <= window);
    match verified {
        Ok(verified) => {
            assert!(right, "accepted what was not signed: {headers:?}");
            assert_eq!(verified.body(), &body[..]);
            assert_eq!(verified.product(), product.as_deref());
        }
        Err(error) => assert!(!right, "{error}: {headers:?}"),
    }
}

/// A header's value as it was made, nearly so, or not at all.
fn near(made: &str, choices: &mut Choices<'_>) -> Option<String> {
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
