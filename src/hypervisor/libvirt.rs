//! The adapter over libvirt: `Hypervisor` for any host that libvirt reaches by a URI, with no agent of ours on it.

mod agent;
mod connections;
mod consoles;
mod domains;
mod events;
mod facts;
mod fault;
mod interfaces;
mod known;
#[expect(unsafe_code, reason = "callbacks and leases exist only in libvirt's C interface")]
mod ffi;
mod networks;
mod routes;
mod volumes;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{
    DomainSeen, DomainSpec, Fault, HostFacts, HostTarget, Hypervisor, Lease, NetworkSeen,
    NetworkSpec, Overlay, Signal, Upload, VolumeSeen, names,
};
use crate::domain::id::{IncarnationId, InstanceId, NetworkId};
use connections::Connections;
use events::Watcher;
pub use ffi::{keep_little_memory, trim_memory};

/// One libvirt host. Connects when first asked, and again after a connection was lost.
pub struct Libvirt {
    target: HostTarget,
    connections: Connections,
    /// The host's architecture never changes: read once.
    arch: OnceLock<String>,
    consoles: consoles::Freshness,
    known: known::Known,
    agents: agent::Turn,
    watchers: Mutex<Vec<Watcher>>,
    /// The cloud has given the host up.
    left: AtomicBool,
}

impl Libvirt {
    pub fn new(target: HostTarget) -> Self {
        Self {
            connections: Connections::new(target.uri.clone(), target.expect, most(&target.uri)),
            target,
            arch: OnceLock::new(),
            consoles: consoles::Freshness::default(),
            known: known::Known::default(),
            agents: agent::Turn::default(),
            watchers: Mutex::default(),
            left: AtomicBool::default(),
        }
    }

    /// libvirt's in-process mock host: it has records, but no files and no guests.
    fn mock(&self) -> bool {
        self.target.uri.starts_with("test:")
    }

    fn disk_pool(&self) -> String {
        names::disk_pool(self.target.cloud)
    }

    fn console_pool(&self) -> String {
        names::console_pool(self.target.cloud)
    }
}

/// Connections to the host. A mock host that begins with a file of its own is a new one with each connection.
fn most(uri: &str) -> usize {
    if uri.starts_with("test:") && uri != "test:///default" { 1 } else { connections::MAX }
}

impl Hypervisor for Libvirt {
    fn facts(&self) -> Result<HostFacts, Fault> {
        self.connections.with(|conn| self.read_facts(conn))
    }

    fn domain(&self, id: InstanceId) -> Result<Option<DomainSeen>, Fault> {
        self.connections.with(|conn| domains::find(conn, id))
    }

    fn glance(&self, id: InstanceId) -> Result<Option<DomainSeen>, Fault> {
        self.connections.with(|conn| domains::find_at_a_glance(conn, id))
    }

    fn domains(&self) -> Result<Vec<DomainSeen>, Fault> {
        self.connections.with(|conn| self.known.list(conn, self.connections.opened()))
    }

    fn start(&self, spec: &DomainSpec) -> Result<(), Fault> {
        self.connections.with(|conn| self.start_domain(conn, spec))
    }

    fn shutdown(&self, id: InstanceId) -> Result<(), Fault> {
        self.connections.with(|conn| self.shut_down(conn, id))
    }

    fn power_off(&self, id: InstanceId) -> Result<(), Fault> {
        self.connections.with(|conn| self.destroy(conn, id))
    }

    fn pause(&self, id: InstanceId) -> Result<(), Fault> {
        self.connections.with(|conn| self.set_paused(conn, id, true))
    }

    fn resume(&self, id: InstanceId) -> Result<(), Fault> {
        self.connections.with(|conn| self.set_paused(conn, id, false))
    }

    fn agent_ping(&self, id: InstanceId) -> Result<bool, Fault> {
        self.connections.with(|conn| agent::ping(conn, id))
    }

    fn agent_file(&self, id: InstanceId, path: &str, max: usize) -> Result<Option<Vec<u8>>, Fault> {
        self.connections.with(|conn| agent::file(conn, &self.agents, id, path, max))
    }

    fn volume(&self, name: &str) -> Result<Option<VolumeSeen>, Fault> {
        self.connections.with(|conn| self.find_volume(conn, name))
    }

    fn volume_sum(&self, name: &str) -> Result<Option<String>, Fault> {
        self.connections.with(|conn| self.sum_volume(conn, name))
    }

    fn volumes(&self) -> Result<Vec<VolumeSeen>, Fault> {
        self.connections.with(|conn| self.all_volumes(conn))
    }

    fn create_overlay(&self, overlay: &Overlay) -> Result<(), Fault> {
        self.connections.with(|conn| self.make_overlay(conn, overlay))
    }

    fn upload(
        &self,
        upload: &Upload,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Fault> {
        self.connections.once(|conn| self.fill_volume(conn, upload, source, progress))
    }

    fn delete_volume(&self, name: &str) -> Result<(), Fault> {
        self.connections.with(|conn| self.remove_volume(conn, &self.disk_pool(), name))
    }

    fn ensure_network(&self, spec: &NetworkSpec) -> Result<(), Fault> {
        self.connections.with(|conn| self.make_network(conn, spec))
    }

    fn networks(&self) -> Result<Vec<NetworkSeen>, Fault> {
        self.connections.with(|conn| networks::all(conn, self.target.cloud))
    }

    fn delete_network(&self, id: NetworkId) -> Result<(), Fault> {
        self.connections.with(|conn| self.remove_network(conn, id))
    }

    fn cut_off(&self) -> Result<Vec<NetworkId>, Fault> {
        self.connections.with(|conn| interfaces::cut_off(conn, self.target.cloud))
    }

    fn rejoin(&self, id: NetworkId) -> Result<(), Fault> {
        self.connections.with(|conn| interfaces::rejoin(conn, id))
    }

    fn leases(&self, id: NetworkId) -> Result<Vec<Lease>, Fault> {
        self.connections.with(|conn| networks::leases(conn, id))
    }

    fn console(
        &self,
        incarnation: IncarnationId,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, Fault> {
        self.connections.with(|conn| self.read_console(conn, incarnation, offset, max))
    }

    fn delete_console(&self, incarnation: IncarnationId) -> Result<(), Fault> {
        self.connections.with(|conn| self.remove_console(conn, incarnation))
    }

    fn consoles(&self) -> Result<Vec<IncarnationId>, Fault> {
        self.connections.with(|conn| self.all_consoles(conn))
    }

    fn leave(&self) -> Result<(), Fault> {
        self.left.store(true, Ordering::Release);
        self.connections.with(|conn| self.remove_pools(conn))
    }

    /// Never fails: a connection that cannot be made is tried again until the host is dropped.
    fn subscribe(&self, sink: Arc<dyn Fn(Signal) + Send + Sync>) -> Result<(), Fault> {
        if most(&self.target.uri) == 1 {
            // Another connection would be another host.
            return Ok(());
        }
        let watcher = Watcher::start(self.target.uri.clone(), sink)?;
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
        Ok(())
    }
}
