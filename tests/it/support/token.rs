//! Makes users' tokens as a site does, by no code that the service checks them with: base64url and HMAC (RFC 2104) are
//! written out here.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The secrets of the keys that [`TOKEN_KEYS`] configures.
pub const SITE_SECRET: &str = "the-tests-secret-of-the-site-32b";
pub const NEXT_SECRET: &str = "the-tests-next-secret-of-the-site";

/// The key of RFC 8037, A.1.
pub const ED_PRIVATE: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
pub const ED_PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
pub const ED_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

/// A second app, and a token key for both, for one of them, and for the other with EdDSA.
pub const TOKEN_KEYS: &str = r#"
    http.trusted_proxies = ["127.0.0.1"]
    [[apps]]
    name = "shop"
    provider = "rongcloud"
    app_key = "k"
    app_secrets = ["the-tests-secret-of-shop"]
    [[auth.token_keys]]
    name = "site"
    algorithm = "HS256"
    secret = "the-tests-secret-of-the-site-32b"
    [[auth.token_keys]]
    name = "next"
    algorithm = "HS256"
    secret = "the-tests-next-secret-of-the-site"
    apps = ["otc"]
    [[auth.token_keys]]
    name = "ed"
    algorithm = "EdDSA"
    public_key = """
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
"""
    apps = ["shop"]
"#;

/// Now, in seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// Claims of a right token, with others over them; one that is `null` is left out.
pub fn claims(over: Value) -> Value {
    let mut claims =
        json!({ "aud": "im-callback", "sub": "bob", "app": "otc", "exp": now() + 600 });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in over.as_object().unwrap() {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.clone(), value.clone())),
        }
    }
    claims
}

/// A token of the key `site`.
pub fn site_token(over: Value) -> String {
    let head = json!({ "alg": "HS256", "typ": "JWT" });
    token(&head, &claims(over), |text| {
        hmac(SITE_SECRET.as_bytes(), text)
    })
}

/// A token with this head and signature.
pub fn token(head: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let [head, claims] = [head, claims].map(|part| base64url(part.to_string().as_bytes()));
    let signed = format!("{head}.{claims}");
    let signature = base64url(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// HMAC with SHA-256.
pub fn hmac(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = match secret.len() {
        0..=64 => secret.to_vec(),
        _ => Sha256::digest(secret).to_vec(),
    };
    block.resize(64, 0);
    let padded = |with: u8| block.iter().map(|b| b ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([&padded(0x36), text].concat());
    Sha256::digest([&padded(0x5c), &inner[..]].concat()).to_vec()
}

/// Ed25519 with the key of RFC 8037.
pub fn ed25519(text: &[u8]) -> Vec<u8> {
    let [private, public] = [ED_PRIVATE, ED_PUBLIC].map(|key| hex::decode(key).unwrap());
    let pair = Ed25519KeyPair::from_seed_and_public_key(&private, &public).unwrap();
    pair.sign(text).as_ref().to_vec()
}

pub fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut bits = 0_u32;
        for n in 0..3 {
            bits = bits << 8 | u32::from(three.get(n).copied().unwrap_or_default());
        }
        for n in 0..=three.len() {
            let letter = bits >> (18 - 6 * n) & 63;
            text.push(char::from(LETTERS[letter as usize]));
        }
    }
    text
}

/// The examples of RFC 4231 (2), RFC 4648 (10) and RFC 8037 (A.4).
#[test]
fn the_maker_of_tokens_is_right() {
    let digest = hmac(b"Jefe", b"what do ya want for nothing?");
    assert_eq!(
        hex::encode(digest),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    assert_eq!(
        ["f", "fo", "foo", "foob"].map(|text| base64url(text.as_bytes())),
        ["Zg", "Zm8", "Zm9v", "Zm9vYg"]
    );
    let text = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    assert_eq!(
        base64url(&ed25519(text)),
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}
