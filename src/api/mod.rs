//! HTTP in, HTTP out: routes, extractors, problem+json, pages, streams.

pub mod aggregates;
mod auth;
mod bounds;
mod cloud;
pub mod document;
pub mod documents;
mod event_stream;
pub mod events;
pub mod extract;
pub mod flavors;
pub mod groups;
pub mod health;
pub mod hosts;
mod image_data;
pub mod images;
pub mod keypairs;
pub mod instances;
mod json;
mod limit;
mod memberships;
pub mod metrics;
pub mod networks;
mod openapi30;
mod placement;
pub mod ports;
pub mod problem;
mod proxy;
mod range;
pub mod reply;
pub mod reservations;
mod sane;
mod serve;
mod stalled;
mod tenants;
mod tokens;
mod users;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::trace::{DefaultOnResponse, OnResponse, TraceLayer};
use tracing::Span;
use tracing::field::Empty;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

pub use serve::serve;

use crate::domain::trace;
use crate::service::App;
use problem::Problem;

/// Every operation with its document.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document::Document::openapi())
        .merge(auth::routes())
        .merge(tokens::routes())
        .merge(users::routes())
        .merge(tenants::routes())
        .merge(memberships::routes())
        .merge(flavors::routes())
        .merge(events::routes())
        .merge(health::routes())
        .merge(hosts::routes())
        .merge(aggregates::routes())
        .merge(images::routes())
        .merge(image_data::routes())
        .merge(keypairs::routes())
        .merge(networks::routes())
        .merge(ports::routes())
        .merge(groups::routes())
        .merge(reservations::routes())
        .merge(instances::routes())
        .merge(placement::routes())
        .merge(stalled::routes())
        .merge(cloud::routes())
}

/// The OpenAPI 3.1 document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    document::complete(operations().into_openapi())
}

/// The whole HTTP service.
pub fn router(app: App) -> Router {
    let request_id = HeaderName::from_static("x-request-id");
    let (router, _) = operations().split_for_parts();
    let router = router.merge(documents::routes());
    let body_limit = usize::try_from(app.config.body_limit_bytes).unwrap_or(usize::MAX);
    router
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "Not found",
                "there is no such path: see /openapi.json",
            )
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
                "this path has other methods: see /openapi.json",
            )
        })
        // One after the other from the outside in, and in one: the router boxes, and clones for every request, what it is given.
        .layer(
            ServiceBuilder::new()
                .option_layer(cors(&app.config.cors_origins))
                .layer(SetSensitiveRequestHeadersLayer::new([
                    header::AUTHORIZATION,
                    header::COOKIE,
                ]))
                // Not for event streams: the layer leaves them alone, since a compressor would hold lines back. Nor for images'
                // bytes: they have a length, and most are compressed already.
                .layer(
                    CompressionLayer::new().compress_when(
                        DefaultPredicate::new()
                            .and(NotForContentType::const_new("application/octet-stream")),
                    ),
                )
                .layer(axum::middleware::from_fn(sane::request_id))
                .layer(SetRequestIdLayer::new(request_id.clone(), NewRequestId))
                .layer(PropagateRequestIdLayer::new(request_id))
                .layer(TraceLayer::new_for_http().make_span_with(span).on_response(
                    |response: &Response, took: Duration, span: &Span| {
                        trace::tell(
                            span,
                            "http.response.status_code",
                            i64::from(response.status().as_u16()),
                        );
                        DefaultOnResponse::new().on_response(response, took, span);
                    },
                ))
                // Also what panicked, and what was turned away.
                .layer(axum::middleware::from_fn(metrics::measure))
                .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
                    Problem::from(crate::domain::error::Error::Internal(anyhow::anyhow!(
                        "a handler panicked"
                    )))
                    .into_response()
                }))
                .layer(axum::middleware::from_fn(sane::framing))
                .layer(axum::middleware::from_fn_with_state(app.clone(), limit::limit))
                .layer(DefaultBodyLimit::max(body_limit)),
        )
        .with_state(app)
}

/// What every log line about the request says; and, by the names of OpenTelemetry's conventions, what its trace does.
fn span<B>(request: &Request<B>) -> Span {
    let (id, method) = (extract::request_id(request.headers()), request.method());
    let span = tracing::info_span!(
        "request",
        request_id = %id,
        %method,
        path = request.uri().path(),
        otel.kind = Empty,
        otel.name = Empty
    );
    if !trace::exported() {
        return span;
    }
    if let Some(parent) = request.headers().get("traceparent").and_then(|text| text.to_str().ok()) {
        trace::follow(&span, parent);
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    span.record("otel.kind", "server").record("otel.name", format!("{method} {route}").trim());
    trace::tell(&span, "http.request.method", method.to_string());
    trace::tell(&span, "http.route", route.to_owned());
    span
}

/// Web pages of these origins (comma-separated) may use the API; none may if it is empty. Tokens are sent in a header, never in
/// a cookie, so that no page acts for somebody unasked.
fn cors(origins: &str) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> =
        origins.split(',').filter_map(|o| HeaderValue::from_str(o.trim()).ok()).collect();
    if origins.iter().all(HeaderValue::is_empty) {
        // Not even an empty layer, which would answer every OPTIONS with 200.
        return None;
    }
    let name = HeaderName::from_static;
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_RANGE,
            header::RANGE,
            name("idempotency-key"),
            name("last-event-id"),
            name("x-request-id"),
        ])
        .expose_headers([
            header::ACCEPT_RANGES,
            header::CONTENT_RANGE,
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            name("x-request-id"),
        ]);
    Some(cors)
}

#[derive(Clone)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        Uuid::now_v7().to_string().parse().ok().map(RequestId::new)
    }
}
