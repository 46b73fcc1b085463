//! Waiting for cloud-init: it holds when the guest says that it has finished in this power-on, and tells what failed.

use serde_json::{Value, json};

use crate::cloud::{BOOT, Cloud, SOON};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_cloud_init_is_told_with_its_errors_and_anew_at_every_boot() {
    let cloud = Cloud::new(&[("network-pool", "10.101.0.0/16")]).await;
    let admin = &cloud.admin;
    let new = json!({
        "name": "fails", "image": "pileus-guest", "flavor": "nano", "user_data": "#!/bin/sh\n# mArKeD\nexit 3\n",
    });
    let made = admin.post("/v1/instances", &new).await.expect(202);
    assert_eq!(made["cloud_init"], Value::Null);
    let id = made["id"].as_str().unwrap();
    let told = cloud.until(id, "cloud_init", "running", BOOT).await;
    let failed = json!({"status": "error", "errors": ["user-data: exit 3"]});
    assert_eq!(told["cloud_init"], failed, "{told:#}");

    // The boot before this one tells nothing of this one.
    let at = |action: &str| format!("/v1/instances/{id}/actions/{action}?wait=settled&timeout=1");
    admin.post(&at("stop"), &json!({"hard": true})).await.expect(202);
    let stopped = cloud.until(id, "stopped", "stopped", SOON).await;
    assert_eq!(stopped["cloud_init"], Value::Null);
    admin.post(&at("start"), &json!({})).await.expect(202);
    let told = cloud.until(id, "cloud_init", "running", BOOT).await;
    assert_eq!(told["cloud_init"], json!({"status": "done", "errors": []}), "it ran at first boot");

    // Told once, it is stored: the agent is asked no more.
    let events = admin.get(&format!("/v1/events?resource_id={id}&limit=1000")).await.expect(200);
    let events = events["items"].as_array().unwrap();
    let told: Vec<_> = events.iter().map(|event| &event["detail"]["cloud_init"]).collect();
    assert!(told.contains(&&failed), "{told:?}");
    cloud.delete(id).await;
    cloud.holds_nothing(1).await;
}
