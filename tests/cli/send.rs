//! `send`: which files of folders are sent, and what is said of failures.

use std::os::unix::fs::symlink;

use crate::support::{Bench, Served, succeeded, text};

/// A message that counts, with this id.
fn message(id: u32) -> String {
    format!(
        r#"{{"eventType":1,"convType":"PERSON","to":"b","fromAccount":"a","msgType":"TEXT","msgTimestamp":1700000000000,"msgidServer":{id}}}"#
    )
}

#[test]
fn folders_are_sent_to_the_bottom_in_the_order_of_names() {
    let bench = Bench::new();
    bench.config("127.0.0.1:1");
    let folder = bench.folder.path().join("samples");
    std::fs::create_dir_all(folder.join("b/deep")).unwrap();
    for name in ["a.json", "b/deep/1.JSON", "c.json"] {
        bench.write(&format!("samples/{name}"), &message(1));
    }
    bench.write(
        "samples/b/lines.ndjson",
        &format!("{}\n{}\n", message(2), message(3)),
    );
    bench.write("samples/README.md", "no body");
    // Loops and links to nothing end, and a link to a file or folder is followed.
    symlink("..", folder.join("b/loop")).unwrap();
    symlink("loop", folder.join("b/deep/loop")).unwrap();
    symlink("nowhere", folder.join("gone")).unwrap();
    symlink("a.json", folder.join("d.json")).unwrap();

    let output = bench.run(&["send", "--config", "im.toml", "samples"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stdout);
    assert!(told.starts_with("6 callbacks in "), "{told}");
    let error = text(&output.stderr);
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(
        lines[0],
        "skipped 3 files, since only .json, .jsonl and .ndjson files are sent from folders: \
         samples/README.md, samples/b/deep/loop, samples/gone"
    );
    let expected = [
        "a.json",
        "b/deep/1.JSON",
        "b/lines.ndjson:1",
        "b/lines.ndjson:2",
        "c.json",
    ];
    for (line, name) in lines[1..6].iter().zip(expected) {
        let expected = format!("not delivered: samples/{name}: no answer: connection refused");
        assert_eq!(*line, expected);
    }
    assert_eq!(
        lines[6],
        "error: 6 callbacks were not delivered; is the service running? start it with `im-callback serve`, \
         or give its address with --url"
    );
}

#[test]
fn nothing_is_sent_if_a_path_is_wrong() {
    let bench = Bench::new();
    bench.config("127.0.0.1:1");
    bench.write("m.json", &message(1));
    let output = bench.run(&["send", "--config", "im.toml", "m.json", "none"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "error: cannot read none: No such file or directory\n"
    );
    std::fs::create_dir(bench.folder.path().join("empty")).unwrap();
    let output = bench.run(&["send", "--config", "im.toml", "empty"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("nothing to send"));
}

#[test]
fn one_callback_is_singular() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    bench.write("m.json", &message(1));
    let served = Served::start(&bench);
    bench.config(&served.address);
    let told = succeeded(&bench.run(&["send", "--config", "im.toml", "m.json"]));
    assert!(told.starts_with("1 callback in "), "{told}");
    assert_eq!(served.stop("-TERM").0, Some(0));
    let output = bench.run(&["send", "--config", "im.toml", "m.json"]);
    let error = text(&output.stderr);
    assert!(
        error.contains("1 callback was not delivered; is the service running?"),
        "{error}"
    );
}
