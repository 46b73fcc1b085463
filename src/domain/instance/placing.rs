//! What an instance asks of its host, and of the cloud where none has room.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::event::Subject;
use crate::domain::flavor::Flavor;
use crate::domain::id::{GroupId, HostId, IncarnationId, InstanceId, ReservationId, TenantId};
use crate::domain::policy::Policy;
use crate::domain::reservation::check_end;

/// Longest life that can be said in advance.
const LONGEST: TimeDelta = TimeDelta::days(3660);

/// What becomes of a request for which no host has room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNoCapacity {
    /// It waits its turn for room that comes free.
    #[default]
    Queue,
    /// It is refused with 409, and nothing is made.
    Fail,
}

/// What an instance needs a host for.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Unplaced {
    pub id: InstanceId,
    pub tenant_id: TenantId,
    pub flavor_name: String,
    pub vcpus: i32,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub traits: Vec<String>,
    pub forbidden_traits: Vec<String>,
    pub zone: Option<String>,
    pub policy: Option<Policy>,
    pub group_id: Option<GroupId>,
    pub reservation_id: Option<ReservationId>,
    /// Its labels as one text, in the order of their keys.
    pub labels: String,
    pub expires_at: Option<Time>,
    /// Since when it waits, and whose turn it is; `None`: it was not refused yet.
    pub queued_at: Option<Time>,
    pub queue_tag: Option<f64>,
}

/// What an instance takes of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    pub vcpus: i32,
    pub memory_mib: i64,
    pub disk_gib: i64,
}

impl Unplaced {
    /// One of this size that asks for nothing more, and is no instance yet.
    pub fn of_size(tenant_id: TenantId, Size { vcpus, memory_mib, disk_gib }: Size) -> Self {
        Self {
            id: InstanceId(Uuid::nil()),
            tenant_id,
            flavor_name: String::new(),
            vcpus,
            memory_mib,
            disk_gib,
            traits: Vec::new(),
            forbidden_traits: Vec::new(),
            zone: None,
            policy: None,
            group_id: None,
            reservation_id: None,
            labels: String::new(),
            expires_at: None,
            queued_at: None,
            queue_tag: None,
        }
    }

    /// One of this flavor, likewise.
    pub fn of_flavor(tenant_id: TenantId, flavor: &Flavor) -> Self {
        Self {
            flavor_name: flavor.name.to_string(),
            traits: flavor.traits.clone(),
            policy: flavor.policy,
            ..Self::of_size(tenant_id, flavor.size())
        }
    }

    pub fn size(&self) -> Size {
        Size { vcpus: self.vcpus, memory_mib: self.memory_mib, disk_gib: self.disk_gib }
    }

    /// What its events are about.
    pub fn subject(&self) -> Subject {
        Subject {
            kind: "instance",
            id: self.id.0,
            name: String::new(),
            tenant: Some(self.tenant_id),
        }
    }
}

/// A guest of a host, for who learns how long guests stay.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Guest {
    pub id: IncarnationId,
    pub host_id: HostId,
    pub tenant_id: TenantId,
    /// `None`: its instance is gone, and the host was not cleaned yet.
    pub flavor_name: Option<String>,
    /// As one text.
    pub labels: String,
    pub created_at: Time,
    pub expires_at: Option<Time>,
}

/// When an instance is to be deleted by itself.
pub fn check_expiry(pointer: &str, expires_at: Option<Time>, now: Time) -> Result<()> {
    expires_at.map_or(Ok(()), |end| check_end(pointer, end, now, LONGEST))
}
