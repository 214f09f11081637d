//! `dead-letters`: what is said of none, of some, and of too many.

use mongodb::bson::{DateTime, Document, doc};

use crate::support::{Bench, succeeded, text};

fn dead_letter(id: &str) -> Document {
    doc! {
        "_id": id, "app": "otc", "provider": "netease", "code": "not_json", "reason": "", "path": "$",
        "body": "not JSON", "receivedAt": DateTime::now(),
    }
}

#[test]
fn an_empty_list_says_so() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let run = |arguments: &[&str]| {
        let all = [&["dead-letters", "--config", "im.toml"], arguments].concat();
        bench.run(&all)
    };
    let cases: &[(&[&str], &str)] = &[
        (&["list"], "no dead letters\n"),
        (&["list", "--json"], ""),
        (
            &["list", "--app", "x", "--code", "not_json"],
            "no dead letters with the code `not_json` of app `x`, which is not configured\n",
        ),
        (&["list", "--app", "otc"], "no dead letters of app `otc`\n"),
        (&["retry", "--all"], "no dead letters\n"),
        (&["drop", "--all"], "no dead letters\n"),
        (&["drop", "--all", "--yes"], "no dead letters\n"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert_eq!(succeeded(&output), "", "{arguments:?}");
        assert_eq!(text(&output.stderr), *expected, "{arguments:?}");
    }
}

#[test]
fn what_is_left_is_counted() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    bench.insert("dead_letters", ["otc/1", "otc/2"].map(dead_letter));
    let run = |arguments: &[&str]| {
        let all = [&["dead-letters", "--config", "im.toml"], arguments].concat();
        let output = bench.run(&all);
        (output.status.code(), text(&output.stderr))
    };
    let failed = |error: &str| (Some(1), format!("error: {error}\n"));
    assert_eq!(run(&["list"]), (Some(0), String::new()));
    assert_eq!(
        run(&["list", "--limit", "1"]),
        (
            Some(0),
            "there are more; list them with a higher --limit\n".to_owned()
        )
    );
    assert_eq!(run(&["list", "--limit", "2"]), (Some(0), String::new()));
    assert_eq!(
        run(&["retry", "otc/1", "otc/3", "otc/4"]),
        failed("1 dead letter remains, 2 dead letters do not exist")
    );
    assert_eq!(run(&["retry", "--all"]), failed("2 dead letters remain"));
    assert_eq!(
        run(&["drop", "otc/3"]),
        failed("1 dead letter does not exist")
    );
    assert_eq!(
        run(&["drop", "--all"]),
        failed("2 dead letters would be removed permanently; add --yes to do so")
    );
    assert_eq!(run(&["drop", "otc/1"]), (Some(0), String::new()));
    assert_eq!(
        run(&["drop", "--all"]),
        failed("1 dead letter would be removed permanently; add --yes to do so")
    );
}
