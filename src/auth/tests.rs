//! Users' tokens, by vectors that others have made and by what they claim.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::claims::Claims;
use super::*;

/// The time of the vectors, in seconds.
const NOW: u64 = 1_700_000_000;
const HOUR: u64 = 3600;

/// The key of RFC 8037, A.1, and what it signs in A.4, which is no JSON.
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const PRIVATE: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const RFC_8037: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
    hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Made by Python's `hmac` and `cryptography`: {"aud":["other","im-callback"],"sub":"Bob","app":"otc",
/// "teams":["t1","t2"],"iat":1700000000,"exp":1700000600}.
const CLAIMS: &str = "eyJhdWQiOlsib3RoZXIiLCJpbS1jYWxsYmFjayJdLCJzdWIiOiJCb2IiLCJhcHAiOiJvdGMiLCJ0ZWFtcyI6WyJ0MSIs\
    InQyIl0sImlhdCI6MTcwMDAwMDAwMCwiZXhwIjoxNzAwMDAwNjAwfQ";
const HS256: (&str, &str) = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
    "cpqWSFHrStGFg8omM0YCZICjPWQCpiLmm4tvFBccQMM",
);
const EDDSA: (&str, &str) = (
    "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9",
    "o8wui246n64W7GdGcelfwj2HfDPms7vAe0jhwr-EejjLAAHJne0FaCZeoHHRCQYF2Z8MswDn4Lkwcw1T6NdcBw",
);

fn vector((head, signature): (&str, &str)) -> String {
    format!("{head}.{CLAIMS}.{signature}")
}

fn app(name: &str) -> AppName {
    AppName::new(name).expect("a name")
}

fn hs256(name: &str, secret: &str) -> TokenKey {
    TokenKey::new(
        name.to_owned(),
        TokenSecret::Hs256(secret.into()),
        None,
        None,
    )
}

fn eddsa(name: &str) -> TokenKey {
    let public = hex::decode(PUBLIC).expect("hexadecimal digits");
    let public = public.try_into().expect("32 bytes");
    TokenKey::new(name.to_owned(), TokenSecret::EdDsa(public), None, None)
}

fn keys(keys: Vec<TokenKey>) -> TokenKeys {
    let one = NonZeroU32::MIN;
    let rate = Rate {
        per_second: one,
        burst: one,
    };
    TokenKeys::new(keys, Duration::from_secs(HOUR), rate)
}

