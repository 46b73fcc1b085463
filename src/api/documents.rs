//! `/openapi.json`, `/openapi-3.0.json` and `/docs`: made once, served as bytes, with nothing from another server.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{document, openapi30};
use crate::domain::error::{Error, Result};

/// Which OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V31,
    /// 3.0.3, for generators that read no newer one.
    V30,
}

/// The parts in the order in which people read them; within them the keys are sorted, so that a change is a small diff.
#[derive(Serialize)]
struct Ordered {
    openapi: Value,
    info: Value,
    servers: Value,
    tags: Value,
    paths: Value,
    components: Value,
}

/// The document as people read it and as it is committed.
pub fn pretty(version: Version) -> Result<String> {
    let mut value = serde_json::to_value(super::openapi()).map_err(Error::internal)?;
    document::plain(&mut value);
    document::fill(&mut value);
    if version == Version::V30 {
        value = openapi30::convert(value);
    }
    let mut part = |name: &str| value[name].take();
    let ordered = Ordered {
        openapi: part("openapi"),
        info: part("info"),
        servers: part("servers"),
        tags: part("tags"),
        paths: part("paths"),
        components: part("components"),
    };
    let mut text = serde_json::to_string_pretty(&ordered).map_err(Error::internal)?;
    text.push('\n');
    Ok(text)
}

/// The routes that describe the others.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let ui = Config::from("/openapi.json")
        // It would send the document to a server of its makers.
        .validator_url("none")
        .display_operation_id(true)
        .persist_authorization(true)
        .doc_expansion("none");
    Router::new()
        .route("/openapi.json", fixed(pretty(Version::V31)))
        .route("/openapi-3.0.json", fixed(pretty(Version::V30)))
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .merge(SwaggerUi::new("/docs").config(ui))
}

/// Serves `text` with its checksum as `ETag`.
fn fixed<S: Clone + Send + Sync + 'static>(text: Result<String>) -> axum::routing::MethodRouter<S> {
    let text = text.map_or_else(
        |error| {
            // Our own types always make JSON.
            tracing::error!(%error, "the OpenAPI document cannot be written");
            Bytes::new()
        },
        Bytes::from,
    );
    let sum = URL_SAFE_NO_PAD.encode(&Sha256::digest(&text)[..12]);
    let tag = HeaderValue::from_str(&format!("\"{sum}\""));
    let tag = tag.unwrap_or(HeaderValue::from_static("\"\""));
    get(move |headers: HeaderMap| async move { answer(&headers, text, tag) })
}

fn answer(headers: &HeaderMap, text: Bytes, tag: HeaderValue) -> Response {
    let has = |value: &HeaderValue| {
        value.to_str().is_ok_and(|tags| {
            tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag || t.trim() == "*")
        })
    };
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(has);
    let fresh =
        [(header::ETAG, tag), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if known {
        return (StatusCode::NOT_MODIFIED, fresh).into_response();
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    (fresh, json, text).into_response()
}
