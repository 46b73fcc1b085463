//! One instance from POST to running and from DELETE to nothing, against bare libvirt with the same XML on the same libvirtd.
//!
//! `cargo bench --bench instance [-- PAIRS]` (as root): the two alternate in one run; medians, and where the time goes.

#[path = "common/mod.rs"]
mod common;

use std::time::Instant;

use common::split::{self, Sent};
use common::twin::Twin;
use common::{Cloud, Libvirtd, instance, median, ms};
use pileus::domain::clock::Clock;

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    mock(common::argument(0, 20) * 5).await;
    qemu(common::argument(0, 20)).await;
}

/// On libvirt's mock host: all that is ours, and next to nothing of libvirt's.
async fn mock(rounds: usize) {
    let cloud = Cloud::start(&[("log", split::LOG)]).await;
    cloud.image_and_flavor(128).await;
    cloud.host("mock", "test:///default", "/nowhere/bench").await;
    for network in [false, true] {
        if network {
            cloud.admin.post("/v1/networks", &serde_json::json!({"name": "n"})).await.expect(201);
        }
        // The base image is on its way with the first; and so is the network.
        let first = cloud.create(&instance("first", network)).await;
        let (mut creates, mut deletes, mut sent) = (vec![], vec![], vec![]);
        for round in 0..rounds {
            let new = instance(&format!("m-{round}"), network);
            let (at, begun) = (Clock::System.now(), Instant::now());
            let id = cloud.create(&new).await;
            creates.push(ms(begun.elapsed()));
            sent.push(Sent { at, id: id.clone(), answered: Clock::System.now() });
            let begun = Instant::now();
            cloud.delete(&id).await;
            deletes.push(ms(begun.elapsed()));
        }
        cloud.delete(&first).await;
        println!(
            "test:///default, {}: POST to running {:.1} ms, DELETE to nothing {:.1} ms (medians of {rounds})",
            if network { "a network" } else { "no network" },
            median(&creates),
            median(&deletes),
        );
        split::print(&cloud.log(), &sent);
    }
    keep_log(&cloud, "mock");
    cloud.end().await;
}

/// Real guests under TCG, in a libvirtd of their own.
async fn qemu(pairs: usize) {
    let host = Libvirtd::start();
    let cloud = Cloud::start(&[("log", split::LOG)]).await;
    cloud.image_and_flavor(128).await;
    cloud.host("qemu", &host.uri(), &host.pool_path()).await;
    cloud.admin.post("/v1/networks", &serde_json::json!({"name": "n"})).await.expect(201);
    // It stays, so that neither side makes or removes the network or the base image.
    let first = cloud.create(&instance("first", true)).await;
    let [mut post, mut virsh_start, mut delete, mut virsh_end] = [const { Vec::new() }; 4];
    let mut sent = vec![];
    for pair in 0..pairs {
        let new = instance(&format!("q-{pair}"), true);
        let (at, begun) = (Clock::System.now(), Instant::now());
        let id = cloud.create(&new).await;
        post.push(ms(begun.elapsed()));
        sent.push(Sent { at, id: id.clone(), answered: Clock::System.now() });

        // The same domain again under another name, on copies of its disks.
        let twin = Twin::of(&host, &id);
        virsh_start.push(twin.start(&host));
        virsh_end.push(twin.end(&host));

        let begun = Instant::now();
        cloud.delete(&id).await;
        delete.push(ms(begun.elapsed()));
    }
    for (what, ours, theirs, reach) in [
        ("POST to running / virsh define + start", &post, &virsh_start, 1.10),
        ("DELETE to nothing / virsh destroy + undefine + rm", &delete, &virsh_end, 1.15),
    ] {
        let (a, b) = (median(ours), median(theirs));
        println!("{what}: {a:.0} ms / {b:.0} ms = {:.2} (reach {reach:.2}; {pairs} pairs)", a / b);
    }
    split::print(&cloud.log(), &sent);
    cloud.delete(&first).await;
    keep_log(&cloud, "qemu");
    cloud.end().await;
}

/// For a profile by the log's times of its looks and steps.
fn keep_log(cloud: &Cloud, name: &str) {
    let to = std::env::temp_dir().join(format!("pileus-bench-{name}.log"));
    std::fs::copy(cloud.log(), &to).expect("a log");
    println!("the server's log is {}", to.display());
}
