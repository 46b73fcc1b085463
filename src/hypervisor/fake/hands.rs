//! What becomes of a fake host behind our back: power cuts, full disks, strangers' things.

use ipnet::IpNet;
use uuid::Uuid;

use super::{FakeDomain, FakeHost, FakeNetwork, FakeVolume, lock};
use crate::domain::id::{IncarnationId, InstanceId};
use crate::hypervisor::{DomainSeen, Power, Signal};

impl FakeHost {
    /// While unreachable, every call fails so and changes nothing; domains run on.
    pub fn set_reachable(&self, reachable: bool) {
        lock(&self.world).reachable = reachable;
        self.tell(vec![Signal::Connection]);
    }

    /// Guests that ignore the power button.
    pub fn set_deaf(&self, deaf: bool) {
        lock(&self.world).deaf = deaf;
    }

    /// Whether guests' agents answer; they do at first.
    pub fn set_agents(&self, answer: bool) {
        lock(&self.world).agents = answer;
    }

    /// Puts a file into every guest, for agents to read.
    pub fn set_file(&self, path: &str, bytes: &[u8]) {
        lock(&self.world).files.insert(path.into(), bytes.into());
    }

    /// Whether guests' disks can grow no more: those that run are halted, again at each resume.
    pub fn set_disk_full(&self, full: bool) {
        self.quietly(|world, _| {
            world.disk_full = full;
            world.halt_writers();
        });
    }

    /// Ends a domain behind everybody's back. Tells whether there was one.
    pub fn kill(&self, id: InstanceId) -> bool {
        self.quietly(|world, clock| world.end(id, clock))
    }

    /// The power fails and comes back: domains and transient networks are gone, files stay.
    pub fn power_cycle(&self) {
        lock(&self.world).power_cycle();
        self.tell(vec![Signal::Connection]);
    }

    /// Makes a domain that is nobody's business, e.g. with a UUID that we want.
    pub fn add_foreign_domain(&self, id: InstanceId, name: &str, power: Power) {
        let name = name.into();
        let seen =
            DomainSeen { id, name, power, halt: None, stamp: None, agent: false, macs: Vec::new() };
        lock(&self.world).domains.insert(id, FakeDomain { seen, spec: None });
    }

    /// Makes an active network that is not ours.
    pub fn add_foreign_network(&self, uuid: Uuid, name: &str, subnets: Vec<IpNet>) {
        let network = FakeNetwork { name: name.into(), active: true, subnets, spec: None };
        lock(&self.world).networks.insert(uuid, network);
    }

    /// Cuts an uploaded volume to half its length. Tells whether there was one.
    pub fn damage(&self, name: &str) -> bool {
        let mut world = lock(&self.world);
        let volume = world.volumes.get_mut(name).and_then(|volume| volume.file_bytes.as_mut());
        volume.map(|bytes| *bytes /= 2).is_some()
    }

    /// Makes a volume that no call of ours made.
    pub fn add_foreign_volume(&self, name: &str, capacity_bytes: u64) {
        let volume = FakeVolume { capacity_bytes, file_bytes: None, base: None, filled: true };
        lock(&self.world).volumes.insert(name.into(), volume);
    }

    /// Adds to what the guest has printed.
    pub fn print(&self, incarnation: IncarnationId, text: &str) {
        lock(&self.world).consoles.entry(incarnation).or_default().extend(text.bytes());
    }
}
