//! Placement with real guests: one that waits for room, a slot that is held for another, one that goes when its time has come.

use serde_json::{Value, json};

use crate::cloud::{Cloud, SOON, names};

fn id(instance: &Value) -> &str {
    instance["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_held_waited_for_and_given_back_by_real_guests() {
    let cloud = Cloud::new(&[("overcommit-cpu", "1")]).await;
    let admin = &cloud.admin;
    let domains = || names(&cloud.host, &["list", "--all", "--name"], &cloud.mark());
    let host = async || admin.get("/v1/hosts").await.expect(200)["items"][0].clone();
    let all = host().await["limit"]["vcpus"].as_i64().expect("a limit");
    for (name, vcpus) in [("one", 1), ("all", all)] {
        let flavor = json!({"name": name, "vcpus": vcpus, "memory_mib": 64, "disk_gib": 1});
        admin.post("/v1/flavors", &flavor).await.expect(201);
    }
    let image = cloud.raw_image("empty", vec![7; 1 << 20]).await;
    let new = |name: &str, flavor: &str| json!({"name": name, "image": image, "flavor": flavor, "networks": []});

    let end =
        |seconds: i64| (chrono::Utc::now() + chrono::TimeDelta::seconds(seconds)).to_rfc3339();
    let held = json!({"name": "ci", "flavor": "one", "slots": 1, "expires_at": end(3600)});
    let held = admin.post("/v1/reservations", &held).await.expect(201);
    let reservation = format!("/v1/reservations/{}", id(&held));
    let free = async || admin.get(&reservation).await.expect(200)["free"].as_i64();

    // The whole host is not to be had while a slot of it is held.
    let whole = admin.post("/v1/instances", &new("whole", "all")).await.expect(202);
    let waits = cloud.until_status(id(&whole), "waiting_for_capacity").await;
    assert_eq!(waits["queue"]["position"], 1, "{waits:#}");
    assert!(waits["reason"].as_str().unwrap().contains("lacks 1 vCPU"), "{waits:#}");
    let mut impatient = new("impatient", "all");
    impatient["on_no_capacity"] = json!("fail");
    admin.post("/v1/instances", &impatient).await.problem(409, "no-capacity");

    // The slot runs a guest, which goes by itself, and is free again.
    let mut inside = new("inside", "one");
    inside["reservation"] = json!("ci");
    inside["required_traits"] = json!(["arch:x86_64", "virt:qemu", "cpu:x86-64-v2"]);
    inside["expires_at"] = json!(end(12));
    let inside = admin.post("/v1/instances", &inside).await.expect(202);
    cloud.until(id(&inside), "running", "running", SOON).await;
    assert_eq!((domains().len(), free().await), (1, Some(0)));
    let gone = format!("/v1/instances/{}?wait=deleted&timeout=60", id(&inside));
    let gone = admin.get(&gone).await;
    assert!(gone.status == 404 || gone.body()["status"] == "deleted", "{gone:?}");
    assert_eq!((domains().len(), free().await), (0, Some(1)));

    // Room appears, and who waited has it.
    admin.delete(&reservation).await.expect(204);
    cloud.until(id(&whole), "running", "running", SOON).await;
    assert_eq!((domains().len(), host().await["used"]["vcpus"].as_i64()), (1, Some(all)));
    cloud.delete(id(&whole)).await;
    assert_eq!((domains().len(), host().await["used"]["vcpus"].as_i64()), (0, Some(0)));
    let fsck = admin.get("/v1/fsck").await.expect(200);
    assert_eq!(fsck["findings"], json!([]), "{fsck:#}");
}
