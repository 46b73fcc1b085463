//! The elements of domain XML as serde structs; libvirt's documentation of the format names and explains each.

use serde::Serialize;
use uuid::Uuid;

use super::STAMP;
use crate::domain::host::VirtType;
use crate::hypervisor::xml::Size;
use crate::hypervisor::{Nic, Stamp, names};

#[derive(Serialize, Default)]
pub struct Empty {}

#[derive(Serialize)]
pub struct Domain<'a> {
    #[serde(rename = "@type")]
    pub kind: &'a str,
    pub name: String,
    pub uuid: Uuid,
    pub title: String,
    pub metadata: Metadata,
    pub memory: Size,
    pub vcpu: i32,
    pub os: Os<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    pub clock: Clock,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pm: Option<Pm>,
    pub on_poweroff: &'a str,
    pub on_reboot: &'a str,
    pub on_crash: &'a str,
    pub devices: Devices<'a>,
}

#[derive(Serialize)]
pub struct Metadata {
    #[serde(rename = "pileus:instance")]
    pub stamp: StampXml,
}

#[derive(Serialize)]
pub struct StampXml {
    #[serde(rename = "@xmlns:pileus")]
    pub xmlns: &'static str,
    #[serde(rename = "@cloud")]
    pub cloud: Uuid,
    #[serde(rename = "@id")]
    pub id: Uuid,
    #[serde(rename = "@incarnation")]
    pub incarnation: Uuid,
    #[serde(rename = "@revision")]
    pub revision: i64,
    #[serde(rename = "@boot")]
    pub boot: i64,
}

impl From<Stamp> for StampXml {
    fn from(stamp: Stamp) -> Self {
        Self {
            xmlns: STAMP,
            cloud: stamp.cloud,
            id: stamp.instance.0,
            incarnation: stamp.incarnation.0,
            revision: stamp.revision,
            boot: stamp.boot,
        }
    }
}

#[derive(Serialize)]
pub struct Os<'a> {
    #[serde(rename = "@firmware", skip_serializing_if = "Option::is_none")]
    pub firmware: Option<&'a str>,
    #[serde(rename = "type")]
    pub kind: OsType<'a>,
}

#[derive(Serialize)]
pub struct OsType<'a> {
    #[serde(rename = "@arch")]
    pub arch: &'a str,
    #[serde(rename = "@machine", skip_serializing_if = "Option::is_none")]
    pub machine: Option<&'a str>,
    #[serde(rename = "$text")]
    pub value: &'a str,
}

#[derive(Serialize)]
pub struct Features {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acpi: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apic: Option<Empty>,
}

#[derive(Serialize, Default)]
pub struct Cpu {
    #[serde(rename = "@mode")]
    pub mode: &'static str,
    #[serde(rename = "@check", skip_serializing_if = "Option::is_none")]
    pub check: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'static str>,
}

impl Cpu {
    pub fn of(virt_type: VirtType, x86: bool) -> Self {
        match virt_type {
            VirtType::Kvm => Self { mode: "host-passthrough", ..Self::default() },
            // TCG's default CPU lacks what today's distributions are compiled for (x86-64-v2). Nehalem has that, and boots
            // with a tenth less work than `maximum`, whose wide vectors are slow in software.
            VirtType::Qemu | VirtType::Auto if x86 => {
                Self { mode: "custom", check: Some("none"), model: Some("Nehalem") }
            }
            VirtType::Qemu | VirtType::Auto => Self { mode: "maximum", ..Self::default() },
        }
    }
}

/// Which ways of going to sleep a guest's firmware offers.
#[derive(Serialize)]
pub struct Pm {
    #[serde(rename = "suspend-to-mem")]
    pub mem: Enabled,
    #[serde(rename = "suspend-to-disk")]
    pub disk: Enabled,
}

#[derive(Serialize)]
pub struct Enabled {
    #[serde(rename = "@enabled")]
    pub enabled: &'static str,
}

#[derive(Serialize)]
pub struct Clock {
    #[serde(rename = "@offset")]
    pub offset: &'static str,
}

#[derive(Serialize, Default)]
pub struct Devices<'a> {
    pub disk: Vec<Disk<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    pub interface: Vec<Interface>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<Rng>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memballoon: Option<Balloon>,
}

#[derive(Serialize)]
pub struct Disk<'a> {
    #[serde(rename = "@type")]
    pub kind: &'a str,
    #[serde(rename = "@device")]
    pub device: &'a str,
    pub driver: Driver,
    pub source: File<'a>,
    #[serde(rename = "backingStore")]
    pub backing: Backing<'a>,
    pub target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<Empty>,
}

