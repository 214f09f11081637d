//! The signals that stop the service, and the one that reloads its configuration.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT. A second signal ends the process at once: whatever was acknowledged is durable. The
/// handlers are installed by the call, not by the first poll.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn signalled() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            let number = either(&mut terminate, &mut interrupt).await;
            tracing::warn!("ended by a second signal");
            std::process::exit(128 + number.as_raw_value());
        });
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

/// SIGHUP: each one asks for a reload of the configuration.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
