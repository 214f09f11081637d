//! `im-callback serve`

use std::net::SocketAddr;

use anyhow::Context;

use super::{Failure, Load};
use crate::app::Service;
use crate::{shutdown, telemetry};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Address to listen on, over http.listen
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

pub async fn run(args: Args, load: impl Load) -> Result<(), Failure> {
    let flags: Vec<_> = args
        .listen
        .map(|listen| ("http.listen", listen.to_string()))
        .into_iter()
        .collect();
    let config = load(&flags)?;
    telemetry::init(&config.log);
    for app in &config.apps {
        let name = app.app.name.as_str();
        let path = app.callback_path.as_deref();
        tracing::info!(
            app = name,
            callback_path = path,
            "callbacks come to /callbacks/{{app}}"
        );
    }
    if config.keys.is_empty() {
        tracing::warn!(
            "no key is configured, so queries are answered 403; add an [[auth.keys]] section with \
             name, secret and scopes = [\"read\"]"
        );
    }
    if config.asks_for_spool {
        tracing::warn!(
            "[spool] is set, but this version has no spool: while MongoDB is away callbacks are \
             answered 503"
        );
    }
    let stop = shutdown::signalled().context("cannot wait for signals")?;
    let service = Service::build(config).await?;
    let address = service.address().context("the socket has no address")?;
    tracing::info!(%address, "listening");
    service.run(stop).await?;
    tracing::info!("stopped");
    Ok(())
}
