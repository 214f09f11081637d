//! Keys of users' tokens, rates, and the origins of pages.

use im_callback::auth::TokenSecret;
use im_callback::config::Config;

use super::{APP, jailed, load};

/// The key of RFC 8037, A.1.
pub const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const PUBLIC_HEX: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// A key of another algorithm, a private key and a certificate's frame: keys that are mistaken for it.
const X25519: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VuAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-";

fn hs256(more: &str) -> String {
    format!("{APP}[[auth.token_keys]]\nname = \"site\"\nalgorithm = \"HS256\"\n{more}\n")
}

fn eddsa(public: &str) -> String {
    let key = format!("public_key = \"\"\"{public}\"\"\"\n");
    hs256(&key).replace("HS256", "EdDSA")
}

#[test]
fn token_keys_are_read() {
    jailed(|jail| {
        jail.create_file("site.pem", PUBLIC).unwrap();
        let more = r#"
            [[apps]]
            name = "shop"
            provider = "netease"
            app_key = "k"
            app_secrets = ["s"]
            [[auth.token_keys]]
            name = "next"
            algorithm = "EdDSA"
            public_key = { file = "site.pem" }
            apps = ["shop"]
            [[auth.keys]]
            name = "a"
            secret = "0123456789abcdef"
            scopes = ["read"]
            rate = { per_second = 200, burst = 400 }
            [auth]
            max_token_age = "24h"
            token_rate = { per_second = 1, burst = 100000 }
        "#;
        let config = load(jail, &(hs256(&format!("secret = \"{SECRET}\"")) + more)).unwrap();
        let keys: Vec<_> = config.tokens.iter().collect();
        let names = keys.iter().map(|key| (key.name(), key.algorithm()));
        assert_eq!(
            names.collect::<Vec<_>>(),
            [("site", "HS256"), ("next", "EdDSA")]
        );
        assert_eq!((keys[0].apps(), keys[0].only_app()), (None, None));
        assert_eq!(keys[1].only_app().unwrap().as_str(), "shop");
        assert!(keys[1].is_for("shop") && !keys[1].is_for("otc"));
        let TokenSecret::EdDsa(public) = keys[1].secret() else {
            panic!("another algorithm")
        };
        assert_eq!(hex::encode(public), PUBLIC_HEX);
        assert_eq!(config.tokens.max_age().as_secs(), 24 * 3600);
        assert_eq!(config.tokens.rate().burst.get(), 100_000);
        let rate = config.keys[0].rate().unwrap();
        assert_eq!((rate.per_second.get(), rate.burst.get()), (200, 400));
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    });
}

#[test]
fn the_defaults_are_closed_and_short() {
    jailed(|jail| {
        let config = load(jail, &hs256(&format!("secret = \"{SECRET}\""))).unwrap();
        assert_eq!(config.tokens.max_age().as_secs(), 3600);
        let rate = config.tokens.rate();
        assert_eq!((rate.per_second.get(), rate.burst.get()), (10, 40));
        assert!(config.http.cors_origins.is_empty());
        let key = config.tokens.iter().next().unwrap();
        assert_eq!(key.only_app().unwrap().as_str(), "otc");
    });
    jailed(|jail| {
        jail.set_env("IM_CALLBACK__AUTH__TOKEN_RATE__BURST", "7");
        let config = load(jail, APP).unwrap();
        assert_eq!(config.tokens.rate().burst.get(), 7);
        assert!(config.tokens.is_empty());
    });
}

