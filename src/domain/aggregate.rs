//! Aggregates: hosts that are dedicated to tenants.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, FieldError, Result};
use super::id::{AggregateId, HostId, TenantId};
use super::tenant::DESCRIPTION_MAX;
use super::text::{Name, check_text};

/// Most hosts of an aggregate, and most tenants.
const MEMBERS_MAX: usize = 1000;
/// Most faults that are told at once.
pub const FAULTS: usize = 32;

/// Hosts that take nobody's new instances but these tenants'. Instances that are there already stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Aggregate {
    pub id: AggregateId,
    /// Unique in the cloud.
    pub name: Name,
    #[schema(max_length = 1000, example = "Bought by the build team")]
    pub description: String,
    /// A host in several aggregates takes the tenants of all of them.
    #[schema(max_items = 1000)]
    pub hosts: Vec<HostId>,
    /// None: its hosts are as open as without it.
    #[schema(max_items = 1000)]
    pub tenants: Vec<TenantId>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// What a new aggregate is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAggregate {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the cloud.
    #[schema(min_length = 1, max_length = 63, example = "build")]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 1000, example = "Bought by the build team")]
    pub description: String,
    /// Ids of its hosts.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<HostId>, max_items = 1000, example = json!([]))]
    pub hosts: Vec<HostId>,
    /// Ids of the tenants that alone may use them.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<TenantId>, max_items = 1000, example = json!([]))]
    pub tenants: Vec<TenantId>,
}

/// What is to be changed of an aggregate; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AggregatePatch {
    #[schema(max_length = 1000, example = "Bought by the build team")]
    pub description: Option<String>,
    /// Replaces all its hosts.
    #[schema(value_type = Option<std::collections::HashSet<HostId>>, max_items = 1000, example = json!([]))]
    pub hosts: Option<Vec<HostId>>,
    /// Replaces all its tenants.
    #[schema(value_type = Option<std::collections::HashSet<TenantId>>, max_items = 1000, example = json!([]))]
    pub tenants: Option<Vec<TenantId>>,
}

impl NewAggregate {
    pub fn check(&self) -> Result<Name> {
        let name = Name::parse("/name", &self.name)?;
        let given = AggregatePatch {
            description: Some(self.description.clone()),
            hosts: Some(self.hosts.clone()),
            tenants: Some(self.tenants.clone()),
        };
        given.check()?;
        Ok(name)
    }
}

impl AggregatePatch {
    pub fn check(&self) -> Result<()> {
        if let Some(description) = &self.description {
            check_text("/description", description, DESCRIPTION_MAX)?;
        }
        members("/hosts", self.hosts.as_deref().unwrap_or_default())?;
        members("/tenants", self.tenants.as_deref().unwrap_or_default())
    }
}

fn members<T: PartialEq + std::fmt::Display>(pointer: &str, all: &[T]) -> Result<()> {
    if all.len() > MEMBERS_MAX {
        let detail = format!("may hold up to {MEMBERS_MAX} ids, holds {}", all.len());
        return Err(Error::field(pointer, detail));
    }
    let again = (0..all.len()).filter(|i| all[..*i].contains(&all[*i]));
    let faults: Vec<_> = again
        .take(FAULTS)
        .map(|i| FieldError {
            pointer: format!("{pointer}/{i}"),
            detail: format!("names {} again", all[i]),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
}
