//! Users' tokens: what one opens, what it does not, and every reason to refuse it.

use std::time::{Duration, Instant};

use im_callback::config::Config;
use serde_json::{Value, json};

use crate::keys::requests;
use crate::support::process::Process;
use crate::support::token::{
    ED_PEM, ED_PUBLIC, NEXT_SECRET, SITE_SECRET, TOKEN_KEYS, base64url, claims, ed25519, hmac, now,
    site_token, token,
};
use crate::support::{
    Answer, Instance, READ_KEY, TestApp, WRITE_KEY, config_text, database_name, http, mongodb_uri,
    send,
};

/// Asks for a user's unread messages as this client.
async fn ask(
    http: &reqwest::Client,
    base: &str,
    bearer: &str,
    client: &str,
    question: &Value,
) -> Answer {
    let request = http.post(format!("{base}/v1/unread"));
    let bearer = format!("Bearer {bearer}");
    let headers = [("Authorization", &*bearer), ("X-Forwarded-For", client)];
    send(request.body(question.to_string()), &headers).await
}

async fn ask_app(app: &TestApp, bearer: &str, question: &Value) -> Answer {
    ask(
        &app.http,
        &app.instance.url(""),
        bearer,
        "192.0.2.1",
        question,
    )
    .await
}

fn question(user: &str) -> Value {
    json!({ "user": user, "peers": ["ann"] })
}

#[track_caller]
fn expect_refused(answer: &Answer, status: u16, code: &str, detail: &str) {
    assert_eq!(
        (answer.status, &*answer.code()),
        (status, code),
        "{answer:?}"
    );
    let found = answer.json()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(found.contains(detail), "{detail} is not in {found}");
    let error = match status {
        401 | 429 => "invalid_token",
        _ => "insufficient_scope",
    };
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, format!("Bearer error=\"{error}\""), "{answer:?}");
}

#[tokio::test]
async fn a_page_asks_about_its_own_user_in_its_own_app_alone() {
    let app = TestApp::with(TOKEN_KEYS).await;
    crate::unread::with_messages(&app).await;
    // In NetEase's apps case makes no difference, in RongCloud's it does.
    let bob = site_token(json!({ "sub": "Bob" }));
    for user in ["bob", "BOB", "Bob"] {
        let answer = ask_app(&app, &bob, &question(user)).await;
        assert_eq!(
            (answer.status, &answer.json()["total"]),
            (200, &json!(3)),
            "{answer:?}"
        );
        let bearer = format!("Bearer {bob}");
        for path in ["", "&app=otc"] {
            let path = format!("/v1/unread?user={user}&peers=ann{path}");
            let answer = app.get(&path, &[("Authorization", &bearer)]).await;
            assert_eq!(
                (answer.status, &answer.json()["total"]),
                (200, &json!(3)),
                "{answer:?}"
            );
        }
    }
    for other in ["ann", "bob ", "b", "bobb", "bob,ann", "\u{212a}ob"] {
        let answer = ask_app(&app, &bob, &question(other)).await;
        expect_refused(&answer, 403, "user_not_allowed", "another user's");
        assert!(!answer.text.contains("Bob"), "{answer:?}");
    }
    // Whether the app exists is not told.
    for other in ["shop", "none", "OTC", ""] {
        let question = json!({ "app": other, "user": "bob", "peers": ["ann"] });
        let answer = ask_app(&app, &bob, &question).await;
        expect_refused(&answer, 403, "app_not_allowed", "another app");
    }
    let of_shop = site_token(json!({ "app": "shop", "sub": "Bob" }));
    let answer = ask_app(&app, &of_shop, &question("Bob")).await;
    assert_eq!(
        (answer.status, &answer.json()["total"]),
        (200, &json!(0)),
        "{answer:?}"
    );
    let answer = ask_app(&app, &of_shop, &question("bob")).await;
    expect_refused(&answer, 403, "user_not_allowed", "another user's");
    app.end().await;
}

