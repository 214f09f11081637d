//! The configuration: its layers and its errors. A binary of its own, because environment variables belong to the
//! process.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::path::Path;

use figment::Jail;
use im_callback::config::{Config, LogFormat};
use secrecy::ExposeSecret;

const APP: &str = r#"
[[apps]]
name = "otc"
provider = "netease"
app_key = "key"
app_secrets = ["hunter2"]
"#;

/// Runs with an empty folder and environment.
#[allow(clippy::result_large_err, reason = "the error is figment's")]
fn jailed(test: impl FnOnce(&mut Jail)) {
    Jail::expect_with(|jail| {
        jail.clear_env();
        test(jail);
        Ok(())
    });
}

fn load(jail: &mut Jail, toml: &str) -> Result<Config, String> {
    jail.create_file("im.toml", toml).unwrap();
    let error = |e: im_callback::config::ConfigError| e.to_string();
    Config::load(Some("im.toml".as_ref()), &[]).map_err(error)
}

#[test]
fn the_defaults_need_only_an_app() {
    jailed(|jail| {
        let config = load(jail, APP).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.http.max_body, 1024 * 1024);
        assert_eq!(config.http.max_ids, 1000);
        assert_eq!(config.http.max_connections, 2000);
        assert_eq!(config.http.header_timeout.as_secs(), 5);
        assert_eq!(config.http.keep_alive.as_secs(), 15);
        assert_eq!(config.http.body_timeout.as_secs(), 10);
        assert_eq!(config.http.min_body_rate, 1024);
        assert_eq!(config.http.bytes_reading, 32 * 1024 * 1024);
        assert_eq!(config.store.database, "im");
        assert_eq!(
            config.mongodb_uri.expose_secret(),
            "mongodb://127.0.0.1:27017/?replicaSet=rs0"
        );
        assert_eq!(config.retention, Default::default());
        assert!(config.keys.is_empty());
        assert_eq!(config.store.state_delay.as_secs(), 1);
        assert_eq!(config.reconcile.every.as_secs(), 600);
        assert_eq!(config.ingest.commits_in_flight, 4);
        assert_eq!(config.ingest.linger.as_micros(), 100);
        assert_eq!(config.spool.path, Path::new("data/spool"));
        assert_eq!(config.spool.max_bytes, 1024 * 1024 * 1024);
    });
}

/// The names that users' deployments rely on, all at once.
#[test]
fn the_documented_keys_are_taken() {
    jailed(|jail| {
        let config = load(
            jail,
            r#"
            [http]
            listen = "127.0.0.1:8081"
            [mongodb]
            uri = "mongodb://127.0.0.1:27017/?replicaSet=rs0"
            database = "chat"
            [spool]
            path = "data/spool"
            max_bytes = "1GiB"
            [ingest]
            linger = "100ms"
            [reconcile]
            delay = "1h"
            every = "1d"
            [retention]
            events = "90d"
            [[apps]]
            name = "otc"
            provider = "netease"
            app_key = "k"
            app_secrets = ["current", "previous"]
            callback_path = "/receiveMsg.action"
            order_id = { field = "ext", pointer = "/orderId" }
            freshness = "5m"
            count_tips = true
            [[auth.keys]]
            name = "order-pages"
            secret = "s"
            scopes = ["read", "write", "admin"]
            "#,
        )
        .unwrap();
        assert_eq!(config.spool.path, Path::new("data/spool"));
        assert_eq!(
            config.apps[0].callback_path.as_deref(),
            Some("/receiveMsg.action")
        );
        assert_eq!(config.apps[0].app.verifier.secrets.len(), 2);
        assert_eq!(
            config.apps[0].app.verifier.freshness.unwrap().as_secs(),
            300
        );
        assert_eq!(config.retention.events.unwrap().as_secs(), 90 * 24 * 3600);
        assert!(config.apps[0].app.rules.count_tips);
        assert_eq!(config.ingest.linger.as_millis(), 100);
        assert_eq!(config.store.state_delay.as_secs(), 3600);
        assert_eq!(config.reconcile.every.as_secs(), 24 * 3600);
    });
}

