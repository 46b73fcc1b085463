//! A backup that was taken while the cloud served, restored after the world went on: real guests live until an admin has looked.

use std::time::{Duration, Instant};

use pileus::cli::postgres::throwaway;
use serde_json::{Value, json};

use crate::backup;
use crate::cloud::{Cloud, SOON, names};

/// A guest that runs, whether or not anything is on its disk.
async fn instance(cloud: &Cloud, name: &str) -> String {
    let new = json!({"name": name, "image": "empty", "flavor": "nano", "networks": [{"network": "default"}]});
    let made = cloud.admin.post("/v1/instances", &new).await.expect(202);
    let id = made["id"].as_str().unwrap().to_owned();
    cloud.until(&id, "settled", "running", SOON).await;
    id
}

/// libvirt's number of a running domain: another life has another one.
fn life(cloud: &Cloud, id: &str) -> String {
    cloud.host.virsh(&["domid", &format!("{}-{id}", cloud.mark())]).trim().to_owned()
}

/// How often sweeps have found the domain without an owner, and what becomes of it.
async fn drift(cloud: &Cloud, id: &str) -> Option<(i64, String)> {
    let drift = cloud.admin.get("/v1/drift").await.expect(200);
    let items = drift["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["kind"] == "domain" && item["name"] == *id)?;
    Some((item["sightings"].as_i64()?, item["fate"].as_str()?.to_owned()))
}

async fn wait<F: AsyncFn() -> bool>(what: &str, done: F) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < SOON, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_harms_nobody_and_an_admin_decides() {
    let settings = [
        ("network-pool", "10.98.0.0/16"),
        ("sweep-s", "1"),
        ("sweep-grace-s", "0"),
        ("sweep-share-percent", "100"),
    ];
    let mut cloud = Cloud::new(&settings).await;
    cloud.raw_image("empty", vec![7; 1 << 20]).await;
    let (kept, deleted) = (instance(&cloud, "kept").await, instance(&cloud, "deleted").await);
    let file = cloud.state.path().join("backup");
    backup::dump(cloud.database(), &file);
    // The world goes on, and then everything is lost but the backup and the hosts.
    let newer = instance(&cloud, "newer").await;
    cloud.delete(&deleted).await;
    let lives = (life(&cloud, &kept), life(&cloud, &newer));
    cloud.kill().await;
    let empty = throwaway::empty().await.expect("a database");
    backup::restore(&file, &empty);
    *cloud.database() = empty;
    cloud.start().await;

    wait("a third sweep", async || drift(&cloud, &newer).await.is_some_and(|(n, _)| n >= 3)).await;
    assert_eq!(drift(&cloud, &newer).await.map(|(_, fate)| fate).as_deref(), Some("held"));
    assert_eq!((life(&cloud, &kept), life(&cloud, &newer)), lives);
    let ready = cloud.admin.get("/readyz").await.expect(200);
    assert!(!ready["held_since"].is_null(), "{ready}");
    let (code, said) = cloud.pileus("admin status");
    assert!(code == 0 && said.contains("restored"), "{said}");
    let (code, said) = cloud.pileus("admin fsck");
    assert!(code == 7 && said.contains(&newer), "{code}: {said}");
    let (code, said) = cloud.pileus("admin drift");
    assert!(code == 0 && said.contains(&newer) && said.contains("held"), "{said}");
    // What was deleted since shows that its disk is lost, and can be deleted again.
    wait("the loss of a disk", async || {
        let (_, said) = cloud.pileus("admin stalled -o json");
        let items: Value = serde_json::from_str(&said).unwrap_or_default();
        let item = items.as_array().into_iter().flatten().find(|item| item["id"] == *deleted);
        item.is_some_and(|item| item["reason"].as_str().is_some_and(|why| why.contains("disk")))
    })
    .await;
    cloud.delete(&deleted).await;

    let (code, said) = cloud.pileus("admin resume");
    assert_eq!(code, 0, "{said}");
    let domains = || names(&cloud.host, &["list", "--all", "--name"], &cloud.mark());
    wait("the end of what is not known", async || domains().len() == 1).await;
    wait("a clean audit", async || cloud.pileus("admin fsck").0 == 0).await;
    assert_eq!(life(&cloud, &kept), lives.0, "the same domain, not another one");
    let left: Vec<_> =
        cloud.pool_files("disks").into_iter().filter(|name| !name.starts_with("base-")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    cloud.delete(&kept).await;
    wait("a clean audit", async || cloud.pileus("admin fsck").0 == 0).await;
}
