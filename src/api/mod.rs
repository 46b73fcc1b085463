//! HTTP in, HTTP out: routes, extractors, problem+json, pages, streams.

pub mod document;
mod event_stream;
pub mod events;
pub mod extract;
pub mod flavors;
pub mod problem;
pub mod reply;

use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, Request, StatusCode};
use axum::response::IntoResponse;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::timeout::RequestBodyTimeoutLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::service::App;
use problem::Problem;

/// Every operation with its document.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document::Document::openapi())
        .merge(flavors::routes())
        .merge(events::routes())
}

/// The OpenAPI 3.1 document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    document::complete(operations().into_openapi())
}

/// The whole HTTP service.
pub fn router(app: App) -> Router {
    let request_id = HeaderName::from_static("x-request-id");
    let (router, _) = operations().split_for_parts();
    let body_limit = usize::try_from(app.config.body_limit_bytes).unwrap_or(usize::MAX);
    router
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", "there is no such path: see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", "this path has other methods: see /openapi.json")
        })
        .layer(DefaultBodyLimit::max(body_limit))
        .layer(RequestBodyTimeoutLayer::new(Duration::from_secs(30)))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            Problem::from(crate::domain::error::Error::Internal(anyhow::anyhow!("a handler panicked"))).into_response()
        }))
        .layer(TraceLayer::new_for_http().make_span_with(|request: &Request<_>| {
            let id = extract::request_id(request.headers());
            tracing::info_span!("request", %id, method = %request.method(), path = request.uri().path())
        }))
        .layer(PropagateRequestIdLayer::new(request_id.clone()))
        .layer(SetRequestIdLayer::new(request_id, NewRequestId))
        .layer(axum::middleware::from_fn(sane_request_id))
        .with_state(app)
}

#[derive(Clone)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        Uuid::now_v7().to_string().parse().ok().map(RequestId::new)
    }
}

/// A client may bring its own request id, if it is fit for a log: 1 to 128 of `[A-Za-z0-9._:-]`. Any other is replaced.
async fn sane_request_id(
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let fits = |value: &axum::http::HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(b))
    };
    if request.headers().get("x-request-id").is_some_and(|value| !fits(value)) {
        request.headers_mut().remove("x-request-id");
    }
    next.run(request).await
}
