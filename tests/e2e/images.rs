//! Base images: to a host once, however many instances wait for them.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::audit::Expected;
use crate::cloud::{Cloud, SOON};

/// Long enough that four creates meet while it is on its way.
const LENGTH: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_go_to_a_host_once() {
    let cloud = Cloud::new(&[("network-pool", "10.99.0.0/16")]).await;
    let bytes: Vec<_> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    let image = cloud.raw_image("fresh", bytes).await;
    let create = async |name: &str| {
        let new = json!({"name": name, "image": image, "flavor": "nano"});
        let made = cloud.admin.post("/v1/instances", &new).await.expect(202);
        made["id"].as_str().unwrap().to_owned()
    };
    let (a, b, c, d) = tokio::join!(create("a"), create("b"), create("c"), create("d"));
    for id in [&a, &b, &c, &d] {
        cloud.until(id, "settled", "running", SOON).await;
    }
    cloud.holds(&Expected { running: &[&a, &b, &c, &d], stopped: &[], bases: 1 }).await;
    assert_eq!(cloud.count("select count(*) from host_images").await, 1);
    // `up` offers its guest image, which nobody has used.
    let uploads = cloud.log_lines("a base image was uploaded");
    assert_eq!(uploads.len(), 1, "{uploads:?}");

    // One who comes later stands on the same file.
    let file = cloud
        .state
        .path()
        .join("pools/disks")
        .join(cloud.pool_files("disks").iter().find(|name| name.starts_with("base-")).unwrap());
    let identity = |file: &std::path::Path| {
        let data = std::fs::metadata(file).unwrap();
        (data.ino(), data.mtime(), data.len())
    };
    let before = identity(&file);
    assert_eq!(before.2, LENGTH as u64);
    let e = create("e").await;
    cloud.until(&e, "settled", "running", SOON).await;
    assert_eq!(identity(&file), before);
    for id in [&a, &b, &c, &d, &e] {
        cloud.delete(id).await;
    }
    cloud.holds_nothing(1).await;
}
