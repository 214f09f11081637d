//! How much a key and a user may ask.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::token::{TOKEN_KEYS, site_token};
use crate::support::{Answer, READ_KEY, TestApp};

const LIMITED_KEY: &str = "the-tests-limited-key";
const LIMITED: &str = r#"
    [[auth.keys]]
    name = "limited"
    secret = "the-tests-limited-key"
    scopes = ["read", "admin"]
    rate = { per_second = 1, burst = 3 }
"#;

async fn ask(app: &TestApp, bearer: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {bearer}");
    app.post("/v1/unread", &[("Authorization", &bearer)], body.to_owned())
        .await
}

fn question(user: &str) -> String {
    json!({ "app": "otc", "user": user, "peers": ["ann"] }).to_string()
}

#[track_caller]
fn expect_limited(answer: &Answer, detail: &str) {
    assert_eq!(
        (answer.status, &*answer.code()),
        (429, "rate_limited"),
        "{answer:?}"
    );
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.problem()["detail"], detail);
    // The key is right, so it is not asked for.
    assert_eq!(answer.header("www-authenticate"), "");
}

/// Counts, however slow the machine is: of requests that are sent one after the other none more may pass than time allows.
#[tokio::test]
async fn a_key_may_send_its_burst_and_then_its_rate() {
    let app = TestApp::with(&format!("{TOKEN_KEYS}{LIMITED}")).await;
    let since = std::time::Instant::now();
    let (mut passed, mut limited) = (0, 0);
    for _ in 0..20 {
        let answer = ask(&app, LIMITED_KEY, &question("bob")).await;
        if answer.status == 200 {
            passed += 1;
            continue;
        }
        limited += 1;
        let detail = "the key asks more than 1 times a second (auth.keys.rate); ask later";
        expect_limited(&answer, detail);
    }
    let most = 3 + since.elapsed().as_secs() + 1;
    assert!((3..=most).contains(&passed), "{passed} of at most {most}");
    // Before the body is looked at, and on every route of the key.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&app, LIMITED_KEY, "no JSON").await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    let bearer = format!("Bearer {LIMITED_KEY}");
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(
            app.get("/v1/dead-letters", &[("Authorization", &bearer)])
                .await
                .status,
        );
    }
    assert!(others.contains(&429), "{others:?}");
    for _ in 0..20 {
        assert_eq!(ask(&app, READ_KEY, &question("bob")).await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(&app, LIMITED_KEY, &question("bob")).await.status, 200);
    let metrics = app.get("/metrics", &[]).await.text;
    let of_key = r#"im_callback_limited_requests_total{caller="key",key="limited"} "#;
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix(of_key))
        .unwrap();
    assert!(count.parse::<u32>().unwrap() >= limited, "{count}");
    assert!(!metrics.contains(r#"caller="key",key="reader""#));
    app.end().await;
}

/// Each user has a budget of its own, whatever tokens it has.
#[tokio::test]
async fn a_user_may_send_as_much_as_others() {
    let rate = "auth.token_rate = { per_second = 1, burst = 5 }\n";
    let app = TestApp::with(&format!("{rate}{TOKEN_KEYS}")).await;
    let detail = "the user asks more than 1 times a second (auth.token_rate); ask later";
    let of = |user: &str, more: Value| site_token(json!({ "sub": user, "more": more }));
    for user in ["bob", "ann"] {
        let since = std::time::Instant::now();
        let (mut passed, mut limited) = (0, None);
        for n in 0..20 {
            let answer = ask(&app, &of(user, json!(n)), &question(user)).await;
            match answer.status {
                200 => passed += 1,
                _ => limited = Some(answer),
            }
        }
        let most = 5 + since.elapsed().as_secs() + 1;
        assert!((5..=most).contains(&passed), "{passed} of at most {most}");
        expect_limited(&limited.expect("one too many"), detail);
    }
    // However the site spells the account, where its provider takes the spellings for one.
    let spelled = [
        "carl", "Carl", "CARL", "cArl", "caRl", "carL", "CArl", "caRL",
    ];
    let since = std::time::Instant::now();
    let mut passed = 0;
    for user in spelled.iter().cycle().take(24) {
        let answer = ask(&app, &of(user, json!(null)), &question(user)).await;
        passed += u64::from(answer.status == 200);
    }
    let most = 5 + since.elapsed().as_secs() + 1;
    assert!((5..=most).contains(&passed), "{passed} of at most {most}");
    // RongCloud's accounts are as they are spelled.
    for user in spelled {
        let token = site_token(json!({ "app": "shop", "sub": user }));
        let question = question(user).replace("otc", "shop");
        assert_eq!(ask(&app, &token, &question).await.status, 200);
    }
    // The same account of another app is another user.
    let of_shop = site_token(json!({ "app": "shop" }));
    let other = question("bob").replace("otc", "shop");
    assert_eq!(ask(&app, &of_shop, &other).await.status, 200);
    for _ in 0..20 {
        assert_eq!(ask(&app, READ_KEY, &question("bob")).await.status, 200);
    }
    let metrics = app.get("/metrics", &[]).await.text;
    assert!(metrics.contains(r#"im_callback_limited_requests_total{caller="user",key="site"} "#));
    app.end().await;
}
