//! The suite against the fake and against libvirt's in-process mock host, and what only these can show.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use pileus::domain::clock::Clock;
use pileus::domain::id::{HostId, InstanceId};
use pileus::hypervisor::{
    DomainSeen, FakeHost, Fault, FaultKind, HostTarget, Hosts, Hypervisor, Inject, Libvirt, Power,
    Signal, Upload, VolumeFormat,
};
use uuid::Uuid;

use crate::conformance;
use crate::world::{MIB, World, upload};

fn mock() -> (Libvirt, Uuid) {
    let cloud = Uuid::new_v4();
    // All these share one mock host, which refuses two pools in one directory.
    let pool_path = format!("/nowhere/{cloud}");
    let target = HostTarget { uri: "test:///default".into(), pool_path, cloud, expect: None };
    (Libvirt::new(target), cloud)
}

#[test]
fn the_fake_keeps_the_contract() {
    let cloud = Uuid::new_v4();
    let fake = FakeHost::new(cloud, Clock::System);
    conformance::holds(&fake, cloud);
    assert_eq!(fake.content(), pileus::hypervisor::fake::Content::default());
}

#[test]
fn libvirts_mock_host_keeps_the_contract() {
    let (host, cloud) = mock();
    conformance::holds(&host, cloud);
}

#[test]
fn a_domain_of_another_cloud_is_left_alone() {
    let (ours, theirs) = (mock().0, mock());
    let world = World::new(theirs.1, 210);
    world.prepare(&theirs.0, &[1; 512], VolumeFormat::Raw);
    theirs.0.start(&world.spec()).unwrap();
    let id = world.stamp.instance;
    let touched: [Result<(), Fault>; 4] =
        [ours.shutdown(id), ours.power_off(id), ours.pause(id), ours.resume(id)];
    for outcome in touched {
        assert_eq!(outcome.unwrap_err().kind, FaultKind::Conflict);
    }
    ours.delete_network(world.network).unwrap();
    assert_eq!(ours.domain(id).unwrap().unwrap().power, Power::Running);
    assert!(theirs.0.networks().unwrap().iter().any(|n| n.ours == Some(world.network)));
    world.remove(&theirs.0);
}

#[test]
fn a_list_of_domains_that_have_not_changed_is_the_same_list_and_each_change_is_in_it() {
    let (host, cloud) = mock();
    let worlds: Vec<_> = (0..8).map(|n| World::new(cloud, 240 + n)).collect();
    for world in &worlds {
        world.prepare(&host, &[1; 512], VolumeFormat::Raw);
        host.start(&world.spec()).unwrap();
    }
    // Others' domains are on this host, too.
    let list = || {
        let mut all = host.domains().unwrap();
        all.retain(|seen| seen.stamp.is_some_and(|stamp| stamp.cloud == cloud));
        all
    };
    let mut before = list();
    assert_eq!(before.len(), worlds.len());
    // More than it takes until each was read anew.
    for _ in 0..40 {
        assert_eq!(list(), before);
    }
    let id = worlds[3].stamp.instance;
    let changed = |list: &mut Vec<DomainSeen>, power| {
        list.iter_mut().find(|seen| seen.id == id).unwrap().power = power;
    };
    host.pause(id).unwrap();
    changed(&mut before, Power::Paused);
    assert_eq!(list(), before);
    host.resume(id).unwrap();
    changed(&mut before, Power::Running);
    assert_eq!(list(), before);
    host.power_off(id).unwrap();
    before.retain(|seen| seen.id != id);
    assert_eq!(list(), before);
    host.start(&worlds[3].spec()).unwrap();
    assert_eq!(list().len(), worlds.len());
    for world in &worlds {
        world.remove(&host);
    }
}

#[test]
fn events_of_the_mock_host_arrive() {
    let (host, cloud) = mock();
    let world = World::new(cloud, 211);
    let (sender, signals) = mpsc::channel();
    host.subscribe(Arc::new(move |signal| sender.send(signal).unwrap_or_default())).unwrap();
    let next = || signals.recv_timeout(Duration::from_secs(10)).expect("a signal");
    assert_eq!(next(), Signal::Connection);
    world.prepare(&host, &[1; 512], VolumeFormat::Raw);
    host.start(&world.spec()).unwrap();
    while next() != Signal::Domain(world.stamp.instance) {}
    world.remove(&host);
}

#[test]
fn a_lost_reply_is_done_and_a_lost_request_is_not() {
    let cloud = Uuid::new_v4();
    let fake = FakeHost::new(cloud, Clock::System);
    let world = World::new(cloud, 212);
    world.prepare(&fake, &[1; 512], VolumeFormat::Raw);
    let lost = Fault::unreachable("lost");
    let inject = lost.clone();
    fake.inject(move |call| match call {
        "start" => Inject::FailBefore(inject.clone()),
        _ => Inject::Pass,
    });
    assert_eq!(fake.start(&world.spec()), Err(lost.clone()));
    assert!(fake.content().domains.is_empty());
    let inject = lost.clone();
    fake.inject(move |_| Inject::FailAfter(inject.clone()));
    assert_eq!(fake.start(&world.spec()), Err(lost));
    assert_eq!(fake.content().domains.len(), 1);
    fake.heal();
    fake.start(&world.spec()).unwrap();
    assert_eq!(fake.leases(world.network).unwrap()[0].address, world.address);
}

