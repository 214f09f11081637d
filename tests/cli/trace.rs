//! `im-callback trace` without a service.

use mongodb::bson::{DateTime, doc};

use crate::support::{Bench, succeeded, text};

#[test]
fn a_message_is_told_in_plain_words_while_no_service_runs() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let trace = |more: &[&str]| bench.run(&[&["trace", "--config", "im.toml"], more].concat());
    let message = |n: i64, to: &str| {
        doc! {
            "_id": format!("otc/p2p/{n}"), "app": "otc", "provider": "netease", "to": to, "fromAccount": "ann",
            "msgType": "TEXT", "body": "a secret", "msgTimestamp": 1_700_000_000_000_i64, "state": 0,
            "receivedAt": DateTime::from_millis(1_700_000_001_234),
        }
    };
    bench.insert(
        "messages",
        [message(1, "bob"), message(2, "carl\u{1b}[31m")],
    );
    let mark = doc! {
        "_id": { "app": "otc", "reader": "bob", "peer": "ann" }, "app": "otc", "reader": "bob", "peer": "ann",
        "readUpTo": 1_700_000_000_500_i64, "updatedAt": DateTime::from_millis(1_700_000_003_000),
    };
    bench.insert("read_marks", [mark]);
    let unindexed = trace(&["1"]);
    assert_eq!(unindexed.status.code(), Some(1), "{unindexed:?}");
    assert!(
        text(&unindexed.stderr).contains("`im-callback indexes`"),
        "{unindexed:?}"
    );
    succeeded(&bench.run(&["indexes", "--config", "im.toml"]));
    assert_eq!(
        succeeded(&trace(&["1"])),
        "\
otc/p2p/1 (netease, type TEXT)
  2023-11-14T22:13:20Z      sent by ann to bob
  2023-11-14T22:13:20.5Z    bob's read mark, which covers the message; the last receipt arrived 2023-11-14T22:13:23Z
  2023-11-14T22:13:21.234Z  its callback arrived, 1s 234ms after it was sent
  It does not count as unread: bob has read what ann sent up to 2023-11-14T22:13:20.5Z (read mark).
  state: 0, which follows the read mark soon (reconcile.delay); the count is right already.
This is complete: no callback waits in a spool.
"
    );
    let escaped = succeeded(&trace(&["2", "--app", "otc"]));
    assert!(
        escaped.contains(r"sent by ann to carl\u{1b}[31m"),
        "{escaped}"
    );

    let away = bench
        .command(&["trace", "--config", "im.toml", "1"])
        .env("IM_CALLBACK__MONGODB__URI", "mongodb://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(
        text(&away.stderr).contains("MongoDB is not available"),
        "{away:?}"
    );
}
