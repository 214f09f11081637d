//! `doctor`, `check-config --connect` and `indexes`, as an operator sees them.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::support::{Bench, Served, succeeded, text, until};

fn doctor(bench: &Bench, flags: &[&str]) -> Output {
    bench.run(&[&["doctor", "--config", "im.toml"], flags].concat())
}

/// The line of a check that says this, with the way out.
#[track_caller]
fn expect(told: &str, result: &str, check: &str, words: &[&str]) {
    let mut lines = told.lines().zip(told.lines().skip(1).chain([""]));
    let is_it = |line: &str| line.starts_with(result) && line.contains(&format!(" {check} "));
    let found = lines.any(|(line, next)| {
        let said = format!("{line} {next}");
        is_it(line) && words.iter().all(|word| said.contains(word))
    });
    assert!(found, "{result} {check} {words:?} in {told}");
}

/// Without what differs between machines and runs.
fn stable(told: &str, bench: &Bench) -> String {
    let uri = std::env::var("MONGODB_URI").unwrap();
    let host = uri.trim_start_matches("mongodb://");
    let host = host.split('/').next().unwrap();
    let of_machine = [
        "open_files",
        "spool.folder",
        "spool.space",
        "mongodb.version",
        "mongodb.disk",
    ];
    let mut is_kept = true;
    let lines = told.lines().filter(|line| {
        if !line.trim_start().starts_with('→') {
            is_kept = !of_machine.iter().any(|check| line.contains(check));
        }
        is_kept
    });
    let lines: Vec<_> = lines.collect();
    let text = lines.join("\n").replace(host, "[host]");
    text.replace(&bench.database, "[database]")
}

#[test]
fn every_check_has_a_line_with_what_was_found_and_the_way_out() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let output = doctor(&bench, &[]);
    let told = succeeded(&output);
    insta::assert_snapshot!(stable(&told, &bench), @r"
    ok           configuration           valid, with 1 app and 1 key
    ok           environment             no variable looks like a key that is not read
    warning      secrets                 apps.0.app_key (otc) looks like a placeholder
                                         → write the provider's own; for auth.keys make one with `openssl rand -hex 24`
    ok           apps                    nothing unusual
    ok           spool.contents          empty
    not checked  service                 http.listen has port 0, so the system chooses one
    ok           mongodb.names           1 server in mongodb.uri
    ok           mongodb.reachable       [host] answers
    ok           mongodb.protocol        it answers as MongoDB does
    ok           mongodb.replica_set     `rs0`, 1 member
    ok           mongodb.primary         [host]
    warning      mongodb.login           MongoDB asks for no login
                                         → anybody who reaches it can read and change everything: enable access control unless nobody else can reach it
    ok           mongodb.rights          without a login everything is allowed
    ok           mongodb.majority        a majority of the members confirms writes to its journal
    ok           mongodb.options         nothing in mongodb.uri contradicts the service
    ok           mongodb.clock           this machine's and MongoDB's differ by less than 1000 ms
    warning      indexes                 not as they should be: make unread_by_peer on messages; make unread_by_order on messages; make unread_by_team on messages; make team_joins on messages; make conversation on messages; make marks on read_marks; make account on presence; make newest on dead_letters; make newest_of_app on dead_letters
                                         → the service does so at its start; to do it before, run `im-callback indexes`; without them queries are answered 503
    ok           retention               as configured
    ok           team_counts             all team messages are counted
    ok           change_streams          can be opened
    no errors, 3 warnings, 1 not checked
    ");
    let mut names: Vec<String> = Vec::new();
    for line in succeeded(&doctor(&bench, &["--json"])).lines() {
        let check: serde_json::Value = serde_json::from_str(line).unwrap();
        let known = ["ok", "warning", "error", "not_checked"];
        assert!(
            known.contains(&check["result"].as_str().unwrap()),
            "{check}"
        );
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        assert_eq!(check["result"] == "warning", check.get("way_out").is_some());
        names.push(check["check"].as_str().unwrap().to_owned());
    }
    assert!(names.len() >= 22, "{names:?}");
    for secret in ["0123456789abcdef", "the-cli-tests-read-key"] {
        assert!(!told.contains(secret), "{told}");
    }
    // It made nothing.
    assert!(!bench.folder.path().join("data").exists());
}

#[test]
fn a_broken_configuration_is_told_problem_by_problem() {
    let bench = Bench::new();
    bench.write(
        "im.toml",
        "http.max_ids = 0\nhttp.max_connections = 0\nmongodb.database = \"a b\"\n",
    );
    let output = doctor(&bench, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stdout);
    for key in [
        "`http.max_ids`",
        "`http.max_connections`",
        "`mongodb.database`",
        "`apps`",
    ] {
        expect(&told, "error", "configuration", &[key, "default.toml"]);
    }
    for check in [
        "secrets",
        "spool.folder",
        "mongodb.names",
        "mongodb.majority",
        "retention",
    ] {
        expect(
            &told,
            "not checked",
            check,
            &["the configuration comes first"],
        );
    }
    assert!(text(&output.stderr).contains("4 errors"), "{output:?}");
}

