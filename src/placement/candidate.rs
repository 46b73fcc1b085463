//! From hosts as they are stored to hosts as they are scored.

use super::{HostState, HostView, Index, Resources};
use crate::domain::error::Result;
use crate::domain::host::Candidate;

/// The index of these hosts. Fails where an amount is beyond what placement counts in.
pub fn index(candidates: &[Candidate]) -> Result<Index> {
    let mut index = Index::new();
    for host in candidates {
        index.upsert(view(host)?);
    }
    Ok(index)
}

fn view(host: &Candidate) -> Result<HostView> {
    let state = match host.health.as_str() {
        _ if host.leaving => HostState::Deleting,
        _ if !host.enabled => HostState::Disabled,
        "unknown" => HostState::NoFacts,
        "up" => HostState::Ready,
        _ => HostState::Unreachable,
    };
    Ok(HostView {
        id: host.id,
        name: host.name.clone(),
        limit: Resources::from_signed(
            host.limit_vcpus,
            host.limit_memory_mib,
            host.limit_disk_gib,
        )?,
        used: Resources::from_signed(host.used_vcpus, host.used_memory_mib, host.used_disk_gib)?,
        traits: host.traits.iter().cloned().collect(),
        zone: Some(host.zone.clone()),
        state,
    })
}
