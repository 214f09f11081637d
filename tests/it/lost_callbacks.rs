//! Callbacks to paths that no app has: what the log says, and what it must not say.

use crate::callbacks::MESSAGE;
use crate::logs::Logged;
use crate::support::dialect::{Dialect, WILDFIRE_SECRET};
use crate::support::{SECRET, signed};

const JSON: (&str, &str) = ("Content-Type", "application/json;charset=utf-8");

/// What is logged of a request: the line with its id.
async fn line_of(service: &Logged, path: &str, headers: &[(&str, &str)]) -> Option<String> {
    let answer = service.post(path, headers, MESSAGE).await;
    assert_eq!(answer.status, 404, "{path} {answer:?}");
    // The apps' names are nobody's business.
    let is_named = answer.text.contains("otc") || answer.text.contains("receiveMsg");
    assert!(!is_named, "{answer:?}");
    let id = format!("request_id={} ", answer.header("x-request-id"));
    let log = service.process.log();
    let is_it = |line: &&str| line.contains("came to a path") && line.contains(&id);
    let mut lines = log.lines().filter(is_it);
    let line = lines.next().map(str::to_owned);
    assert_eq!(lines.next(), None);
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_callback_is_logged_with_the_mistake_and_the_configured_paths() {
    let service = Logged::start("info", "").await;
    let headers = signed(MESSAGE.as_bytes(), SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    let configured = "configured=\"/callbacks/otc, /receiveMsg.action\"";
    for (path, mistake) in [
        ("/callbacks/otc/", "mistake=\"a slash at the end\""),
        ("//callbacks/otc", "mistake=\"a double slash\""),
        ("/callbacks//otc", "mistake=\"a double slash\""),
        ("/Callbacks/otc", "mistake=\"capital or small letters\""),
        ("/receivemsg.action", "mistake=\"capital or small letters\""),
        ("/callback/otc", "mistake=\"one or two letters differ\""),
        (
            "/receiveMsg.action/x",
            "mistake=\"it goes on below the app's path\"",
        ),
        ("/callbacks/shop", ""),
        ("/callbacks", ""),
    ] {
        let line = line_of(&service, path, &headers).await;
        let line =
            line.unwrap_or_else(|| panic!("{path} is not logged: {}", service.process.log()));
        let path = format!("path=\"{path}\"");
        let fields = [
            "WARN",
            "came to a path that no app has",
            &path,
            mistake,
            configured,
        ];
        for field in fields.iter().chain(&["client=127.0.0.1 ", "kept_back=0"]) {
            assert!(line.contains(field), "no {field} in {line}");
        }
    }
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_callback_is_not_logged() {
    let service = Logged::start("info", "").await;
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for (path, headers, is_logged) in [
        ("/hooks/im", &[][..], false),
        ("/hooks/im", &[("Content-Type", "text/plain")], false),
        ("/hooks/im", &[JSON], true),
        ("/hooks/im", &[form], true),
        ("/hooks/im", &[("CheckSum", "0")], true),
        ("/hooks/im", &[("RC-Signature", "0")], true),
        ("/hooks/im?signature=0", &[], true),
    ] {
        let line = line_of(&service, path, headers).await;
        assert_eq!(line.is_some(), is_logged, "{path} {headers:?} {line:?}");
        assert!(!line.unwrap_or_default().contains("signature="));
    }
    let looked = service.get("/hooks/im", &[JSON]).await;
    assert_eq!(looked.status, 404);
    let id = looked.header("x-request-id").to_owned();
    assert!(!service.process.log().contains(&id));
    service.end().await;
}

/// Nobody can fill the disk, and a flood of one kind hides no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_lost_callbacks_is_counted() {
    let service = Logged::start("info", "").await;
    for _ in 0..100 {
        service.post("/wp-login.php", &[JSON], "{}").await;
    }
    let lines = service.lines("path=\"/wp-login.php\"", 10);
    assert!(lines[9].contains("kept_back=0"), "{}", lines[9]);
    let other = line_of(&service, "/callbacks/shop", &[]).await;
    assert!(other.is_some_and(|line| line.contains("kept_back=0")));
    let signed = line_of(&service, "/hooks/im", &[("MD5", "0")]).await;
    assert!(signed.is_some_and(|line| line.contains("kept_back=0")));
    service.end().await;
}

/// The guard of all logs would find a whole secret. Here a part of it must not be shown either.
#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_path_secret_is_logged() {
    let service = Logged::start("debug", &Dialect::other_apps()).await;
    let most = &WILDFIRE_SECRET[..15];
    let configured = "/callbacks/wild/{secret}/{event}";
    let (capitals, near) = ("capital or small letters", "one or two letters differ");
    let (event, double, escaped) = (
        "the event is missing at the end",
        "a double slash",
        "it has an escaped character, such as a space",
    );
    for (path, shown, mistake) in [
        (
            format!("/callbacks/wild/{WILDFIRE_SECRET}"),
            "/callbacks/wild/***",
            event,
        ),
        (
            format!("/callbacks/wild/{WILDFIRE_SECRET}/"),
            "/callbacks/wild/***/",
            event,
        ),
        (
            format!("/callbacks//wild/{WILDFIRE_SECRET}/message"),
            "/callbacks//wild/***…",
            double,
        ),
        (
            format!("/Callbacks/wild/{WILDFIRE_SECRET}/message"),
            "/Callbacks/wild/***/***",
            capitals,
        ),
        (
            format!("/callbacks/{WILDFIRE_SECRET}/message"),
            "/callbacks/***/***",
            "",
        ),
        (
            format!("/callbacks/wlid/{WILDFIRE_SECRET}/message"),
            "/callbacks/wlid/***/***",
            near,
        ),
        (format!("/{WILDFIRE_SECRET}/message"), "/***/***", ""),
        (format!("/wild/{most}/message"), "/wild/***/***", ""),
        (
            format!("/callback/wild/{most}%2D/message"),
            "/callback/wild/***/***",
            escaped,
        ),
    ] {
        let line = line_of(&service, &path, &[JSON]).await;
        let line = line.unwrap_or_else(|| panic!("{path} is not logged"));
        let shown = format!("path=\"{shown}\"");
        assert!(
            line.contains(&shown) && line.contains(configured),
            "{shown} {line}"
        );
        let said = line.split_once("mistake=\"").map_or("", |(_, rest)| {
            rest.split_once('"').map_or(rest, |(mistake, _)| mistake)
        });
        assert_eq!(said, mistake, "{line}");
    }
    let rejected = service
        .post(&format!("/callbacks/wild/{most}/message"), &[JSON], "{}")
        .await;
    assert_eq!(rejected.code(), "path_secret_mismatch");
    let log = service.process.log();
    let told = log
        .lines()
        .find(|line| line.contains(&WILDFIRE_SECRET[..8]));
    assert_eq!(told, None);
    service.end().await;
}
