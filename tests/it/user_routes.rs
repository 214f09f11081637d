//! The routes that users' tokens are for: which they are, what holds for each of them, and which teams they tell of.

use std::collections::BTreeSet;

use im_callback::http::route::Route;
use serde_json::{Value, json};

use crate::keys::requests;
use crate::support::token::{TOKEN_KEYS, site_token};
use crate::support::{Answer, READ_KEY, TestApp, send};

const ORIGIN: &str = "https://shop.example";
const OPEN: &str = r#"http.cors_origins = ["https://shop.example"]"#;

/// A method, a path and a body.
type Question = (&'static str, String, Value);

async fn ask(app: &TestApp, bearer: &str, (method, path, body): &Question) -> Answer {
    let request = app
        .http
        .request(method.parse().unwrap(), app.instance.url(path));
    let request = match body {
        Value::Null => request,
        body => request.body(body.to_string()),
    };
    let bearer = format!("Bearer {bearer}");
    send(request, &[("Authorization", &bearer), ("Origin", ORIGIN)]).await
}

/// Every route below `/v1`. The stream by `HEAD`, which ends.
fn of_the_api() -> Vec<Question> {
    let mut questions = requests("otc");
    questions.retain(|(_, path, _)| !path.starts_with("/v1/unread/stream"));
    let stream = "/v1/unread/stream?user=bob&peers=ann".to_owned();
    questions.push(("HEAD", stream, Value::Null));
    questions
}

fn is_kept_from_caches(answer: &Answer) -> bool {
    answer.header("cache-control") == "no-store"
}

/// What the service takes for such a route is what it is: pages may read its answers, refusals too, and nobody stores
/// them.
#[tokio::test]
async fn the_routes_that_take_tokens_are_those_for_pages() {
    let app = TestApp::with(&format!("{OPEN}\n{TOKEN_KEYS}")).await;
    let bob = site_token(json!({ "teams": ["7"] }));
    let (mut asked, mut taking) = (BTreeSet::new(), BTreeSet::new());
    for question in of_the_api() {
        let path = question.1.split('?').next().unwrap().to_owned();
        let answer = ask(&app, &bob, &question).await;
        let takes = answer.status == 200;
        if !takes {
            assert_eq!(answer.code(), "token_not_allowed", "{question:?}");
        }
        for answer in [answer, ask(&app, "a-key-of-nobody", &question).await] {
            let is_for_pages = answer.header("access-control-allow-origin") == ORIGIN;
            assert_eq!(is_for_pages, takes, "{question:?} {answer:?}");
            assert_eq!(is_kept_from_caches(&answer), takes, "{answer:?}");
        }
        if takes {
            taking.insert(path.clone());
        }
        asked.insert(path);
    }
    let expected = [
        "/v1/messages",
        "/v1/presence",
        "/v1/unread",
        "/v1/unread/stream",
    ];
    assert_eq!(taking.into_iter().collect::<Vec<_>>(), expected);
    // None is left out above.
    let is_asked = |route: &Route| {
        let pattern = route.pattern().replace("{app}", "otc");
        asked.contains(&pattern.replace("{digest}", "1"))
    };
    let of_the_api = Route::ALL
        .iter()
        .filter(|route| route.pattern().starts_with("/v1/"));
    let left_out: Vec<_> = of_the_api.filter(|route| !is_asked(route)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
    app.end().await;
}

fn about_teams(user: &str, teams: &[&str]) -> Vec<Question> {
    let listed = teams.join(",");
    let mut questions = vec![
        (
            "GET",
            format!("/v1/unread?user={user}&teams={listed}"),
            Value::Null,
        ),
        (
            "POST",
            "/v1/unread".to_owned(),
            json!({ "user": user, "peers": ["ann"], "teams": teams }),
        ),
        (
            "HEAD",
            format!("/v1/unread/stream?user={user}&teams={listed}"),
            Value::Null,
        ),
    ];
    if let [team] = teams {
        questions.push((
            "GET",
            format!("/v1/messages?user={user}&team={team}"),
            Value::Null,
        ));
        questions.push((
            "POST",
            "/v1/messages".to_owned(),
            json!({ "user": user, "team": team }),
        ));
    }
    questions
}

#[tokio::test]
async fn a_user_is_told_of_the_tokens_teams_alone() {
    // Many questions of one user.
    let rate = "auth.token_rate = { per_second = 100, burst = 1000 }";
    let app = TestApp::with(&format!("{rate}\n{TOKEN_KEYS}")).await;
    let bob = site_token(json!({ "teams": ["7", "eight"] }));
    let without = site_token(json!({}));
    let refused = async |bearer: &str, question: &Question, code: &str| {
        let answer = ask(&app, bearer, question).await;
        let code_of = || match answer.text.as_str() {
            "" => String::new(),
            _ => answer.code(),
        };
        let found = (answer.status, code_of());
        let code = if question.0 == "HEAD" { "" } else { code };
        assert_eq!(found, (403, code.to_owned()), "{question:?} {answer:?}");
        assert!(!answer.text.contains("\"unread\"") && !answer.text.contains("messages\":"));
    };
    for teams in [&["7"][..], &["eight"], &["eight", "7"]] {
        for question in about_teams("bob", teams) {
            let answer = ask(&app, &bob, &question).await;
            assert_eq!(answer.status, 200, "{question:?} {answer:?}");
            refused(&without, &question, "team_not_allowed").await;
        }
        for question in about_teams("ann", teams) {
            refused(&bob, &question, "user_not_allowed").await;
        }
    }
    for teams in [&["8"][..], &["07"], &["EIGHT"], &["7", "8"], &["8", "7"]] {
        for question in about_teams("bob", teams) {
            refused(&bob, &question, "team_not_allowed").await;
            // A key is for all users.
            let (method, path, mut body) = question;
            let path = match body.as_object_mut() {
                Some(members) => {
                    members.insert("app".to_owned(), json!("otc"));
                    path
                }
                None => format!("{path}&app=otc"),
            };
            let answer = ask(&app, READ_KEY, &(method, path, body)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    app.end().await;
}

/// Alone, several times, and among others.
#[tokio::test]
async fn a_user_is_told_of_its_own_presence_alone() {
    let app = TestApp::with(TOKEN_KEYS).await;
    let bob = site_token(json!({}));
    for (users, status) in [
        (&["bob"][..], 200),
        (&["BOB", "bob"], 200),
        (&["ann"], 403),
        (&["bob", "ann"], 403),
        (&["ann", "bob"], 403),
    ] {
        for question in [
            (
                "GET",
                format!("/v1/presence?users={}", users.join(",")),
                Value::Null,
            ),
            ("POST", "/v1/presence".to_owned(), json!({ "users": users })),
        ] {
            let answer = ask(&app, &bob, &question).await;
            assert_eq!(answer.status, status, "{question:?} {answer:?}");
            if status == 403 {
                assert_eq!(answer.code(), "user_not_allowed");
            }
        }
    }
    app.end().await;
}
