//! Reservations: capacity that is held for a tenant for a while.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::Time;
use super::error::{Error, FieldError, Result};
use super::id::{FlavorId, HostId, ReservationId, TenantId, UserId};
use super::text::Name;

pub const SLOTS_MAX: i64 = 1000;
/// Longest that capacity is held.
const LONGEST: TimeDelta = TimeDelta::days(3660);

/// Slots of one size on hosts, which only instances that name the reservation may take. A slot is free again when its instance
/// goes; what is in slots stays when the reservation ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Reservation {
    pub id: ReservationId,
    pub tenant_id: TenantId,
    /// Unique in the tenant.
    pub name: Name,
    pub flavor_id: FlavorId,
    /// Its flavor's name then.
    #[schema(max_length = 63, example = "nano")]
    pub flavor_name: String,
    /// The size of a slot, as the flavor was when the reservation was made.
    #[schema(minimum = 1, maximum = 512, example = 1)]
    pub vcpus: i32,
    #[schema(minimum = 64, maximum = 16777216, example = 192)]
    pub memory_mib: i64,
    #[schema(minimum = 1, maximum = 65536, example = 1)]
    pub disk_gib: i64,
    /// The zone that all slots are in; null: any.
    #[schema(max_length = 63, example = "default")]
    pub zone: Option<String>,
    /// How many instances of that size have room.
    #[schema(minimum = 1, maximum = 1000, example = 5)]
    pub slots: i64,
    /// How many of them have no instance.
    #[schema(minimum = 0, maximum = 1000, example = 3)]
    pub free: i64,
    /// Until when.
    #[schema(example = "2030-01-01T00:00:00Z")]
    pub expires_at: DateTime<Utc>,
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// A free slot, for whoever might name its reservation.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct OpenSlot {
    pub tenant_id: TenantId,
    pub reservation: Name,
    pub host_id: HostId,
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
}

/// What a new reservation is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReservation {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the tenant.
    #[schema(min_length = 1, max_length = 63, example = "nightly")]
    pub name: String,
    /// Id or name of a flavor: the size of a slot.
    #[schema(min_length = 1, max_length = 63, example = "nano")]
    pub flavor: String,
    /// How many instances of that size are to have room.
    #[schema(minimum = 1, maximum = 1000, example = 5)]
    pub slots: i64,
    /// Until when; within ten years.
    #[schema(example = "2030-01-01T00:00:00Z")]
    pub expires_at: DateTime<Utc>,
    /// Only hosts of this zone.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$", example = "default")]
    pub zone: Option<String>,
}

/// What is to be changed of a reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReservationPatch {
    /// Until when; within ten years.
    #[schema(example = "2030-01-01T00:00:00Z")]
    pub expires_at: DateTime<Utc>,
}

impl NewReservation {
    pub fn check(&self, now: Time) -> Result<Name> {
        let mut faults = Vec::new();
        let mut gather = |outcome: Result<()>| {
            if let Err(Error::Invalid(more)) = outcome {
                faults.extend(more);
            }
        };
        gather(Name::parse("/name", &self.name).map(|_| ()));
        gather(Name::parse("/flavor", &self.flavor).map(|_| ()));
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            let detail = format!("must be 1 to {SLOTS_MAX}, is {}", self.slots);
            gather(Err(Error::field("/slots", detail)));
        }
        gather(check_end("/expires_at", self.expires_at, now, LONGEST));
        gather(self.zone.as_deref().map_or(Ok(()), |zone| super::host::check_zone("/zone", zone)));
        if faults.is_empty() {
            Name::parse("/name", &self.name)
        } else {
            Err(Error::Invalid(faults))
        }
    }
}

impl ReservationPatch {
    pub fn check(&self, now: Time) -> Result<()> {
        check_end("/expires_at", self.expires_at, now, LONGEST)
    }
}

/// An end that lies ahead, and no further than `longest`.
pub fn check_end(pointer: &str, end: Time, now: Time, longest: TimeDelta) -> Result<()> {
    if end > now && end - now <= longest {
        return Ok(());
    }
    let detail = format!(
        "must lie ahead, within {} days: it is {} now, and it is {}",
        longest.num_days(),
        now.to_rfc3339(),
        end.to_rfc3339()
    );
    Err(Error::Invalid(vec![FieldError { pointer: pointer.into(), detail }]))
}