#[test]
fn variables_that_look_like_keys_are_told_with_the_right_names() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let with_variables = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command
            .env("IM_CALLBACK_HTTP_LISTEN", "127.0.0.1:1")
            .env("IMCALLBACK__MONGODB__URI", "mongodb://im:not-to-be-told@h")
            .env("IM_CALLBACK_KEY", "x")
            .env("IM_CALLBACK_SERVICE_HOST", "10.0.0.1")
            .env("IM_CALLBACK__HTTP__MAX_IDS", "10");
        command
    };
    let names = [
        "IM_CALLBACK_HTTP_LISTEN",
        "IM_CALLBACK__HTTP__LISTEN",
        "IMCALLBACK__MONGODB__URI",
        "IM_CALLBACK__MONGODB__URI",
    ];
    let examine = || {
        with_variables(&["doctor", "--config", "im.toml"])
            .output()
            .unwrap()
    };
    let told = succeeded(&examine());
    expect(&told, "warning", "environment", &names);
    for other in [
        "IM_CALLBACK_KEY",
        "SERVICE_HOST",
        "MAX_IDS",
        "not-to-be-told",
    ] {
        assert!(!told.contains(other), "{told}");
    }
    // Also where it is the reason that the configuration is not valid.
    bench.write("im.toml", "");
    let told = text(&examine().stdout);
    expect(&told, "warning", "environment", &names);

    bench.config("127.0.0.1:0");
    let serve = with_variables(&["serve", "--config", "im.toml"]);
    let (code, log) = Served::by(serve).stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
    for name in names {
        assert!(log.contains(name), "{name} in {log}");
    }
    assert!(!log.contains("not-to-be-told"), "{log}");
}

#[test]
fn values_that_are_probably_not_meant_are_told_without_them() {
    let bench = Bench::new();
    let config = bench.config("0.0.0.0:0");
    let first = std::fs::read_to_string(&config).unwrap();
    let (before, _) = first.split_once("[[apps]]").unwrap();
    let more = r#"
        [[apps]]
        name = "one"
        provider = "netease"
        app_key = "your AppKey"
        app_secrets = ["9c1185a5c5e9 ", "changeme"]
        callback_path = "/receiveMsg.action/"
        [[apps]]
        name = "two"
        provider = "netease"
        app_key = "5eb63bbbe01eeed0"
        app_secrets = ["7d793037a0760186"]
        order_id = { field = "ext", pointer = "/orderId" }
        [[apps]]
        name = "three"
        provider = "wildfire"
        app_secrets = ["7d793037a0760186"]
        order_id = { field = "payload", pointer = "/orderId" }
    "#;
    std::fs::write(&config, format!("{before}{more}")).unwrap();
    let told = succeeded(&doctor(&bench, &[]));
    let secrets = |words: &[&str]| expect(&told, "warning", "secrets", words);
    secrets(&["apps.0.app_key (one)", "placeholder"]);
    secrets(&["apps.0.app_secrets.0 (one)", "blank"]);
    secrets(&["apps.0.app_secrets.1 (one)", "placeholder"]);
    secrets(&[
        "apps.1.app_secrets.0 (two)",
        "apps.2.app_secrets.0 (three)",
        "the same",
    ]);
    let apps = |words: &[&str]| expect(&told, "warning", "apps", words);
    apps(&["app one has no order_id", "apps.order_id"]);
    apps(&["app one: callback_path `/receiveMsg.action/`", "slash"]);
    apps(&["app three", "apps.allow", "https"]);
    apps(&["[[auth.keys]]"]);
    assert!(!told.contains("app two"), "{told}");
    for value in [
        "9c1185a5c5e9",
        "changeme",
        "7d793037a0760186",
        "your AppKey",
    ] {
        assert!(!told.contains(value), "{value} in {told}");
    }
}

