//! Logs: to standard error, so that standard output stays data.
//!
//! Messages are constant and values are fields. No secret, no body and no message text is ever logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging for the process. A second call changes nothing.
pub fn init(log: &Log) {
    // The filter was checked with the configuration.
    let mut filter = EnvFilter::builder().parse_lossy(&log.filter);
    // actix logs an error for each broken request, so any stranger could fill the disk. Name actix_http in the
    // filter to see them.
    if !log.filter.contains("actix_http")
        && let Ok(none) = "actix_http=off".parse()
    {
        filter = filter.add_directive(none);
    }
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // The reader of the log may close its pipe. Writing an error about that to the same pipe would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match log.format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    drop(started);
}