/// A key that is for one app need not have it in its tokens.
#[tokio::test]
async fn tokens_of_each_key_and_algorithm_are_taken() {
    let app = TestApp::with(TOKEN_KEYS).await;
    crate::unread::with_messages(&app).await;
    let next = |head: Value, over: Value| {
        token(&head, &claims(over), |text| {
            hmac(NEXT_SECRET.as_bytes(), text)
        })
    };
    let ed = |head: Value, over: Value| token(&head, &claims(over), ed25519);
    let no_app = || json!({ "app": null });
    for (token, total) in [
        (next(json!({ "alg": "HS256" }), no_app()), 3),
        (next(json!({ "alg": "HS256", "kid": "next" }), json!({})), 3),
        (ed(json!({ "alg": "EdDSA" }), no_app()), 0),
        (
            ed(
                json!({ "kid": "ed", "alg": "EdDSA", "typ": "x", "more": 1 }),
                json!({ "app": "shop" }),
            ),
            0,
        ),
        (
            site_token(json!({ "aud": ["its-own", "im-callback"], "iat": now(), "nbf": now() })),
            3,
        ),
    ] {
        let answer = ask_app(&app, &token, &question("bob")).await;
        assert_eq!(
            (answer.status, &answer.json()["total"]),
            (200, &json!(total)),
            "{answer:?}"
        );
    }
    for (token, detail) in [
        (
            next(json!({ "alg": "HS256" }), json!({ "app": "shop" })),
            "not one that its key is for",
        ),
        (
            ed(json!({ "alg": "EdDSA" }), json!({ "app": "otc" })),
            "not one that its key is for",
        ),
        (site_token(no_app()), "names no `app`"),
    ] {
        let answer = ask_app(&app, &token, &question("bob")).await;
        expect_refused(&answer, 401, "invalid_token", detail);
    }
    let gone = site_token(json!({ "app": "gone" }));
    let answer = ask_app(&app, &gone, &question("bob")).await;
    assert_eq!((answer.status, &*answer.code()), (404, "unknown_app"));
    app.end().await;
}

