//! The listener's end of the service: connections that die are noticed, and all end with the process.

use std::io;
use std::time::Duration;

use axum::serve::ListenerExt;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::service::App;

/// Serves until `drain` after `app.shutdown`, then waits for running requests; callers bound that by `shutdown_deadline`.
pub async fn serve(listener: TcpListener, app: App) -> io::Result<()> {
    let (shutdown, drain) = (app.shutdown.clone(), app.config.drain);
    // A peer that takes nothing for two keepalives is gone, or never reads: without this its connection would stay for good,
    // since a full window stops our writes before any timer of ours sees them.
    let patience = app.config.stream_keepalive.saturating_mul(2);
    let listener = listener.tap_io(move |connection| {
        if let Err(error) = prepare(connection, patience) {
            tracing::debug!(%error, "a connection takes no options");
        }
    });
    let service = super::router(app).into_make_service_with_connect_info::<std::net::SocketAddr>();
    let drained = async move {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    axum::serve(listener, service).with_graceful_shutdown(drained).await
}

fn prepare(connection: &TcpStream, patience: Duration) -> io::Result<()> {
    // Answers and events are small and must not wait for one another.
    connection.set_nodelay(true)?;
    SockRef::from(connection).set_tcp_user_timeout(Some(patience))
}
