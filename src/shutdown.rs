//! The signals that stop the service, and the one that makes it read its secrets anew.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT. A second one, whenever it comes after the first, ends the process at once:
/// what was acknowledged is durable, so there is nothing to lose. The signals are caught from the call on,
/// not from the first poll.
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

/// SIGHUP: each asks for the configuration to be read anew.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