#[test]
fn origins_are_as_browsers_send_them() {
    let origins = [
        "https://shop.example",
        "http://localhost:3000",
        "https://xn--bcher-kva.example",
        "http://[::1]:80",
    ];
    // Browsers leave out the default port.
    let right = &origins[..3];
    jailed(|jail| {
        let config = load(jail, &format!("http.cors_origins = {right:?}\n{APP}")).unwrap();
        assert_eq!(config.http.cors_origins, right);
    });
    let wrong = [
        ("*", "would let pages of others"),
        (
            "https://shop.example/",
            "sent by browsers as `https://shop.example`",
        ),
        (
            "https://shop.example/page",
            "sent by browsers as `https://shop.example`",
        ),
        (
            "https://Shop.example",
            "sent by browsers as `https://shop.example`",
        ),
        (
            "https://shop.example:443",
            "sent by browsers as `https://shop.example`",
        ),
        (origins[3], "sent by browsers as `http://[::1]`"),
        (
            "https://b\u{fc}cher.example",
            "sent by browsers as `https://xn--bcher-kva.example`",
        ),
        (
            "https://u:hunter2@shop.example",
            "sent by browsers as `https://shop.example`",
        ),
        ("shop.example", "is no origin"),
        ("", "is no origin"),
        ("null", "is no origin"),
        ("file:///srv/page.html", "is no origin"),
        ("ftp://shop.example", "is no origin"),
        ("https://*.shop.example", "would let pages of others"),
    ];
    for (origin, says) in wrong {
        jailed(|jail| {
            let error = load(jail, &format!("http.cors_origins = [{origin:?}]\n{APP}"));
            let error = error.expect_err(origin);
            assert!(
                error.contains("`http.cors_origins.0`") && error.contains(says),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        });
    }
}

#[test]
fn wrong_token_keys_are_told_by_key_and_without_a_secret() {
    let secret = format!("secret = \"{SECRET}\"\n");
    let again = hs256(&secret).replace(APP, "");
    let cases: &[(String, &[&str])] = &[
        (
            hs256(""),
            &["`auth.token_keys.0.secret`", "is missing", "HS256"],
        ),
        (
            hs256("secret = \"hunter2-hunter2-hunter2-hunter2\""),
            &[
                "`auth.token_keys.0.secret`",
                "fewer than 32 bytes",
                "openssl rand -hex 32",
            ],
        ),
        (
            hs256("secret = \"\""),
            &["`auth.token_keys.0.secret`", "is empty"],
        ),
        (
            hs256(&format!("{secret}public_key = \"hunter2\"")),
            &["`auth.token_keys.0.public_key`", "is for EdDSA"],
        ),
        (
            hs256(&secret).replace("HS256", "EdDSA"),
            &[
                "`auth.token_keys.0.secret`",
                "is for HS256",
                "`auth.token_keys.0.public_key`",
                "is missing",
            ],
        ),
        (
            hs256(&secret).replace("HS256", "none"),
            &["`auth.token_keys.0.algorithm`", "`HS256`, `EdDSA`"],
        ),
        (
            hs256(&secret).replace("HS256", "hs256"),
            &["`auth.token_keys.0.algorithm`", "`HS256`, `EdDSA`"],
        ),
        (
            eddsa("hunter2"),
            &[
                "`auth.token_keys.0.public_key`",
                "is no public Ed25519 key in PEM",
                "openssl pkey",
            ],
        ),
        (
            eddsa(X25519),
            &["`auth.token_keys.0.public_key`", "Ed25519"],
        ),
        (
            eddsa(PRIVATE),
            &["`auth.token_keys.0.public_key`", "Ed25519"],
        ),
        (
            hs256(&secret) + &again,
            &[
                "`auth.token_keys.1.name`",
                "another token key's name",
                "`auth.token_keys.1.secret`",
            ],
        ),
        (
            eddsa(PUBLIC)
                + &eddsa(PUBLIC)
                    .replace(APP, "")
                    .replace("\"site\"", "\"next\""),
            &[
                "`auth.token_keys.1.public_key`",
                "is another token key's public key too",
            ],
        ),
        (
            hs256(&format!("{secret}apps = [\"shop\"]")),
            &["`auth.token_keys.0.apps.0`", "no app is named `shop`"],
        ),
        (
            hs256(&format!("{secret}apps = []")),
            &["`auth.token_keys.0.apps`", "is empty"],
        ),
        (
            hs256(&format!("{secret}scopes = [\"read\"]")),
            &["`auth.token_keys.0.scopes`", "no known key"],
        ),
        (
            format!("auth.max_token_age = \"59s\"\n{APP}"),
            &["`auth.max_token_age`", "between 1m and 24h"],
        ),
        (
            format!("auth.max_token_age = \"25h\"\n{APP}"),
            &["`auth.max_token_age`", "between 1m and 24h"],
        ),
        (
            format!("auth.token_rate = {{ per_second = 0, burst = 100001 }}\n{APP}"),
            &[
                "`auth.token_rate.per_second`",
                "`auth.token_rate.burst`",
                "between 1 and 100000",
            ],
        ),
        (
            format!("auth.token_rate = 5\n{APP}"),
            &["`auth.token_rate`", "{ per_second = 10, burst = 40 }"],
        ),
        (
            format!(
                "{APP}[[auth.keys]]\nname = \"a\"\nsecret = \"0123456789abcdef\"\nscopes = [\"read\"]\nrate = {{ per_second = 1 }}\n"
            ),
            &["`auth.keys.0.rate.burst`", "is missing"],
        ),
        (
            format!(
                "{}[[auth.keys]]\nname = \"a\"\nsecret = \"hunter2.hunter2.hunter2\"\nscopes = [\"read\"]\n",
                hs256(&secret)
            ),
            &["`auth.keys.0.secret`", "has the form of a user's token"],
        ),
    ];
    for (toml, expected) in cases {
        jailed(|jail| {
            let error = load(jail, toml).expect_err(toml);
            for part in *expected {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
            assert!(
                !error.contains("hunter2") && !error.contains("MC"),
                "{error}"
            );
        });
    }
}

/// Where no token is taken, none can be mistaken for one, and deployments may have such secrets.
#[test]
fn a_key_may_have_the_form_of_a_token_where_there_are_none() {
    jailed(|jail| {
        let key =
            "[[auth.keys]]\nname = \"a\"\nsecret = \"a-key.of.three-parts\"\nscopes = [\"read\"]\n";
        let config = load(jail, &format!("{APP}{key}")).unwrap();
        let found = config.keys.iter().map(|key| key.name());
        assert_eq!(found.collect::<Vec<_>>(), ["a"]);
    });
}

/// Where the secrets are on another machine, the rest is checked all the same.
#[test]
fn token_keys_are_checked_without_their_secrets() {
    jailed(|jail| {
        let elsewhere = hs256("secret = { file = \"/nowhere\" }") + &eddsa("").replace(APP, "");
        let elsewhere = elsewhere.replace("\"\"\"\"\"\"", "{ env = \"NOWHERE\" }");
        let third = eddsa("").replace(APP, "").replace("\"site\"", "\"third\"");
        let third = third.replace("\"\"\"\"\"\"", "{ env = \"NOWHERE_TOO\" }");
        let elsewhere = elsewhere.replacen("\"site\"", "\"other\"", 1) + &third;
        jail.create_file("im.toml", &elsewhere).unwrap();
        let read = Config::load_without_secrets(Some("im.toml".as_ref()));
        let (config, unread) = read.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            unread,
            [
                "auth.token_keys.0.secret",
                "auth.token_keys.1.public_key",
                "auth.token_keys.2.public_key"
            ]
        );
        assert_eq!(config.tokens.iter().count(), 3);
    });
}
