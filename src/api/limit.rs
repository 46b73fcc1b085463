//! What a request may take: a place among those worked on at a time, and its time.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::event_stream;
use super::problem::Problem;
use crate::domain::error::Result;
use crate::service::App;
use crate::service::limits::{Permit, ShareOfWaits};

/// What a request does with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Answers as soon as it can.
    Prompt,
    /// `?wait=`: answers when something has come to be.
    Waiting,
    /// Counts and times itself: an upload, a stream.
    Own,
    /// Must answer however busy we are.
    Health,
}

impl Class {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Waiting => "waiting",
            Self::Own => "own",
            Self::Health => "health",
        }
    }
}

pub(super) fn class(request: &Request) -> Class {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    if matches!(path, "/healthz" | "/readyz") {
        Class::Health
    } else if path == "/v1/events" && event_stream::is_asked_for(request.headers())
        || request.method() == Method::PUT && path.ends_with("/data")
    {
        Class::Own
    } else if query.split('&').any(|pair| pair.starts_with("wait=")) {
        Class::Waiting
    } else {
        Class::Prompt
    }
}

/// Refuses a request where there are too many, and ends one that takes too long.
pub async fn limit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let config = &app.config;
    let class = class(&request);
    let (permit, longest): (Result<Permit>, _) = match class {
        Class::Health | Class::Own => return next.run(request).await,
        Class::Prompt => (app.limits().request(), config.request_timeout),
        // The wait ends by itself; this is for what comes before and after it.
        Class::Waiting => (app.limits().wait(), config.wait_max + config.request_timeout),
    };
    let _permit = match permit {
        Ok(permit) => permit,
        Err(error) => return Problem::from(error).into_response(),
    };
    // Until the answer: what the caller's tenant has of the waits.
    let slot = ShareOfWaits::default();
    if class == Class::Waiting {
        request.extensions_mut().insert(slot.clone());
    }
    match tokio::time::timeout(longest, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => too_slow(longest).into_response(),
    }
}

fn too_slow(longest: Duration) -> Problem {
    Problem {
        retry_after: Some(1),
        ..Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "Took too long",
            format!(
                "the request took longer than {} s and was given up; it may have been carried out: repeat it with the same Idempotency-Key",
                longest.as_secs()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_what_says_so_may_take_its_time() {
        let of = |method: &str, uri: &str, accept: &str| {
            let request = Request::builder().method(method).uri(uri).header("accept", accept);
            class(&request.body(Body::empty()).expect("request"))
        };
        assert_eq!(of("GET", "/v1/events", "application/json"), Class::Prompt);
        assert_eq!(of("GET", "/v1/events?after=3", "text/event-stream"), Class::Own);
        assert_eq!(of("GET", "/v1/flavors", "text/event-stream"), Class::Prompt);
        assert_eq!(of("GET", "/v1/instances/x?timeout=9&wait=running", "*/*"), Class::Waiting);
        assert_eq!(of("GET", "/v1/instances?name=wait=1", "*/*"), Class::Prompt);
        assert_eq!(of("PUT", "/v1/images/x/data", "*/*"), Class::Own);
        assert_eq!(of("GET", "/readyz", "*/*"), Class::Health);
    }
}