/// Each from another address, so that none is refused for the others.
#[tokio::test]
async fn every_other_token_is_refused_and_nothing_of_it_is_told() {
    let app = TestApp::with(TOKEN_KEYS).await;
    let hs256 = || json!({ "alg": "HS256" });
    let site = |head: Value, over: Value| {
        token(&head, &claims(over), |text| {
            hmac(SITE_SECRET.as_bytes(), text)
        })
    };
    // Over the public key, in each form that it might be held in.
    let confused = |secret: &[u8]| {
        let claims = claims(json!({ "app": "shop" }));
        token(&hs256(), &claims, |text| hmac(secret, text))
    };
    let public = hex::decode(ED_PUBLIC).unwrap();
    let der = [
        &b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..],
        &public,
    ]
    .concat();
    let unsigned = |alg: &str| token(&json!({ "alg": alg }), &claims(json!({})), |_| Vec::new());
    let right = site(hs256(), json!({}));
    let (head, rest) = right.split_once('.').unwrap();
    let of_ann = base64url(claims(json!({ "sub": "ann" })).to_string().as_bytes());
    let (_, signature) = rest.split_once('.').unwrap();
    let not_json = {
        let signed = format!(
            "{}.{}",
            base64url(br#"{"alg":"HS256"}"#),
            base64url(b"no claims")
        );
        let signature = base64url(&hmac(SITE_SECRET.as_bytes(), signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    let cases = [
        (unsigned("none"), "head is not one"),
        (unsigned("None"), "head is not one"),
        (unsigned("HS256"), "signature is wrong"),
        (confused(&public), "signature is wrong"),
        (confused(ED_PEM.as_bytes()), "signature is wrong"),
        (confused(ED_PEM.trim_end().as_bytes()), "signature is wrong"),
        (confused(&der), "signature is wrong"),
        (confused(b""), "signature is wrong"),
        (
            site(json!({ "alg": "EdDSA" }), json!({})),
            "signature is wrong",
        ),
        (site(json!({ "alg": "HS512" }), json!({})), "`alg` is not"),
        (site(json!({ "alg": "RS256" }), json!({})), "`alg` is not"),
        (site(json!({ "kid": "site" }), json!({})), "head is not one"),
        (
            site(json!({ "alg": "HS256", "kid": "gone" }), json!({})),
            "`kid` is the name of no",
        ),
        (
            site(json!({ "alg": "HS256", "kid": "next" }), json!({})),
            "signature is wrong",
        ),
        (
            site(json!({ "alg": "HS256", "kid": "ed" }), json!({})),
            "`alg` is not",
        ),
        (
            site(json!({ "alg": "HS256", "kid": "" }), json!({})),
            "`kid` is the name of no",
        ),
        (
            site(json!({ "alg": "HS256", "crit": ["exp"] }), json!({})),
            "`crit`",
        ),
        (format!("{head}.{of_ann}.{signature}"), "signature is wrong"),
        (
            format!("{}.x", right.rsplit_once('.').unwrap().0),
            "signature is wrong",
        ),
        (format!("e30.{rest}"), "head is not one"),
        (format!("!.{rest}"), ""),
        (not_json, "not a JSON object"),
        (
            site_token(json!({ "aud": "shop.example" })),
            "`aud` does not",
        ),
        (site_token(json!({ "aud": null })), "claim `aud`"),
        (site_token(json!({ "sub": null })), "claim `sub`"),
        (site_token(json!({ "exp": null })), "claim `exp`"),
        (
            site_token(json!({ "exp": now() + 4000 })),
            "auth.max_token_age",
        ),
        (
            site_token(json!({ "exp": 99_999_999_999_i64 })),
            "auth.max_token_age",
        ),
        (
            site_token(json!({ "nbf": now() + 300 })),
            "`nbf` is in the future",
        ),
        (
            site_token(json!({ "iat": now() + 300 })),
            "`iat` is in the future",
        ),
        (
            site_token(json!({ "teams": vec!["t".repeat(100); 100] })),
            "longer than 8192 bytes",
        ),
    ];
    for (n, (token, detail)) in cases.iter().enumerate() {
        let client = format!("198.51.100.{}", n + 1);
        let base = app.instance.url("");
        let answer = ask(&app.http, &base, token, &client, &question("bob")).await;
        if detail.is_empty() {
            // It has not the form of a token.
            expect_refused(&answer, 401, "unknown_key", "none of the configured keys");
            continue;
        }
        expect_refused(&answer, 401, "invalid_token", detail);
        for part in token.split('.').filter(|part| part.len() > 3) {
            assert!(!answer.text.contains(part), "{answer:?}");
        }
    }
    let expired = site_token(json!({ "exp": now() - 1 }));
    let answer = ask_app(&app, &expired, &question("bob")).await;
    expect_refused(&answer, 401, "token_expired", "fetch a new one");
    let metrics = app.get("/metrics", &[]).await.text;
    let counts = [
        ("token", cases.len() - 1),
        ("unknown", 1),
        ("expired", 1),
        ("throttled", 0),
    ];
    for (reason, n) in counts {
        let line = format!("im_callback_rejected_keys_total{{reason=\"{reason}\"}} {n}");
        assert!(metrics.contains(&line), "{line}");
    }
    app.end().await;
}

fn is_for_users(path: &str) -> bool {
    let routes = ["/v1/unread", "/v1/messages", "/v1/presence"];
    routes.iter().any(|route| path.starts_with(route))
}

#[tokio::test]
async fn each_route_for_users_is_open_to_their_own_questions_alone() {
    let app = TestApp::with(TOKEN_KEYS).await;
    let base = app.instance.url("");
    let ask = async |over: Value, (method, path, body): &(&str, String, Value)| {
        let request = app
            .http
            .request(method.parse().unwrap(), format!("{base}{path}"));
        let bearer = format!("Bearer {}", site_token(over));
        send(
            request.body(body.to_string()),
            &[("Authorization", &bearer)],
        )
        .await
    };
    let mut asked = requests("otc");
    // A stream has no end.
    asked.retain(|(_, path, _)| is_for_users(path) && !path.contains("/stream"));
    assert_eq!(asked.len(), 6);
    for question in &asked {
        let teams = json!(["7"]);
        let own = ask(json!({ "teams": teams }), question).await;
        assert_eq!(own.status, 200, "{question:?} {own:?}");
        for (over, code) in [
            (json!({ "sub": "ann", "teams": teams }), "user_not_allowed"),
            (json!({ "app": "shop", "teams": teams }), "app_not_allowed"),
        ] {
            let refused = ask(over, question).await;
            assert_eq!(
                (refused.status, &*refused.code()),
                (403, code),
                "{question:?}"
            );
        }
        if question.1.contains("team=7") {
            for over in [json!({}), json!({ "teams": ["8"] })] {
                let refused = ask(over, question).await;
                expect_refused(&refused, 403, "team_not_allowed", "`teams`");
            }
        }
    }
    // One's own name does not let in others.
    for (method, path, body) in [
        ("GET", "/v1/presence?users=bob,ann", Value::Null),
        ("POST", "/v1/presence", json!({ "users": ["bob", "ann"] })),
    ] {
        let refused = ask(json!({}), &(method, path.to_owned(), body)).await;
        expect_refused(&refused, 403, "user_not_allowed", "another user's");
    }
    app.end().await;
}

#[tokio::test]
async fn a_token_opens_no_route_that_is_for_keys() {
    let more = format!("http.open_metrics = false\n{TOKEN_KEYS}");
    let app = TestApp::with(&more).await;
    let bob = site_token(json!({}));
    let mut others = requests("otc");
    others.retain(|(_, path, _)| !is_for_users(path));
    assert!(others.len() >= 5);
    others.push(("GET", "/v1/dead-letters".to_owned(), Value::Null));
    others.push(("GET", "/metrics".to_owned(), Value::Null));
    let bearer = |token: &str| format!("Bearer {token}");
    for (method, path, _) in &others {
        let ask = async |token: &str| {
            let request = app
                .http
                .request(method.parse().unwrap(), app.instance.url(path));
            send(request, &[("Authorization", &bearer(token))]).await
        };
        expect_refused(&ask(&bob).await, 403, "token_not_allowed", "needs a key");
        let expired = site_token(json!({ "exp": now() - 1 }));
        expect_refused(
            &ask(&expired).await,
            401,
            "token_expired",
            "fetch a new one",
        );
    }
    app.end().await;
}

/// Tokens that no key has signed spend the budget of their address, as unknown keys do. Those that one has do not: pages
/// behind one address must learn that they need a new one, and why.
#[tokio::test]
async fn a_flood_of_invalid_tokens_locks_nobody_out() {
    let app = TestApp::with(TOKEN_KEYS).await;
    let base = app.instance.url("");
    let ask =
        async |token: &str| ask(&app.http, &base, token, "203.0.113.5", &question("bob")).await;
    let expired = site_token(json!({ "exp": now() - 1 }));
    let of_other = site_token(json!({ "aud": "shop.example" }));
    let ahead = site_token(json!({ "nbf": now() + 300 }));
    let no_claims = {
        let head = base64url(br#"{"alg":"HS256"}"#);
        let signed = format!("{head}.{}", base64url(b"no claims"));
        let signature = base64url(&hmac(SITE_SECRET.as_bytes(), signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    let signed = async || {
        for (token, code, detail) in [
            (&expired, "token_expired", "fetch a new one"),
            (&of_other, "invalid_token", "`aud`"),
            (&ahead, "invalid_token", "`nbf`"),
            (&no_claims, "invalid_token", "not a JSON object"),
        ] {
            expect_refused(&ask(token).await, 401, code, detail);
        }
    };
    for _ in 0..20 {
        signed().await;
    }
    let mut invalid = 0;
    for n in 0..40 {
        let claims = claims(json!({ "n": n }));
        let wrong = token(&json!({ "alg": "HS256" }), &claims, |text| {
            hmac(b"a guess", text)
        });
        let answer = ask(&wrong).await;
        match answer.status {
            401 => invalid += 1,
            _ => expect_refused(&answer, 429, "too_many_failed_keys", "invalid tokens"),
        }
    }
    // Ten, and those that came back while the test ran.
    assert!((10..16).contains(&invalid), "{invalid}");
    signed().await;
    assert_eq!(ask(&site_token(json!({}))).await.status, 200);
    assert_eq!(ask(READ_KEY).await.code(), "missing_field", "it is let in");
    assert_eq!(ask(WRITE_KEY).await.code(), "missing_scope");
    app.end().await;
}

/// Without any `[[auth.keys]]`.
#[tokio::test]
async fn token_keys_alone_are_enough() {
    let uri = mongodb_uri();
    let name = database_name();
    let text = config_text("127.0.0.1:0", &uri, &name, TOKEN_KEYS);
    let (without_keys, _) = text.split_once("[[auth.keys]]").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), without_keys).unwrap();
    let config = Config::load(Some(file.path()), &[]).unwrap();
    assert!(config.keys.is_empty());
    let app = TestApp {
        instance: Instance::start(config),
        database: mongodb::Client::with_uri_str(uri)
            .await
            .unwrap()
            .database(&name),
        http: http(),
    };
    app.until_ready().await;
    let answer = ask_app(&app, &site_token(json!({})), &question("bob")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = ask_app(&app, READ_KEY, &question("bob")).await;
    expect_refused(&answer, 401, "unknown_key", "none of the configured keys");
    let answer = app.get("/v1/unread?user=bob&peers=ann", &[]).await;
    assert_eq!((answer.status, &*answer.code()), (401, "missing_key"));
    app.end().await;
}

/// The old key, then both, then the new one alone, and never a refused token of a live key.
#[tokio::test(flavor = "multi_thread")]
async fn token_keys_rotate_by_sighup() {
    let name = database_name();
    let mut process = Process::new(&mongodb_uri(), &name, TOKEN_KEYS);
    let file = process.config_file();
    let both = std::fs::read_to_string(&file).unwrap();
    let of_next = |text: &str| {
        let start = text
            .find("[[auth.token_keys]]\n    name = \"next\"")
            .unwrap();
        start..start + text[start..].find("apps = [\"otc\"]").unwrap() + 14
    };
    let mut old = both.clone();
    old.replace_range(of_next(&both), "");
    let new = both.replace(
        "secret = \"the-tests-secret-of-the-site-32b\"",
        "secret = \"another-secret-of-thirty-two-bytes\"",
    );
    std::fs::write(&file, &old).unwrap();
    tokio::task::block_in_place(|| process.start());
    let (http, base) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    let of_site = site_token(json!({}));
    let of_next = token(&json!({ "alg": "HS256" }), &claims(json!({})), |text| {
        hmac(NEXT_SECRET.as_bytes(), text)
    });
    let statuses = async || {
        let mut statuses = Vec::new();
        for token in [&of_site, &of_next] {
            let answer = ask(&http, &base, token, "192.0.2.1", &question("bob")).await;
            statuses.push(answer.status);
        }
        statuses
    };
    let reload = async |text: &str| {
        let seen = process.log().len();
        std::fs::write(&file, text).unwrap();
        process.signal("-HUP");
        let since = Instant::now();
        while !process.log()[seen..].contains("read anew") {
            assert!(since.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(statuses().await, [200, 401]);
    reload(&both).await;
    assert_eq!(statuses().await, [200, 200]);
    reload(&new).await;
    assert_eq!(statuses().await, [401, 200]);
    assert!(process.log().contains("token_keys=3"));
    // What tokens may be changes with the file, too.
    reload(&both.replacen(
        "[[auth.keys]]",
        "[auth]\nmax_token_age = \"5m\"\n[[auth.keys]]",
        1,
    ))
    .await;
    assert_eq!(statuses().await, [401, 401]);
    drop(process);
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}

/// What an operator reads: which check failed, whose key and which client, and nothing of the token.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_fault_and_nothing_of_the_token() {
    let name = database_name();
    let mut process = Process::new(&mongodb_uri(), &name, TOKEN_KEYS);
    tokio::task::block_in_place(|| process.start());
    let (http, base) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    let of_nobody =
        site_token(json!({ "sub": "the-account-of-nobody", "aud": "the-aud-of-nobody" }));
    let unknown = token(
        &json!({ "alg": "HS256", "kid": "the-kid-of-nobody" }),
        &claims(json!({})),
        |text| hmac(b"", text),
    );
    let expired = site_token(json!({ "exp": now() - 1 }));
    for token in [&of_nobody, &unknown, &expired] {
        let answer = ask(&http, &base, token, "192.0.2.7", &question("bob")).await;
        assert_eq!(answer.status, 401);
    }
    let bob = site_token(json!({}));
    let answer = ask(&http, &base, &bob, "192.0.2.7", &question("the-other-user")).await;
    assert_eq!(answer.status, 403);
    let log = process.log();
    for words in [
        &[r#"reason="token""#, r#"fault="audience""#, r#"key="site""#][..],
        &[r#"reason="token""#, r#"fault="kid""#],
        &[r#"reason="expired""#, r#"key="site""#],
        &[r#"reason="user""#, r#"key="site""#],
    ] {
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        let mut lines = log.lines().filter(has_all);
        let line = lines.next().unwrap_or_else(|| panic!("{words:?} in {log}"));
        assert!(
            line.contains("a key was refused") && line.contains("client=192.0.2.7"),
            "{line}"
        );
        assert_eq!(lines.next(), None);
    }
    // What was throttled is told with the next line that is about a bearer nobody knows, of either kind.
    for n in 0..40 {
        ask(
            &http,
            &base,
            &format!("a-guess-{n}"),
            "192.0.2.8",
            &question("bob"),
        )
        .await;
    }
    ask(&http, &base, &unknown, "198.51.100.9", &question("bob")).await;
    let log = process.log();
    let of_token = log.lines().rfind(|line| line.contains(r#"fault="kid""#));
    let told = of_token.and_then(|line| line.split("throttled_of_all=").nth(1));
    let told = told.and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(
        told.is_some_and(|n: u32| (20..=30).contains(&n)),
        "{of_token:?}"
    );
    for hidden in ["of-nobody", "the-other-user", &bob, SITE_SECRET] {
        assert!(!log.contains(hidden), "{hidden} in {log}");
    }
    drop(process);
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}
