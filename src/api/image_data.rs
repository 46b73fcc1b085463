//! `/v1/images/{id}/data`: an image's bytes, in and out, of any size, in constant memory.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use tokio::fs::File;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Conditions, Path, text};
use super::problem::Problem;
use super::reply::Found;
use crate::domain::caller::Caller;
use crate::domain::id::ImageId;
use crate::domain::image::Image;
use crate::service::limits::Permit;
use crate::service::{self, App};

/// These bodies have no limit but the image's, and a stall of their own: `super::limit` leaves them alone.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(put, get))
}

/// An image's bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "only its schema is used")]
struct ImageData(Vec<u8>);

/// Send an image's bytes, once.
///
/// The body is the file itself, as raw bytes. It is checked before it counts: against the SHA-256 that the image was created
/// with, if there is one, and for being what its format says; a qcow2 may have no backing file, no external data file, no
/// encryption and no internal snapshots, and its virtual size must be within bounds. A refused or cut upload leaves nothing,
/// and may be sent again. Images never change: other bytes than those that are there are refused, the same ones are not.
#[utoipa::path(put, path = "/v1/images/{id}/data", operation_id = "put_image_data", tag = "images",
    params(("id" = ImageId, Path, description = "The image's id.")),
    request_body(content = ImageData, content_type = "application/octet-stream", description = "The file."),
    responses((status = 200, description = "The image, ready.", body = Image)))]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ImageId>,
    conditions: Conditions,
    headers: HeaderMap,
    body: Body,
) -> Result<Found<Image>, Problem> {
    let mut body = Box::pin(steady(body, app.config.upload_stall));
    let sent = match expected(&headers) {
        Ok(length) => {
            let if_match = conditions.if_match;
            service::images::upload(&app, &caller, id, if_match, length, &mut body).await
        }
        Err(problem) => Err(problem),
    };
    if sent.is_err() && !headers.contains_key(header::EXPECT) {
        linger(body).await;
    }
    sent.map(|image| Found(image, Conditions::default()))
}

/// The length that the client says, if the headers are those of a bare file.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let kind = text(headers, "content-type")?.unwrap_or("application/octet-stream");
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let coding = text(headers, "content-encoding")?.unwrap_or("identity");
    // A form would be stored with its boundaries, and would boot nowhere.
    if !essence.eq_ignore_ascii_case("application/octet-stream") || coding != "identity" {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "Unsupported media type",
            "send the bare file with Content-Type: application/octet-stream and without Content-Encoding, such as with curl -T FILE",
        ));
    }
    Ok(text(headers, "content-length")?.and_then(|length| length.parse().ok()))
}

/// The body's chunks; it ends with a problem when the connection is cut, or when nothing comes for `stall`.
fn steady(body: Body, stall: Duration) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    stream::unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match timeout(stall, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(cut(&error)), None)),
            Err(_elapsed) => Some((Err(stalled(stall)), None)),
        }
    })
    // It may have ended before we linger over it.
    .fuse()
}

fn cut(error: &axum::Error) -> Problem {
    let detail = format!("the upload was cut: send it again ({error})");
    Problem::new(StatusCode::BAD_REQUEST, "unreadable-body", "Unreadable body", detail)
}

fn stalled(stall: Duration) -> Problem {
    let seconds = stall.as_secs();
    let detail = format!("nothing came for {seconds} s and the upload was ended: send it again");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "Too slow", detail)
}

/// Reads on for a moment after a refusal: a connection that is closed with bytes unread is reset, and a client that is still
/// sending would then see that instead of the answer. (One that asked by `Expect` first is not sending.)
async fn linger(body: impl Stream<Item = Result<Bytes, Problem>>) {
    const MOST: usize = 16 << 20;
    let mut body = std::pin::pin!(body);
    let drain = async {
        let mut read = 0;
        while let Some(Ok(bytes)) = body.next().await {
            read += bytes.len();
            if read > MOST {
                break;
            }
        }
    };
    // Whether it came to the end matters to nobody.
    let _ = timeout(Duration::from_secs(2), drain).await;
}

/// Get an image's bytes.
#[utoipa::path(get, path = "/v1/images/{id}/data", operation_id = "get_image_data", tag = "images",
    params(
        ("id" = ImageId, Path, description = "The image's id."),
        ("If-None-Match" = Option<String>, Header, max_length = 66,
            description = "The SHA-256 of the bytes that the client has, in quotes: answered with 304.")),
    responses((status = 200, description = "The file; its ETag is its SHA-256, in quotes.", body = ImageData, content_type = "application/octet-stream")))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ImageId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let permit = app.limits().download()?;
    let (image, file) = service::images::open(&app, &caller, id).await?;
    let tag = format!("\"{}\"", image.sha256.as_deref().unwrap_or_default());
    let known = text(&headers, "if-none-match")?.unwrap_or_default();
    if known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, image.size().unwrap_or_default().to_string()),
        (header::ETAG, tag),
    ];
    let (chunks, receiver) = mpsc::channel(2);
    // It holds nothing that must be put down, and ends with its reader or with the process.
    tokio::spawn(send(file, chunks, app.config.upload_stall, permit));
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

/// Sends the file until its end, or until the reader takes nothing for `stall`.
async fn send(
    file: File,
    chunks: mpsc::Sender<io::Result<Bytes>>,
    stall: Duration,
    _permit: Permit,
) {
    let mut file = ReaderStream::with_capacity(file, 256 * 1024);
    while let Some(chunk) = file.next().await {
        if !matches!(timeout(stall, chunks.send(chunk)).await, Ok(Ok(()))) {
            return;
        }
    }
}
