//! Domain XML: what a guest's machine is made of, and what a domain on a host tells of itself.

use serde::Serialize;
use uuid::Uuid;

use super::{Size, child_text, one_line, parse, write};
use crate::domain::host::VirtType;
use crate::domain::id::{IncarnationId, InstanceId};
use crate::hypervisor::{DomainSpec, Fault, Nic, Stamp, VolumeFormat, names};

/// XML namespace of our stamp.
pub const STAMP: &str = "https://pileus.dev/xmlns/instance/1";
/// Name of the guest agent's channel.
const AGENT: &str = "org.qemu.guest_agent.0";

/// Where the parts of a domain lie on its host.
pub struct Places {
    /// The mock driver of `test:` URIs refuses most of a machine; it gets a bare one.
    pub mock: bool,
    /// e.g. `x86_64`.
    pub arch: String,
    pub disk: String,
    /// Path and format of the disk's backing file.
    pub base: Option<(String, VolumeFormat)>,
    pub seed: String,
    pub console_log: String,
}

/// The whole domain. `VirtType::Auto` must have been resolved.
pub fn domain(spec: &DomainSpec, places: &Places) -> Result<String, Fault> {
    let x86 = places.arch == "x86_64";
    let kind = match spec.virt_type {
        _ if places.mock => "test",
        VirtType::Kvm => "kvm",
        VirtType::Qemu => "qemu",
        VirtType::Auto => {
            return Err(Fault::permanent("start: the virtualisation type must be kvm or qemu"));
        }
    };
    let machine = match places.arch.as_str() {
        _ if places.mock => None,
        "x86_64" => Some("q35"),
        "aarch64" => Some("virt"),
        other => {
            return Err(Fault::permanent(format!(
                "start: guests of {other} hosts are not supported: use an x86_64 or aarch64 host"
            )));
        }
    };
    let on = |with: bool| with.then_some(Empty {});
    write(
        "domain",
        &Domain {
            kind,
            name: names::domain(spec.stamp.cloud, spec.stamp.instance),
            uuid: spec.stamp.instance.0,
            title: one_line(&spec.title),
            metadata: Metadata { stamp: StampXml::from(spec.stamp) },
            memory: Size { unit: "MiB", value: u64::try_from(spec.memory_mib).unwrap_or(0) },
            vcpu: spec.vcpus,
            os: Os {
                // No aarch64 machine boots a disk without UEFI.
                firmware: (!x86 && !places.mock).then_some("efi"),
                kind: OsType { arch: &places.arch, machine, value: "hvm" },
            },
            features: (!places.mock).then(|| Features { acpi: on(true), apic: on(x86) }),
            cpu: (!places.mock).then_some(Cpu {
                mode: match spec.virt_type {
                    VirtType::Kvm => "host-passthrough",
                    // TCG's default CPU lacks what today's distributions are compiled for (x86-64-v2).
                    VirtType::Qemu | VirtType::Auto => "maximum",
                },
            }),
            clock: Clock { offset: "utc" },
            on_poweroff: "destroy",
            on_reboot: "restart",
            on_crash: "destroy",
            devices: devices(spec, places),
        },
    )
}

