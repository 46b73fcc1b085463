//! Real libvirtd and real QEMU, in namespaces of their own: whatever the mock cannot tell.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use pileus::hypervisor::{
    FaultKind, HostTarget, Hypervisor, Libvirt, NetworkSpec, Power, Signal, Upload, VolumeFormat,
};
use uuid::Uuid;

use crate::libvirtd::Libvirtd;
use crate::world::{World, seed, upload};
use crate::{conformance, mock};

pub fn connect(daemon: &Libvirtd) -> (Libvirt, Uuid) {
    let target = target(daemon);
    let cloud = target.cloud;
    (Libvirt::new(target), cloud)
}

fn target(daemon: &Libvirtd) -> HostTarget {
    HostTarget {
        uri: daemon.uri(),
        pool_path: daemon.pool_path(),
        cloud: Uuid::new_v4(),
        expect: None,
    }
}

pub fn watch(host: &Libvirt) -> Receiver<Signal> {
    let (sender, signals) = mpsc::channel();
    host.subscribe(Arc::new(move |signal| sender.send(signal).unwrap_or_default())).unwrap();
    assert_eq!(wait(&signals, |_| true), Signal::Connection);
    signals
}

pub fn wait(signals: &Receiver<Signal>, wanted: impl Fn(&Signal) -> bool) -> Signal {
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

/// A libvirtd that dies between what it does on the host and its note of that: the moment is short, so the note goes here.
fn forgets(daemon: &Libvirtd) {
    daemon.kill();
    for file in fs::read_dir(daemon.path("run/network")).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|kind| kind == "xml") {
            fs::remove_file(file).unwrap();
        }
    }
    daemon.start_again();
}

#[test]
fn what_a_killed_libvirtd_left_of_a_network_is_in_nobodys_way() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let world = World::new(cloud, 223);
    let bridges = || daemon.run("ip", &["-br", "link", "show", "type", "bridge"]);
    // Its bridge and its dnsmasq, twice.
    for round in 1..=2 {
        host.ensure_network(&world.network()).unwrap();
        assert!(host.networks().unwrap().iter().any(|seen| seen.ours.is_some() && seen.active));
        assert_eq!(bridges().lines().count(), 1, "{round}: {}", bridges());
        forgets(&daemon);
        assert!(host.networks().unwrap().is_empty(), "{round}");
        assert_eq!(bridges().lines().count(), 1, "{round}: {}", bridges());
    }
    // Nobody wants it any more: its bridge goes.
    host.delete_network(world.network).unwrap();
    assert_eq!(bridges(), "");
    assert!(host.networks().unwrap().is_empty());
    // It is wanted again: somebody serves it.
    host.ensure_network(&world.network()).unwrap();
    let socket = daemon.run("ss", &["-Hlnu", "sport", "=", ":53"]);
    let gateway = world.network().gateway.to_string();
    assert!(socket.contains(&gateway), "{socket}");
    host.delete_network(world.network).unwrap();
    assert_eq!(bridges(), "");
    // Only a bridge, which is neither up nor has an address.
    for other in ["", "1"] {
        let name = format!("pl{}{other}", &world.network.0.simple().to_string()[20..]);
        daemon.run("ip", &["link", "add", &name, "type", "bridge"]);
    }
    host.ensure_network(&world.network()).unwrap();
    host.delete_network(world.network).unwrap();
    host.delete_network(world.network).unwrap();
    assert_eq!(bridges(), "");
}

#[test]
fn a_host_that_is_left_keeps_no_pool_of_ours() {
    let daemon = Libvirtd::start();
    let (host, _) = connect(&daemon);
    host.facts().unwrap();
    let beside = format!("{}-beside", daemon.pool_path());
    let other = Libvirt::new(HostTarget { pool_path: beside, ..target(&daemon) });
    other.facts().unwrap();
    let pools = || daemon.virsh(&["pool-list", "--all", "--name"]).split_whitespace().count();
    assert_eq!(pools(), 4, "two of each cloud");
    host.leave().unwrap();
    host.leave().unwrap();
    assert_eq!(pools(), 2, "the other cloud's");
    let left = fs::read_dir(daemon.pool_path()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "empty directories of ours");
    assert_eq!(host.facts().unwrap_err().kind, FaultKind::Permanent);
    assert_eq!(pools(), 2);
    other.facts().unwrap();
}

