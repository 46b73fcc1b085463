//! What placement is asked about, and what of it no host could ever do.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::domain::clock::Time;
use crate::domain::error::{Error, FieldError, Result};
use crate::domain::flavor::{DISK_GIB_MAX, Flavor, MEMORY_MIB_MAX, Trait, VCPUS_MAX, check_traits};
use crate::domain::host::check_zone;
use crate::domain::id::{GroupId, TenantId};
use crate::domain::image::Image;
use crate::domain::instance::{Size, Unplaced, check_expiry};
use crate::domain::policy::Policy;
use crate::domain::reservation::Reservation;
use crate::domain::text::Name;
use crate::service::images;
use crate::store;

/// Names that an error lists.
const LISTED: usize = 8;

/// What placement is asked about: a flavor, or a size of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacementQuery {
    /// Id or name of a flavor; instead of `vcpus`, `memory_mib` and `disk_gib`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = "nano")]
    pub flavor: Option<String>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 512, example = json!(null))]
    pub vcpus: Option<i32>,
    #[serde(default)]
    #[schema(minimum = 64, maximum = 16777216, example = json!(null))]
    pub memory_mib: Option<i64>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65536, example = json!(null))]
    pub disk_gib: Option<i64>,
    /// How a host is chosen; null: as the flavor has it, else as the setting `placement_policy` does.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Only hosts of this zone.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$", example = json!(null))]
    pub zone: Option<String>,
    /// What the host must offer beside what the flavor asks for.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!([]))]
    pub required_traits: Vec<String>,
    /// What the host must not offer.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!([]))]
    pub forbidden_traits: Vec<String>,
    /// Id or name of an image: what it asks of its host and of the disk counts, too.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = json!(null))]
    pub image: Option<String>,
    /// Id or name of a group of the tenant.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = json!(null))]
    pub group: Option<String>,
    /// Id or name of a reservation of the tenant, whose slots it may take.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = json!(null))]
    pub reservation: Option<String>,
    /// When it would end, which `lifetime_fit` goes by; within ten years.
    #[serde(default)]
    #[schema(example = json!(null))]
    pub expires_at: Option<DateTime<Utc>>,
}

impl PlacementQuery {
    pub(super) fn check(&self, now: Time) -> Result<()> {
        let mut faults = Vec::new();
        let mut gather = |outcome: Result<()>| {
            if let Err(Error::Invalid(more)) = outcome {
                faults.extend(more);
            }
        };
        let sizes = [
            ("/vcpus", self.vcpus.map(i64::from), 1, i64::from(VCPUS_MAX)),
            ("/memory_mib", self.memory_mib, 64, MEMORY_MIB_MAX),
            ("/disk_gib", self.disk_gib, 1, DISK_GIB_MAX),
        ];
        for (pointer, value, min, max) in sizes {
            match (&self.flavor, value) {
                (Some(_), Some(_)) => gather(Err(Error::field(
                    pointer,
                    "goes without `flavor`: a flavor has its size",
                ))),
                (None, None) => gather(Err(Error::field(
                    pointer,
                    "must be given where `flavor` is not: all of vcpus, memory_mib and disk_gib",
                ))),
                (None, Some(value)) if !(min..=max).contains(&value) => {
                    gather(Err(Error::field(
                        pointer,
                        format!("must be {min} to {max}, is {value}"),
                    )));
                }
                (None | Some(_), Some(_) | None) => {}
            }
        }
        let names = [
            ("/flavor", &self.flavor),
            ("/image", &self.image),
            ("/group", &self.group),
            ("/reservation", &self.reservation),
        ];
        for (pointer, named) in names {
            if let Some(named) = named {
                gather(Name::parse(pointer, named).map(drop));
            }
        }
        gather(self.zone.as_deref().map_or(Ok(()), |zone| check_zone("/zone", zone)));
        gather(check_traits("/required_traits", &self.required_traits));
        gather(check_traits("/forbidden_traits", &self.forbidden_traits));
        gather(check_expiry("/expires_at", self.expires_at, now));
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
    }
}

