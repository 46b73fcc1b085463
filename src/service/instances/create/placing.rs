//! What a new instance asks of its host, found: its group, its reservation, and whether any host could ever do.

use crate::domain::error::{Error, FieldError, Result};
use crate::domain::flavor::Flavor;
use crate::domain::group::{Group, GroupRule, GroupScope};
use crate::domain::id::{GroupId, ReservationId, TenantId};
use crate::domain::instance::NewInstance;
use crate::domain::reservation::Reservation;
use crate::service::Write;
use crate::store;
use crate::store::fleet::Offers;

/// Names that an error lists.
const LISTED: usize = 8;

pub struct Placing {
    /// The flavor's and the request's.
    pub traits: Vec<String>,
    pub group: Option<GroupId>,
    pub reservation: Option<ReservationId>,
}

pub async fn find(
    write: &mut Write,
    tenant: TenantId,
    new: &NewInstance,
    flavor: &Flavor,
) -> Result<Placing> {
    if new.zone.is_some() || !new.required_traits.is_empty() {
        offered(&store::fleet::offers(write.conn()).await?, new)?;
    }
    let mut traits = flavor.traits.clone();
    traits.extend(new.required_traits.iter().filter(|name| !flavor.traits.contains(name)).cloned());
    if let Some(i) = new.forbidden_traits.iter().position(|name| traits.contains(name)) {
        let detail = format!(
            "{} is required, too, by the flavor or by /required_traits: take it out of one",
            new.forbidden_traits[i]
        );
        return Err(Error::field(format!("/forbidden_traits/{i}"), detail));
    }
    let group = match &new.group {
        Some(named) => {
            let group = store::groups::find(write.conn(), tenant, named).await?;
            let group = group.ok_or_else(|| Error::absent("/group", "group", named))?;
            satisfiable(write, &group).await?;
            Some(group.id)
        }
        None => None,
    };
    let reservation = match &new.reservation {
        Some(named) => {
            let found = store::reservations::find(write.conn(), tenant, named).await?;
            let found = found.ok_or_else(|| Error::absent("/reservation", "reservation", named))?;
            fits(&found, flavor, new)?;
            Some(found.id)
        }
        None => None,
    };
    Ok(Placing { traits, group, reservation })
}

/// A zone and traits that some host has; where there is no host yet, nothing is known.
fn offered(offers: &Offers, new: &NewInstance) -> Result<()> {
    if offers.zones.is_empty() {
        return Ok(());
    }
    let mut faults = Vec::new();
    if let Some(zone) = new.zone.as_ref().filter(|zone| !offers.zones.contains(zone)) {
        let detail = format!("no host is in the zone {zone:?}: there are {}", some(&offers.zones));
        faults.push(FieldError { pointer: "/zone".into(), detail });
    }
    for (i, name) in new.required_traits.iter().enumerate() {
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

/// A hard group whose members must be apart needs as many hosts, or zones, as it has members.
async fn satisfiable(write: &mut Write, group: &Group) -> Result<()> {
    if !group.hard || group.rule == GroupRule::Affinity {
        return Ok(());
    }
    let (hosts, zones) = store::groups::places(write.conn()).await?;
    let there = match group.scope {
        GroupScope::Host => hosts,
        GroupScope::Zone => zones,
    };
    let members = store::groups::staying(write.conn(), group.id).await?;
    // Where there is no host yet, some are to come.
    if there == 0 || members < there {
        return Ok(());
    }
    let place = group.scope.as_str();
    let detail = format!(
        "the group {} has {members} instances, each of which must be in another {place}, and the cloud has {there} {place}s: \
         delete one, use a group that is not hard, or ask an admin for another {place}",
        group.name
    );
    Err(Error::field("/group", detail))
}

/// A slot has the room that the flavor needs.
fn fits(reservation: &Reservation, flavor: &Flavor, new: &NewInstance) -> Result<()> {
    let small = flavor.vcpus <= reservation.vcpus
        && flavor.memory_mib <= reservation.memory_mib
        && flavor.disk_gib <= reservation.disk_gib;
    if !small {
        let detail = format!(
            "its slots have {} vCPUs, {} MiB and {} GiB, and the flavor needs {}, {} and {}: choose a smaller flavor, or another reservation",
            reservation.vcpus,
            reservation.memory_mib,
            reservation.disk_gib,
            flavor.vcpus,
            flavor.memory_mib,
            flavor.disk_gib
        );
        return Err(Error::field("/reservation", detail));
    }
    match (&new.zone, &reservation.zone) {
        (Some(zone), Some(held)) if zone != held => {
            let detail = format!("its slots are in the zone {held}: leave /zone out");
            Err(Error::field("/reservation", detail))
        }
        _ => Ok(()),
    }
}
