//! What handlers are given: axum's extractors with our errors, the caller, and the conditional headers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::body::HttpBody;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::json;
use super::problem::Problem;
use super::proxy;
use crate::domain::caller::Caller;
use crate::domain::error::Error;
use crate::service::limits::ShareOfWaits;
use crate::service::{self, App};

/// A JSON body. Errors carry the JSON pointer of the field at fault.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let essence = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if essence != "application/json" && !essence.ends_with("+json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
                "send JSON with the header Content-Type: application/json",
            ));
        }
        // A kilobyte that becomes a gigabyte is refused unread; uncompressed, the limit on bodies is one on memory too.
        if text(request.headers(), "content-encoding")?.is_some_and(|coding| coding != "identity") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
                "send the body as it is, without Content-Encoding",
            ));
        }
        let body = whole_body(request, app).await?;
        json::parse(&body).map(Self)
    }
}

/// All of the body, if it is not too large and comes in half the request's time: the other half is left for the work.
async fn whole_body(request: Request, app: &App) -> Result<Bytes, Problem> {
    let limit = app.config.body_limit_bytes;
    let too_large = |what: &str| {
        let detail = format!("{what}: the limit is {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Unreadable body", detail)
    };
    // One that says so itself is not read up to the limit first.
    let said = request.body().size_hint().lower();
    if said > limit {
        return Err(too_large(&format!("the body has {said} bytes")));
    }
    let patience = app.config.request_timeout / 2;
    let body = tokio::time::timeout(patience, Bytes::from_request(request, app));
    body.await.map_err(|_elapsed| too_slow(patience))?.map_err(|rejection| {
        let (status, text) = (rejection.status(), rejection.body_text());
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return too_large(&text);
        }
        Problem::new(status, "unreadable-body", "Unreadable body", text)
    })
}

fn too_slow(patience: Duration) -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "body-too-slow",
        "Body too slow",
        format!("the body did not come within {} s: send it again", patience.as_secs()),
    )
}

/// A body that may be left out.
impl<T: DeserializeOwned> OptionalFromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Option<Self>, Problem> {
        // Many clients name a media type whether they send a body or not.
        if request.body().size_hint().exact() == Some(0) {
            return Ok(None);
        }
        let Json(body) = <Json<Option<T>> as FromRequest<App>>::from_request(request, app).await?;
        Ok(body.map(Self))
    }
}

/// Path parameters; one that is no id names nothing: 404.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let found = axum::extract::Path::<T>::from_request_parts(parts, app).await;
        found.map(|axum::extract::Path(value)| Self(value)).map_err(|rejection| {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "Not found",
                format!("there is no such thing: {}", rejection.body_text()),
            )
        })
    }
}

/// Query parameters; unknown ones are refused by the parameter struct's `deny_unknown_fields`.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let found = axum::extract::Query::<T>::from_request_parts(parts, app).await;
        found.map(|axum::extract::Query(value)| Self(value)).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.trim_start_matches("Failed to deserialize query string: ");
            let (name, detail) = text.split_once(": ").unwrap_or(("", text));
            Error::field(format!("?{name}"), detail).into()
        })
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let mut caller = service::auth::authenticate(app, bearer(&parts.headers)?).await?;
        app.rates().count(&caller)?;
        if let Some(slot) = parts.extensions.get::<ShareOfWaits>() {
            slot.fill(app.limits().share_of_waits(&caller)?);
        }
        caller.request_id = request_id(&parts.headers);
        caller.idempotency_key = idempotency_key(&parts.headers)?;
        Ok(caller)
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let token = text(headers, "authorization")?.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.ok_or_else(|| {
        let detail = "send Authorization: Bearer TOKEN; POST /v1/auth/login gives one";
        Error::Unauthenticated(detail.into()).into()
    })
}

/// The address of the client: its socket's, or, where that is a proxy that we trust, what the proxy says of it.
pub struct Peer(pub Option<IpAddr>);

impl FromRequestParts<App> for Peer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let socket = info.map(|ConnectInfo(address)| address.ip());
        let said = parts.headers.get_all("x-forwarded-for").iter();
        let said: Vec<_> = said.map(|value| value.to_str().unwrap_or_default()).collect();
        Ok(Self(socket.map(|socket| proxy::client(socket, &said, &app.config.trusted_proxies))))
    }
}

/// The id that the request-id layer made sure of.
pub fn request_id(headers: &HeaderMap) -> String {
    headers.get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let key = text(headers, "idempotency-key")?;
    if let Some(key) = key
        && !(1..=255).contains(&key.len())
    {
        return Err(Error::field("Idempotency-Key", "must have 1 to 255 characters").into());
    }
    Ok(key.map(str::to_owned))
}

/// A header as text. One that comes twice is refused: who stands between might look at the other.
pub fn text<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Error::field(name, "must be sent once").into());
    }
    value
        .map(|value| {
            value.to_str().map_err(|_invisible| Error::field(name, "must be visible ASCII").into())
        })
        .transpose()
}

/// An entity tag of ours: `"3"` is revision 3, come to rest; `"3-1f2e3d4c"` is revision 3 on the way there, in one of its states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub revision: i64,
    pub state: Option<u32>,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            None => write!(f, "\"{}\"", self.revision),
            Some(state) => write!(f, "\"{}-{state:08x}\"", self.revision),
        }
    }
}

impl FromStr for Tag {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (revision, state) = match text.split_once('-') {
            Some((revision, state)) => (revision, Some(u32::from_str_radix(state, 16)?)),
            None => (text, None),
        };
        Ok(Self { revision: revision.parse()?, state })
    }
}

/// `If-Match` and `If-None-Match`, whose values are revisions.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// The revision that a change is meant for, in whatever state it is; none: any.
    pub if_match: Option<i64>,
    /// What the client has; its answer is 304.
    pub if_none_match: Vec<Tag>,
}

impl FromRequestParts<App> for Conditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        // A tag that is none of ours matches nothing, and no revision is 0.
        let wanted = tags(&parts.headers, "if-match")?.map(|tags| match tags[..] {
            [] => Ok(0),
            [Tag { revision, .. }] => Ok(revision),
            [..] => Err(Error::field("if-match", "must name one revision, such as \"3\", or *")),
        });
        Ok(Self {
            if_match: wanted.transpose()?,
            if_none_match: tags(&parts.headers, "if-none-match")?.unwrap_or_default(),
        })
    }
}

/// The tags of ours in a header; none for `*`, and where there is no such header.
fn tags(headers: &HeaderMap, name: &'static str) -> Result<Option<Vec<Tag>>, Problem> {
    let all = opaque_tags(headers, name)?;
    Ok(all.map(|all| all.into_iter().filter_map(|tag| tag.parse().ok()).collect()))
}

/// What stands in the quotes of a list of tags (RFC 9110, 8.8.3); none for `*`, and where there is no such header.
pub fn opaque_tags<'h>(
    headers: &'h HeaderMap,
    name: &'static str,
) -> Result<Option<Vec<&'h str>>, Problem> {
    let Some(value) = text(headers, name)?.filter(|value| value.trim() != "*") else {
        return Ok(None);
    };
    let tags = value.split(',').map(|tag| {
        let tag = tag.trim();
        let quoted = tag.strip_prefix("W/").unwrap_or(tag);
        let opaque = quoted.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        opaque.ok_or_else(|| {
            Error::field(name, "must be ETags: each in quotes, such as \"3\", or *").into()
        })
    });
    tags.collect::<Result<_, Problem>>().map(Some)
}
