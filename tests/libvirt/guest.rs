//! A guest that really boots: console, lease, agent, power button, and nothing left of it.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pileus::hypervisor::{Hypervisor, Libvirt, Nic, Signal, Upload, VolumeFormat};

use crate::conformance;
use crate::libvirtd::Libvirtd;
use crate::real::{connect, wait, watch};
use crate::world::{MIB, World};

/// TCG on a loaded machine.
const BOOT: Duration = Duration::from_secs(300);

fn image() -> PathBuf {
    let path =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/guest/pileus-guest.qcow2"));
    assert!(path.exists(), "{} is missing: run `make guest` first", path.display());
    path
}

/// Looks again until it holds; a guest sends no signal of its own.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOOT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {BOOT:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn console(host: &Libvirt, world: &World) -> String {
    let bytes = host.console(world.stamp.incarnation, 0, 8 * MIB as usize).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ready(host: &Libvirt, world: &World) {
    until("the guest says ready", || {
        console(host, world).lines().any(|line| line.trim() == "ready").then_some(())
    });
}

fn prepare(host: &Libvirt, world: &World) {
    let mut file = fs::File::open(image()).unwrap();
    let upload = Upload {
        name: world.base(),
        format: VolumeFormat::Qcow2,
        length: file.metadata().unwrap().len(),
        virtual_bytes: 256 * MIB,
    };
    host.upload(&upload, &mut file, &mut |_| true).unwrap();
    host.create_overlay(&world.overlay(VolumeFormat::Qcow2)).unwrap();
    let seed =
        Upload { name: world.seed(), format: VolumeFormat::Raw, length: MIB, virtual_bytes: MIB };
    host.upload(&seed, &mut Cursor::new(vec![0; MIB as usize]), &mut |_| true).unwrap();
    host.ensure_network(&world.network()).unwrap();
}

#[test]
fn a_guest_boots_gets_its_address_and_leaves_nothing() {
    let daemon = Libvirtd::start();
    let (host, cloud) = connect(&daemon);
    let signals = watch(&host);
    let world = World::new(cloud, 230);
    let id = world.stamp.instance;
    prepare(&host, &world);
    let file = fs::read(daemon.path("pool/disks").join(world.base())).unwrap();
    assert!(file == fs::read(image()).unwrap(), "the uploaded bytes are not the file's");

    let mut spec = world.spec();
    // A second interface that IPAM knows nothing of: DHCP must not answer it.
    spec.nics.push(Nic { mac: "52:54:00:ff:ff:01".into(), ..spec.nics[0].clone() });
    host.start(&spec).unwrap();
    ready(&host, &world);
    let leases = host.leases(world.network).unwrap();
    let held: Vec<_> = leases.iter().map(|lease| (lease.mac.as_str(), lease.address)).collect();
    assert_eq!(held, [(world.mac.as_str(), world.address)]);
    let left = leases[0].expires_at - now();
    assert!((0..=120).contains(&left.num_seconds()), "{left}");
    until("the agent answers", || host.agent_ping(id).unwrap().then_some(()));
    assert!(host.domain(id).unwrap().unwrap().agent);
    let file = |path, max| host.agent_file(id, path, max).unwrap_or(None);
    let result = until("cloud-init has finished", || file("/run/cloud-init/result.json", 1000));
    assert!(result.starts_with(b"{\"v1\":"), "{}", String::from_utf8_lossy(&result));
    until("a part of a longer file", || file("/bin/busybox", 4).filter(|part| part == b"\x7fELF"));
    // What is not there, and what can be opened but not read; more often than an agent has handles to lose.
    for _ in 0..30 {
        assert_eq!((file("/run/none", 10), file("/run", 10)), (None, None));
    }
    until("the agent answers", || host.agent_ping(id).unwrap().then_some(()));

    while signals.try_recv().is_ok() {}
    host.shutdown(id).unwrap();
    until("the guest is off", || {
        wait(&signals, |signal| *signal == Signal::Domain(id));
        host.domain(id).unwrap().is_none().then_some(())
    });
    world.remove(&host);
    conformance::nothing_of_ours(&host, cloud);
}

fn now() -> pileus::domain::clock::Time {
    pileus::domain::clock::Clock::System.now()
}

#[test]
fn a_console_is_read_across_boots_and_rotations() {
    for handler in ["logd", "file"] {
        let daemon = Libvirtd::start_with(handler, 64);
        let (host, cloud) = connect(&daemon);
        let mut world = World::new(cloud, 231);
        prepare(&host, &world);
        host.start(&world.spec()).unwrap();
        ready(&host, &world);
        host.power_off(world.stamp.instance).unwrap();
        let first = console(&host, &world).len();
        assert_eq!(host.console(world.stamp.incarnation, u64::MAX, 10).unwrap(), b"");
        world.stamp.boot += 1;
        host.start(&world.spec()).unwrap();
        until("the second boot prints", || (console(&host, &world).len() != first).then_some(()));
        host.power_off(world.stamp.instance).unwrap();

        let log = daemon.path(&format!("pool/consoles/{}.log", world.stamp.incarnation));
        let mut kept = Vec::new();
        for part in [".2", ".1", ".0", ""] {
            kept.extend(fs::read(format!("{}{part}", log.display())).unwrap_or_default());
        }
        assert_eq!(fs::exists(format!("{}.0", log.display())).unwrap(), handler == "logd");
        // More than a second after the last refresh or not, what is read is what is kept.
        until("all of it is read", || {
            (console(&host, &world).as_bytes() == String::from_utf8_lossy(&kept).as_bytes())
                .then_some(())
        });
        for (offset, max) in [(0, 10), (50, 40), (kept.len() - 3, 100), (kept.len() + 9, 5)] {
            let part = host.console(world.stamp.incarnation, offset as u64, max).unwrap();
            let end = kept.len().min(offset + max);
            assert_eq!(part, kept[offset.min(end)..end], "{handler}: {max} from {offset}");
        }
        assert_eq!(host.consoles().unwrap(), [world.stamp.incarnation]);
        world.remove(&host);
        conformance::nothing_of_ours(&host, cloud);
    }
}
