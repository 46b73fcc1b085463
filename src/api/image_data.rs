//! `/v1/images/{id}/data`: an image's bytes, in and out, of any size, in constant memory.

use std::io::{self, SeekFrom};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, Take};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Conditions, Path, opaque_tags, text};
use super::problem::Problem;
use super::range::{self, Part};
use super::reply::Found;
use crate::domain::caller::Caller;
use crate::domain::error::Error;
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
    let stall = app.config.upload_stall;
    let least = (app.config.upload_min_kib_s << 10) * stall.as_secs();
    let mut body = Box::pin(steady(body, stall, least.max(1)));
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

/// The body's chunks; it ends with a problem when the connection is cut, when nothing comes for `stall`, or when less than `least`
/// bytes have come in `stall` of waiting for them.
fn steady(
    body: Body,
    stall: Duration,
    least: u64,
) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    let begin = Some((body.into_data_stream(), Duration::ZERO, 0));
    stream::unfold(begin, move |going| async move {
        let (mut body, mut waited, mut came) = going?;
        let asked = Instant::now();
        let next = timeout(stall, body.next()).await;
        waited += asked.elapsed();
        match next {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => {
                came += bytes.len() as u64;
                if waited >= stall {
                    if came < least {
                        return Some((Err(slow(stall, came, least)), None));
                    }
                    (waited, came) = (Duration::ZERO, 0);
                }
                Some((Ok(bytes), Some((body, waited, came))))
            }
            Ok(Some(Err(error))) => Some((Err(cut(&error)), None)),
            Err(_elapsed) => Some((Err(slow(stall, came, least)), None)),
        }
    })
    // It may have ended before we linger over it.
    .fuse()
}

fn cut(error: &axum::Error) -> Problem {
    let detail = format!("the upload was cut: send it again ({error})");
    Problem::new(StatusCode::BAD_REQUEST, "unreadable-body", "Unreadable body", detail)
}

fn slow(stall: Duration, came: u64, least: u64) -> Problem {
    let seconds = stall.as_secs();
    let detail = format!(
        "{came} bytes came in {seconds} s, and the upload was ended: send it again, with at least {least} bytes in that time"
    );
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
///
/// One `Range` of bytes is answered with 206, so that a download that was cut goes on where it ended; `If-Range` with the ETag
/// makes sure that it goes on with the same bytes.
#[utoipa::path(get, path = "/v1/images/{id}/data", operation_id = "get_image_data", tag = "images",
    params(
        ("id" = ImageId, Path, description = "The image's id."),
        ("If-None-Match" = Option<String>, Header, nullable = false, min_length = 1, max_length = 66, format = "etag",
            description = "The SHA-256 of the bytes that the client has, in quotes: answered with 304.")),
    responses(
        (status = 200, description = "The file; its ETag is its SHA-256, in quotes.", body = ImageData, content_type = "application/octet-stream"),
        (status = 206, description = "The part of it that `Range` asks for.", body = ImageData, content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "Which part, and of how many bytes."))),
        (status = 304, description = "The client has these bytes already.")))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ImageId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let permit = app.limits().download(&caller)?;
    let (image, mut file) = service::images::open(&app, &caller, id).await?;
    let sum = image.sha256.as_deref().unwrap_or_default();
    let tag = format!("\"{sum}\"");
    let known = opaque_tags(&headers, "if-none-match")?.unwrap_or_default();
    if known.contains(&sum) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let size = image.size().unwrap_or_default();
    // Only GET has ranges.
    let part = if method == Method::GET { range::asked(&headers, size, &tag) } else { Part::All };
    let (status, from, length) = match part {
        Part::All => (StatusCode::OK, 0, size),
        Part::Bytes { from, length } => (StatusCode::PARTIAL_CONTENT, from, length),
        Part::Nothing => return Ok(beyond(size)),
    };
    file.seek(SeekFrom::Start(from)).await.map_err(Error::internal)?;
    let mut headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, length.into()),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::ETAG, tag.parse().map_err(Error::internal)?),
    ]);
    if status == StatusCode::PARTIAL_CONTENT {
        let part = format!("bytes {from}-{}/{size}", from + length - 1);
        headers.insert(header::CONTENT_RANGE, part.parse().map_err(Error::internal)?);
    }
    let (chunks, receiver) = mpsc::channel(2);
    // It holds nothing that must be put down, and ends with its reader or with the process.
    tokio::spawn(send(file.take(length), chunks, app.config.upload_stall, permit));
    Ok((status, headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

fn beyond(size: u64) -> Response {
    let detail = format!("there is no such byte: the image has {size}");
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let problem = Problem::new(status, "range-not-satisfiable", "Range not satisfiable", detail);
    ([(header::CONTENT_RANGE, format!("bytes */{size}"))], problem).into_response()
}

/// Sends the file until its end, or until the reader takes nothing for `stall`.
async fn send(
    file: Take<File>,
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
