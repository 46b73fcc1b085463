//! Errors as `application/problem+json` (RFC 9457): the one translator from the domain to HTTP.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::error::{Error, FieldError};

/// Where the types are explained: a stable name, which need not resolve.
pub const TYPE_BASE: &str = "https://pileus.dev/problems/";

/// An error, as RFC 9457 has it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Stable name of the kind of problem.
    #[schema(example = "https://pileus.dev/problems/invalid-input", max_length = 200)]
    pub r#type: String,
    /// The kind of problem, for people.
    #[schema(example = "Invalid input", max_length = 200)]
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    pub status: u16,
    /// What is wrong and what would do.
    #[schema(example = "/name: must have 1 to 63 characters, has 0", max_length = 20000)]
    pub detail: String,
    /// The fields at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub errors: Vec<FieldError>,
    /// Placement's account, where no host can take an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub explanation: Option<Value>,
    /// Seconds to wait before another attempt; also the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false, example = 1)]
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("{TYPE_BASE}{code}"),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            explanation: None,
            retry_after: None,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Invalid(errors) => Self {
                errors,
                ..Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid-input",
                    "Invalid input",
                    detail,
                )
            },
            Error::Unauthenticated(_) => {
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated", detail)
            }
            Error::Forbidden(_) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
            }
            Error::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
            }
            Error::Conflict { code, .. } => {
                Self::new(StatusCode::CONFLICT, code, "Conflict", detail)
            }
            Error::PreconditionFailed { .. } => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "precondition-failed",
                "Changed meanwhile",
                detail,
            ),
            Error::QuotaExceeded(_) => {
                Self::new(StatusCode::CONFLICT, "quota-exceeded", "Quota exceeded", detail)
            }
            Error::NoCapacity { explanation, .. } => Self {
                explanation: Some(explanation),
                ..Self::new(StatusCode::CONFLICT, "no-capacity", "No capacity", detail)
            },
            Error::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
            }
            Error::TooManyRequests { retry_after, .. } => Self {
                retry_after: Some(retry_after.as_secs().max(1)),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too-many-requests",
                    "Too many requests",
                    detail,
                )
            },
            Error::Unavailable { retry_after, .. } => Self {
                retry_after: Some(retry_after.as_secs().max(1)),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail)
            },
            Error::Internal(source) => {
                // Logged here, once; shown to nobody.
                tracing::error!(error = format!("{source:#}"), "internal error");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "Internal error",
                    "this is our fault: report it with the X-Request-Id of this answer",
                )
            }
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
