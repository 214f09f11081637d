//! File, environment and flags, and secrets in files and variables.

use im_callback::config::{Config, LogFormat};
use secrecy::ExposeSecret;

use super::{APP, jailed, load};

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
            .provider
            .credentials()
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
