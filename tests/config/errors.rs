//! Errors name the key and its source, and never a secret.

use im_callback::config::Config;

use super::{APP, jailed, load};

/// Every invalid configuration: the error has the key and the source, and no secret.
#[test]
fn errors_name_key_and_source_and_never_a_secret() {
    let with = |more: &str| format!("{APP}{more}");
    let key = |secret: &str, more: &str| {
        let key = "[[auth.keys]]\nname = \"a\"\nscopes = [\"read\"]";
        format!("{APP}{key}\nsecret = \"{secret}\"\n{more}")
    };
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
            "http.max_connections = 10\nstream.max_subscribers = 10\n".to_owned() + APP,
            &["`stream.max_subscribers`", "below http.max_connections"],
        ),
        (
            "stream.max_subscribers = 0\n".to_owned() + APP,
            &["`stream.max_subscribers`", "at least 1"],
        ),
        (
            "stream.max_per_user = 0\n".to_owned() + APP,
            &["`stream.max_per_user`", "between 1 and 1000"],
        ),
        (
            "stream.heartbeat = \"2m\"\n".to_owned() + APP,
            &["`stream.heartbeat`", "between 100ms and 60s"],
        ),
        (
            "stream.slow_reader_timeout = \"1ms\"\n".to_owned() + APP,
            &["`stream.slow_reader_timeout`", "between 100ms and 60s"],
        ),
        (
            "stream.recount_every = \"100ms\"\n".to_owned() + APP,
            &["`stream.recount_every`", "between 1s and 1d"],
        ),
        (
            "stream.max_subscriber = 5\n".to_owned() + APP,
            &["`stream.max_subscriber`", "`max_subscribers`"],
        ),
        (
            "http.max_ids = 0\n".to_owned() + APP,
            &["`http.max_ids`", "between 1 and", "im.toml"],
        ),
        (
            "http.max_team_unread = 100001\n".to_owned() + APP,
            &["`http.max_team_unread`", "between 1 and 100000"],
        ),
        (
            "mongodb.commit_timeout = \"0s\"\n".to_owned() + APP,
            &["`mongodb.commit_timeout`", "such as \"2s\""],
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
            &["`spool.max_bytes`", "at least 4MiB"],
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
            "presence.unknown_after = \"59s\"\n".to_owned() + APP,
            &["`presence.unknown_after`", "between 1m and 365d"],
        ),
        (
            "presence.unknown_after = \"366d\"\n".to_owned() + APP,
            &["`presence.unknown_after`", "between 1m and 365d"],
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
            &["`apps.0.app_secrets.0`", "is no secret; write"],
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
            key("hunter2-hunter2", ""),
            &[
                "`auth.keys.0.secret`",
                "fewer than 16 characters",
                "openssl rand -hex 24",
                "im.toml",
            ],
        ),
        (
            key("hunter2-hunter2 hunter2", ""),
            &["`auth.keys.0.secret`", "blanks", "openssl rand -hex 24"],
        ),
        (
            key("hunter2-hunter2-é", ""),
            &["`auth.keys.0.secret`", "printable ASCII"],
        ),
        (
            key("hunter2-hunter2-", "apps = []\n"),
            &["`auth.keys.0.apps`", "is empty", "leave it out"],
        ),
        (
            key("hunter2-hunter2-", "apps = [\"otc\", \"shop\"]\n"),
            &["`auth.keys.0.apps.1`", "no app is named `shop`", "im.toml"],
        ),
        (
            key("hunter2-hunter2-", "apps = [\"otc\", \"otc\"]\n"),
            &["`auth.keys.0.apps.1`", "listed twice"],
        ),
        (
            key("hunter2-hunter2-", "apps = \"otc\"\n"),
            &["`auth.keys.0.apps`", "list"],
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
