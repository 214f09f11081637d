//! `im-callback check-config`

use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;

use super::doctor::{Findings, of_mongodb};
use super::{Failure, Load};
use crate::callback::ids::AppName;
use crate::config::{Config, ENV_PREFIX};
use crate::words::counted;

#[derive(clap::Args, Debug)]
pub struct CheckConfigArgs {
    /// Do not read the secrets in files and variables, which may be on another machine
    #[arg(long)]
    no_secrets: bool,
    /// Also check MongoDB, as `im-callback doctor` does
    #[arg(long, conflicts_with = "no_secrets")]
    connect: bool,
}

pub async fn run(
    args: &CheckConfigArgs,
    load: impl Load,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let (config, unread) = match args.no_secrets {
        true => Config::load_without_secrets(file)?,
        false => (load(&[]).map_err(|e| with_hint(e, file))?, Vec::new()),
    };
    let text = summary(&config, &unread, file);
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print")?;
    if args.connect {
        let mut findings = Findings::new(false);
        findings.say(&of_mongodb(&config).await)?;
        findings.end()?;
    }
    Ok(())
}

/// If the secrets alone are at fault, says so: on another machine than the service's they are usually not there.
fn with_hint(error: crate::config::ConfigError, file: Option<&Path>) -> Failure {
    if Config::load_without_secrets(file).is_err() {
        return error.into();
    }
    Failure::Usage(anyhow!(
        "{error}\nonly secrets are at fault; the rest is valid (`check-config --no-secrets`)"
    ))
}

fn summary(config: &Config, unread: &[String], file: Option<&Path>) -> String {
    let mut lines = vec!["configuration is valid".to_owned()];
    lines.push(match file {
        Some(path) => format!("file: {}", path.display()),
        None => "file: none; give one with --config".to_owned(),
    });
    let mut variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(ENV_PREFIX))
        .collect();
    variables.sort();
    if !variables.is_empty() {
        lines.push(format!("variables: {}", variables.join(", ")));
    }
    if !unread.is_empty() {
        lines.push(format!("secrets not read: {}", unread.join(", ")));
    }
    lines.push(format!("listen: {}", config.http.listen));
    lines.push(format!("database: {}", config.store.database));
    let spool = &config.spool;
    let most = ByteSize(spool.max_bytes);
    lines.push(format!("spool: {}, up to {most}", spool.path.display()));
    for app in &config.apps {
        let below = app.app.provider.route_pattern();
        let also = app.callback_path.as_deref();
        let also = also.map(|path| format!(" and {path}{below}"));
        let secrets = app.app.provider.credentials().secrets.len();
        lines.push(format!(
            "app {name} ({provider}): callbacks at /callbacks/{name}{below}{also}, {secrets}",
            name = app.app.name,
            provider = app.app.provider.name(),
            also = also.unwrap_or_default(),
            secrets = counted(secrets, "live secret"),
        ));
    }
    for key in &config.keys {
        let (name, scopes, apps) = (key.name(), key.scopes(), apps_of(key.apps()));
        lines.push(format!("key {name}: scopes {scopes}, {apps}"));
    }
    for key in config.tokens.iter() {
        let (name, algorithm, apps) = (key.name(), key.algorithm(), apps_of(key.apps()));
        lines.push(format!("token key {name}: {algorithm}, {apps}"));
    }
    if config.keys.is_empty() && config.tokens.is_empty() {
        lines.push("no key: queries are answered 403".to_owned());
    }
    if !config.http.cors_origins.is_empty() {
        let origins = config.http.cors_origins.join(", ");
        lines.push(format!("pages may ask from: {origins}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn apps_of(apps: Option<&[AppName]>) -> String {
    let Some(apps) = apps else {
        return "all apps".to_owned();
    };
    let names: Vec<_> = apps.iter().map(AppName::as_str).collect();
    format!("apps {}", names.join(", "))
}
