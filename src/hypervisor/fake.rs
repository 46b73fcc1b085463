//! A host in memory that keeps the whole contract, and that a test can break: lost requests, lost replies, dead domains,
//! power cuts, strangers' things.

mod hands;
mod world;

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{
    DomainSeen, DomainSpec, Fault, HostFacts, Hypervisor, Lease, NetworkSeen, NetworkSpec, Overlay,
    Power, Signal, Upload, VolumeSeen,
};
use crate::domain::clock::Clock;
use crate::domain::host::VirtType;
use crate::domain::id::{IncarnationId, InstanceId, NetworkId};
use world::World;
pub use world::{Content, FakeDomain, FakeNetwork, FakeVolume};

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inject {
    Pass,
    /// The request is lost: nothing happens, and the caller hears this.
    FailBefore(Fault),
    /// The reply is lost: it happens, and the caller hears this.
    FailAfter(Fault),
}

/// Decides about each call by its name, which is the trait method's. An upload asks a second time, as `upload:half`, when
/// half its bytes are there: any failure then leaves the half-filled volume behind, as a crash does.
pub type Hook = Arc<dyn Fn(&str) -> Inject + Send + Sync>;
type Sink = Arc<dyn Fn(Signal) + Send + Sync>;

/// A host with 64 vCPUs, 256 GiB of memory and 1 TiB of disk, unless `resized`.
pub struct FakeHost {
    cloud: Uuid,
    clock: Clock,
    world: Mutex<World>,
    hook: Mutex<Option<Hook>>,
    sinks: Mutex<Vec<Sink>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeHost {
    /// A host as `cloud` sees it.
    pub fn new(cloud: Uuid, clock: Clock) -> Self {
        let facts = HostFacts {
            host_uuid: Uuid::new_v4(),
            hostname: "fake".into(),
            arch: "x86_64".into(),
            vcpus: 64,
            memory_mib: 256 << 10,
            disk_gib: 1 << 10,
            disk_free_gib: 1 << 10,
            virt_type: VirtType::Qemu,
            libvirt_version: "11.3.0".into(),
            hypervisor_version: "10.0.2".into(),
            cpu_model: None,
            cpu_level: 2,
            foreign_subnets: Vec::new(),
        };
        Self {
            cloud,
            clock,
            world: Mutex::new(World::new(facts)),
            hook: Mutex::default(),
            sinks: Mutex::default(),
        }
    }

    /// The same host with other facts, e.g. its size; `foreign_subnets` is computed and not taken from here.
    #[must_use]
    pub fn resized(self, change: impl FnOnce(&mut HostFacts)) -> Self {
        change(&mut lock(&self.world).facts);
        self
    }

    /// Every call from now on asks the hook first.
    pub fn inject(&self, hook: impl Fn(&str) -> Inject + Send + Sync + 'static) {
        *lock(&self.hook) = Some(Arc::new(hook));
    }

    /// Calls pass again.
    pub fn heal(&self) {
        *lock(&self.hook) = None;
    }

    /// Everything on the host, for an oracle: read without hooks, whether the host is reachable or not.
    pub fn content(&self) -> Content {
        let mut world = lock(&self.world);
        world.settle_leases(self.clock.now());
        world.content()
    }

    fn quietly<T>(&self, effect: impl FnOnce(&mut World, &Clock) -> T) -> T {
        let mut world = lock(&self.world);
        let outcome = effect(&mut world, &self.clock);
        let signals = std::mem::take(&mut world.signals);
        drop(world);
        self.tell(signals);
        outcome
    }

    fn tell(&self, signals: Vec<Signal>) {
        let sinks = lock(&self.sinks).clone();
        for signal in signals {
            for sink in &sinks {
                sink(signal.clone());
            }
        }
    }

    fn asks(&self, call: &str) -> Inject {
        let hook = lock(&self.hook).clone();
        hook.map_or(Inject::Pass, |hook| hook(call))
    }

    fn call<T>(
        &self,
        name: &str,
        effect: impl FnOnce(&mut World, &Clock) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // Asked before the world is locked: a hook may look at it, or block.
        let inject = self.asks(name);
        if !lock(&self.world).reachable {
            return Err(Fault::unreachable(format!("{name}: the host does not answer")));
        }
        match inject {
            Inject::FailBefore(fault) => Err(fault),
            Inject::FailAfter(fault) => {
                let _unheard = self.quietly(effect);
                Err(fault)
            }
            Inject::Pass => self.quietly(effect),
        }
    }
}

impl Hypervisor for FakeHost {
    fn facts(&self) -> Result<HostFacts, Fault> {
        self.call("facts", |world, _| Ok(world.facts(self.cloud)))
    }

    fn domain(&self, id: InstanceId) -> Result<Option<DomainSeen>, Fault> {
        self.call("domain", |world, _| Ok(world.domains.get(&id).map(|d| d.seen.clone())))
    }

    fn glance(&self, id: InstanceId) -> Result<Option<DomainSeen>, Fault> {
        self.domain(id)
    }

    fn domains(&self) -> Result<Vec<DomainSeen>, Fault> {
        let all = |world: &mut World| world.domains.values().map(|d| d.seen.clone()).collect();
        self.call("domains", |world, _| Ok(all(world)))
    }

    fn start(&self, spec: &DomainSpec) -> Result<(), Fault> {
        self.call("start", |world, clock| world.start(spec, clock))
    }

    fn shutdown(&self, id: InstanceId) -> Result<(), Fault> {
        self.call("shutdown", |world, clock| {
            if world.ours(self.cloud, id, "shut down")?.is_some() && !world.deaf {
                world.end(id, clock);
            }
            Ok(())
        })
    }