#[test]
fn the_spool_and_who_listens_are_looked_at() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let served = Served::start(&bench);
    bench.config(&served.address);
    // Until its indexes are there it is degraded.
    let runs = format!("runs at {}, ready", served.address);
    let told = until(&runs, || doctor(&bench, &[]));
    expect(&told, "ok", "service", &[&runs]);
    assert!(told.ends_with(": the service works\n"), "{told}");
    let folder = bench.folder.path().join("data/spool");
    // The doctor leaves nothing of its own.
    let left = std::fs::read_dir(&folder).unwrap();
    let left = left.map(|file| file.unwrap().file_name());
    let others: Vec<_> = left
        .filter(|name| !["lock", "id", "confirmed"].iter().any(|own| name == own))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(served.stop("-TERM").0, Some(0));

    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    let output = doctor(&bench, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stdout);
    expect(
        &told,
        "error",
        "spool.folder",
        &["others may write", "chmod 0700"],
    );
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    let segment = folder.join(format!("1-{}.v2.spool", "0".repeat(32)));
    std::fs::write(&segment, "12345").unwrap();
    let told = succeeded(&doctor(&bench, &[]));
    let waits = ["5 B wait", "no service runs", "start the service"];
    expect(&told, "warning", "spool.contents", &waits);
    std::fs::remove_file(&segment).unwrap();
    std::fs::write(folder.join("1-0.v2.spool.damaged"), "12345").unwrap();
    let told = succeeded(&doctor(&bench, &[]));
    expect(
        &told,
        "warning",
        "spool.contents",
        &["quarantine", "docs/spool.md"],
    );
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "a file is in the way").unwrap();
    let output = doctor(&bench, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    expect(
        &text(&output.stdout),
        "error",
        "spool.folder",
        &["cannot be written"],
    );

    std::fs::remove_file(&folder).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    bench.config(&address);
    let output = doctor(&bench, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stdout);
    expect(
        &told,
        "error",
        "service",
        &["another program listens", &address],
    );
    drop(taken);
    // Of a network for documents, which no machine has.
    bench.config("192.0.2.1:8080");
    let told = text(&doctor(&bench, &[]).stdout);
    expect(
        &told,
        "error",
        "service",
        &["192.0.2.1:8080", "address of this machine"],
    );
}

#[test]
fn check_config_also_looks_at_mongodb_when_asked() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let check = ["check-config", "--config", "im.toml", "--connect"];
    let told = succeeded(&bench.run(&check));
    assert!(told.starts_with("configuration is valid\n"), "{told}");
    expect(&told, "ok", "mongodb.majority", &[]);
    let away = bench
        .command(&check)
        .env(
            "IM_CALLBACK__MONGODB__URI",
            "mongodb://im:not-to-be-told@127.0.0.1:1",
        )
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    let told = text(&away.stdout);
    expect(
        &told,
        "error",
        "mongodb.reachable",
        &["127.0.0.1:1 (connection refused)"],
    );
    assert!(!format!("{away:?}").contains("not-to-be-told"), "{away:?}");
}

#[test]
fn indexes_says_what_it_made() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let indexes = |flags: &[&str]| {
        succeeded(&bench.run(&[&["indexes", "--config", "im.toml"], flags].concat()))
    };
    let names = [
        "unread_by_peer on messages",
        "unread_by_order on messages",
        "unread_by_team on messages",
        "team_joins on messages",
        "conversation on messages",
        "marks on read_marks",
        "account on presence",
        "newest on dead_letters",
        "newest_of_app on dead_letters",
    ];
    let each = |word: &str| names.map(|name| format!("{word} {name}\n")).concat();
    assert_eq!(indexes(&["--dry-run"]), each("to do: make"));
    assert_eq!(indexes(&["--dry-run"]), each("to do: make"));
    let present = format!("indexes are present in database {}\n", bench.database);
    assert_eq!(indexes(&[]), format!("{}{present}", each("made")));
    assert_eq!(indexes(&[]), format!("nothing to do: {present}"));
    let both = bench.run(&["indexes", "--config", "im.toml", "--yes", "--dry-run"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

/// Optional indexes are made where they are asked for, and nobody drops them by a change of the configuration.
#[test]
fn analysts_indexes_are_made_on_demand_and_then_left_alone() {
    const ASKED: (&str, &str) = ("IM_CALLBACK__MONGODB__ANALYST_INDEXES", "true");
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let run = |command: &[&str], is_asked: bool| {
        let mut run = bench.command(&[command, &["--config", "im.toml"]].concat());
        succeeded(&run.envs(is_asked.then_some(ASKED)).output().unwrap())
    };
    assert!(!run(&["indexes"], false).contains("analysts"));
    let names = [
        ("messages", "analysts_sent"),
        ("messages", "analysts_order"),
        ("events", "analysts_events"),
    ];
    let each = |word: &str| names.map(|(on, name)| format!("{word} {name} on {on}\n"));
    let present = format!("indexes are present in database {}\n", bench.database);
    let told = run(&["doctor"], true);
    let way = "until then analyses read whole collections";
    expect(&told, "warning", "indexes", &["make analysts_sent", way]);
    assert_eq!(
        run(&["indexes", "--dry-run"], true),
        each("to do: make").concat()
    );
    assert_eq!(run(&["indexes"], true), each("made").concat() + &present);
    assert_eq!(run(&["indexes"], true), format!("nothing to do: {present}"));
    expect(
        &run(&["doctor"], true),
        "ok",
        "indexes",
        &["all are there and built"],
    );

    let left = names.map(|(on, name)| {
        format!(
            "left alone: {name} on {on}: mongodb.analyst_indexes is off; to drop it: db.{on}.dropIndex(\"{name}\")\n"
        )
    });
    let left = left.concat();
    assert_eq!(
        run(&["indexes", "--dry-run"], false),
        format!("{left}nothing to do\n")
    );
    assert_eq!(
        run(&["indexes"], false),
        format!("{left}nothing to do: {present}")
    );
    let told = run(&["doctor"], false);
    expect(
        &told,
        "ok",
        "indexes",
        &["left alone: analysts_sent on messages"],
    );
}