#[test]
fn the_environment_goes_over_the_file_and_flags_over_both() {
    jailed(|jail| {
        jail.set_env("IM_CALLBACK__HTTP__LISTEN", "127.0.0.1:7000");
        jail.set_env("IM_CALLBACK__LOG__FORMAT", "json");
        jail.set_env(
            "IM_CALLBACK__MONGODB__URI",
            "mongodb://db.example:27017/?replicaSet=rs1",
        );
        let toml = format!("[http]\nlisten = \"127.0.0.1:6000\"\n{APP}");
        let config = load(jail, &toml).unwrap();
        assert_eq!(config.http.listen.port(), 7000);
        assert_eq!(config.log.format, LogFormat::Json);
        assert!(config.mongodb_uri.expose_secret().contains("db.example"));
        let flags = [("http.listen", "127.0.0.1:5000".to_owned())];
        let config = Config::load(Some("im.toml".as_ref()), &flags).unwrap();
        assert_eq!(config.http.listen.port(), 5000);
    });
}

#[test]
fn apps_may_come_from_the_environment_alone() {
    jailed(|jail| {
        jail.set_env(
            "IM_CALLBACK__APPS",
            r#"[{name="otc",provider="netease",app_key="k",app_secrets=["s"]}]"#,
        );
        assert_eq!(
            Config::load(None, &[]).unwrap().apps[0].app.name.as_str(),
            "otc"
        );
    });
}

#[test]
fn secrets_may_be_kept_in_files_and_variables() {
    jailed(|jail| {
        jail.create_file("secret", "from-a-file\n").unwrap();
        jail.set_env("OTC_SECRET", "from-a-variable");
        let toml = APP.replace(
            r#"["hunter2"]"#,
            r#"["literal", { file = "secret" }, { env = "OTC_SECRET" }]"#,
        );
        let config = load(jail, &toml).unwrap();
        let secrets: Vec<_> = config.apps[0]
            .app
            .verifier
            .secrets
            .iter()
            .map(|s| s.expose_secret())
            .collect();
        assert_eq!(secrets, ["literal", "from-a-file", "from-a-variable"]);
        assert!(
            !format!("{config:?}").contains("from-a"),
            "Debug shows a secret"
        );
    });
}

