//! The signals that stop the service.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. The signals are caught from the call on, not from the first poll.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn signalled() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
