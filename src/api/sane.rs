//! What is asked of every request before anything reads it: one host, and an id that is fit for a log.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// A client may bring its own request id, if it is fit for a log: 1 to 128 of `[A-Za-z0-9._:-]`. Any other is replaced.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let fits = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(b))
    };
    if request.headers().get("x-request-id").is_some_and(|value| !fits(value)) {
        request.headers_mut().remove("x-request-id");
    }
    next.run(request).await
}

/// A proxy and we must read a request alike, or one request becomes two: HTTP/1.1 demands exactly one `Host`, and a body has
/// one length. (hyper refuses lengths that differ, and passes over one beside `Transfer-Encoding`, as RFC 9112 has it.)
pub async fn framing(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    let hosts = count(header::HOST);
    let fault = if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        "send exactly one Host header"
    } else if count(header::CONTENT_LENGTH) + count(header::TRANSFER_ENCODING) > 1 {
        "send one Content-Length or one Transfer-Encoding, not both"
    } else {
        return next.run(request).await;
    };
    let problem = Problem::new(StatusCode::BAD_REQUEST, "ambiguous", "Ambiguous request", fault);
    // What follows on this connection may be part of this request.
    ([(header::CONNECTION, "close")], problem).into_response()
}
