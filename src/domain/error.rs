//! The one error of the house: it speaks of the domain, and `api::problem` turns it into HTTP.

use std::time::Duration;

/// What went wrong, in the words of the domain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks a bound; each field at fault is named.
    #[error("{}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// Nobody is logged in, or the credentials are wrong. The text must not tell which users exist.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller may see the thing, but may not do this to it.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing, or it belongs to another tenant.
    #[error("there is no {kind} {id}")]
    NotFound { kind: &'static str, id: String },
    /// The wish contradicts the state of the world. `code` is stable: the last part of the problem's type.
    #[error("{detail}")]
    Conflict { code: &'static str, detail: String },
    /// `If-Match` named another revision.
    #[error(
        "the resource is at revision {current}, not at the one that If-Match names: get it again and repeat the change"
    )]
    PreconditionFailed { current: i64 },
    #[error("{0}")]
    QuotaExceeded(String),
    /// No host can take the instance; `explanation` is placement's account by host and constraint.
    #[error("{detail}")]
    NoCapacity { detail: String, explanation: serde_json::Value },
    #[error("{0}")]
    TooLarge(String),
    #[error("{detail}")]
    TooManyRequests { detail: String, retry_after: Duration },
    #[error("{detail}")]
    Unavailable { detail: String, retry_after: Duration },
    /// Our fault. The source is logged once at the boundary and never shown.
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

/// A field at fault.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the body (empty: all of it), or `?name` for a query parameter, or a header's name.
    #[schema(max_length = 1000, example = "/name")]
    pub pointer: String,
    /// What is wrong and what would do.
    #[schema(max_length = 2000, example = "must have 1 to 63 characters")]
    pub detail: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// One field at fault.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// A field names, by id or name, what is not there.
    pub fn absent(pointer: &str, kind: &str, named: &str) -> Self {
        let detail = format!("there is no {kind} {named:?} in this tenant: see GET /v1/{kind}s");
        Self::field(pointer, detail)
    }

    pub fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }

    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Conflict { code, detail: detail.into() }
    }

    pub fn internal(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Internal(anyhow::Error::new(source))
    }
}

fn summary(fields: &[FieldError]) -> String {
    let each = fields.iter().map(|f| match f.pointer.as_str() {
        // The whole body.
        "" => f.detail.clone(),
        pointer => format!("{pointer}: {}", f.detail),
    });
    each.collect::<Vec<_>>().join("; ")
}
