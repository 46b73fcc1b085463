//! SIGTERM and SIGINT: a clean end, with a deadline after which the process ends anyway.

use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `stop` at the first signal. At the deadline, or at a second signal, the process exits with status 1:
/// everything that we keep is safe under `kill -9`, so an end that hangs helps nobody.
pub fn stop_at(stop: CancellationToken, deadline: Duration) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to end; a second signal ends at once");
        stop.cancel();
        // A thread, since the runtime's own may all be stuck.
        std::thread::spawn(move || {
            std::thread::sleep(deadline);
            eprintln!(
                "pileus: not everything ended within {deadline:?}; it is left as after a kill"
            );
            std::process::exit(1);
        });
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    Ok(())
}
