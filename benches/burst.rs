//! Many instances at once on one host, against the best loop of bare libvirt over 1, 2, 4 and 8 threads.
//!
//! `cargo bench --bench burst [-- ROUNDS]` (as root): the two alternate in one run; medians of the time until all run.

#[path = "common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::twin::Twin;
use common::{Cloud, Libvirtd, instance, median, ms};
use virt::connect::Connect;

const THREADS: [usize; 4] = [1, 2, 4, 8];

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    virt::error::clear_error_callback();
    let rounds = common::argument(0, 3);
    mock(100, rounds * 3).await;
    qemu(20, rounds).await;
}

/// Asks for all at once, each by a request of its own, and waits until all run; gives their ids.
async fn create(cloud: &Cloud, count: usize, name: &str) -> (Vec<String>, f64) {
    let begun = Instant::now();
    let all: Vec<_> = (0..count).map(|i| instance(&format!("{name}-{i}"), true)).collect();
    let ids = futures_util::future::join_all(all.iter().map(|new| cloud.create(new))).await;
    (ids, ms(begun.elapsed()))
}

async fn delete(cloud: &Cloud, ids: &[String]) -> f64 {
    let begun = Instant::now();
    futures_util::future::join_all(ids.iter().map(|id| cloud.delete(id))).await;
    ms(begun.elapsed())
}

/// The best time of define and start of all, over the numbers of threads, and that number.
fn bare(uri: &str, xmls: &[String], end: impl Fn(&virt::domain::Domain)) -> (f64, usize) {
    let mut best = (f64::MAX, 0);
    for threads in THREADS {
        let next = AtomicUsize::new(0);
        let connections: Vec<_> =
            (0..threads).map(|_| Connect::open(Some(uri)).expect("a connection")).collect();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for conn in &connections {
                let next = &next;
                scope.spawn(move || {
                    while let Some(xml) = xmls.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let domain = conn.define_domain_xml(xml).expect("defined");
                        domain.create().expect("started");
                    }
                });
            }
        });
        let spent = ms(begun.elapsed());
        if spent < best.0 {
            best = (spent, threads);
        }
        for domain in connections[0].list_all_domains(0).expect("a list") {
            if domain.name().expect("a name").starts_with("twin-") {
                domain.destroy().expect("ended");
                end(&domain);
            }
        }
    }
    best
}

async fn mock(count: usize, rounds: usize) {
    let cloud = Cloud::start(&[]).await;
    // A hundred fit into the 12 GiB that the mock host has with its overcommit.
    cloud.image_and_flavor(64).await;
    cloud.host("mock", "test:///default", "/nowhere/burst").await;
    cloud.admin.post("/v1/networks", &serde_json::json!({"name": "n"})).await.expect(201);
    let first = cloud.create(&instance("first", true)).await;
    let xmls: Vec<_> = (0..count).map(mock_xml).collect();
    let (mut ours, mut theirs, mut ends) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let (ids, spent) = create(&cloud, count, &format!("b-{round}")).await;
        ours.push(spent);
        ends.push(delete(&cloud, &ids).await);
        // In this process: the mock host of one process is not another's.
        theirs.push(bare("test:///default", &xmls, |domain| domain.undefine().expect("gone")));
    }
    report("test:///default", count, &ours, &theirs, &ends);
    cloud.delete(&first).await;
    cloud.end().await;
}

fn mock_xml(i: usize) -> String {
    let id = uuid::Uuid::new_v4();
    format!(
        "<domain type='test'><name>twin-{i}</name><uuid>{id}</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'><source file='/nowhere/d-{i}'/>\
         <target dev='vda' bus='virtio'/></disk><disk type='file' device='disk'><source file='/nowhere/s-{i}'/>\
         <target dev='vdb' bus='virtio'/></disk></devices></domain>"
    )
}

async fn qemu(count: usize, rounds: usize) {
    let host = Libvirtd::start();
    let cloud = Cloud::start(&[]).await;
    cloud.image_and_flavor(64).await;
    cloud.host("qemu", &host.uri(), &host.pool_path()).await;
    cloud.admin.post("/v1/networks", &serde_json::json!({"name": "n"})).await.expect(201);
    let first = cloud.create(&instance("first", true)).await;
    let (mut ours, mut theirs, mut ends) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let (ids, spent) = create(&cloud, count, &format!("b-{round}")).await;
        ours.push(spent);
        let twins: Vec<_> = ids.iter().map(|id| Twin::of(&host, id)).collect();
        ends.push(delete(&cloud, &ids).await);
        let xmls: Vec<_> = twins.iter().map(|twin| twin.xml.clone()).collect();
        theirs.push(bare(&host.uri(), &xmls, |domain| domain.undefine().expect("gone")));
        twins.iter().for_each(Twin::remove_files);
    }
    report("QEMU (TCG)", count, &ours, &theirs, &ends);
    cloud.delete(&first).await;
    cloud.end().await;
}

fn report(what: &str, count: usize, ours: &[f64], theirs: &[(f64, usize)], ends: &[f64]) {
    let times: Vec<_> = theirs.iter().map(|(time, _)| *time).collect();
    let threads: Vec<_> = theirs.iter().map(|(_, threads)| *threads).collect();
    let (a, b) = (median(ours), median(&times));
    println!(
        "burst of {count} on {what}: {a:.0} ms / {b:.0} ms = {:.2} (reach 1.20; best of {THREADS:?} threads: {threads:?}); all deleted in {:.0} ms",
        a / b,
        median(ends)
    );
}
