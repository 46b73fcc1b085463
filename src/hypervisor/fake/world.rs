//! What is on the fake host, and what each effect does to it; as libvirt does it, as far as our contract tells.

use std::collections::BTreeMap;
use std::io::Read;

use chrono::TimeDelta;
use ipnet::IpNet;
use uuid::Uuid;

use crate::domain::clock::{Clock, Time};
use crate::domain::id::{IncarnationId, InstanceId, NetworkId};
use crate::hypervisor::xml::network::LEASE_SECONDS;
use crate::hypervisor::{
    DhcpHost, DomainSeen, DomainSpec, Fault, Halt, HostFacts, Lease, NetworkSeen, NetworkSpec,
    Overlay, Power, Signal, Upload, VolumeSeen, names,
};

/// Everything on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    pub domains: BTreeMap<InstanceId, FakeDomain>,
    pub volumes: BTreeMap<String, FakeVolume>,
    pub networks: BTreeMap<Uuid, FakeNetwork>,
    pub leases: Vec<(NetworkId, Lease)>,
    pub consoles: BTreeMap<IncarnationId, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeDomain {
    pub seen: DomainSeen,
    /// `None`: not ours, and persistent.
    pub spec: Option<DomainSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeVolume {
    pub capacity_bytes: u64,
    /// Of what was uploaded.
    pub file_bytes: Option<u64>,
    /// Backing volume.
    pub base: Option<String>,
    /// `false`: an upload began and did not end. A domain on top of it is a bug of the caller.
    pub filled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeNetwork {
    pub name: String,
    pub active: bool,
    pub subnets: Vec<IpNet>,
    /// `None`: not ours, and persistent. The hosts in it are in libvirt's order.
    pub spec: Option<NetworkSpec>,
}

impl FakeVolume {
    pub fn seen(&self, name: &str) -> VolumeSeen {
        VolumeSeen {
            name: name.to_owned(),
            capacity_bytes: self.capacity_bytes,
            file_bytes: self.file_bytes,
        }
    }
}

pub struct World {
    pub facts: HostFacts,
    pub reachable: bool,
    pub deaf: bool,
    pub agents: bool,
    /// Whatever runs is halted at its next write.
    pub disk_full: bool,
    /// What every guest holds.
    pub files: BTreeMap<String, Vec<u8>>,
    pub domains: BTreeMap<InstanceId, FakeDomain>,
    pub volumes: BTreeMap<String, FakeVolume>,
    pub networks: BTreeMap<Uuid, FakeNetwork>,
    pub leases: BTreeMap<(NetworkId, String), Lease>,
    pub consoles: BTreeMap<IncarnationId, Vec<u8>>,
    /// To be told when the lock is released.
    pub signals: Vec<Signal>,
}

impl World {
    pub fn new(facts: HostFacts) -> Self {
        Self {
            facts,
            reachable: true,
            deaf: false,
            agents: true,
            disk_full: false,
            // Guests whose cloud-init has nothing to complain of.
            files: BTreeMap::from([(
                "/run/cloud-init/result.json".into(),
                br#"{"v1": {"datasource": null, "errors": []}}"#.into(),
            )]),
            domains: BTreeMap::new(),
            volumes: BTreeMap::new(),
            networks: BTreeMap::new(),
            leases: BTreeMap::new(),
            consoles: BTreeMap::new(),
            signals: Vec::new(),
        }
    }

    pub fn facts(&self, cloud: Uuid) -> HostFacts {
        let foreign = self.networks(cloud).into_iter().filter(|network| network.ours.is_none());
        let foreign_subnets = foreign.flat_map(|network| network.subnets).collect();
        HostFacts { foreign_subnets, ..self.facts.clone() }
    }

    pub fn content(&self) -> Content {
        let leases = self.leases.iter().map(|((net, _), lease)| (*net, lease.clone()));
        Content {
            domains: self.domains.clone(),
            volumes: self.volumes.clone(),
            networks: self.networks.clone(),
            leases: leases.collect(),
            consoles: self.consoles.clone(),
        }
    }

    pub fn start(&mut self, spec: &DomainSpec, clock: &Clock) -> Result<(), Fault> {
        let id = spec.stamp.instance;
        let name = names::domain(spec.stamp.cloud, id);
        let holder = self.domains.get(&id);
        let holder = holder.or_else(|| self.domains.values().find(|d| d.seen.name == name));
        if let Some(FakeDomain { seen, .. }) = holder {
            let same = |stamp: &crate::hypervisor::Stamp| {
                (stamp.cloud, stamp.instance, stamp.incarnation, stamp.boot)
                    == (spec.stamp.cloud, id, spec.stamp.incarnation, spec.stamp.boot)
            };
            return if seen.stamp.as_ref().is_some_and(same) {
                Ok(())
            } else {
                Err(Fault::conflict(format!("start domain {id}: {} is in the way", seen.name)))
            };
        }
        for volume in [&spec.disk, &spec.seed] {
            if !self.volumes.contains_key(volume) {
                return Err(Fault::transient(format!(
                    "start: the volume {volume} is not on the host"
                )));
            }
        }
        let mut running = self.domains.values().filter_map(|d| d.spec.as_ref());
        if let Some(other) = running.find(|other| other.disk == spec.disk) {
            // QEMU locks its images.
            return Err(Fault::transient(format!(
                "start domain {id}: the volume {} is in use by {}",
                spec.disk, other.stamp.instance
            )));
        }
        for nic in &spec.nics {
            if !self.networks.get(&nic.network.0).is_some_and(|network| network.active) {
                return Err(Fault::transient(format!(
                    "start domain {id}: network not found: {}",
                    nic.network
                )));
            }
        }
        let stamp = Some(spec.stamp);
        let macs = spec.nics.iter().map(|nic| nic.mac.clone()).collect();
        let seen = DomainSeen {
            id,
            name,
            power: Power::Running,
            halt: None,
            stamp,
            agent: self.agents,
            macs,
        };
        self.domains.insert(id, FakeDomain { seen, spec: Some(spec.clone()) });
        let log = self.consoles.entry(spec.stamp.incarnation).or_default();
        log.extend(format!("boot {}\n", spec.stamp.boot).bytes());
        self.signals.push(Signal::Domain(id));
        self.settle_leases(clock.now());
        Ok(())
    }

    /// The domain, if it is there and of this cloud; `Conflict` if it is somebody else's.
    pub fn ours(
        &mut self,
        cloud: Uuid,
        id: InstanceId,
        what: &str,
    ) -> Result<Option<&mut FakeDomain>, Fault> {
        match self.domains.get_mut(&id) {
            Some(domain) if domain.seen.stamp.is_none_or(|stamp| stamp.cloud != cloud) => Err(
                Fault::conflict(format!("{what} domain {id}: {} is not ours", domain.seen.name)),
            ),
            other => Ok(other),
        }
    }

    pub fn set_power(
        &mut self,
        cloud: Uuid,
        id: InstanceId,
        what: &str,
        power: Power,
    ) -> Result<(), Fault> {
        let domain = self.ours(cloud, id, what)?.ok_or_else(|| {
            Fault::transient(format!("{what} domain {id}: it is not on the host"))
        })?;
        if domain.seen.power != power {
            domain.seen.power = power;
            domain.seen.halt = None;
            self.signals.push(Signal::Domain(id));
        }
        self.halt_writers();
        Ok(())
    }

    /// Who runs writes, and is halted where there is no room.
    pub fn halt_writers(&mut self) {
        for (id, domain) in self.domains.iter_mut().filter(|_| self.disk_full) {
            if domain.seen.power == Power::Running {
                domain.seen.power = Power::Paused;
                domain.seen.halt = Some(Halt::Disk);
                self.signals.push(Signal::Domain(*id));
            }
        }
    }

    pub fn end(&mut self, id: InstanceId, clock: &Clock) -> bool {
        // What the guest has renewed until now is what is left to expire.
        self.settle_leases(clock.now());
        let was = self.domains.remove(&id).is_some();
        if was {
            self.signals.push(Signal::Domain(id));
        }
        was
    }

    pub fn power_cycle(&mut self) {
        self.domains.retain(|_, domain| domain.spec.is_none());
        for domain in self.domains.values_mut() {
            domain.seen.power = Power::Off;
        }
        self.networks.retain(|_, network| network.spec.is_none());
        self.leases.clear();
    }

    pub fn create_overlay(&mut self, overlay: &Overlay) -> Result<(), Fault> {
        if self.volumes.contains_key(&overlay.name) {
            return Ok(());
        }
        if !self.volumes.contains_key(&overlay.base) {
            return Err(Fault::transient(format!(
                "create volume {}: its base {} is not on the host",
                overlay.name, overlay.base
            )));
        }
        let volume = FakeVolume {
            capacity_bytes: overlay.capacity_bytes,
            file_bytes: None,
            base: Some(overlay.base.clone()),
            filled: true,
        };
        self.volumes.insert(overlay.name.clone(), volume);
        Ok(())
    }

    pub fn begin_upload(&mut self, upload: &Upload) {
        let volume = FakeVolume {
            capacity_bytes: upload.virtual_bytes,
            file_bytes: Some(upload.length),
            base: None,
            filled: false,
        };
        self.volumes.insert(upload.name.clone(), volume);
    }

    pub fn finish_upload(&mut self, name: &str) {
        if let Some(volume) = self.volumes.get_mut(name) {
            volume.filled = true;
        }
    }

    pub fn ensure_network(&mut self, cloud: Uuid, spec: &NetworkSpec) -> Result<(), Fault> {
        let name = names::network(cloud, spec.id);
        let mut spec = spec.clone();
        if let Some(there) = self.networks.get_mut(&spec.id.0) {
            if there.name != name || !there.subnets.contains(&spec.cidr.trunc()) {
                return Err(Fault::conflict(format!(
                    "update network {name}: {} holds its UUID, with the subnets {:?}",
                    there.name, there.subnets
                )));
            }
            if let Some(old) = there.spec.as_ref().filter(|_| spec.keep_others) {
                let twin = |a: &DhcpHost, b: &DhcpHost| {
                    a != b && (a.mac == b.mac || a.address == b.address)
                };
                let stands = |host: &DhcpHost| {
                    host.stands() && spec.hosts.iter().any(|new| new.address == host.address)
                };
                let others = old.hosts.iter().chain(&old.standing);
                let others = others.filter(|host| !spec.hosts.contains(host) && !stands(host));
                let others: Vec<_> = others.cloned().collect();
                if others.iter().any(|old| spec.hosts.iter().any(|new| twin(old, new))) {
                    return Err(Fault::transient(format!(
                        "update network {name}: there is an existing dhcp host entry that matches"
                    )));
                }
                spec.hosts.extend(others);
                spec.standing.clear();
            }
            there.active = true;
            there.spec = Some(spec);
            return Ok(());
        }
        let overlaps = |network: &&FakeNetwork| {
            let cidr = spec.cidr.trunc();
            let meets = |net: &IpNet| net.contains(&cidr) || cidr.contains(net);
            network.name == name || (network.active && network.subnets.iter().any(meets))
        };
        if let Some(other) = self.networks.values().find(overlaps) {
            return Err(Fault::conflict(format!(
                "make network {name}: {} is in the way of {}",
                other.name, spec.cidr
            )));
        }
        let network = FakeNetwork {
            name,
            active: true,
            subnets: vec![spec.cidr.trunc()],
            spec: Some(spec.clone()),
        };
        self.networks.insert(spec.id.0, network);
        Ok(())
    }

    pub fn networks(&self, cloud: Uuid) -> Vec<NetworkSeen> {
        let see = |(uuid, network): (&Uuid, &FakeNetwork)| NetworkSeen {
            uuid: *uuid,
            name: network.name.clone(),
            active: network.active,
            subnets: network.subnets.clone(),
            hosts: (network.spec.iter())
                .flat_map(|spec| [spec.hosts.as_slice(), &spec.standing].concat())
                .collect(),
            ours: names::network_id(cloud, &network.name).filter(|id| id.0 == *uuid),
        };
        self.networks.iter().map(see).collect()
    }

    pub fn delete_network(&mut self, id: NetworkId) {
        if self.networks.get(&id.0).is_some_and(|network| network.spec.is_some()) {
            self.networks.remove(&id.0);
            self.leases.retain(|(net, _), _| *net != id);
        }
    }

    /// Running guests hold a fresh lease of what DHCP lists for their MAC; the leases of others expire.
    pub fn settle_leases(&mut self, now: Time) {
        self.leases.retain(|_, lease| lease.expires_at > now);
        let running = self.domains.values().filter(|d| d.seen.power == Power::Running);
        for nic in running.filter_map(|d| d.spec.as_ref()).flat_map(|spec| &spec.nics) {
            let network = self.networks.get(&nic.network.0).and_then(|n| n.spec.as_ref());
            let host = network.and_then(|n| n.hosts.iter().find(|host| host.mac == nic.mac));
            if let Some(host) = host {
                let lease = Lease {
                    mac: host.mac.clone(),
                    address: host.address,
                    expires_at: now + TimeDelta::seconds(LEASE_SECONDS),
                };
                self.leases.insert((nic.network, host.mac.clone()), lease);
            }
        }
    }
}

/// Reads what an upload would send.
pub fn drain(
    upload: &Upload,
    source: &mut dyn Read,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Fault> {
    let what = format!("upload volume {}", upload.name);
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    while done < upload.length {
        let room = usize::try_from(upload.length - done).unwrap_or(usize::MAX).min(buffer.len());
        let read =
            source.read(&mut buffer[..room]).map_err(|error| Fault::unreadable(&what, &error))?;
        if read == 0 {
            return Err(Fault::permanent(format!(
                "{what}: the source ended after {done} of {} bytes",
                upload.length
            )));
        }
        done += read as u64;
        if !progress(done) {
            return Err(Fault::transient(format!("{what}: stopped after {done} bytes")));
        }
    }
    Ok(())
}
