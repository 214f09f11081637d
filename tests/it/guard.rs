//! The guard over all logs of the tests, see `support/log_guard.rs`: it finds what it is there for.

use serde_json::json;

use crate::callbacks::{MESSAGE, TEXT};
use crate::support::log_guard::{Words, check, has_looked_at};
use crate::support::{SECRET, TestApp, signed};

#[test]
fn the_guard_finds_secrets_texts_and_debug_output() {
    let mut words = Words::default();
    words.forbid("a key", "a-secret-key");
    words.forbid("a key", "short");
    let nested = json!({ "note": "in the \"attachment\"" }).to_string();
    let body = json!({ "eventType": 1, "body": "hello there, Bob", "attach": nested, "to": "somebody-else" });
    words.forbid_texts(body.to_string().as_bytes());
    words.forbid_texts(b"content=a+text+of+a+form&toUserId=somebody-else");
    words.forbid_texts("这是一条消息".as_bytes());
    for (line, kind) in [
        ("x a-secret-key y", "a key"),
        ("error=\"hello there, Bob\"", "a message's text"),
        ("said: in the \\\"attachment\\\"", "a message's text"),
        ("body=a text of a form", "a message's text"),
        ("body=这是一条消息", "a body"),
        ("code=\"x\" peer=Some(127.0.0.1:1)", "`Debug` output"),
        ("code=\"x\" peer=None", "`Debug` output"),
        ("outcome=StillUndecodable { code: \"x\" }", "`Debug` output"),
    ] {
        let fault = words.fault(line).unwrap_or_else(|| panic!("{line} passes"));
        assert!(fault.starts_with(kind), "{fault}");
        let says = |word: &&str| fault.contains(*word);
        let told = [
            "a-secret-key",
            "hello there",
            "attachment",
            "text of a form",
            "一条",
        ];
        assert!(told.iter().find(|word| says(word)).is_none(), "{fault}");
    }
    for line in [
        "short a-secret",
        "to=somebody-else id=\"otc/0a\" NoneOfIt=1 error=Kind: None",
        "a line whose text is Some(thing) or = None of it",
    ] {
        assert_eq!(words.fault(line), None);
    }
}

#[test]
fn the_guard_knows_the_texts_of_every_provider() {
    for body in [
        "content=%7B%22content%22%3A%22a+long+text%22%7D",
        r#"{"payload":{"searchableContent":"a long text"}}"#,
        r#"{"body":"a long text"}"#,
        r#"[{"ext":"{\"x\":[\"a long text\"]}"}]"#,
    ] {
        let mut words = Words::default();
        words.forbid_texts(body.as_bytes());
        assert!(words.fault("x=\"a long text\"").is_some(), "{body}");
    }
}

/// It sees what services inside the test process log, also at `debug`.
#[tokio::test]
async fn the_guard_sees_the_access_log() {
    let app = TestApp::start().await;
    let headers = signed(MESSAGE.as_bytes(), SECRET);
    let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
    let id = format!("of-the-guard-{}", std::process::id());
    let headers: Vec<_> = headers.chain([("X-Request-Id", &*id)]).collect();
    assert!(!has_looked_at(&id));
    app.post("/callbacks/otc", &headers, MESSAGE)
        .await
        .expect_ok();
    assert!(has_looked_at(&id));
    app.end().await;
}

/// It knows what tests send.
#[test]
#[should_panic(expected = "a message's text is in a log: said=***")]
fn the_guard_knows_what_is_signed() {
    let text = "the text of a test about texts";
    signed(MESSAGE.replace(TEXT, text).as_bytes(), SECRET);
    check(&format!("said={text}"));
}