#[test]
fn a_pool_follows_its_path_while_nothing_lies_in_it() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    host.facts().unwrap();
    let beside = format!("{}-beside", daemon.pool_path());
    let moved = Libvirt::new(HostTarget { pool_path: beside.clone(), cloud, ..target(&daemon) });
    moved.facts().unwrap();
    // The same directory, otherwise written.
    let written = HostTarget { pool_path: format!("/{beside}//"), cloud, ..target(&daemon) };
    let pools = daemon.virsh(&["pool-list", "--all", "--name"]);
    let pools: Vec<_> = pools.split_whitespace().collect();
    assert_eq!(pools.len(), 2, "{pools:?}");
    for pool in pools {
        assert!(daemon.virsh(&["pool-dumpxml", pool]).contains(&format!("<path>{beside}/")));
    }
    let upload =
        Upload { name: "x".into(), format: VolumeFormat::Raw, length: 3, virtual_bytes: 3 };
    moved.upload(&upload, &mut &b"abc"[..], &mut |_| true).unwrap();
    Libvirt::new(written).facts().unwrap();
    let back = Libvirt::new(HostTarget { cloud, ..target(&daemon) });
    let fault = back.facts().unwrap_err();
    assert!(fault.kind == FaultKind::Conflict && fault.message.contains("not empty"), "{fault}");
    assert!(moved.volume("x").unwrap().is_some());
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
    let daemon = Libvirtd::start();
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

#[test]
fn instances_share_a_base_and_outlive_each_other() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let worlds: Vec<_> = (225..228).map(|subnet| World::new(cloud, subnet)).collect();
    for world in &worlds {
        world.prepare(&host, &[0; 1 << 20], VolumeFormat::Raw);
        host.delete_volume(&world.disk()).unwrap();
        let mut overlay = world.overlay(VolumeFormat::Raw);
        overlay.base = worlds[0].base();
        host.create_overlay(&overlay).unwrap();
    }
    let [a, b, c] = &worlds[..] else { unreachable!() };
    host.start(&a.spec()).unwrap();
    host.start(&b.spec()).unwrap();
    host.power_off(a.stamp.instance).unwrap();
    host.start(&c.spec()).unwrap();
    for world in [b, c] {
        let seen = host.domain(world.stamp.instance).unwrap().unwrap();
        assert_eq!(seen.power, Power::Running);
    }
    for world in &worlds {
        world.remove(&host);
    }
    conformance::nothing_of_ours(&host, cloud);
}

#[test]
fn port_security_comes_and_goes_with_its_domain() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let world = World::new(cloud, 228);
    world.prepare(&host, &[0; 1 << 20], VolumeFormat::Raw);
    let mut spec = world.spec();
    spec.nics[0].port_security = true;
    host.start(&spec).unwrap();
    assert!(daemon.virsh(&["nwfilter-binding-list"]).contains("clean-traffic"));
    let rules = |daemon: &Libvirtd| daemon.run("ebtables", &["-t", "nat", "-L"]);
    assert!(rules(&daemon).contains(&world.address.to_string()), "{}", rules(&daemon));
    world.remove(&host);
    assert_eq!(daemon.virsh(&["nwfilter-binding-list"]).trim(), "");
    assert!(!rules(&daemon).contains(&world.address.to_string()));
}

#[test]
fn a_dropped_host_leaves_no_connection_behind() {
    let daemon = Libvirtd::start();
    let clients = || {
        let list = ["-c", "libvirtd:///system", "-q", "client-list", "libvirtd"];
        daemon.run("virt-admin", &list).lines().filter(|line| !line.trim().is_empty()).count()
    };
    let target = target(&daemon);
    for _ in 0..5 {
        let host = Libvirt::new(target.clone());
        let signals = watch(&host);
        host.facts().unwrap();
        assert_eq!(clients(), 2, "the caller's and the watcher's");
        drop(host);
        // The watcher drops its sender, after its connection, when it ends.
        while signals.recv_timeout(Duration::from_secs(30)).is_ok() {}
    }
    let end = Instant::now() + Duration::from_secs(30);
    while clients() > 0 {
        assert!(Instant::now() < end, "{} connections are left", clients());
    }
}

#[test]
fn a_domain_that_somebody_made_persistent_is_removed_all_the_same() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let world = World::new(cloud, 229);
    let id = world.stamp.instance;
    world.prepare(&host, &[0; 1 << 20], VolumeFormat::Raw);
    for destroyed in [false, true] {
        host.start(&world.spec()).unwrap();
        let file = daemon.path("edited.xml");
        fs::write(&file, daemon.virsh(&["dumpxml", &id.to_string()])).unwrap();
        daemon.virsh(&["define", &file.to_string_lossy()]);
        if destroyed {
            daemon.virsh(&["destroy", &id.to_string()]);
            assert_eq!(host.domain(id).unwrap().unwrap().power, Power::Off);
        }
        host.power_off(id).unwrap();
        assert_eq!(host.domain(id).unwrap(), None);
    }
    world.remove(&host);
    conformance::nothing_of_ours(&host, cloud);
}