pub(super) fn asked(
    tenant: TenantId,
    query: &PlacementQuery,
    flavor: Option<&Flavor>,
    image: Option<&Image>,
    group_id: Option<GroupId>,
    reservation: Option<&Reservation>,
) -> Result<Unplaced> {
    // `check` has seen to it that there is one or the other.
    let own = || Size {
        vcpus: query.vcpus.unwrap_or_default(),
        memory_mib: query.memory_mib.unwrap_or_default(),
        disk_gib: query.disk_gib.unwrap_or_default(),
    };
    let who = match flavor {
        Some(flavor) => Unplaced::of_flavor(tenant, flavor),
        None => Unplaced::of_size(tenant, own()),
    };
    if let Some(image) = image {
        let pointer = if flavor.is_some() { "/flavor" } else { "/disk_gib" };
        images::fits(image, who.disk_gib, pointer)?;
    }
    if let Some(reservation) = reservation {
        fits(reservation, who.size(), query.zone.as_deref())?;
    }
    Ok(Unplaced {
        traits: traits(flavor, image, &query.required_traits, &query.forbidden_traits)?,
        forbidden_traits: query.forbidden_traits.clone(),
        zone: query.zone.clone(),
        policy: query.policy.or(who.policy),
        group_id,
        reservation_id: reservation.map(|reservation| reservation.id),
        expires_at: query.expires_at,
        ..who
    })
}

/// The traits that the flavor, the image and a request ask for; a request cannot forbid them, too.
pub fn traits(
    flavor: Option<&Flavor>,
    image: Option<&Image>,
    required: &[String],
    forbidden: &[String],
) -> Result<Vec<String>> {
    let mut traits = flavor.map_or_else(Vec::new, |flavor| flavor.traits.clone());
    let of_image = image.map_or(&[][..], |image| &image.required_traits);
    for name in of_image.iter().chain(required) {
        if !traits.contains(name) {
            traits.push(name.clone());
        }
    }
    if let Some(i) = forbidden.iter().position(|name| traits.contains(name)) {
        let detail = format!(
            "{} is required, too, by the flavor, the image or /required_traits: take it out of one",
            forbidden[i]
        );
        return Err(Error::field(format!("/forbidden_traits/{i}"), detail));
    }
    Ok(traits)
}

/// A slot has the room that is asked for, in the zone that is.
pub fn fits(reservation: &Reservation, size: Size, zone: Option<&str>) -> Result<()> {
    let Reservation { vcpus, memory_mib, disk_gib, zone: held, .. } = reservation;
    if size.vcpus > *vcpus || size.memory_mib > *memory_mib || size.disk_gib > *disk_gib {
        let detail = format!(
            "its slots have {vcpus} vCPUs, {memory_mib} MiB and {disk_gib} GiB, and {}, {} and {} are asked for: choose a smaller \
             flavor, or another reservation",
            size.vcpus, size.memory_mib, size.disk_gib
        );
        return Err(Error::field("/reservation", detail));
    }
    match (zone, held) {
        (Some(zone), Some(held)) if zone != held => {
            let detail = format!("its slots are in the zone {held}: leave /zone out");
            Err(Error::field("/reservation", detail))
        }
        _ => Ok(()),
    }
}

/// A zone and traits that some host has; where there is no host yet, nothing is known.
pub async fn offered(
    conn: &mut PgConnection,
    zone: Option<&str>,
    required: &[String],
) -> Result<()> {
    if zone.is_none() && required.is_empty() {
        return Ok(());
    }
    let offers = store::fleet::offers(conn).await?;
    if offers.zones.is_empty() {
        return Ok(());
    }
    let mut faults = Vec::new();
    if let Some(zone) = zone.filter(|zone| !offers.zones.iter().any(|there| there == zone)) {
        let detail = format!("no host is in the zone {zone:?}: there are {}", some(&offers.zones));
        faults.push(FieldError { pointer: "/zone".into(), detail });
    }
    for (i, name) in required.iter().enumerate() {
        if !offers.traits.contains(name) {
            let detail =
                format!("no host has the trait {name:?}: there are {}", some(&offers.traits));
            faults.push(FieldError { pointer: format!("/required_traits/{i}"), detail });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
}

fn some(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        _ => names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", "),
    }
}
