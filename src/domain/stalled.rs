//! Stalled items: what is not where it was wished to be, why, since when, what was tried, and when it is tried again.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::Error;
use super::id::{HostId, TenantId};

/// What kind of thing an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum StalledKind {
    Instance,
    /// A host that does not answer, or is on its way out.
    Host,
    /// A base image on a host.
    HostImage,
    /// A network that is not whole on a host, or is on its way out.
    Network,
    /// An image on its way out.
    Image,
    /// What a deleted instance left on a host that did not answer.
    Fence,
}

impl StalledKind {
    pub const ALL: [Self; 6] =
        [Self::Instance, Self::Host, Self::HostImage, Self::Network, Self::Image, Self::Fence];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Host => "host",
            Self::HostImage => "host_image",
            Self::Network => "network",
            Self::Image => "image",
            Self::Fence => "fence",
        }
    }
}

impl fmt::Display for StalledKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StalledKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| Error::not_found("kind", text))
    }
}

/// How an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum StalledState {
    /// It failed so often, or for so long, that somebody should look at it. It is still tried, slowly.
    Stalled,
    /// The last attempt failed.
    Failing,
    /// It waits for something, or for its turn.
    Waiting,
    /// A host that does not answer.
    Down,
}

/// Something that is not where it was wished to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Stalled {
    pub kind: StalledKind,
    /// The id of the thing; of a `fence` or a `host_image`, which have no address of their own, the id to retry it by.
    pub id: Uuid,
    /// Whose it is; null: the cloud's own.
    pub tenant_id: Option<TenantId>,
    /// What it is called; of a `host_image` the checksum.
    #[schema(max_length = 255, example = "ci-runner-1")]
    pub name: Option<String>,
    /// The host that it is on, or is.
    pub host_id: Option<HostId>,
    pub state: StalledState,
    /// What it waits for, or what went wrong.
    #[schema(max_length = 10000, example = "the host does not answer")]
    pub reason: String,
    /// Since when: of a failing item since its first failure, of others since the wish.
    pub since: DateTime<Utc>,
    /// How often in a row it was tried in vain.
    #[schema(minimum = 0, example = 7)]
    pub attempts: i64,
    #[schema(max_length = 10000)]
    pub last_error: Option<String>,
    pub last_error_at: Option<DateTime<Utc>>,
    /// When it is looked at next; null for a host, which is asked at every heartbeat.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// Which items a list shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct StalledFilter {
    pub kind: Option<StalledKind>,
    pub state: Option<StalledState>,
    /// What only waits is shown once it has waited for so long.
    pub waiting_s: i64,
}
