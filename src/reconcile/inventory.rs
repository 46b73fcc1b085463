//! Everything that a host has, and what of it tells how far the host's count of claims had come.

use uuid::Uuid;

use crate::domain::id::{IncarnationId, NetworkId};
use crate::domain::volume::{Owner, owner};
use crate::hypervisor::{DomainSeen, Fault, Hypervisor, NetworkSeen, VolumeSeen};

pub struct Inventory {
    pub domains: Vec<DomainSeen>,
    pub volumes: Vec<VolumeSeen>,
    pub networks: Vec<NetworkSeen>,
    /// Networks of ours that have a guest which does not hang on them.
    pub cut_off: Vec<NetworkId>,
    pub consoles: Vec<IncarnationId>,
}

pub fn look(host: &dyn Hypervisor) -> Result<Inventory, Fault> {
    Ok(Inventory {
        domains: host.domains()?,
        volumes: host.volumes()?,
        networks: host.networks()?,
        cut_off: host.cut_off()?,
        consoles: host.consoles()?,
    })
}

impl Inventory {
    /// Whose it says its things are.
    pub fn incarnations(&self) -> impl Iterator<Item = IncarnationId> {
        let stamped = self.domains.iter().filter_map(|domain| Some(domain.stamp?.incarnation));
        let named = self.volumes.iter().filter_map(|volume| match owner(&volume.name)? {
            Owner::Incarnation(id) => Some(id),
            Owner::Base(_) => None,
        });
        stamped.chain(named).chain(self.consoles.iter().copied())
    }

    /// The highest number of an incarnation that anything of ours bears; 0 where nothing bears one.
    pub fn newest(&self, cloud: Uuid) -> i64 {
        let volumes = self.volumes.iter().filter_map(|volume| match owner(&volume.name) {
            Some(Owner::Incarnation(id)) => id.number(),
            Some(Owner::Base(_)) | None => None,
        });
        let consoles = self.consoles.iter().filter_map(|id| id.number());
        let files = volumes.chain(consoles).max().unwrap_or(0);
        files.max(newest_domain(&self.domains, cloud))
    }
}

/// The same of domains alone, which every heartbeat lists.
pub fn newest_domain(domains: &[DomainSeen], cloud: Uuid) -> i64 {
    let stamps = domains.iter().filter_map(|domain| domain.stamp);
    let ours = stamps.filter(|stamp| stamp.cloud == cloud);
    ours.filter_map(|stamp| stamp.incarnation.number()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_of_anything_counts() {
        let id = |number: i64| -> IncarnationId {
            format!("{}{number:012x}", IncarnationId::front(Uuid::now_v7())).parse().unwrap()
        };
        let volume = |name: String| VolumeSeen { name, capacity_bytes: 1, file_bytes: None };
        let mut inventory = Inventory {
            domains: vec![],
            volumes: vec![volume(format!("seed-{}.iso", id(7))), volume("notes.txt".into())],
            networks: vec![],
            cut_off: vec![],
            consoles: vec![id(3), IncarnationId(Uuid::now_v7())],
        };
        assert_eq!(inventory.newest(Uuid::nil()), 7);
        inventory.volumes.clear();
        assert_eq!(inventory.newest(Uuid::nil()), 3);
        inventory.consoles.clear();
        assert_eq!(inventory.newest(Uuid::nil()), 0);
    }
}
