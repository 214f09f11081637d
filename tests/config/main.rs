//! The configuration: its layers and its errors. A separate binary, because environment variables belong to the
//! process.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod errors;
mod messages;
mod providers;
mod sources;
mod tokens;
mod values;

use figment::Jail;
use im_callback::config::Config;

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
