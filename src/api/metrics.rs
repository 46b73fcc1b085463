//! `/metrics` on a listener of its own, and the middleware that counts and times requests.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics::{counter, histogram};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, timeout};

use super::limit;
use crate::domain::metric;
use crate::service::{self, App};

/// What Prometheus calls its text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How often what was counted is folded together where nobody scrapes.
const FOLD: Duration = Duration::from_secs(5);
/// A scrape may wait so long for the one before it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until it is dropped: also while the rest of the process ends.
pub async fn serve(listener: TcpListener, app: App) -> io::Result<()> {
    let counters = service::metrics::counters().map_err(io::Error::other)?;
    let turn = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let show = move |State(app): State<App>| async move {
        // One at a time: whoever scrapes twice as often costs no more.
        let Ok(Ok(_turn)) = timeout(PATIENCE, turn.acquire()).await else {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        match service::metrics::scrape(&app).await {
            Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "the metrics could not be told");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    };
    let router = Router::new().route("/metrics", get(show)).with_state(app);
    let mut fold = interval(FOLD);
    let folding = async {
        loop {
            fold.tick().await;
            counters.run_upkeep();
        }
    };
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served,
        () = folding => Ok(()),
    }
}

/// Counts and times the request under its route.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let (method, class) = (method(request.method()), limit::class(&request).as_str());
    let begun = Instant::now();
    let response = next.run(request).await;
    let labels =
        [("route", route.clone()), ("method", method.to_owned()), ("class", class.to_owned())];
    let (took, status) = (begun.elapsed(), response.status());
    histogram!(metric::REQUEST_SECONDS, &labels).record(took);
    let ms = took.as_secs_f64() * 1000.0;
    // Reads are many, and leave nothing behind to be explained.
    if method == "GET" && !status.is_server_error() {
        tracing::debug!(route, status = status.as_u16(), ms, "answered");
    } else {
        tracing::info!(route, status = status.as_u16(), ms, "answered");
    }
    let status = status.as_u16().to_string();
    counter!(metric::REQUESTS, "route" => route, "method" => method, "status" => status)
        .increment(1);
    response
}

/// A client may send any word as a method.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
