//! The only room that knows libvirt: what a host can be asked (`Hypervisor`), the libvirt adapter, and a fake.
//!
//! Every method blocks and may hang; `Hosts` runs it on a bounded set of threads with a deadline.
//! Every method that changes something is an *ensure*: done twice, or done and never heard of, it leaves the same world.

pub mod fake;
pub mod hosts;
pub mod libvirt;
mod names;
mod xml;

pub use fake::{FakeHost, Inject};
pub use hosts::Hosts;
pub use libvirt::{Libvirt, keep_little_memory, trim_memory};
pub use names::domain as domain_name;

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::sync::Arc;

use chrono::TimeDelta;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::host::VirtType;
use crate::domain::id::{IncarnationId, InstanceId, NetworkId};
use crate::domain::port;

/// One hypervisor host, as seen by one cloud. Implemented by libvirt and by a fake.
pub trait Hypervisor: Send + Sync {
    /// Who the host is and what it has. Also makes our storage pools where they are missing.
    fn facts(&self) -> Result<HostFacts, Fault>;

    /// The domain with this UUID, whoever made it; `None` only if the host surely has none. Of one whose hypervisor does not answer,
    /// no more than at a glance, and that it hangs.
    fn domain(&self, id: InstanceId) -> Result<Option<DomainSeen>, Fault>;
    /// The same without its agent and its MAC addresses: also of a domain whose hypervisor hangs.
    fn glance(&self, id: InstanceId) -> Result<Option<DomainSeen>, Fault>;
    /// Every domain of the host, active or not, ours or not, at a glance.
    fn domains(&self) -> Result<Vec<DomainSeen>, Fault>;
    /// Creates the transient domain. Ok if one of the same stamp (incarnation and boot) is there already;
    /// `Conflict` if the UUID or the name is taken by a domain that bears another stamp or none.
    fn start(&self, spec: &DomainSpec) -> Result<(), Fault>;
    /// Presses the ACPI power button. Ok if the domain is gone; `Conflict` if it is there and not ours.
    fn shutdown(&self, id: InstanceId) -> Result<(), Fault>;
    /// Ends the domain at once and for good. Ok if it is gone; `Conflict` if it is there and not ours.
    fn power_off(&self, id: InstanceId) -> Result<(), Fault>;
    /// Ok if it is paused already. `Transient` if there is no domain; `Conflict` if it is not ours. `resume` likewise; it wakes a
    /// guest that sleeps, too.
    fn pause(&self, id: InstanceId) -> Result<(), Fault>;
    fn resume(&self, id: InstanceId) -> Result<(), Fault>;
    /// Whether the guest agent answers a ping within two seconds. `false` if there is no domain or no agent.
    fn agent_ping(&self, id: InstanceId) -> Result<bool, Fault>;
    /// Up to `max` bytes of a file in the guest, as its agent reads it: the guest's word. `None` if there is no domain, no such
    /// file, or no reading of it now; `Transient` if the agent does not answer within two seconds.
    fn agent_file(&self, id: InstanceId, path: &str, max: usize) -> Result<Option<Vec<u8>>, Fault>;