fn devices<'a>(spec: &'a DomainSpec, places: &'a Places) -> Devices<'a> {
    let mut devices = Devices {
        disk: vec![
            Disk {
                driver: Driver { name: "qemu", kind: "qcow2", discard: Some("unmap") },
                source: File { file: &places.disk },
                // The whole chain, with its end: nothing is probed, so that a disk's bytes cannot name a file of the host.
                backing: match &places.base {
                    Some((path, format)) => Backing {
                        kind: Some("file"),
                        format: Some(Format { kind: format.as_str() }),
                        source: Some(File { file: path }),
                        end: Some(Empty {}),
                    },
                    None => Backing::default(),
                },
                target: Target { dev: "vda", bus: "virtio" },
                ..Disk::default()
            },
            // A virtio disk and no CD-ROM: Debian's cloud kernel has no AHCI, and NoCloud finds its seed by label.
            Disk {
                driver: Driver { name: "qemu", kind: "raw", discard: None },
                source: File { file: &places.seed },
                target: Target { dev: "vdb", bus: "virtio" },
                readonly: Some(Empty {}),
                ..Disk::default()
            },
        ],
        interface: spec.nics.iter().map(|nic| Interface::new(spec.stamp.cloud, nic)).collect(),
        ..Devices::default()
    };
    if places.mock {
        return devices;
    }
    devices.controller = Some(Controller { kind: "usb", model: "none" });
    devices.serial = Some(Serial {
        kind: "pty",
        log: Log { file: &places.console_log, append: "on" },
        target: SerialTarget { port: 0 },
    });
    devices.channel =
        Some(Channel { kind: "unix", target: ChannelTarget { kind: "virtio", name: AGENT } });
    devices.rng = Some(Rng {
        model: "virtio",
        backend: RngBackend { model: "random", value: "/dev/urandom" },
    });
    devices.memballoon = Some(Balloon { model: "virtio", free_page_reporting: "on" });
    devices
}

/// What a domain's XML tells: everything of `DomainSeen` but its power.
pub struct Seen {
    pub id: InstanceId,
    pub name: String,
    pub stamp: Option<Stamp>,
    pub agent: bool,
}

pub fn read(text: &str) -> Result<Seen, Fault> {
    let document = parse(text)?;
    let root = document.root_element();
    let uuid: Uuid = child_text(root, "uuid")
        .and_then(|u| u.parse().ok())
        .ok_or_else(|| Fault::permanent("read libvirt's domain: it has no UUID"))?;
    let stamp = root
        .children()
        .find(|n| n.has_tag_name("metadata"))
        .and_then(|metadata| metadata.children().find(|n| n.has_tag_name((STAMP, "instance"))))
        .and_then(|node| {
            let uuid = |name| node.attribute(name)?.parse::<Uuid>().ok();
            let number = |name| node.attribute(name)?.parse::<i64>().ok();
            Some(Stamp {
                cloud: uuid("cloud")?,
                instance: InstanceId(uuid("id")?),
                incarnation: IncarnationId(uuid("incarnation")?),
                revision: number("revision")?,
                boot: number("boot")?,
            })
        })
        // virt-clone copies metadata: a stamp counts only on the domain that it was made for.
        .filter(|stamp| stamp.instance.0 == uuid);
    let agent = root.descendants().any(|n| {
        n.has_tag_name("target")
            && n.attribute("name") == Some(AGENT)
            && n.attribute("state") == Some("connected")
    });
    let name = child_text(root, "name").unwrap_or_default().to_owned();
    Ok(Seen { id: InstanceId(uuid), name, stamp, agent })
}

#[derive(Serialize, Default)]
struct Empty {}

#[derive(Serialize)]
struct Domain<'a> {
    #[serde(rename = "@type")]
    kind: &'a str,
    name: String,
    uuid: Uuid,
    title: String,
    metadata: Metadata,
    memory: Size,
    vcpu: i32,
    os: Os<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Features>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    clock: Clock,
    on_poweroff: &'a str,
    on_reboot: &'a str,
    on_crash: &'a str,
    devices: Devices<'a>,
}

#[derive(Serialize)]
struct Metadata {
    #[serde(rename = "pileus:instance")]
    stamp: StampXml,
}

#[derive(Serialize)]
struct StampXml {
    #[serde(rename = "@xmlns:pileus")]
    xmlns: &'static str,
    #[serde(rename = "@cloud")]
    cloud: Uuid,
    #[serde(rename = "@id")]
    id: Uuid,
    #[serde(rename = "@incarnation")]
    incarnation: Uuid,
    #[serde(rename = "@revision")]
    revision: i64,
    #[serde(rename = "@boot")]
    boot: i64,
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
struct Os<'a> {
    #[serde(rename = "@firmware", skip_serializing_if = "Option::is_none")]
    firmware: Option<&'a str>,
    #[serde(rename = "type")]
    kind: OsType<'a>,
}

