//! What the tests ask of a host: an instance with a disk, a seed and a network, under ids of their own.

use std::io::Cursor;
use std::net::IpAddr;

use pileus::domain::host::VirtType;
use pileus::domain::id::{IncarnationId, InstanceId, NetworkId};
use pileus::hypervisor::{
    DhcpHost, DomainSpec, Fault, Hypervisor, NetworkSpec, Nic, Overlay, Stamp, Upload, VolumeFormat,
};
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;

/// One instance and all that it needs.
pub struct World {
    pub stamp: Stamp,
    pub network: NetworkId,
    pub mac: String,
    pub address: IpAddr,
}

impl World {
    /// Nobody else's ids; the network is `10.<subnet>.0.0/24`.
    pub fn new(cloud: Uuid, subnet: u8) -> Self {
        let id = Uuid::new_v4();
        let [a, b, c, ..] = *id.as_bytes();
        Self {
            stamp: Stamp {
                cloud,
                instance: InstanceId(Uuid::now_v7()),
                incarnation: IncarnationId(Uuid::now_v7()),
                revision: 1,
                boot: 1,
            },
            network: NetworkId(Uuid::now_v7()),
            mac: format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"),
            address: IpAddr::from([10, subnet, 0, 7]),
        }
    }

    pub fn base(&self) -> String {
        format!("base-{}", self.stamp.incarnation)
    }

    pub fn disk(&self) -> String {
        format!("{}-disk", self.stamp.incarnation)
    }

    pub fn seed(&self) -> String {
        format!("{}-seed", self.stamp.incarnation)
    }

    pub fn overlay(&self, base_format: VolumeFormat) -> Overlay {
        let capacity_bytes = 1024 * MIB;
        Overlay { name: self.disk(), base: self.base(), base_format, capacity_bytes }
    }

    pub fn spec(&self) -> DomainSpec {
        DomainSpec {
            stamp: self.stamp,
            title: "a <title> & more 🌩".into(),
            vcpus: 1,
            memory_mib: 128,
            virt_type: VirtType::Qemu,
            disk: self.disk(),
            seed: self.seed(),
            nics: vec![Nic {
                network: self.network,
                mac: self.mac.clone(),
                address: self.address,
                port_security: false,
            }],
        }
    }

    pub fn network(&self) -> NetworkSpec {
        let IpAddr::V4(address) = self.address else { unreachable!() };
        let [a, b, c, _] = address.octets();
        let gateway = IpAddr::from([a, b, c, 1]);
        NetworkSpec {
            id: self.network,
            cidr: format!("{a}.{b}.{c}.0/24").parse().unwrap(),
            gateway,
            dns: vec!["9.9.9.9".parse().unwrap(), "1.1.1.1".parse().unwrap()],
            standing: Vec::new(),
            keep_others: false,
            known: false,
            hosts: vec![DhcpHost { mac: self.mac.clone(), address: self.address }],
        }
    }

    /// Everything that a start needs.
    pub fn prepare(&self, host: &dyn Hypervisor, base: &[u8], format: VolumeFormat) {
        upload(host, &self.base(), base, format).unwrap();
        host.create_overlay(&self.overlay(format)).unwrap();
        upload(host, &self.seed(), &seed(), VolumeFormat::Raw).unwrap();
        host.ensure_network(&self.network()).unwrap();
    }

    /// The other way round; says which call failed.
    pub fn remove(&self, host: &dyn Hypervisor) {
        host.power_off(self.stamp.instance).unwrap();
        for volume in [self.disk(), self.seed(), self.base()] {
            host.delete_volume(&volume).unwrap();
        }
        host.delete_console(self.stamp.incarnation).unwrap();
        host.delete_network(self.network).unwrap();
    }
}

/// Some bytes that compress to nothing like a format of libvirt's.
pub fn seed() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

pub fn upload(
    host: &dyn Hypervisor,
    name: &str,
    bytes: &[u8],
    format: VolumeFormat,
) -> Result<(), Fault> {
    let length = bytes.len() as u64;
    let virtual_bytes = match format {
        VolumeFormat::Raw => length,
        VolumeFormat::Qcow2 => 64 * MIB,
    };
    let upload = Upload { name: name.into(), format, length, virtual_bytes };
    host.upload(&upload, &mut Cursor::new(bytes), &mut |_| true)
}
