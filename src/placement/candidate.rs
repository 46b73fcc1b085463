//! From hosts as they are stored to hosts as they are scored.

use super::{ExitClass, HostState, HostView, Index, Resources};
use crate::domain::host::Candidate;

/// The index of these hosts.
pub fn index(candidates: &[Candidate]) -> Index {
    Index::from_hosts(candidates.iter().map(view))
}

fn view(host: &Candidate) -> HostView {
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
        state,
        exit: ExitClass::NONE,
    }
}

/// One host's odd number must not keep the others from being placed on: what is beyond placement's range counts as its end.
fn amount(vcpus: i64, memory_mib: i64, disk_gib: i64) -> Resources {
    let clamp = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
    Resources::new(clamp(vcpus), clamp(memory_mib), clamp(disk_gib))
}
