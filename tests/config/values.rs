//! Valid configurations.

use std::path::Path;

use im_callback::callback::Provider;
use secrecy::ExposeSecret;

use super::providers::{RONGCLOUD, WILDFIRE};
use super::tokens::PUBLIC;
use super::{APP, jailed, load};

#[test]
fn the_defaults_need_only_an_app() {
    jailed(|jail| {
        let config = load(jail, APP).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.http.max_body, 1024 * 1024);
        assert_eq!(config.http.max_ids, 1000);
        assert_eq!(config.http.max_team_unread, 1000);
        assert_eq!(config.http.max_connections, 2000);
        assert_eq!(config.http.header_timeout.as_secs(), 5);
        assert_eq!(config.http.keep_alive.as_secs(), 15);
        assert_eq!(config.http.body_timeout.as_secs(), 10);
        assert_eq!(config.http.min_body_rate, 1024);
        assert_eq!(config.http.bytes_reading, 32 * 1024 * 1024);
        assert_eq!(config.store.database, "im");
        assert!(!config.store.analyst_indexes);
        assert_eq!(
            config.mongodb_uri.expose_secret(),
            "mongodb://127.0.0.1:27017/?replicaSet=rs0"
        );
        assert_eq!(config.retention, Default::default());
        assert!(config.keys.is_empty());
        assert_eq!(config.store.state_delay.as_secs(), 1);
        assert_eq!(config.reconcile.every.as_secs(), 600);
        assert_eq!(config.presence.unknown_after.as_secs(), 24 * 3600);
        assert_eq!(config.ingest.commits_in_flight, 4);
        assert_eq!(config.ingest.linger.as_micros(), 100);
        assert_eq!(config.stream.max_subscribers, 1000);
        assert_eq!(config.stream.heartbeat.as_secs(), 15);
        assert_eq!(config.stream.slow_reader_timeout.as_secs(), 10);
        assert_eq!(config.stream.recount_every.as_secs(), 600);
        assert_eq!(config.stream.max_per_user, 10);
        assert_eq!(config.spool.path, Path::new("data/spool"));
        assert_eq!(config.spool.max_bytes, 1024 * 1024 * 1024);
    });
}

/// Half of the connections are for callbacks and queries, unless the configuration says otherwise.
#[test]
fn subscribers_leave_connections_to_others() {
    jailed(|jail| {
        for (more, most) in [
            ("http.max_connections = 300", 150),
            (
                "http.max_connections = 300\nstream.max_subscribers = 299",
                299,
            ),
            ("stream.max_subscribers = 1", 1),
        ] {
            let config = load(jail, &format!("{more}\n{APP}")).unwrap();
            assert_eq!(config.stream.max_subscribers, most, "{more}");
        }
    });
}

/// The keys that deployments rely on, all at once.
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
            analyst_indexes = true
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
            [presence]
            unknown_after = "365d"
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
            secret = "0123456789abcdef"
            apps = ["otc"]
            scopes = ["read", "write", "admin"]
            "#,
        )
        .unwrap();
        assert_eq!(config.spool.path, Path::new("data/spool"));
        assert!(config.store.analyst_indexes);
        let key = &config.keys[0];
        assert_eq!(key.check_app("otc"), Ok(()));
        assert!(key.check_app("other").is_err());
        assert_eq!(
            config.apps[0].callback_path.as_deref(),
            Some("/receiveMsg.action")
        );
        let Provider::Netease(app) = &config.apps[0].app.provider else {
            panic!("another provider")
        };
        assert_eq!(app.credentials.secrets.len(), 2);
        assert_eq!(app.freshness.unwrap().as_secs(), 300);
        assert!(app.rules.count_tips);
        assert_eq!(config.retention.events.unwrap().as_secs(), 90 * 24 * 3600);
        assert_eq!(config.ingest.linger.as_millis(), 100);
        assert_eq!(config.store.state_delay.as_secs(), 3600);
        assert_eq!(config.reconcile.every.as_secs(), 24 * 3600);
        let unknown_after = config.presence.unknown_after.as_secs();
        assert_eq!(unknown_after, 365 * 24 * 3600);
    });
}

/// Providers give out shorter secrets than keys may have: NetEase's has 12 characters.
#[test]
fn a_keys_secret_needs_16_characters_and_an_apps_does_not() {
    jailed(|jail| {
        let app = APP.replace("hunter2", "0123456789ab");
        let key = "[[auth.keys]]\nname = \"a\"\nscopes = [\"read\"]\nsecret = \"0123456789abcdef\"";
        let config = load(jail, &format!("{app}{key}")).unwrap();
        assert_eq!(config.keys[0].apps(), None);
    });
}

/// The mark of a setting in the reference that only one provider's apps have, or one algorithm, and what it belongs to.
const OTHERS: &[(&str, &str)] = &[
    ("# optional, rongcloud:", RONGCLOUD),
    ("# optional, wildfire:", WILDFIRE),
    ("# EdDSA:", EDDSA),
];

/// An app, and a token key that lacks its public key.
const EDDSA: &str = r#"
[[apps]]
name = "otc"
provider = "netease"
app_key = "key"
app_secrets = ["hunter2"]
[[auth.token_keys]]
name = "site"
algorithm = "EdDSA"
"#;

/// The example is a working starting point, and the reference's commented keys exist.
#[test]
fn the_example_and_the_reference_are_valid() {
    let example = include_str!("../../config/example.toml");
    let reference = include_str!("../../config/default.toml");
    jailed(|jail| {
        let example = example.replace("/run/secrets/", "");
        jail.create_file("mongodb_uri", "mongodb://u:p@h1,h2/?replicaSet=rs0")
            .unwrap();
        jail.create_file("otc_app_secret", "s").unwrap();
        jail.create_file("order_pages_key", "0123456789abcdef")
            .unwrap();
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
        jail.create_file("site.pem", PUBLIC).unwrap();
        // The example app is NetEase's, so settings of other providers are tested with apps of those.
        let (others, lines): (Vec<_>, Vec<_>) = uncommented
            .into_iter()
            .partition(|line| OTHERS.iter().any(|(mark, _)| line.contains(mark)));
        assert_eq!(others.len(), OTHERS.len());
        for line in others {
            let app = OTHERS.iter().find(|(mark, _)| line.contains(mark));
            load(jail, &format!("{}{line}\n", app.unwrap().1)).unwrap();
        }
        // Whoever leaves the placeholder in place is told.
        let lines = lines.join("\n");
        let error = load(jail, &lines).expect_err("a placeholder");
        assert!(
            error.contains("`auth.keys.0.secret` has fewer than 16 characters"),
            "{error}"
        );
        let long = "secret = \"0123456789abcdef0123456789abcdef\"";
        let lines = lines.replace("secret = \"…\"", long);
        let config = load(jail, &lines).unwrap();
        assert!(config.retention.messages.is_some());
        assert_eq!((config.apps.len(), config.keys.len()), (1, 1));
        assert_eq!(config.tokens.iter().count(), 1);
    });
}
