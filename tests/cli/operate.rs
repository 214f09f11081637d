//! The commands of an operator: reconcile, spools, dead letters.

use mongodb::bson::{DateTime, doc};

use crate::support::{Bench, Served, succeeded, text, until};

#[test]
fn reconcile_says_what_was_wrong_and_repairs_it() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let reconcile =
        |more: &[&str]| bench.run(&[&["reconcile", "--config", "im.toml"], more].concat());
    let unindexed = reconcile(&[]);
    assert_eq!(unindexed.status.code(), Some(1), "{unindexed:?}");
    assert!(text(&unindexed.stderr).contains("`im-callback indexes`"));
    succeeded(&bench.run(&["indexes", "--config", "im.toml"]));
    assert_eq!(
        succeeded(&reconcile(&[])),
        "looked at 0 messages: 0 behind their read mark, 0 disagreed, 0 repaired\n"
    );

    // One message has `state: 1` without a mark, and one has `state: 0` although its mark covers it.
    let message = |n: i64, to: &str, state: i32| {
        doc! {
            "_id": format!("otc/p2p/{n}"), "app": "otc", "to": to, "fromAccount": "ann",
            "msgTimestamp": 1_700_000_000_000 + n, "state": state,
        }
    };
    bench.insert("messages", [message(1, "bob", 1), message(2, "carl", 0)]);
    let mark = doc! {
        "_id": { "app": "otc", "reader": "carl", "peer": "ann" },
        "readUpTo": 1_700_000_000_002_i64,
    };
    bench.insert("read_marks", [mark]);
    assert_eq!(
        succeeded(&reconcile(&["--dry-run"])),
        "looked at 2 messages: 1 behind their read mark, 1 disagreed, nothing was written\n"
    );
    // At the end it looks at the unread message once more.
    assert_eq!(
        succeeded(&reconcile(&["--json"])),
        "{\"looked_at\":3,\"behind\":1,\"disagreed\":1,\"repaired\":2}\n"
    );
    assert_eq!(
        succeeded(&reconcile(&["--resume"])),
        "looked at 3 messages: 0 behind their read mark, 0 disagreed, 0 repaired\n"
    );

    let both = reconcile(&["--resume", "--dry-run"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let away = bench
        .command(&["reconcile", "--config", "im.toml"])
        .env("IM_CALLBACK__MONGODB__URI", "mongodb://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(
        text(&away.stderr).contains("MongoDB is not available"),
        "{away:?}"
    );
}

/// A spool is listed while a service uses it, and afterwards unless it is empty or forgotten.
#[test]
fn spools_are_listed_until_they_are_out_of_use_or_forgotten() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let spools = |more: &[&str]| bench.run(&[&["spools", "--config", "im.toml"], more].concat());
    let until = |says: &str| until(says, || spools(&[]));
    // Nothing is data, and people read why.
    let is_none = || {
        let output = spools(&[]);
        assert_eq!(succeeded(&output), "");
        assert_eq!(text(&output.stderr), "no instance has told of a spool\n");
    };
    is_none();
    let served = Served::start(&bench);
    let told = until("  empty, seen 2");
    let id = std::fs::read_to_string(bench.folder.path().join("data/spool/id")).unwrap();
    assert!(told.starts_with(&format!("{id}  ")), "{told}");
    assert!(
        told.ends_with("/data/spool\n") && told.lines().count() == 1,
        "{told}"
    );
    assert_eq!(served.stop("-TERM").0, Some(0));
    is_none();

    // Once killed, it cannot report its spool as empty.
    let served = Served::start(&bench);
    until("  empty, seen 2");
    assert_eq!(served.stop("-KILL").0, None);
    until("  may hold callbacks, seen 2");
    let unknown = spools(&["--forget", "another"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(text(&unknown.stderr).contains("`another`"), "{unknown:?}");
    let forgotten = succeeded(&spools(&["--forget", &id]));
    assert_eq!(forgotten, format!("{id} is forgotten\n"));
    is_none();
}

/// Counts are not complete while another instance's spool may hold callbacks.
#[test]
fn counts_are_not_complete_until_a_lost_spool_is_forgotten() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    bench.config(&served.address);
    bench.insert(
        "spools",
        [doc! { "_id": "lost", "host": "h", "path": "/p", "bytes": 5_i64 }],
    );
    let spools = |more: &[&str]| bench.run(&[&["spools", "--config", "im.toml"], more].concat());
    let listed = succeeded(&spools(&[]));
    assert!(listed.contains("lost  holds 5 B, seen"), "{listed}");
    let ask = ["unread", "--config", "im.toml", "-u", "b", "-p", "a"];
    let table = || bench.run(&ask);
    let as_json = || bench.run(&[&ask[..], &["--json"]].concat());
    // There is no answer before the indexes exist.
    until("\nnot complete: callbacks wait in a spool", table);
    assert!(succeeded(&as_json()).ends_with(",\"complete\":false}\n"));
    succeeded(&spools(&["--forget", "lost"]));
    until("\"total\":0,\"total_of\":\"peers\"}", as_json);
    assert!(succeeded(&table()).ends_with("b has 0 unread\n"));
    assert_eq!(served.stop("-TERM").0, Some(0));
}

#[test]
fn dead_letters_are_listed_shown_retried_and_dropped() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    bench.write("bad.json", "not JSON, with \u{1b}[31m a control character");
    bench.write("worse.json", "[]");
    let url = format!("http://{}/callbacks/otc", served.address);
    for file in ["bad.json", "worse.json"] {
        succeeded(&bench.run(&["send", "--config", "im.toml", "--url", &url, file]));
    }
    let run = |arguments: &[&str]| {
        let all = [&["dead-letters", "--config", "im.toml"], arguments].concat();
        bench.run(&all)
    };
    let listed = succeeded(&run(&["list"]));
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(
        listed.contains("not_json at $: the body is not JSON"),
        "{listed}"
    );
    let only = succeeded(&run(&["list", "--code", "not_json", "--json"]));
    let id = only.split('"').nth(3).unwrap().to_owned();
    assert!(
        id.starts_with("otc/") && only.lines().count() == 1,
        "{only}"
    );

    let shown = succeeded(&run(&["show", &id]));
    assert!(
        shown.contains(r"not JSON, with \u{1b}[31m a control"),
        "{shown}"
    );
    assert!(succeeded(&run(&["show", &id, "--json"])).contains("\"body\":\"not JSON"));

    let retried = run(&["retry", "--all"]);
    assert_eq!(retried.status.code(), Some(1));
    assert!(
        text(&retried.stdout).contains("still undecodable: not_json"),
        "{retried:?}"
    );
    assert_eq!(text(&retried.stderr), "error: 2 dead letters remain\n");
    assert!(succeeded(&run(&["drop", &id])).contains("dropped"));
    assert!(!run(&["drop", "otc/x", "--app", "otc"]).status.success());
    assert!(succeeded(&run(&["drop", "--all", "--yes", "--app", "otc"])).contains("dropped"));
    assert_eq!(run(&["show", &id]).status.code(), Some(1));
}

