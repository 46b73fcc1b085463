//! Domain XML: what a guest's machine is made of, and what a domain on a host tells of itself.

mod parts;

use uuid::Uuid;

use super::{Size, child_text, one_line, parse, write};
use crate::domain::host::VirtType;
use crate::domain::id::{IncarnationId, InstanceId};
use crate::hypervisor::{DomainSpec, Fault, Stamp, VolumeFormat, names};
#[allow(clippy::wildcard_imports, reason = "one schema in two files")]
use parts::*;

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
            cpu: (!places.mock).then(|| Cpu::of(spec.virt_type, x86)),
            clock: Clock { offset: "utc" },
            // A guest that sleeps is one that nobody wished asleep. (Only x86 machines have the switch, and the ability.)
            pm: (x86 && !places.mock)
                .then_some(Pm { mem: Enabled { enabled: "no" }, disk: Enabled { enabled: "no" } }),
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
    pub macs: Vec<String>,
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
        .and_then(|node| stamped(node, uuid));
    let agent = root.descendants().any(|n| {
        n.has_tag_name("target")
            && n.attribute("name") == Some(AGENT)
            && n.attribute("state") == Some("connected")
    });
    let name = child_text(root, "name").unwrap_or_default().to_owned();
    let macs = root.descendants().filter(|n| n.has_tag_name("interface"));
    let macs = macs.filter_map(|n| super::child(n, "mac")?.attribute("address"));
    let macs = macs.map(str::to_ascii_lowercase).collect();
    Ok(Seen { id: InstanceId(uuid), name, stamp, agent, macs })
}

/// The stamp of the domain of this UUID, of its metadata's element of our namespace.
pub fn stamp(text: &str, uuid: Uuid) -> Result<Option<Stamp>, Fault> {
    let document = parse(text)?;
    let root = document.root_element();
    // libvirt takes the namespace off.
    Ok(Some(root).filter(|n| n.has_tag_name("instance")).and_then(|n| stamped(n, uuid)))
}

/// virt-clone copies metadata: a stamp counts only on the domain that it was made for.
fn stamped(node: roxmltree::Node<'_, '_>, domain: Uuid) -> Option<Stamp> {
    let uuid = |name| node.attribute(name)?.parse::<Uuid>().ok();
    let number = |name| node.attribute(name)?.parse::<i64>().ok();
    let stamp = Stamp {
        cloud: uuid("cloud")?,
        instance: InstanceId(uuid("id")?),
        incarnation: IncarnationId(uuid("incarnation")?),
        revision: number("revision")?,
        boot: number("boot")?,
    };
    Some(stamp).filter(|stamp| stamp.instance.0 == domain)
}

/// An interface of a running domain that is on a libvirt network.
pub struct OnNetwork {
    /// As it is.
    pub xml: String,
    /// The network's name.
    pub network: String,
    /// What it hangs on.
    pub bridge: String,
}

pub fn interfaces(text: &str) -> Result<Vec<OnNetwork>, Fault> {
    let document = parse(text)?;
    let interfaces = document.descendants().filter(|node| node.has_tag_name("interface"));
    let on = |node: roxmltree::Node<'_, '_>| {
        let source = super::child(node, "source")?;
        Some(OnNetwork {
            xml: text[node.range()].to_owned(),
            network: source.attribute("network")?.to_owned(),
            bridge: source.attribute("bridge")?.to_owned(),
        })
    };
    Ok(interfaces.filter_map(on).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::NetworkId;
    use crate::hypervisor::Nic;

    fn spec() -> DomainSpec {
        DomainSpec {
            stamp: Stamp {
                cloud: Uuid::new_v4(),
                instance: InstanceId(Uuid::now_v7()),
                incarnation: IncarnationId(Uuid::now_v7()),
                revision: 3,
                boot: 2,
            },
            title: "</title>\u{1}&\n🌩".into(),
            vcpus: 2,
            memory_mib: 192,
            virt_type: VirtType::Qemu,
            disk: "disk".into(),
            seed: "seed".into(),
            nics: vec![Nic {
                network: NetworkId(Uuid::now_v7()),
                mac: "52:54:00:00:00:07".into(),
                address: "10.0.0.7".parse().unwrap(),
                port_security: true,
            }],
        }
    }

    fn places() -> Places {
        Places {
            mock: false,
            arch: "x86_64".into(),
            disk: "/p/disk".into(),
            base: Some(("/p/base".into(), VolumeFormat::Raw)),
            seed: "/p/seed".into(),
            console_log: "/p/log".into(),
        }
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let spec = spec();
        let seen = read(&domain(&spec, &places()).unwrap()).unwrap();
        assert_eq!(
            (seen.id, seen.stamp, seen.agent),
            (spec.stamp.instance, Some(spec.stamp), false)
        );
    }

    #[test]
    fn a_copied_stamp_does_not_count() {
        let spec = spec();
        let text = domain(&spec, &places()).unwrap();
        let uuid = format!("<uuid>{}</uuid>", spec.stamp.instance);
        let clone = text.replace(&uuid, &format!("<uuid>{}</uuid>", Uuid::new_v4()));
        assert_ne!(clone, text);
        assert_eq!(read(&clone).unwrap().stamp, None);
    }

    #[test]
    fn nothing_of_a_disk_is_left_to_probing() {
        let text = domain(&spec(), &places()).unwrap();
        let document = parse(&text).unwrap();
        let disks: Vec<_> = document.descendants().filter(|n| n.has_tag_name("disk")).collect();
        assert_eq!(disks.len(), 2);
        for disk in disks {
            let has = |n: roxmltree::Node<'_, '_>, tag| n.children().any(|c| c.has_tag_name(tag));
            assert!(disk.children().any(|n| n.has_tag_name("driver") && n.has_attribute("type")));
            let mut chain = disk.children().find(|n| n.has_tag_name("backingStore")).unwrap();
            while has(chain, "source") {
                assert!(has(chain, "format"), "{text}");
                chain = chain.children().find(|n| n.has_tag_name("backingStore")).unwrap();
            }
        }
    }

    #[test]
    fn a_title_cannot_break_out() {
        let spec = spec();
        let text = domain(&spec, &places()).unwrap();
        let document = parse(&text).unwrap();
        let title = child_text(document.root_element(), "title").unwrap();
        assert_eq!(title, "</title> & 🌩");
    }

    #[test]
    fn auto_and_unknown_machines_are_refused() {
        let auto = DomainSpec { virt_type: VirtType::Auto, ..spec() };
        assert!(domain(&auto, &places()).is_err());
        let places = Places { arch: "s390x".into(), ..places() };
        assert!(domain(&spec(), &places).unwrap_err().message.contains("s390x"));
    }
}
