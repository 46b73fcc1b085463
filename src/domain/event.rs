//! Events: what was wished, what was seen, who asked and with what outcome; the audit log too.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::caller::Caller;
use super::id::{EventId, TenantId, UserId};
use chrono::{DateTime, Utc};

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Outcome {
    /// The wish was recorded.
    Accepted,
    /// It was made real.
    Done,
    /// An attempt failed; `detail.error` says why.
    Failed,
    /// The world changed by itself.
    Seen,
}

impl Outcome {
    /// As the column has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Seen => "seen",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone)]
pub struct Subject {
    pub kind: &'static str,
    pub id: Uuid,
    pub name: String,
    /// Who may read the event; none: admins only.
    pub tenant: Option<TenantId>,
}

/// An event to be written.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// `<noun>.<what>`, e.g. `instance.create`.
    pub kind: &'static str,
    pub subject: Subject,
    pub actor: Actor,
    pub outcome: Outcome,
    pub detail: Value,
}

/// Who caused it.
#[derive(Debug, Clone, Default)]
pub struct Actor {
    pub user: Option<UserId>,
    /// The user's name, or the part of Pileus that acted.
    pub name: String,
    pub request_id: Option<String>,
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        Self {
            user: Some(caller.user),
            name: caller.user_name.clone(),
            request_id: Some(caller.request_id.clone()),
        }
    }
}

/// An entry of the feed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Event {
    /// Place in the feed's total order: without gaps, and never filled in later.
    #[schema(minimum = 1, example = 42)]
    pub seq: i64,
    pub id: EventId,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// Whose event it is; null: the cloud's own, which admins see.
    pub tenant_id: Option<TenantId>,
    /// `<noun>.<what>`.
    #[schema(max_length = 100, example = "instance.create")]
    pub kind: String,
    /// The noun that it is about.
    #[schema(max_length = 40, example = "instance")]
    pub resource_kind: String,
    /// The thing that it is about.
    pub resource_id: Option<Uuid>,
    /// What that thing was called then.
    #[schema(max_length = 255, example = "ci-runner-1")]
    pub resource_name: Option<String>,
    /// The user who asked; null: Pileus itself.
    pub actor_id: Option<UserId>,
    /// The user's name, or the part of Pileus that acted.
    #[schema(max_length = 100, example = "reconciler")]
    pub actor: String,
    /// `X-Request-Id` of the request that asked for it.
    #[schema(max_length = 128, example = "0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e")]
    pub request_id: Option<String>,
    pub outcome: Outcome,
    /// More, by kind: e.g. `{"from": "running", "to": "none"}`.
    #[schema(value_type = Object, example = json!({"from": "running", "to": "none"}))]
    pub detail: Value,
}
