//! `im-callback serve`

use std::net::SocketAddr;

use anyhow::Context;

use super::{Failure, Load, told};
use crate::app::{Application, CannotWork};
use crate::config::{Config, ConfigError, LookAlike, look_alikes};
use crate::live::{Live, ReloadableConfig};
use crate::{shutdown, telemetry};

#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    /// Address to listen on, over http.listen
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

pub async fn run(args: ServeArgs, load: impl Load) -> Result<(), Failure> {
    let flags: Vec<_> = args
        .listen
        .map(|listen| ("http.listen", listen.to_string()))
        .into_iter()
        .collect();
    let config = load(&flags)?;
    let telemetry = telemetry::init(&config.log);
    let served = serve(config, &flags, load).await;
    match &served {
        Ok(()) => tracing::info!("stopped"),
        // Who reads the log alone must see it, too.
        Err(Failure::Usage(error) | Failure::Failed(error)) => match error.downcast_ref() {
            Some(CannotWork {
                cause,
                waiting_bytes,
            }) => {
                let (reason, found) = (cause.reason.code(), &cause.found);
                let way_out = &cause.way_out;
                tracing::error!(
                    reason,
                    found,
                    way_out,
                    waiting_bytes,
                    "the service stops: MongoDB can never take writes with this configuration"
                );
            }
            None => tracing::error!(error = told(error), "the service fails"),
        },
    }
    telemetry.end().await;
    served
}

async fn serve(config: Config, flags: &[(&str, String)], load: impl Load) -> Result<(), Failure> {
    for app in &config.apps {
        let name = app.app.name.as_str();
        let also = app.callback_path.as_deref();
        let path = format!("/callbacks/{name}{}", app.app.provider.route_pattern());
        tracing::info!(app = name, path, also, "callbacks are accepted");
    }
    for LookAlike { found, right } in look_alikes(&config.secret_variables) {
        tracing::warn!(
            variable = found,
            right,
            "an environment variable looks like a configuration key and is not read"
        );
    }
    if config.keys.is_empty() && config.tokens.is_empty() {
        tracing::warn!(
            "no key is configured, so queries are answered 403; add an [[auth.keys]] section with \
             name, secret and scopes = [\"read\"]"
        );
    }
    let stop = shutdown::signalled().context("cannot wait for signals")?;
    let mut hangups = shutdown::hangups().context("cannot wait for signals")?;
    let fixed = config.fixed();
    let service = Application::build(config).await.map_err(failure)?;
    let address = service.address().context("the socket has no address")?;
    tracing::info!(%address, "listening");
    let live = service.live();
    let reloads = async {
        while hangups.recv().await.is_some() {
            reload(load(flags), &fixed, &live);
        }
    };
    tokio::select! {
        stopped = service.run(stop) => stopped.map_err(failure)?,
        // The stream of signals may end; the service goes on without reloads.
        never = async { reloads.await; std::future::pending().await } => never,
    }
    Ok(())
}

/// What can never work is a wrong configuration, not a failed service: to start it again would not help.
fn failure(error: anyhow::Error) -> Failure {
    if error.is::<CannotWork>() {
        Failure::Usage(error)
    } else {
        Failure::Failed(error)
    }
}

/// Replaces the reloadable part of the configuration, unless the new file has errors.
fn reload(read: Result<Config, ConfigError>, fixed: &[(&str, String)], live: &Live) {
    let config = match read {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "the new configuration is refused, the old one stays");
            return;
        }
    };
    for (section, _) in config.fixed().iter().filter(|s| !fixed.contains(s)) {
        tracing::warn!(section, "this section has changed, which needs a restart");
    }
    let (apps, keys) = (config.apps.len(), config.keys.len());
    let token_keys = config.tokens.iter().count();
    live.replace(ReloadableConfig::new(
        config.apps,
        config.keys,
        config.tokens,
    ));
    tracing::info!(apps, keys, token_keys, "apps and keys were read anew");
}