fn fault(keys: &TokenKeys, token: &str) -> TokenFault {
    match keys.verify(token, NOW) {
        Err(AuthError::InvalidToken { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_of_other_makers_are_taken() {
    let both = keys(vec![
        hs256("old", "another secret of 32 bytes or more"),
        hs256("s", SECRET),
        eddsa("e"),
    ]);
    for (token, key) in [(HS256, "s"), (EDDSA, "e")] {
        let user = both.verify(&vector(token), NOW).expect("a valid token");
        assert_eq!((user.key().name(), user.user()), (key, "Bob"));
        assert_eq!(user.app().as_str(), "otc");
        let teams = ["t1", "t2", "t3", ""].map(|team| user.has_team(team));
        assert_eq!(teams, [true, true, false, false]);
        let left = user.expires_at().duration_since(std::time::UNIX_EPOCH);
        assert_eq!(left.expect("after 1970").as_secs(), NOW + 600);
    }
}

/// Claims that are not JSON, in a token whose signature is right.
#[test]
fn the_vector_of_rfc_8037_is_verified() {
    let key = keys(vec![eddsa("e")]);
    assert_eq!(fault(&key, RFC_8037), TokenFault::Claims);
    let other = RFC_8037.replace("hgyY0il", "hgyY0im");
    assert_eq!(fault(&key, &other), TokenFault::Signature);
    // Who signed it is known, so it is nobody's guess.
    let signer = |token: &str| {
        let error = key.verify(token, NOW).expect_err("it has no claims");
        error.key().map(str::to_owned)
    };
    assert_eq!(signer(RFC_8037), Some("e".to_owned()));
    assert_eq!(signer(&other), None);
}

/// No part of a token, no single letter of it, and no encoding of the same signature can be another.
#[test]
fn a_changed_token_is_refused() {
    let both = keys(vec![hs256("s", SECRET), eddsa("e")]);
    for token in [HS256, EDDSA].map(vector) {
        for n in 0..token.len() {
            assert!(both.verify(&token[..n], NOW).is_err(), "{n} bytes");
            let mut changed = token.clone().into_bytes();
            for letter in *b"A_b.0=" {
                changed[n] = letter;
                let changed = String::from_utf8(changed.clone()).expect("ASCII");
                let is_same = changed == token;
                assert_eq!(both.verify(&changed, NOW).is_ok(), is_same, "{n} {letter}");
            }
        }
        for more in ["=", "A", ".", ".A", " "] {
            assert!(
                both.verify(&format!("{token}{more}"), NOW).is_err(),
                "{more}"
            );
        }
    }
}

#[test]
fn the_algorithm_is_the_keys() {
    let (secret, public) = (keys(vec![hs256("s", SECRET)]), keys(vec![eddsa("e")]));
    assert_eq!(fault(&public, &vector(HS256)), TokenFault::Algorithm);
    assert_eq!(fault(&secret, &vector(EDDSA)), TokenFault::Algorithm);
    // The signature of one under the head of the other.
    assert_eq!(
        fault(&public, &vector((EDDSA.0, HS256.1))),
        TokenFault::Signature
    );
    assert_eq!(
        fault(&secret, &vector((HS256.0, EDDSA.1))),
        TokenFault::Signature
    );
    let of_other_secret = keys(vec![hs256("s", "another secret of 32 bytes or more")]);
    assert_eq!(
        fault(&of_other_secret, &vector(HS256)),
        TokenFault::Signature
    );
}

#[test]
fn a_reload_that_takes_the_key_takes_its_tokens() {
    let before = keys(vec![hs256("s", SECRET)]);
    let token = before.verify(&vector(HS256), NOW).expect("a valid token");
    let still = |keys: &TokenKeys| keys.still_allow(token.key(), token.app());
    assert!(still(&keys(vec![eddsa("e"), hs256("s", SECRET)])));
    assert!(!still(&keys(vec![])));
    assert!(!still(&keys(vec![hs256(
        "s",
        "another secret of 32 bytes or more"
    )])));
    assert!(!still(&keys(vec![hs256("t", SECRET)])));
    assert!(!still(&keys(vec![eddsa("s")])));
    let secret = || TokenSecret::Hs256(SECRET.into());
    let limited = |name| TokenKey::new("s".to_owned(), secret(), Some(vec![app(name)]), None);
    assert!(still(&keys(vec![limited("otc")])));
    assert!(!still(&keys(vec![limited("shop")])));
}

/// What a token claims, and what becomes of it. The rest is right.
#[test]
fn every_claim_is_checked() {
    let secret = || TokenSecret::Hs256(SECRET.into());
    let only = TokenKey::new("s".to_owned(), secret(), None, Some(app("otc")));
    let two = Some(vec![app("otc"), app("shop")]);
    let of_two = TokenKey::new("s".to_owned(), secret(), two, None);
    let (only, of_two) = (Arc::new(only), Arc::new(of_two));
    let checked = |key: &Arc<TokenKey>, claims: Value| {
        let mut all = json!({ "aud": AUDIENCE, "sub": "bob", "exp": NOW + 60 });
        let all_members = all.as_object_mut().expect("an object");
        for (name, value) in claims.as_object().expect("an object") {
            all_members.insert(name.clone(), value.clone());
        }
        let all = Claims(all_members.clone());
        let user = key.user(&all, NOW, HOUR);
        user.map(|user| format!("{}/{}", user.app(), user.user()))
    };
    let right = [
        json!({}),
        json!({ "aud": ["x", AUDIENCE] }),
        json!({ "exp": NOW + 1 }),
        json!({ "exp": NOW as f64 + 1.5 }),
        json!({ "exp": NOW + HOUR + 30 }),
        json!({ "nbf": NOW + 30, "iat": NOW + 30 }),
        json!({ "nbf": 0, "iat": 1 }),
        json!({ "app": null, "teams": null, "nbf": null, "iat": null }),
        json!({ "app": "otc", "teams": [], "more": {} }),
    ];
    for claims in right {
        assert_eq!(
            checked(&only, claims.clone()),
            Ok("otc/bob".to_owned()),
            "{claims}"
        );
    }
    let wrong = [
        (json!({ "aud": null }), TokenFault::Claim("aud")),
        (json!({ "aud": 1 }), TokenFault::Claim("aud")),
        (json!({ "aud": [1] }), TokenFault::Claim("aud")),
        (json!({ "aud": [] }), TokenFault::Audience),
        (json!({ "aud": "im-callback2" }), TokenFault::Audience),
        (json!({ "exp": null }), TokenFault::Claim("exp")),
        (json!({ "exp": "1800000000" }), TokenFault::Claim("exp")),
        (json!({ "exp": -1 }), TokenFault::Claim("exp")),
        (json!({ "exp": 1e300 }), TokenFault::Claim("exp")),
        (json!({ "exp": NOW }), TokenFault::Expired),
        (json!({ "exp": NOW as f64 + 0.9 }), TokenFault::Expired),
        (json!({ "exp": 0 }), TokenFault::Expired),
        (json!({ "exp": NOW + HOUR + 31 }), TokenFault::TooLongLived),
        (json!({ "nbf": NOW + 31 }), TokenFault::NotYet),
        (json!({ "nbf": true }), TokenFault::Claim("nbf")),
        (json!({ "iat": NOW + 31 }), TokenFault::IssuedLater),
        (json!({ "sub": null }), TokenFault::Claim("sub")),
        (json!({ "sub": "" }), TokenFault::Claim("sub")),
        (json!({ "sub": 7 }), TokenFault::Claim("sub")),
        (json!({ "app": "no app's name" }), TokenFault::Claim("app")),
        (json!({ "app": ["otc"] }), TokenFault::Claim("app")),
        (json!({ "teams": "t" }), TokenFault::Claim("teams")),
        (json!({ "teams": [1] }), TokenFault::Claim("teams")),
    ];
    for (claims, fault) in wrong {
        assert_eq!(checked(&only, claims.clone()), Err(fault), "{claims}");
    }
    assert_eq!(checked(&of_two, json!({})), Err(TokenFault::NoApp));
    let shop = checked(&of_two, json!({ "app": "shop" }));
    assert_eq!(shop, Ok("shop/bob".to_owned()));
    let third = checked(&of_two, json!({ "app": "third" }));
    assert_eq!(third, Err(TokenFault::OtherApp));
}

#[test]
fn a_token_is_known_by_its_form() {
    for token in ["a.b.c", "a.b.", "eyJ-_0.eyJ.x", RFC_8037] {
        assert!(looks_like_token(token), "{token}");
    }
    let long = ".".repeat(100_000);
    for other in [
        "", "a", "a.b", "a..c", ".b.c", "a.b.c.d", "a.b.c=", "a.b. c", "a.b.é", &long,
    ] {
        assert!(!looks_like_token(other), "{other}");
    }
}

#[test]
fn made_tokens_are_taken() {
    let mut pkcs8 = hex::decode("302e020100300506032b657004220420").expect("hexadecimal digits");
    pkcs8.extend(hex::decode(PRIVATE).expect("hexadecimal digits"));
    let teams = ["t1".to_owned()];
    let token = NewToken {
        user: "bob",
        app: Some("otc"),
        teams: &teams,
        issued_at: NOW,
        expires_at: NOW + 60,
    };
    // Each names its key, so the other of its algorithm is not asked.
    let all = keys(vec![hs256("x", SECRET), hs256("s", SECRET), eddsa("e")]);
    for (key, private) in [(hs256("s", SECRET), None), (eddsa("e"), Some(&pkcs8[..]))] {
        let token = token.signed(&key, private).expect("a private key");
        let user = all.verify(&token, NOW).expect("a valid token");
        assert_eq!((user.key().name(), user.user()), (key.name(), "bob"));
        assert!(user.has_team("t1"));
        let without_key = keys(vec![hs256("x", SECRET)]);
        assert_eq!(fault(&without_key, &token), TokenFault::UnknownKid);
    }
    let wrong = |private| token.signed(&eddsa("e"), private).expect_err("no key");
    assert_eq!(wrong(None), SignError::NoPrivateKey);
    assert_eq!(wrong(Some(b"no key")), SignError::BadPrivateKey);
}