    fn volume(&self, name: &str) -> Result<Option<VolumeSeen>, Fault>;
    /// Every volume in our pool of this host, after a refresh: slow, for the sweeper.
    fn volumes(&self) -> Result<Vec<VolumeSeen>, Fault>;
    /// SHA-256 of what is in its file, in lower-case hex: reads all of it. `None` if there is no such volume, or the host keeps
    /// no bytes.
    fn volume_sum(&self, name: &str) -> Result<Option<String>, Fault>;
    /// Creates an empty qcow2 on top of the volume `base`. Ok if it is there already.
    fn create_overlay(&self, overlay: &Overlay) -> Result<(), Fault>;
    /// Creates the volume and fills it with `upload.length` bytes of `source`. A half-filled volume is removed on failure;
    /// one left by a crash (its upload was never reported done) is replaced. `progress` is called with the bytes sent so
    /// far at least every 4 MiB; `false` stops the upload with a `Transient` fault.
    fn upload(
        &self,
        upload: &Upload,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Fault>;
    /// Ok if it is gone.
    fn delete_volume(&self, name: &str) -> Result<(), Fault>;

    /// Defines and starts the network where it is missing and makes its DHCP hosts exactly `spec.hosts`,
    /// or these and the ones that are there, with `spec.keep_others`.
    /// `Conflict` where the host's routes or a foreign network of that UUID, name or bridge are in the way.
    fn ensure_network(&self, spec: &NetworkSpec) -> Result<(), Fault>;
    /// Every network of the host, ours or not.
    fn networks(&self) -> Result<Vec<NetworkSeen>, Fault>;
    /// Ok if it is gone, and if the network of that UUID is not ours, which is not touched.
    fn delete_network(&self, id: NetworkId) -> Result<(), Fault>;
    /// Networks of ours with a guest whose interface hangs on another bridge than the network has by now: reads every domain,
    /// for the sweeper.
    fn cut_off(&self) -> Result<Vec<NetworkId>, Fault>;
    /// Puts these guests on the network again. `Transient` where one could not be, after the others were. Ok if there is no such
    /// network.
    fn rejoin(&self, id: NetworkId) -> Result<(), Fault>;
    /// The network's unexpired DHCP leases; empty if there is no such network.
    fn leases(&self, id: NetworkId) -> Result<Vec<Lease>, Fault>;

    /// Up to `max` bytes of the console from byte `offset` of what the host has kept. Empty if there is none.
    fn console(
        &self,
        incarnation: IncarnationId,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, Fault>;
    /// Removes the console log and its rotated parts. Ok if they are gone.
    fn delete_console(&self, incarnation: IncarnationId) -> Result<(), Fault>;
    /// Incarnations that have a console log on this host: for the sweeper.
    fn consoles(&self) -> Result<Vec<IncarnationId>, Fault>;

    /// Gives the host up, on which there is nothing of ours any more: our storage pools go from its libvirt, and their directories
    /// where these are empty. Nothing is made there any more by this handle, for which both are empty from then on. Ok
    /// if they are gone.
    fn leave(&self) -> Result<(), Fault>;

    /// Calls `sink` at every lifecycle change of a domain and at the loss of the connection, until the host is dropped.
    fn subscribe(&self, sink: Arc<dyn Fn(Signal) + Send + Sync>) -> Result<(), Fault>;
}

/// Why a host call failed, decided where it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: FaultKind,
    /// For people: what failed and what the host said. Never holds a secret.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// May pass by itself: try again.
    Transient,
    /// Will not pass without somebody's doing; still tried again, slowly.
    Permanent,
    /// The host could not be asked, or did not answer in time: nothing is known, whether the call took effect included.
    Unreachable,
    /// Something that is not ours is in the way.
    Conflict,
}

impl FaultKind {
    /// The word for it, in metrics and beside messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Unreachable => "unreachable",
            Self::Conflict => "conflict",
        }
    }
}

impl Fault {
    pub fn transient(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Transient, message: message.into() }
    }
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Permanent, message: message.into() }
    }
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Unreachable, message: message.into() }
    }
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Conflict, message: message.into() }
    }
    /// Why the source of an upload gave no more. Bytes that are not what they should be do not change by themselves.
    fn unreadable(what: &str, error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidData => Self::permanent(format!(
                "{what}: the image's bytes in the image store are damaged: {error}; send them once more, to a new image, which mends it"
            )),
            _ => Self::transient(format!("{what}: read the source: {error}")),
        }
    }
}

/// Where a host is and how this cloud uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTarget {
    /// libvirt connection URI, e.g. `qemu:///system`, `qemu+tls://node7/system`, `test:///default`.
    pub uri: String,
    /// Directory on the host that holds our pools: `<pool_path>/disks` and `<pool_path>/consoles`.
    pub pool_path: String,
    /// This cloud's id: part of every stamp and name.
    pub cloud: Uuid,
    /// The host's own UUID, once it is known: another host that answers at the address is as good as none.
    pub expect: Option<Uuid>,
}

/// How long a DHCP lease lasts: the shortest that libvirt and dnsmasq take.
pub const DHCP_LEASE: TimeDelta = TimeDelta::seconds(120);

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The host's own UUID (libvirt capabilities).
    pub host_uuid: Uuid,
    pub hostname: String,
    /// e.g. `x86_64`.
    pub arch: String,
    /// Logical CPUs.
    pub vcpus: i32,
    pub memory_mib: i64,
    /// Capacity of the file system under our pool.
    pub disk_gib: i64,
    /// Free bytes there, in GiB, rounded down.
    pub disk_free_gib: i64,
    /// What `auto` resolves to: KVM only where it is offered and the host CPU (libvirt capabilities) has vmx or svm, or
    /// the architecture is not x86.
    pub virt_type: VirtType,
    pub libvirt_version: String,
    pub hypervisor_version: String,
    pub cpu_model: Option<String>,
    /// Which level of the x86-64 psABI the host's CPU has, 1 to 4; 0: it is no x86-64.
    pub cpu_level: u8,
    /// Subnets of networks that are not ours, and those that a host on this machine routes elsewhere: an address plan must not
    /// collide with them. What a remote host routes nobody tells; there a network that collides fails when it is made.
    pub foreign_subnets: Vec<IpNet>,
}

