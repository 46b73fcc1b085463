//! From hosts as they are stored to hosts as they are scored.

use std::collections::BTreeMap;

use super::{ExitClass, FlavorSize, HostState, HostView, Index, Policy, Request, Resources, Stay};
use crate::domain::error::Result;
use crate::domain::flavor::Flavor;
use crate::domain::group::{Group, Placed};
use crate::domain::host::Candidate;
use crate::domain::id::HostId;
use crate::domain::instance::Unplaced;

/// The index of these hosts.
pub fn index(candidates: &[Candidate]) -> Index {
    Index::from_hosts(candidates.iter().map(view))
}

/// The host as placement sees it.
pub fn view(host: &Candidate) -> HostView {
    let state = match host.health.as_str() {
        _ if host.leaving => HostState::Deleting,
        _ if !host.enabled => HostState::Disabled,
        "unknown" => HostState::NoFacts,
        "up" => HostState::Ready,
        _ => HostState::Unreachable,
    };
    HostView {
        id: host.id,
        name: host.name.clone(),
        limit: amount(host.limit_vcpus, host.limit_memory_mib, host.limit_disk_gib),
        used: amount(host.used_vcpus, host.used_memory_mib, host.used_disk_gib),
        traits: host.traits.iter().cloned().collect(),
        zone: Some(host.zone.clone()),
        dedicated: host.dedicated.iter().copied().collect(),
        state,
        exit: ExitClass::NONE,
    }
}

/// What an instance asks for; `default`: the policy where it names none.
///
/// # Errors
/// It is larger than placement can count.
pub fn request(who: &Unplaced, default: Policy) -> Result<Request> {
    let need = Resources::from_signed(who.vcpus.into(), who.memory_mib, who.disk_gib)?;
    Ok(Request {
        required: who.traits.iter().cloned().collect(),
        forbidden: who.forbidden_traits.iter().cloned().collect(),
        zone: who.zone.clone(),
        tenant: Some(who.tenant_id),
        ..Request::new(need, who.policy.unwrap_or(default))
    })
}

/// The requests to try in turn for an instance, from the most wanted to the least: more than one only where a soft group allows
/// it. `group`: its group, and what of it each host has. `stay`: how long it is thought to stay, for
/// `lifetime_fit`.
///
/// # Errors
/// It is larger than placement can count.
pub fn wishes(
    who: &Unplaced,
    default: Policy,
    group: Option<(&Group, &BTreeMap<HostId, Placed>)>,
    stay: Option<Stay>,
    index: &Index,
) -> Result<Vec<Request>> {
    let request = Request { stay, ..request(who, default)? };
    Ok(match group {
        Some((group, members)) => request.for_group(group, members, index),
        None => vec![request],
    })
}

/// The flavors that a request may be told of.
///
/// # Errors
/// One is larger than placement can count.
pub fn sizes(flavors: Vec<Flavor>) -> Result<Vec<FlavorSize>> {
    let size = |flavor: Flavor| {
        let need = Resources::from_signed(flavor.vcpus.into(), flavor.memory_mib, flavor.disk_gib)?;
        let traits = flavor.traits.into_iter().collect();
        Ok(FlavorSize { name: flavor.name.to_string(), need, traits })
    };
    flavors.into_iter().map(size).collect()
}

/// What is said of an instance whose reservation, of which so many slots are free, has nothing for it now.
pub fn no_slot(free: usize) -> String {
    match free {
        0 => "its reservation has no free slot: wait for one of its instances to go, make another reservation, or ask without one".into(),
        _ => format!(
            "its reservation has no free slot on a host that may be used: {free} are free, on hosts that do not answer, take nothing \
             new, are dedicated to other tenants, or are not what its zone, traits or group ask for: wait for such a host, change that, or ask without a reservation"
        ),
    }
}

/// One host's odd number must not keep the others from being placed on: what is beyond placement's range counts as its end.
fn amount(vcpus: i64, memory_mib: i64, disk_gib: i64) -> Resources {
    let clamp = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
    Resources::new(clamp(vcpus), clamp(memory_mib), clamp(disk_gib))
}
