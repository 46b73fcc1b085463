//! Groups: instances that are to share a host or a zone, or not to.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::Result;
use super::id::{GroupId, TenantId, UserId};
use super::instance::Size;
use super::text::Name;

/// What the members of a group are to be to one another.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum GroupRule {
    /// All in one place.
    Affinity,
    /// Each in another place.
    AntiAffinity,
}

/// What counts as a place.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    sqlx::Type,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum GroupScope {
    #[default]
    Host,
    Zone,
}

impl GroupScope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Zone => "zone",
        }
    }
}

/// Instances that are placed with regard to one another. They name the group when they are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Group {
    pub id: GroupId,
    pub tenant_id: TenantId,
    /// Unique in the tenant.
    pub name: Name,
    pub rule: GroupRule,
    pub scope: GroupScope,
    /// Whether an instance rather waits than break the rule; else the rule is a preference.
    pub hard: bool,
    /// How many instances it has.
    #[schema(minimum = 0, example = 3)]
    pub instances: i64,
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// What a new group is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the tenant.
    #[schema(min_length = 1, max_length = 63, example = "web")]
    pub name: String,
    pub rule: GroupRule,
    /// What counts as a place; `host` if not given.
    #[serde(default)]
    pub scope: GroupScope,
    /// Whether an instance rather waits than break the rule; `true` if not given.
    #[serde(default = "yes")]
    #[schema(default = true, example = true)]
    pub hard: bool,
}

fn yes() -> bool {
    true
}

impl NewGroup {
    pub fn check(&self) -> Result<Name> {
        Name::parse("/name", &self.name)
    }
}

/// What of a group is placed on one host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    pub members: u32,
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
}

impl Placed {
    /// One more of this size.
    pub fn add(&mut self, size: Size) {
        self.members = self.members.saturating_add(1);
        self.vcpus += i64::from(size.vcpus);
        self.memory_mib += size.memory_mib;
        self.disk_gib += size.disk_gib;
    }
}
