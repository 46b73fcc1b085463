//! What a new instance asks of its host, found: its group, its reservation, and whether any host could ever do.

use crate::domain::error::{Error, Result};
use crate::domain::flavor::Flavor;
use crate::domain::group::{Group, GroupRule, GroupScope};
use crate::domain::id::{ReservationId, TenantId};
use crate::domain::image::Image;
use crate::domain::instance::{NewInstance, Size};
use crate::service::{Write, placement};
use crate::store;

pub struct Placing {
    /// The flavor's, the image's and the request's.
    pub traits: Vec<String>,
    pub group: Option<Group>,
    pub reservation: Option<ReservationId>,
}

pub async fn find(
    write: &mut Write,
    tenant: TenantId,
    new: &NewInstance,
    flavor: &Flavor,
    image: &Image,
) -> Result<Placing> {
    let (required, forbidden) = (&new.required_traits, &new.forbidden_traits);
    placement::offered(write.conn(), new.zone.as_deref(), required).await?;
    let traits = placement::traits(Some(flavor), Some(image), required, forbidden)?;
    let group = match &new.group {
        Some(named) => {
            let group = store::groups::find(write.conn(), tenant, named).await?;
            let group = group.ok_or_else(|| Error::absent("/group", "group", named))?;
            Some(group)
        }
        None => None,
    };
    let reservation = match &new.reservation {
        Some(named) => {
            let found = store::reservations::find(write.conn(), tenant, named).await?;
            let found = found.ok_or_else(|| Error::absent("/reservation", "reservation", named))?;
            let Flavor { vcpus, memory_mib, disk_gib, .. } = *flavor;
            let size = Size { vcpus, memory_mib, disk_gib };
            placement::fits(&found, size, new.zone.as_deref())?;
            Some(found.id)
        }
        None => None,
    };
    Ok(Placing { traits, group, reservation })
}

/// A hard group whose members must be apart needs as many hosts, or zones, as it has members. Asked when the new one is among them
/// and nobody else adds any, since they need their tenant.
pub async fn satisfiable(write: &mut Write, group: &Group) -> Result<()> {
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
    if there == 0 || members <= there {
        return Ok(());
    }
    let members = members - 1;
    let place = group.scope.as_str();
    let detail = format!(
        "the group {} has {members} instances, each of which must be in another {place}, and the cloud has {there} {place}s: \
         delete one, use a group that is not hard, or ask an admin for another {place}",
        group.name
    );
    Err(Error::field("/group", detail))
}
