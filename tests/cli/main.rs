//! The built program, run as a user runs it. What needs MongoDB takes it from `MONGODB_URI`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod completions;
mod dead_letters;
mod doctor;
mod health;
#[allow(
    dead_code,
    reason = "part of it is for services inside the test process"
)]
#[path = "../it/support/log_guard.rs"]
mod log_guard;
mod operate;
mod send;
mod serve;
mod support;
mod token;
mod trace;
mod validators;

use crate::support::{Bench, succeeded, text};

#[test]
fn help_names_every_command() {
    let bench = Bench::new();
    let help = succeeded(&bench.run(&["--help"]));
    for command in [
        "serve",
        "check-config",
        "doctor",
        "indexes",
        "validators",
        "reconcile",
        "spools",
        "dead-letters",
        "trace",
        "sign",
        "send",
        "token",
        "unread",
        "healthcheck",
        "completions",
    ] {
        assert!(help.contains(command), "{help}");
        assert!(succeeded(&bench.run(&[command, "--help"])).contains("Usage:"));
    }
    assert_eq!(bench.run(&["fly"]).status.code(), Some(2));
}

#[test]
fn a_bad_configuration_is_exit_2_before_anything_happens() {
    let bench = Bench::new();
    bench.write(
        "im.toml",
        "http.listen = \"127.0.0.1:0\"\nhttp.listem = 1\n",
    );
    for command in [&["serve"][..], &["check-config"], &["indexes"]] {
        let output = bench.run(&[command, &["--config", "im.toml"]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = text(&output.stderr);
        assert!(
            error.starts_with("error: configuration: `http.listem`"),
            "{error}"
        );
        assert!(error.contains("im.toml"), "{error}");
    }
    assert_eq!(
        bench
            .run(&["--config", "none.toml", "check-config"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_good_configuration_is_summed_up_without_secrets() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let told = succeeded(&bench.run(&["check-config", "--config", "im.toml"]));
    assert!(
        told.contains("app otc (netease): callbacks at /callbacks/otc, 1 live secret"),
        "{told}"
    );
    assert!(told.contains("file: im.toml\n"), "{told}");
    assert!(told.contains(", 1 live secret\n"), "{told}");
    assert!(told.contains("up to 1.0 GiB\n"), "{told}");
    assert!(
        told.contains("key pages: scopes read, all apps\n"),
        "{told}"
    );
    assert!(
        !told.contains("0123456789abcdef") && !told.contains("the-cli-tests-read-key"),
        "{told}"
    );
    let output = bench
        .command(&["check-config", "--config", "im.toml"])
        .env("IM_CALLBACK__HTTP__LISTEN", "127.0.0.1:1")
        .output()
        .unwrap();
    let told = succeeded(&output);
    assert!(
        told.contains("variables: IM_CALLBACK__HTTP__LISTEN\n"),
        "{told}"
    );
}

#[test]
fn the_apps_of_a_key_are_shown_and_chosen_by() {
    let bench = Bench::new();
    let config = bench.config("127.0.0.1:1");
    let text = std::fs::read_to_string(&config).unwrap();
    let more = r#"
        apps = ["otc"]
        [[apps]]
        name = "shop"
        provider = "netease"
        app_key = "k"
        app_secrets = ["s"]
    "#;
    std::fs::write(&config, text + more).unwrap();
    let told = succeeded(&bench.run(&["check-config", "--config", "im.toml"]));
    assert!(
        told.contains("key pages: scopes read, apps otc\n"),
        "{told}"
    );
    // The key would choose the app by itself, and nobody would see which.
    let unread = ["unread", "--config", "im.toml", "-u", "a", "-p", "b"];
    let unnamed = bench.run(&unread);
    let other = bench.run(&[&unread[..], &["--app", "shop"]].concat());
    for (output, says) in [(unnamed, "--app"), (other, "--key-file")] {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(says), "{error}");
    }
}

/// The shipped example can be checked on any machine, in any folder.
#[test]
fn the_example_is_valid_wherever_its_secrets_are() {
    let bench = Bench::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/example.toml");
    let told = succeeded(&bench.run(&["check-config", "--no-secrets", "--config", example]));
    assert!(
        told.contains("secrets not read: mongodb.uri, apps.0.app_secrets.0, auth.keys.0.secret\n"),
        "{told}"
    );
    let output = bench.run(&["check-config", "--config", example]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = text(&output.stderr);
    assert!(
        error.contains("/run/secrets/mongodb_uri: No such"),
        "{error}"
    );
    assert!(
        error.ends_with(
            "only secrets are at fault; the rest is valid (`check-config --no-secrets`)\n"
        ),
        "{error}"
    );

    // Another mistake is found without the secrets, and nobody is told that the rest is valid.
    let valid = std::fs::read_to_string(example).unwrap();
    bench.write("wrong.toml", &valid.replace("\"/orderId\"", "\"orderId\""));
    for more in [&["--no-secrets"][..], &[]] {
        let arguments = [&["check-config", "--config", "wrong.toml"], more].concat();
        let output = bench.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = text(&output.stderr);
        assert!(error.contains("`apps.0.order_id.pointer`"), "{error}");
        assert!(!error.contains("the rest is valid"), "{error}");
    }
}

/// Secrets that are in the file itself are checked without the others, too.
#[test]
fn secrets_in_the_file_are_always_checked() {
    let bench = Bench::new();
    let config = "mongodb.uri = \"mongodb://u:p@ss@h\"\n[[apps]]\nname = \"w\"\nprovider = \"wildfire\"\n\
                  app_secrets = [{ env = \"ELSEWHERE\" }, \"short\", { file = \"elsewhere\" }]\n";
    bench.write("im.toml", config);
    let output = bench.run(&["check-config", "--no-secrets", "--config", "im.toml"]);
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.contains("`mongodb.uri`"), "{error}");
    assert!(error.contains("`apps.0.app_secrets.1`"), "{error}");
}

#[test]
fn sign_prints_the_known_answer() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let from_config = ["sign", "--config", "im.toml", "--cur-time", "1440570500855"];
    let headers = succeeded(&bench.run_with_input(&from_config, b"{}"));
    assert_eq!(
        headers,
        "Content-Type: application/json\nAppKey: key\nCurTime: 1440570500855\n\
         MD5: 99914b932bd37a50b983c5e7c90ae93b\n\
         CheckSum: 69953b05a3d9ff44ce9f06780b23fff7705b892e\n"
    );
    bench.write("body.json", "{}");
    bench.write("secret", "0123456789abcdef\n");
    let alone = [
        "sign",
        "body.json",
        "--secret-file",
        "secret",
        "--cur-time",
        "1440570500855",
    ];
    let headers = succeeded(&bench.run(&alone));
    assert!(
        headers.contains("CheckSum: 69953b05a3d9ff44ce9f06780b23fff7705b892e"),
        "{headers}"
    );
    assert!(!headers.contains("AppKey"), "{headers}");
    let unknown = bench.run_with_input(&["sign", "--config", "im.toml", "--app", "x"], b"{}");
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn wrong_calls_say_the_way_out() {
    let bench = Bench::new();
    bench.write("m.json", "{}");
    let cases: &[(&[&str], &str)] = &[
        (&["sign", "m.json"], "--config"),
        (&["send", "m.json"], "--config"),
        (&["unread", "-u", "a", "-p", "b"], "--config"),
        (
            &["send", "m.json", "--url", "localhost:1"],
            "http://127.0.0.1:8080",
        ),
    ];
    for (arguments, way_out) in cases {
        let output = bench.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains(way_out), "{output:?}");
    }
}

/// Wrong values are told with a right one, and errors of the system once and without numbers.
#[test]
fn errors_are_told_once_with_the_way_out() {
    let bench = Bench::new();
    bench.config("127.0.0.1:1");
    bench.write("empty", "\n");
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["unread", "-u", "a", "-p", "b"],
            1,
            "error: no answer from http://127.0.0.1:1: connection refused; is the service running? start it \
             with `im-callback serve`, or give its address with --url\n",
        ),
        (
            &["unread", "-u", "a", "-t", "1", "--after", "x"],
            2,
            "'--team <TEAM>' cannot be used with '--after <CURSOR>'",
        ),
        (&["unread", "-u", "a", "--cap", "0"], 2, "0 is not in 1.."),
        (
            &["sign", "none"],
            1,
            "error: cannot read none: No such file or directory\n",
        ),
        (
            &["sign", "empty", "--secret-file", "empty"],
            1,
            "error: empty is empty\n",
        ),
        (
            &["sign", "empty", "--app", "x"],
            2,
            "error: no app named `x` is configured, only `otc`\n",
        ),
        (
            &["sign", "empty", "--cur-time", "-1"],
            2,
            "write milliseconds since 1970, such as 1700000000000",
        ),
        (
            &["sign", "empty", "--cur-time", "now"],
            2,
            "write milliseconds since 1970, such as 1700000000000",
        ),
        (
            &["backfill", "--app", "x"],
            2,
            "error: no app named `x` is configured, only `otc`\n",
        ),
        (&["dead-letters", "retry"], 2, "<IDS|--all>"),
        (&["dead-letters", "drop", "otc/1", "--all"], 2, "--all"),
        (&["dead-letters", "list", "--limit", "0"], 2, "not in 1.."),
    ];
    for (arguments, code, expected) in cases {
        let output = bench.run(&[arguments, &["--config", "im.toml"][..]].concat());
        assert_eq!(output.status.code(), Some(*code), "{output:?}");
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{error}");
        assert_eq!(text(&output.stdout), "", "{output:?}");
    }
}

/// A spool's error has its cause as a text and as a source.
#[test]
fn an_unusable_spool_is_told_once() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    bench.write("file", "");
    let output = bench
        .command(&["serve", "--config", "im.toml"])
        .env("IM_CALLBACK__SPOOL__PATH", "file/spool")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    let error = error.lines().last().unwrap();
    assert_eq!(error.matches("Not a directory").count(), 1, "{error}");
    assert!(!error.contains("os error"), "{error}");
}

