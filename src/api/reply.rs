//! How resources are answered: status, `Location`, `ETag`.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::extract::{Conditions, Tag};

/// A resource with an address and a revision.
pub trait Resource: Serialize {
    fn location(&self) -> String;
    fn revision(&self) -> i64;

    /// Whether the revision tells all of it. On the way to its wish it changes without a new revision, and its `ETag` says so.
    fn rests(&self) -> bool {
        true
    }
}

/// 201: it is there, and nothing is left to do.
pub struct Created<T>(pub T);

/// 202: the wish is recorded and is being made real.
pub struct Accepted<T>(pub T);

/// 200, or 304 where the client has just this already.
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
        let tag = tag(&resource);
        let header = [header(tag)];
        if conditions.if_none_match.contains(&tag) {
            return (StatusCode::NOT_MODIFIED, header).into_response();
        }
        (StatusCode::OK, header, Json(resource)).into_response()
    }
}

fn headers<T: Resource>(resource: &T) -> [(HeaderName, HeaderValue); 2] {
    let location = HeaderValue::from_str(&resource.location());
    [
        (header::LOCATION, location.unwrap_or_else(|_| HeaderValue::from_static("/"))),
        header(tag(resource)),
    ]
}

fn tag<T: Resource>(resource: &T) -> Tag {
    let state = || {
        let text = serde_json::to_vec(resource).unwrap_or_default();
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(text));
        u32::from_be_bytes([a, b, c, d])
    };
    Tag { revision: resource.revision(), state: (!resource.rests()).then(state) }
}

fn header(tag: Tag) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&tag.to_string());
    (header::ETAG, value.unwrap_or_else(|_| HeaderValue::from_static("\"0\"")))
}