#[derive(Serialize)]
struct OsType<'a> {
    #[serde(rename = "@arch")]
    arch: &'a str,
    #[serde(rename = "@machine", skip_serializing_if = "Option::is_none")]
    machine: Option<&'a str>,
    #[serde(rename = "$text")]
    value: &'a str,
}

#[derive(Serialize)]
struct Features {
    #[serde(skip_serializing_if = "Option::is_none")]
    acpi: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apic: Option<Empty>,
}

#[derive(Serialize)]
struct Cpu {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

#[derive(Serialize)]
struct Clock {
    #[serde(rename = "@offset")]
    offset: &'static str,
}

#[derive(Serialize, Default)]
struct Devices<'a> {
    disk: Vec<Disk<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<Controller>,
    interface: Vec<Interface>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<Serial<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rng: Option<Rng>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memballoon: Option<Balloon>,
}

#[derive(Serialize)]
struct Disk<'a> {
    #[serde(rename = "@type")]
    kind: &'a str,
    #[serde(rename = "@device")]
    device: &'a str,
    driver: Driver,
    source: File<'a>,
    #[serde(rename = "backingStore")]
    backing: Backing<'a>,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly: Option<Empty>,
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
struct Driver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@discard", skip_serializing_if = "Option::is_none")]
    discard: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct File<'a> {
    #[serde(rename = "@file")]
    file: &'a str,
}

/// Empty: the end of the chain.
#[derive(Serialize, Default)]
struct Backing<'a> {
    #[serde(rename = "@type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<File<'a>>,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    end: Option<Empty>,
}

#[derive(Serialize)]
struct Format {
    #[serde(rename = "@type")]
    kind: &'static str,
}

#[derive(Serialize, Default)]
struct Target {
    #[serde(rename = "@dev")]
    dev: &'static str,
    #[serde(rename = "@bus")]
    bus: &'static str,
}

#[derive(Serialize)]
struct Controller {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@model")]
    model: &'static str,
}

#[derive(Serialize)]
struct Interface {
    #[serde(rename = "@type")]
    kind: &'static str,
    mac: Mac,
    source: NetworkName,
    model: Model,
    rom: Rom,
    #[serde(skip_serializing_if = "Option::is_none")]
    filterref: Option<FilterRef>,
}

impl Interface {
    fn new(cloud: Uuid, nic: &Nic) -> Self {
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
struct Mac {
    #[serde(rename = "@address")]
    address: String,
}

#[derive(Serialize)]
struct NetworkName {
    #[serde(rename = "@network")]
    network: String,
}

#[derive(Serialize)]
struct Model {
    #[serde(rename = "@type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Rom {
    #[serde(rename = "@enabled")]
    enabled: &'static str,
}

#[derive(Serialize)]
struct FilterRef {
    #[serde(rename = "@filter")]
    filter: &'static str,
    parameter: Parameter,
}

#[derive(Serialize)]
struct Parameter {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@value")]
    value: String,
}

#[derive(Serialize)]
struct Serial<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    log: Log<'a>,
    target: SerialTarget,
}

#[derive(Serialize)]
struct Log<'a> {
    #[serde(rename = "@file")]
    file: &'a str,
    #[serde(rename = "@append")]
    append: &'static str,
}

#[derive(Serialize)]
struct SerialTarget {
    #[serde(rename = "@port")]
    port: u32,
}

#[derive(Serialize)]
struct Channel {
    #[serde(rename = "@type")]
    kind: &'static str,
    target: ChannelTarget,
}

#[derive(Serialize)]
struct ChannelTarget {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@name")]
    name: &'static str,
}

#[derive(Serialize)]
struct Rng {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: RngBackend,
}

#[derive(Serialize)]
struct RngBackend {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "$text")]
    value: &'static str,
}

/// Gives pages that the guest has freed back to the host.
#[derive(Serialize)]
struct Balloon {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "@freePageReporting")]
    free_page_reporting: &'static str,
}