    fn power_off(&self, id: InstanceId) -> Result<(), Fault> {
        self.call("power_off", |world, clock| {
            if world.ours(self.cloud, id, "power off")?.is_some() {
                world.end(id, clock);
            }
            Ok(())
        })
    }

    fn pause(&self, id: InstanceId) -> Result<(), Fault> {
        self.call("pause", |world, _| world.set_power(self.cloud, id, "pause", Power::Paused))
    }

    fn resume(&self, id: InstanceId) -> Result<(), Fault> {
        self.call("resume", |world, _| world.set_power(self.cloud, id, "resume", Power::Running))
    }

    fn agent_ping(&self, id: InstanceId) -> Result<bool, Fault> {
        self.call("agent_ping", |world, _| {
            let running = world.domains.get(&id).is_some_and(|d| d.seen.power == Power::Running);
            Ok(world.agents && running)
        })
    }

    fn agent_file(&self, id: InstanceId, path: &str, max: usize) -> Result<Option<Vec<u8>>, Fault> {
        self.call("agent_file", |world, _| {
            let running = world.domains.get(&id).is_some_and(|d| d.seen.power == Power::Running);
            let file = world.files.get(path).filter(|_| world.agents && running);
            Ok(file.map(|bytes| bytes[..bytes.len().min(max)].to_vec()))
        })
    }

    fn volume(&self, name: &str) -> Result<Option<VolumeSeen>, Fault> {
        self.call("volume", |world, _| Ok(world.volumes.get(name).map(|volume| volume.seen(name))))
    }

    fn volume_sum(&self, _: &str) -> Result<Option<String>, Fault> {
        self.call("volume_sum", |_, _| Ok(None))
    }

    fn volumes(&self) -> Result<Vec<VolumeSeen>, Fault> {
        self.call("volumes", |world, _| {
            Ok(world.volumes.iter().map(|(name, volume)| volume.seen(name)).collect())
        })
    }

    fn create_overlay(&self, overlay: &Overlay) -> Result<(), Fault> {
        self.call("create_overlay", |world, _| world.create_overlay(overlay))
    }

    fn upload(
        &self,
        upload: &Upload,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Fault> {
        let inject = self.asks("upload");
        if let Inject::FailBefore(fault) = inject {
            return Err(fault);
        }
        if !lock(&self.world).reachable {
            return Err(Fault::unreachable("upload: the host does not answer"));
        }
        lock(&self.world).begin_upload(upload);
        // The bytes are counted and not kept.
        let outcome = world::drain(upload, source, progress);
        if outcome.is_err() {
            lock(&self.world).volumes.remove(&upload.name);
            return outcome;
        }
        if let Inject::FailBefore(fault) | Inject::FailAfter(fault) = self.asks("upload:half") {
            return Err(fault);
        }
        if !lock(&self.world).reachable {
            return Err(Fault::unreachable("upload: the connection was lost"));
        }
        lock(&self.world).finish_upload(&upload.name);
        match inject {
            Inject::FailAfter(fault) => Err(fault),
            Inject::Pass | Inject::FailBefore(_) => Ok(()),
        }
    }

    fn delete_volume(&self, name: &str) -> Result<(), Fault> {
        self.call("delete_volume", |world, _| {
            world.volumes.remove(name);
            Ok(())
        })
    }

    fn ensure_network(&self, spec: &NetworkSpec) -> Result<(), Fault> {
        self.call("ensure_network", |world, _| world.ensure_network(self.cloud, spec))
    }

    fn networks(&self) -> Result<Vec<NetworkSeen>, Fault> {
        self.call("networks", |world, _| Ok(world.networks(self.cloud)))
    }

    /// Its guests are on their networks as soon as these are there.
    fn cut_off(&self) -> Result<Vec<NetworkId>, Fault> {
        self.call("cut_off", |_, _| Ok(Vec::new()))
    }

    fn rejoin(&self, _: NetworkId) -> Result<(), Fault> {
        self.call("rejoin", |_, _| Ok(()))
    }

    fn delete_network(&self, id: NetworkId) -> Result<(), Fault> {
        self.call("delete_network", |world, _| {
            world.delete_network(id);
            Ok(())
        })
    }

    fn leases(&self, id: NetworkId) -> Result<Vec<Lease>, Fault> {
        self.call("leases", |world, clock| {
            world.settle_leases(clock.now());
            Ok(world
                .leases
                .iter()
                .filter(|((net, _), _)| *net == id)
                .map(|(_, l)| l.clone())
                .collect())
        })
    }

    fn console(
        &self,
        incarnation: IncarnationId,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, Fault> {
        self.call("console", |world, _| {
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            let log = world.consoles.get(&incarnation).into_iter().flatten();
            Ok(log.skip(skip).take(max).copied().collect())
        })
    }

    fn delete_console(&self, incarnation: IncarnationId) -> Result<(), Fault> {
        self.call("delete_console", |world, _| {
            world.consoles.remove(&incarnation);
            Ok(())
        })
    }

    fn consoles(&self) -> Result<Vec<IncarnationId>, Fault> {
        self.call("consoles", |world, _| Ok(world.consoles.keys().copied().collect()))
    }

    fn leave(&self) -> Result<(), Fault> {
        self.call("leave", |_, _| Ok(()))
    }

    fn subscribe(&self, sink: Arc<dyn Fn(Signal) + Send + Sync>) -> Result<(), Fault> {
        lock(&self.sinks).push(Arc::clone(&sink));
        sink(Signal::Connection);
        Ok(())
    }
}
