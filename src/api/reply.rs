//! How resources are answered: status, `Location`, `ETag`.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::extract::Conditions;

/// A resource with an address and a revision.
pub trait Resource: Serialize {
    fn location(&self) -> String;
    fn revision(&self) -> i64;
}

/// 201: it is there, and nothing is left to do.
pub struct Created<T>(pub T);

/// 202: the wish is recorded and is being made real.
pub struct Accepted<T>(pub T);

/// 200, or 304 where the client has this revision already.
pub struct Found<T>(pub T, pub Conditions);

impl<T: Resource> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, headers(&self.0), Json(self.0)).into_response()
    }
}

impl<T: Resource> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, headers(&self.0), Json(self.0)).into_response()
    }
}

impl<T: Resource> IntoResponse for Found<T> {
    fn into_response(self) -> Response {
        let Self(resource, conditions) = self;
        if conditions.if_none_match == Some(resource.revision()) {
            return (StatusCode::NOT_MODIFIED, [tag(&resource)]).into_response();
        }
        (StatusCode::OK, [tag(&resource)], Json(resource)).into_response()
    }
}

fn headers<T: Resource>(resource: &T) -> [(HeaderName, HeaderValue); 2] {
    let location = HeaderValue::from_str(&resource.location());
    [(header::LOCATION, location.unwrap_or_else(|_| HeaderValue::from_static("/"))), tag(resource)]
}

fn tag<T: Resource>(resource: &T) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("\"{}\"", resource.revision()));
    (header::ETAG, value.unwrap_or_else(|_| HeaderValue::from_static("\"0\"")))
}