impl Default for Disk<'_> {
    fn default() -> Self {
        Self {
            kind: "file",
            device: "disk",
            driver: Driver::default(),
            source: File::default(),
            backing: Backing::default(),
            target: Target::default(),
            readonly: None,
        }
    }
}

#[derive(Serialize, Default)]
pub struct Driver {
    #[serde(rename = "@name")]
    pub name: &'static str,
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@discard", skip_serializing_if = "Option::is_none")]
    pub discard: Option<&'static str>,
}

#[derive(Serialize, Default)]
pub struct File<'a> {
    #[serde(rename = "@file")]
    pub file: &'a str,
}

/// Empty: the end of the chain.
#[derive(Serialize, Default)]
pub struct Backing<'a> {
    #[serde(rename = "@type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<File<'a>>,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    pub end: Option<Empty>,
}

#[derive(Serialize)]
pub struct Format {
    #[serde(rename = "@type")]
    pub kind: &'static str,
}

#[derive(Serialize, Default)]
pub struct Target {
    #[serde(rename = "@dev")]
    pub dev: &'static str,
    #[serde(rename = "@bus")]
    pub bus: &'static str,
}

#[derive(Serialize)]
pub struct Controller {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@model")]
    pub model: &'static str,
}

#[derive(Serialize)]
pub struct Interface {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    pub mac: Mac,
    pub source: NetworkName,
    pub model: Model,
    pub rom: Rom,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filterref: Option<FilterRef>,
}

impl Interface {
    pub fn new(cloud: Uuid, nic: &Nic) -> Self {
        Self {
            kind: "network",
            mac: Mac { address: nic.mac.clone() },
            source: NetworkName { network: names::network(cloud, nic.network) },
            model: Model { kind: "virtio" },
            // No guest of ours boots from the network; without the ROM the BIOS is done sooner.
            rom: Rom { enabled: "no" },
            filterref: nic.port_security.then(|| FilterRef {
                filter: "clean-traffic",
                parameter: Parameter { name: "IP", value: nic.address.to_string() },
            }),
        }
    }
}

#[derive(Serialize)]
pub struct Mac {
    #[serde(rename = "@address")]
    pub address: String,
}

#[derive(Serialize)]
pub struct NetworkName {
    #[serde(rename = "@network")]
    pub network: String,
}

#[derive(Serialize)]
pub struct Model {
    #[serde(rename = "@type")]
    pub kind: &'static str,
}

#[derive(Serialize)]
pub struct Rom {
    #[serde(rename = "@enabled")]
    pub enabled: &'static str,
}

#[derive(Serialize)]
pub struct FilterRef {
    #[serde(rename = "@filter")]
    pub filter: &'static str,
    pub parameter: Parameter,
}

#[derive(Serialize)]
pub struct Parameter {
    #[serde(rename = "@name")]
    pub name: &'static str,
    #[serde(rename = "@value")]
    pub value: String,
}

#[derive(Serialize)]
pub struct Serial<'a> {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    pub log: Log<'a>,
    pub target: SerialTarget,
}

#[derive(Serialize)]
pub struct Log<'a> {
    #[serde(rename = "@file")]
    pub file: &'a str,
    #[serde(rename = "@append")]
    pub append: &'static str,
}

#[derive(Serialize)]
pub struct SerialTarget {
    #[serde(rename = "@port")]
    pub port: u32,
}

#[derive(Serialize)]
pub struct Channel {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    pub target: ChannelTarget,
}

#[derive(Serialize)]
pub struct ChannelTarget {
    #[serde(rename = "@type")]
    pub kind: &'static str,
    #[serde(rename = "@name")]
    pub name: &'static str,
}

#[derive(Serialize)]
pub struct Rng {
    #[serde(rename = "@model")]
    pub model: &'static str,
    pub backend: RngBackend,
}

#[derive(Serialize)]
pub struct RngBackend {
    #[serde(rename = "@model")]
    pub model: &'static str,
    #[serde(rename = "$text")]
    pub value: &'static str,
}

/// Gives pages that the guest has freed back to the host.
#[derive(Serialize)]
pub struct Balloon {
    #[serde(rename = "@model")]
    pub model: &'static str,
    #[serde(rename = "@freePageReporting")]
    pub free_page_reporting: &'static str,
}