/// A receipt that could not be decoded before is stored without a service, and its message is read.
#[test]
fn a_retry_by_the_command_updates_state() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    succeeded(&bench.run(&["indexes", "--config", "im.toml"]));
    let message = doc! {
        "_id": "otc/p2p/1", "app": "otc", "to": "bob", "fromAccount": "ann",
        "msgTimestamp": 1_700_000_000_000_i64, "state": 0,
    };
    bench.insert("messages", [message]);
    let body =
        r#"{"eventType":30,"fromAccount":"bob","toAccount":"ann","timestamp":1700000000000}"#;
    let dead_letter = doc! {
        "_id": "otc/00", "app": "otc", "provider": "netease", "code": "bad_value", "reason": "",
        "path": "$", "body": body, "receivedAt": DateTime::now(),
    };
    bench.insert("dead_letters", [dead_letter]);
    let run =
        |arguments: &[&str]| succeeded(&bench.run(&[arguments, &["--config", "im.toml"]].concat()));
    let retried = run(&["dead-letters", "retry", "otc/00"]);
    assert!(retried.contains("stored"), "{retried}");
    assert_eq!(
        run(&["reconcile", "--dry-run", "--json"]),
        "{\"looked_at\":1,\"behind\":0,\"disagreed\":0,\"repaired\":0}\n"
    );
}
