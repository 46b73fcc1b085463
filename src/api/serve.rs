//! The listener's end of the service: connections are counted, timed, noticed when they die, and end with the process.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::service::App;

/// Longest head of a request: a URL and what browsers and proxies add, many times over.
const HEAD_BYTES: usize = 64 << 10;
/// Connections over the limit that are being told so at a time; those over this one are closed without a word.
const REFUSALS: usize = 64;

/// Serves until `drain` after `app.shutdown`, then waits for running requests; callers bound that by `shutdown_deadline`.
pub async fn serve(listener: TcpListener, app: App) -> io::Result<()> {
    let places = |most| Arc::new(Semaphore::new(most));
    let most = usize::try_from(app.config.max_connections).unwrap_or(usize::MAX);
    let (free, refusals) = (places(most.min(Semaphore::MAX_PERMITS)), places(REFUSALS));
    let connections = TaskTracker::new();
    // Ends when whoever sends requests has had time to see that this process is about to end.
    let drained = CancellationToken::new();
    let _end = drained.clone().drop_guard();
    let draining = {
        let (shutdown, drain, drained) = (app.shutdown.clone(), app.config.drain, drained.clone());
        async move {
            shutdown.cancelled().await;
            sleep(drain).await;
            drained.cancel();
        }
    };
    let server = Server {
        // A peer that takes nothing for two keepalives is gone, or never reads: without this its connection would stay for
        // good, since a full window stops our writes before any timer of ours sees them.
        patience: app.config.stream_keepalive.saturating_mul(2),
        header_timeout: app.config.header_timeout,
        shutdown: drained,
        router: super::router(app),
    };
    connections.spawn(draining);
    while let Some((stream, peer)) = next(&listener, &server.shutdown).await {
        if let Ok(place) = Arc::clone(&free).try_acquire_owned() {
            let server = server.clone();
            connections.spawn(async move {
                let _place = place;
                server.converse(stream, peer).await;
            });
        } else if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
            connections.spawn(async move {
                let _place = place;
                refuse(stream).await;
            });
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// The next connection; `None` when the process is to end.
async fn next(
    listener: &TcpListener,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(connection) => return Some(connection),
            // That one is gone; the listener is well.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                // Out of file descriptors, most likely: it passes when others end.
                tracing::error!(%error, "connections cannot be accepted; trying again in a second");
                tokio::select! {
                    () = shutdown.cancelled() => return None,
                    () = sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    patience: Duration,
    header_timeout: Duration,
    shutdown: CancellationToken,
}

impl Server {
    /// Serves one connection to its end. HTTP/1.1 alone: a proxy speaks the others.
    async fn converse(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = prepare(&stream, self.patience) {
            tracing::debug!(%error, "a connection takes no options");
        }
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = router.clone().oneshot(request.map(Body::new));
            async { answer.await as Result<Response, Infallible> }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_header_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %peer, "a connection ended in the middle");
        }
    }
}

fn prepare(connection: &TcpStream, patience: Duration) -> io::Result<()> {
    // Answers and events are small and must not wait for one another.
    connection.set_nodelay(true)?;
    SockRef::from(connection).set_tcp_user_timeout(Some(patience))
}

/// Says to a connection over the limit why it is closed, without asking what it wants.
async fn refuse(mut stream: TcpStream) {
    const BODY: &str = r#"{"type":"https://pileus.dev/problems/unavailable","title":"Unavailable","status":503,"detail":"this server has as many connections as it takes (max_connections): try again in a moment","retry_after":1}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // A connection that is closed with bytes unread is reset, and the answer may be lost with it.
        let mut unread = [0; 4096];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it was heard matters to nobody here.
    let _ = timeout(Duration::from_secs(1), told).await;
}
