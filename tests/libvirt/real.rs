//! Real libvirtd and real QEMU, in namespaces of their own: whatever the mock cannot tell.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use pileus::hypervisor::{
    FaultKind, HostTarget, Hypervisor, Libvirt, NetworkSpec, Power, Signal, VolumeFormat,
};
use uuid::Uuid;

use crate::libvirtd::Libvirtd;
use crate::world::{World, seed, upload};
use crate::{conformance, mock};

fn connect(daemon: &Libvirtd) -> (Libvirt, Uuid) {
    let cloud = Uuid::new_v4();
    let target = HostTarget { uri: daemon.uri(), pool_path: daemon.pool_path(), cloud };
    (Libvirt::new(target), cloud)
}

fn watch(host: &Libvirt) -> Receiver<Signal> {
    let (sender, signals) = mpsc::channel();
    host.subscribe(Arc::new(move |signal| sender.send(signal).unwrap_or_default())).unwrap();
    assert_eq!(wait(&signals, |_| true), Signal::Connection);
    signals
}

fn wait(signals: &Receiver<Signal>, wanted: impl Fn(&Signal) -> bool) -> Signal {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let signal = signals.recv_timeout(left).expect("the signal in 30 s");
        if wanted(&signal) {
            return signal;
        }
    }
}

#[test]
fn real_libvirt_keeps_the_contract() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    conformance::holds(&host, cloud);
    mock::broken_uploads(&host);
    assert_eq!(host.facts().unwrap().arch, std::env::consts::ARCH);
    for dir in ["disks", "consoles"] {
        let left: Vec<_> = fs::read_dir(daemon.path("pool").join(dir)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(daemon.virsh(&["net-list", "--all", "--name"]).trim(), "");
    assert_eq!(daemon.virsh(&["list", "--all", "--name"]).trim(), "");
}

#[test]
fn uploaded_bytes_are_the_files_bytes() {
    let daemon = Libvirtd::start();
    let (host, _) = connect(&daemon);
    // Smaller than what qemu-img itself would write, with the magic of a qcow2.
    let mut bytes = seed();
    bytes[..4].copy_from_slice(b"QFI\xfb");
    for length in [1000, bytes.len()] {
        upload(&host, "base", &bytes[..length], VolumeFormat::Qcow2).unwrap();
        let file = fs::read(daemon.path("pool/disks/base")).unwrap();
        assert!(file == bytes[..length], "{} of {length} bytes", file.len());
    }
}

#[test]
fn a_foreign_domain_with_our_uuid_is_a_conflict_and_untouched() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let world = World::new(cloud, 220);
    let id = world.stamp.instance;
    let file = daemon.path("theirs.xml");
    let xml = format!(
        "<domain type='qemu'><name>theirs</name><uuid>{id}</uuid><memory unit='MiB'>64</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    );
    fs::write(&file, xml).unwrap();
    let file = file.to_string_lossy();
    daemon.virsh(&["define", &file]);
    world.prepare(&host, &[0; 1 << 20], VolumeFormat::Raw);
    for running in [false, true] {
        if running {
            daemon.virsh(&["start", "theirs"]);
        }
        let before = daemon.virsh(&["dumpxml", "theirs"]);
        let fault = host.start(&world.spec()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Conflict, "{fault}");
        assert!(fault.message.contains("theirs"), "{fault}");
        assert_eq!(host.power_off(id).unwrap_err().kind, FaultKind::Conflict);
        assert_eq!(daemon.virsh(&["dumpxml", "theirs"]), before);
        let seen = host.domain(id).unwrap().unwrap();
        assert_eq!(seen.power, if running { Power::Running } else { Power::Off });
        assert_eq!((seen.name.as_str(), seen.stamp), ("theirs", None));
    }
}

#[test]
fn a_cidr_that_the_host_routes_elsewhere_is_a_conflict() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    daemon.run("ip", &["link", "add", "uplink", "type", "bridge"]);
    daemon.run("ip", &["addr", "add", "10.221.0.20/24", "dev", "uplink"]);
    daemon.run("ip", &["link", "set", "uplink", "up"]);
    let world = World::new(cloud, 221);
    let fault = host.ensure_network(&world.network()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault}");
    conformance::nothing_of_ours(&host, cloud);
    // The same UUID or name in somebody else's hands.
    let free = World::new(cloud, 222);
    let xml = format!("<network><name>theirs</name><uuid>{}</uuid></network>", free.network);
    fs::write(daemon.path("net.xml"), xml).unwrap();
    daemon.virsh(&["net-define", &daemon.path("net.xml").to_string_lossy()]);
    let fault = host.ensure_network(&free.network()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault}");
    host.delete_network(free.network).unwrap();
    assert!(daemon.virsh(&["net-list", "--all", "--name"]).contains("theirs"));
}

#[test]
fn a_domain_destroyed_behind_our_back_is_told() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let signals = watch(&host);
    let world = World::new(cloud, 223);
    let id = world.stamp.instance;
    world.prepare(&host, &[0; 1 << 20], VolumeFormat::Raw);
    host.start(&world.spec()).unwrap();
    wait(&signals, |signal| *signal == Signal::Domain(id));
    while signals.try_recv().is_ok() {}
    daemon.virsh(&["destroy", &id.to_string()]);
    wait(&signals, |signal| *signal == Signal::Domain(id));
    assert_eq!(host.domain(id).unwrap(), None);
    world.remove(&host);
    conformance::nothing_of_ours(&host, cloud);
}

#[test]
fn a_killed_libvirtd_is_found_again_with_all_that_ran() {
    let mut daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let signals = watch(&host);
    let world = World::new(cloud, 224);
    let id = world.stamp.instance;
    world.prepare(&host, &[0; 1 << 20], VolumeFormat::Raw);
    host.start(&world.spec()).unwrap();
    let before = host.domain(id).unwrap();
    while signals.try_recv().is_ok() {}

    daemon.kill();
    wait(&signals, |signal| *signal == Signal::Connection);
    let fault = host.domain(id).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");

    daemon.start_again();
    wait(&signals, |signal| *signal == Signal::Connection);
    assert_eq!(host.domain(id).unwrap(), before);
    let network = host.networks().unwrap().into_iter().find(|n| n.ours == Some(world.network));
    assert!(network.is_some_and(|n| n.active));
    // And it is still ours to change: DHCP, disks and all.
    let emptied = NetworkSpec { hosts: vec![], ..world.network() };
    host.ensure_network(&emptied).unwrap();
    host.start(&world.spec()).unwrap();
    daemon.virsh(&["suspend", &id.to_string()]);
    wait(&signals, |signal| *signal == Signal::Domain(id));
    assert_eq!(host.domain(id).unwrap().unwrap().power, Power::Paused);
    world.remove(&host);
    conformance::nothing_of_ours(&host, cloud);
}