#[test]
fn a_crash_during_an_upload_leaves_a_half_filled_volume() {
    let fake = FakeHost::new(Uuid::new_v4(), Clock::System);
    fake.inject(|call| match call {
        "upload:half" => Inject::FailBefore(Fault::unreachable("crash")),
        _ => Inject::Pass,
    });
    upload(&fake, "base", &[1; 4096], VolumeFormat::Raw).unwrap_err();
    assert!(!fake.content().volumes["base"].filled);
    fake.heal();
    upload(&fake, "base", &[1; 4096], VolumeFormat::Raw).unwrap();
    assert!(fake.content().volumes["base"].filled);
}

#[test]
fn a_power_cut_takes_domains_and_leaves_disks() {
    let cloud = Uuid::new_v4();
    let fake = FakeHost::new(cloud, Clock::System);
    let world = World::new(cloud, 213);
    world.prepare(&fake, &[1; 512], VolumeFormat::Raw);
    fake.start(&world.spec()).unwrap();
    let stranger = InstanceId(Uuid::new_v4());
    fake.add_foreign_domain(stranger, "theirs", Power::Running);
    fake.power_cycle();
    let content = fake.content();
    assert_eq!(content.domains.keys().collect::<Vec<_>>(), [&stranger]);
    assert_eq!(content.volumes.len(), 3);
    assert!(content.networks.is_empty() && content.leases.is_empty());
}

#[test]
fn an_upload_that_is_stopped_or_too_short_leaves_no_volume() {
    let fake = FakeHost::new(Uuid::new_v4(), Clock::System);
    broken_uploads(&fake);
}

/// Also used by the real host.
pub fn broken_uploads(host: &dyn Hypervisor) {
    let bytes = vec![3; 9 * MIB as usize];
    let length = bytes.len() as u64;
    let format = VolumeFormat::Raw;
    let whole = Upload { name: "broken".into(), format, length, virtual_bytes: length };
    let (mut calls, mut last) = (0, 0);
    let mut progress = |sent| {
        assert!(sent - last <= 4 * MIB, "{last} → {sent}");
        (calls, last) = (calls + 1, sent);
        sent < length / 2
    };
    let fault = host.upload(&whole, &mut Cursor::new(&bytes), &mut progress).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient, "{fault}");
    assert!(calls > 1 && last < length);
    assert_eq!(host.volume("broken").unwrap(), None);
    let longer = Upload { length: length + 1, ..whole };
    let fault = host.upload(&longer, &mut Cursor::new(&bytes), &mut |_| true).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Permanent, "{fault}");
    assert_eq!(host.volume("broken").unwrap(), None);
}

fn fake_hosts() -> (Hosts, HostId, Arc<FakeHost>, tokio::sync::mpsc::Receiver<(HostId, Signal)>) {
    let id = HostId(Uuid::now_v7());
    let fake = Arc::new(FakeHost::new(Uuid::new_v4(), Clock::System));
    let (hosts, signals) = Hosts::fake([(id, Arc::clone(&fake))]);
    (hosts, id, fake, signals)
}

#[tokio::test]
async fn signals_come_with_their_host() {
    let (_hosts, id, fake, mut signals) = fake_hosts();
    assert_eq!(signals.recv().await, Some((id, Signal::Connection)));
    fake.set_reachable(false);
    assert_eq!(signals.recv().await, Some((id, Signal::Connection)));
}

#[tokio::test]
async fn a_hung_host_holds_no_more_than_its_share() {
    const THREADS: u64 = pileus::hypervisor::hosts::THREADS as u64;
    let (hosts, id, fake, _signals) = fake_hosts();
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let entered = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&entered);
    fake.inject(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        // Hangs until the test drops its end.
        let _ = gate.lock().unwrap().recv();
        Inject::Pass
    });
    let short = Duration::from_millis(200);
    let calls = (0..3 * THREADS).map(|_| hosts.call(id, "look", short, |host| host.facts()));
    for outcome in futures_util::future::join_all(calls).await {
        let fault = outcome.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unreachable);
        assert!(fault.message.contains("did not answer within 0.2 s"), "{fault}");
    }
    assert_eq!(entered.load(Ordering::SeqCst), THREADS);
    drop(release);
    let long = Duration::from_secs(10);
    hosts.call(id, "look", long, |host| host.facts()).await.unwrap();
    hosts.remove(id);
    let fault = hosts.call(id, "look", long, |host| host.facts()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
}

#[tokio::test]
async fn a_call_that_panics_is_a_fault() {
    let (hosts, id, _fake, _signals) = fake_hosts();
    let call = hosts.call(id, "look", Duration::from_secs(10), |_| -> Result<(), Fault> {
        panic!("on purpose")
    });
    assert_eq!(call.await.unwrap_err().kind, FaultKind::Unreachable);
    hosts.call(id, "look", Duration::from_secs(10), |host| host.facts()).await.unwrap();
}
