//! Settings that only some providers have.

use super::{APP, jailed, load};

pub const RONGCLOUD: &str = r#"
[[apps]]
name = "rong"
provider = "rongcloud"
app_key = "key"
app_secrets = ["hunter2"]
"#;

pub const WILDFIRE: &str = r#"
[[apps]]
name = "wild"
provider = "wildfire"
app_secrets = ["hunter2_hunter2-"]
allow = ["203.0.113.7", "10.0.0.0/8", "2001:db8::/32"]
"#;

const YUNTONGXUN: &str = r#"
[[apps]]
name = "cloopen"
provider = "yuntongxun"
app_key = "AppId"
app_secrets = ["hunter2"]
"#;

/// An app of Wildfire IM needs one of the two; without them anybody could send callbacks.
#[test]
fn an_app_that_signs_nothing_needs_a_secret_path_or_addresses() {
    let without = |line: &str| {
        let lines = WILDFIRE.lines().filter(|l| !l.starts_with(line));
        lines.collect::<Vec<_>>().join("\n")
    };
    for (toml, secrets, networks) in [
        (WILDFIRE.to_owned(), 1, 3),
        (without("allow"), 1, 0),
        (without("app_secrets"), 0, 3),
    ] {
        jailed(|jail| {
            let config = load(jail, &format!("{toml}\nline = 2\n")).unwrap();
            let app = &config.apps[0].app;
            assert_eq!(app.provider.credentials().secrets.len(), secrets);
            assert_eq!(app.allow.len(), networks);
        });
    }
    let neither = without("a");
    let anybody = format!("{neither}\nallow = [\"10.0.3.7\", \"0.0.0.0/0\"]\n");
    let empty = format!("{neither}\napp_secrets = []\nallow = []\n");
    for toml in [neither, anybody, empty] {
        jailed(|jail| {
            let error = load(jail, &toml).expect_err("nothing protects it");
            for part in ["`apps.0.app_secrets`", "`allow`", "signs nothing"] {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
        });
    }
}

#[test]
fn each_provider_has_its_own_settings() {
    let wild = |more: &str| format!("{WILDFIRE}{more}\n");
    let cloopen = |more: &str| format!("{YUNTONGXUN}{more}\n");
    let secret = |by: &str| WILDFIRE.replace("hunter2_hunter2-", by);
    let segment = "at least 16 letters";
    let cases: &[(String, &[&str])] = &[
        (
            secret("hunter2-hunter2"),
            &["`apps.0.app_secrets.0`", segment],
        ),
        (
            secret("hunter2/hunter2-hunter2"),
            &["`apps.0.app_secrets.0`", segment],
        ),
        (
            secret("hunter2%20hunter2-hunter2"),
            &["`apps.0.app_secrets.0`", segment],
        ),
        (
            WILDFIRE.replace("10.0.0.0/8", "10.0.0.0/33"),
            &["`apps.0.allow.1`", "10.0.0.0/8"],
        ),
        (
            wild("app_key = \"k\""),
            &["`apps.0.app_key`", "no setting", "`wildfire`"],
        ),
        (
            wild("freshness = \"5m\""),
            &["`apps.0.freshness`", "no setting"],
        ),
        (
            wild("count_tips = true"),
            &["`apps.0.count_tips`", "no setting"],
        ),
        (
            wild("order_id = { field = \"ext\", pointer = \"/orderId\" }"),
            &["`apps.0.order_id.field`", "`payload`"],
        ),
        (wild("line = \"first\""), &["`apps.0.line`"]),
        (format!("{APP}line = 0\n"), &["`apps.0.line`", "`netease`"]),
        (
            cloopen("order_id = { field = \"body\", pointer = \"/x\" }"),
            &["`apps.0.order_id.field`", "not decoded"],
        ),
        (cloopen("line = 0"), &["`apps.0.line`", "`yuntongxun`"]),
        (
            YUNTONGXUN.replace("app_key = \"AppId\"\n", ""),
            &["`apps.0.app_key`", "missing"],
        ),
        (
            YUNTONGXUN.replace("[\"hunter2\"]", "[]"),
            &["`apps.0.app_secrets`", "empty"],
        ),
    ];
    for (toml, expected) in cases {
        jailed(|jail| {
            let error = load(jail, toml).expect_err(toml);
            for part in *expected {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
            assert!(!error.contains("hunter2"), "{error}");
        });
    }
    for good in [
        wild("order_id = { field = \"payload\", pointer = \"/extra/orderId\" }"),
        cloopen("freshness = \"5m\""),
    ] {
        jailed(|jail| drop(load(jail, &good).unwrap()));
    }
}