/// What we write into the metadata of everything that can carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    pub cloud: Uuid,
    pub instance: InstanceId,
    pub incarnation: IncarnationId,
    pub revision: i64,
    /// Which power-on of the instance this is: a reboot is a wish for a higher number.
    pub boot: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainSeen {
    pub id: InstanceId,
    pub name: String,
    pub power: Power,
    /// Why it does not go on though nobody asked for that.
    pub halt: Option<Halt>,
    /// `None`: not made by any Pileus. A stamp of another cloud is foreign too.
    pub stamp: Option<Stamp>,
    /// Whether the guest agent's channel is connected.
    pub agent: bool,
    /// Of its interfaces, lower case.
    pub macs: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Power {
    Running,
    Paused,
    /// Shutting down, crashed, or defined and off: present but not running. A transient domain leaves this by itself.
    Off,
}

/// Why a guest does not go on: its hypervisor has paused it by itself, or hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Halt {
    /// What it wrote could not be put on the host's disk. QEMU stops a guest only where there is no room: other errors it hands on.
    Disk,
    /// Its kernel, or QEMU's machine, came to an end that it cannot go on from.
    Crashed,
    /// It does not say why, or has something under way with it.
    Other,
    /// Its hypervisor does not answer: it is stopped, or waits for storage that hangs. The guest counts as running.
    Silent,
}

/// A domain to be. Its libvirt name is `pileus-<first 8 of cloud>-<instance id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    pub stamp: Stamp,
    /// For people, shown by `virsh list --title`.
    pub title: String,
    pub vcpus: i32,
    pub memory_mib: i64,
    /// `Auto` is refused: resolve it by `HostFacts::virt_type`.
    pub virt_type: VirtType,
    /// Volume in our pool, a qcow2: the guest's `vda`.
    pub disk: String,
    /// Volume in our pool, raw: the guest's read-only `vdb`, to be found by its label.
    pub seed: String,
    pub nics: Vec<Nic>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    pub network: NetworkId,
    /// `52:54:xx:xx:xx:xx`, lower case.
    pub mac: String,
    pub address: IpAddr,
    /// Adds nwfilter's `clean-traffic` with this address: no spoofing, at the cost of a slower start.
    pub port_security: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSeen {
    pub name: String,
    /// As the host sees it: for an uploaded qcow2 its file's length at first, and the guest's size after a refresh.
    pub capacity_bytes: u64,
    /// Length of its file; `None` where it was not asked for, or there is no file.
    pub file_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    pub name: String,
    pub base: String,
    pub base_format: VolumeFormat,
    pub capacity_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub name: String,
    pub format: VolumeFormat,
    /// Bytes that `source` yields.
    pub length: u64,
    /// Size of the disk that a guest sees; equals `length` for raw.
    pub virtual_bytes: u64,
}

pub use crate::domain::image::ImageFormat as VolumeFormat;

/// A NAT network to be. Its libvirt name is `pileus-<first 8 of cloud>-<network id>`, its UUID the network's id, its bridge
/// `pl` and the last 12 hex digits of the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    pub id: NetworkId,
    pub cidr: IpNet,
    pub gateway: IpAddr,
    /// Name servers handed out by DHCP; none: the gateway itself answers. Fixed when the network is made: libvirt cannot
    /// change it in a running network.
    pub dns: Vec<IpAddr>,
    /// Whom DHCP must serve. Without names: the network's DNS knows a guest by the one that it tells itself.
    pub hosts: Vec<DhcpHost>,
    /// Whom it may serve beside them, which share no address with them: a network is made with these, and one that was made
    /// without them stays as it is.
    pub standing: Vec<DhcpHost>,
    /// DHCP hosts that are there stay, whoever they are; one that is in the way of one of `hosts` is then a fault, unless it
    /// stands there for whoever has the address.
    pub keep_others: bool,
    /// It was made on this host before: where it is not there now, guests may have been left without it, and are put on it
    /// again.
    pub known: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DhcpHost {
    /// Lower case.
    pub mac: String,
    pub address: IpAddr,
}

impl DhcpHost {
    /// Whether it stands for whoever has the address, as its MAC address says.
    pub fn stands(&self) -> bool {
        matches!(self.address, IpAddr::V4(address) if self.mac == port::mac(address))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSeen {
    pub uuid: Uuid,
    pub name: String,
    pub active: bool,
    pub subnets: Vec<IpNet>,
    /// Whom its DHCP serves.
    pub hosts: Vec<DhcpHost>,
    /// `Some` where the name says that this cloud made it.
    pub ours: Option<NetworkId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub mac: String,
    pub address: IpAddr,
    pub expires_at: Time,
}

/// Something happened on a host: look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    Domain(InstanceId),
    /// The connection was lost or came back: resync everything of this host.
    Connection,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Off => "off",
        })
    }
}