/// Every bad configuration: the key, the source, and no value of a secret.
#[test]
fn errors_name_key_and_source_and_never_a_secret() {
    let with = |more: &str| format!("{APP}{more}");
    let cases: &[(String, &[&str])] = &[
        (
            "http.listen = \"nowhere\"\n".to_owned() + APP,
            &["`http.listen`", "im.toml", "socket address"],
        ),
        (
            "http.listem = \"127.0.0.1:1\"\n".to_owned() + APP,
            &["`http.listem`", "no known key", "`listen`"],
        ),
        (
            "http.max_body = \"much\"\n".to_owned() + APP,
            &["`http.max_body`", "im.toml"],
        ),
        (
            "http.max_connections = 0\n".to_owned() + APP,
            &["`http.max_connections`", "between 1 and", "im.toml"],
        ),
        (
            "http.header_timeout = \"10m\"\n".to_owned() + APP,
            &["`http.header_timeout`", "between 100ms and 60s"],
        ),
        (
            "http.keep_alive = \"1ms\"\n".to_owned() + APP,
            &["`http.keep_alive`", "between 100ms and 60s"],
        ),
        (
            "http.body_timeout = \"61s\"\n".to_owned() + APP,
            &["`http.body_timeout`", "between 100ms and 60s"],
        ),
        (
            "http.min_body_rate = 0\n".to_owned() + APP,
            &["`http.min_body_rate`", "between 1 and"],
        ),
        (
            "http.bytes_reading = \"512KiB\"\n".to_owned() + APP,
            &["`http.bytes_reading`", "at least http.max_body"],
        ),
        (
            "http.max_ids = 0\n".to_owned() + APP,
            &["`http.max_ids`", "between 1 and", "im.toml"],
        ),
        (
            "mongodb.commit_timeout = \"0s\"\n".to_owned() + APP,
            &["`mongodb.commit_timeout`", "30s"],
        ),
        (
            "mongodb.uri = \"postgres://u:hunter2@h\"\n".to_owned() + APP,
            &["`mongodb.uri`", "mongodb://", "im.toml"],
        ),
        (
            "mongodb.commit_timeout = \"10s\"\n".to_owned() + APP,
            &["`mongodb.commit_timeout`", "3s"],
        ),
        (
            "ingest.callbacks_in_flight = 9223372036854775807\n".to_owned() + APP,
            &["`ingest.callbacks_in_flight`", "between 1 and"],
        ),
        (
            "spool.max_bytes = \"1MiB\"\n".to_owned() + APP,
            &["`spool.max_bytes`", "at least 4194304"],
        ),
        (
            "http.shutdown_delay = \"8s\"\n".to_owned() + APP,
            &["`http.shutdown_delay`", "below http.shutdown_timeout"],
        ),
        (
            "spool.path = \"\"\n".to_owned() + APP,
            &["`spool.path`", "is empty"],
        ),
        (
            "http.max_body = \"40MiB\"\n".to_owned() + APP,
            &["`http.max_body`", "between 1 and"],
        ),
        (
            "reconcile.every = \"2d\"\n".to_owned() + APP,
            &["`reconcile.every`", "between 1s and 1d"],
        ),
        (
            "reconcile.delay = \"61m\"\n".to_owned() + APP,
            &["`reconcile.delay`", "at most 1h"],
        ),
        (
            "reconcile.messages_per_run = 100000\n".to_owned() + APP,
            &["`reconcile.messages_per_run`", "no known key", "`delay`"],
        ),
        (
            "ingest.linger = \"101ms\"\n".to_owned() + APP,
            &["`ingest.linger`", "at most 100ms"],
        ),
        (
            "retention.events = \"500ms\"\n".to_owned() + APP,
            &["`retention.events`", "1h"],
        ),
        (
            "retention.events = \"100000d\"\n".to_owned() + APP,
            &["`retention.events`", "24855d"],
        ),
        (
            APP.replace("\"hunter2\"", "{ file = \"im.toml\", typo = 1 }"),
            &["`apps.0.app_secrets.0`", "expected a secret"],
        ),
        (
            "mongodb.database = \"a.b\"\n".to_owned() + APP,
            &["`mongodb.database`"],
        ),
        (
            "log.filter = \"info,=x=\"\n".to_owned() + APP,
            &["`log.filter`"],
        ),
        (String::new(), &["`apps`", "[[apps]]"]),
        (with(APP), &["`apps.1.name`", "`otc`"]),
        (
            APP.replace("netease", "icq"),
            &["`apps.0.provider`", "`netease`"],
        ),
        (
            APP.replace("\"otc\"", "\"o/t\""),
            &["`apps.0.name`", "letters"],
        ),
        (
            APP.replace("\"hunter2\"", "\"\""),
            &["`apps.0.app_secrets.0`", "empty"],
        ),
        (
            APP.replace("[\"hunter2\"]", "[]"),
            &["`apps.0.app_secrets`", "empty"],
        ),
        (
            APP.replace("[\"hunter2\"]", "\"hunter2\""),
            &["`apps.0.app_secrets`", "list"],
        ),
        (
            APP.replace("\"hunter2\"", "{ file = \"none\" }"),
            &["`apps.0.app_secrets.0`", "none"],
        ),
        (
            APP.replace("\"hunter2\"", "{ env = \"NONE\" }"),
            &["`apps.0.app_secrets.0`", "NONE"],
        ),
        (
            APP.replace("app_key = \"key\"", "app_key = \"\""),
            &["`apps.0.app_key`", "empty"],
        ),
        (
            APP.replace("app_key = \"key\"\n", ""),
            &["`apps.0.app_key`", "missing"],
        ),
        (
            APP.replace("app_key = \"key\"", "app_key = 1234567"),
            &["`apps.0.app_key`", "a number"],
        ),
        (
            with("app_secret = \"hunter2\"\n"),
            &["`apps.0.app_secret`", "no known key"],
        ),
        (
            with("callback_path = \"/v1/x\"\n"),
            &["`apps.0.callback_path`", "/v1"],
        ),
        (
            with("callback_path = \"x{y}\"\n"),
            &["`apps.0.callback_path`"],
        ),
        (
            with("order_id = { field = \"ext\", pointer = \"orderId\" }\n"),
            &["`apps.0.order_id.pointer`", "/orderId"],
        ),
        (
            with("order_id = { field = \"to\", pointer = \"/x\" }\n"),
            &["`apps.0.order_id.field`", "`attach`"],
        ),
        (
            with("[[auth.keys]]\nname = \"a\"\nsecret = \"hunter2\"\nscopes = [\"root\"]\n"),
            &["`auth.keys.0.scopes.0`", "`read`"],
        ),
        (
            with("[[auth.keys]]\nname = \"a\"\nsecret = \"hunter2\"\nscopes = []\n"),
            &["`auth.keys.0.scopes`", "empty"],
        ),
        (
            with("[[auth.keys]]\nname = \"a\"\nsecret = \"\"\nscopes = [\"read\"]\n"),
            &["`auth.keys.0.secret`", "empty"],
        ),
        (
            with("x = \"hunter2\nrest"),
            &["im.toml", "TOML", "line 7, column 13"],
        ),
        (
            with("count_tips = hunter2\n"),
            &["im.toml", "TOML", "line 7, column 14"],
        ),
        (
            with("app_key = \"again\"\n"),
            &["line 7, column 1", "duplicate key"],
        ),
    ];
    for (toml, expected) in cases {
        jailed(|jail| {
            let error = load(jail, toml).expect_err(toml);
            for part in *expected {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
            assert!(
                !error.contains("hunter2") && !error.contains("1234567"),
                "{error}"
            );
        });
    }
}

#[test]
fn errors_of_variables_and_flags_name_their_source() {
    jailed(|jail| {
        jail.set_env("IM_CALLBACK__HTTP__LISTEN", "nowhere");
        let error = load(jail, APP).expect_err("no address");
        assert!(error.contains("IM_CALLBACK__HTTP__LISTEN"), "{error}");
    });
    jailed(|jail| {
        jail.set_env("IM_CALLBACK__HTTP__LISTEM", "127.0.0.1:1");
        let error = load(jail, APP).expect_err("no key");
        assert!(error.contains("IM_CALLBACK__HTTP__LISTEM"), "{error}");
    });
    jailed(|_| {
        let flags = [("http.listen", "nowhere".to_owned())];
        let error = Config::load(None, &flags).expect_err("no address");
        assert!(error.to_string().contains("the command line"), "{error}");
    });
    jailed(|_| {
        let error = Config::load(Some("none.toml".as_ref()), &[]).expect_err("no file");
        assert!(error.to_string().contains("none.toml"), "{error}");
    });
}

/// The example is a working starting point, and the reference's commented keys exist.
#[test]
fn the_example_and_the_reference_are_valid() {
    let example = include_str!("../config/example.toml");
    let reference = include_str!("../config/default.toml");
    jailed(|jail| {
        let example = example.replace("/run/secrets/", "");
        jail.create_file("mongodb_uri", "mongodb://u:p@h1,h2/?replicaSet=rs0")
            .unwrap();
        jail.create_file("otc_app_secret", "s").unwrap();
        jail.create_file("order_pages_key", "k").unwrap();
        load(jail, &example).unwrap();
    });
    jailed(|jail| {
        let is_key = |line: &str| line.contains(" = ") || line.starts_with("# [");
        let uncommented: Vec<_> = reference
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if is_key(line)
                        && !rest.starts_with(char::is_uppercase)
                        && !rest.starts_with('{') =>
                {
                    rest
                }
                _ => line,
            })
            .collect();
        let config = load(jail, &uncommented.join("\n")).unwrap();
        assert!(config.retention.messages.is_some());
        assert_eq!((config.apps.len(), config.keys.len()), (1, 1));
    });
}