#[test]
fn a_mongodb_that_is_away_is_told_in_a_sentence() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let away = bench
        .command(&["spools", "--config", "im.toml"])
        .env(
            "IM_CALLBACK__MONGODB__URI",
            "mongodb://127.0.0.1:1/?replicaSet=rs0",
        )
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert_eq!(
        text(&away.stderr),
        "error: the spools cannot be read: MongoDB is not available: no server can be selected of 127.0.0.1:1 \
         (Connection refused)\n"
    );
}

/// An app whose provider has an address for each kind of event needs to know which.
#[test]
fn a_route_is_asked_for_where_there_are_several() {
    let bench = Bench::new();
    let config = |apps: &str| {
        bench.write(
            "im.toml",
            &format!("mongodb.uri = \"mongodb://127.0.0.1\"\n{apps}"),
        );
    };
    let app = |provider: &str| {
        format!(
            "[[apps]]\nname = \"a\"\nprovider = \"{provider}\"\napp_secrets = [\"0123456789abcdef\"]\n"
        )
    };
    bench.write("body.json", "{}");
    let sign = |more: &[&str]| {
        bench.run(
            &[
                &["sign", "--config", "im.toml", "--curl", "body.json"],
                more,
            ]
            .concat(),
        )
    };
    config(&app("wildfire"));
    let told = succeeded(&bench.run(&["check-config", "--config", "im.toml"]));
    assert!(told.contains("/callbacks/a/{secret}/{event}"), "{told}");
    let output = sign(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--route"));
    let told = succeeded(&sign(&["--route", "user/online"]));
    assert!(
        told.contains("/callbacks/a/0123456789abcdef/user/online'"),
        "{told}"
    );
    config(&(app("netease") + "app_key = \"k\"\n"));
    assert_eq!(sign(&["--route", "message"]).status.code(), Some(2));
    assert!(succeeded(&sign(&[])).contains("CheckSum"));
}
