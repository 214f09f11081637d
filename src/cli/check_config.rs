//! `im-callback check-config`

use std::io::Write;

use anyhow::Context;

use super::{Failure, Load};
use crate::callback::ids::AppName;

pub fn run(load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let mut out = std::io::stdout().lock();
    let mut print = || -> std::io::Result<()> {
        writeln!(out, "configuration is valid")?;
        writeln!(out, "listen: {}", config.http.listen)?;
        writeln!(out, "database: {}", config.store.database)?;
        let spool = &config.spool;
        writeln!(
            out,
            "spool: {}, up to {} bytes",
            spool.path.display(),
            spool.max_bytes
        )?;
        for app in &config.apps {
            let below = app.app.provider.route_pattern();
            let also = app
                .callback_path
                .as_deref()
                .map(|path| format!(" and {path}{below}"));
            writeln!(
                out,
                "app {} ({}): callbacks at /callbacks/{}{below}{}, {} live secret(s)",
                app.app.name,
                app.app.provider.name(),
                app.app.name,
                also.unwrap_or_default(),
                app.app.provider.credentials().secrets.len(),
            )?;
        }
        for key in &config.keys {
            let (name, scopes) = (key.name(), key.scopes());
            let apps = match key.apps() {
                Some(apps) => {
                    let names: Vec<_> = apps.iter().map(AppName::as_str).collect();
                    format!("apps {}", names.join(", "))
                }
                None => "all apps".to_owned(),
            };
            writeln!(out, "key {name}: scopes {scopes}, {apps}")?;
        }
        if config.keys.is_empty() {
            writeln!(out, "no key: queries are answered 403")?;
        }
        Ok(())
    };
    print().context("cannot print")?;
    Ok(())
}
