//! The audit from inside: clean where all agrees, and each kind of difference is named.

use std::collections::BTreeSet;

use pileus::domain::id::{IncarnationId, InstanceId};
use pileus::hypervisor::Hypervisor;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;
use crate::world::{Process, status};

async fn fsck(api: &Api) -> Value {
    api.admin.get("/v1/fsck").await.expect(200)
}

async fn checks(api: &Api) -> BTreeSet<String> {
    let report = fsck(api).await;
    assert_eq!(report["clean"], json!(false), "{report:#}");
    let findings = report["findings"].as_array().expect("findings").clone();
    findings.iter().map(|finding| finding["check"].as_str().expect("a check").to_owned()).collect()
}

#[tokio::test]
async fn each_difference_between_database_hosts_and_images_is_found() {
    let api = Api::start().await;
    assert_eq!(fsck(&api).await["clean"], true, "nothing is there");
    let image = api.image("tiny").await;
    let process = Process::first(&api).await;
    api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let new =
        json!({"name": "vm", "image": "tiny", "flavor": "nano", "networks": [{"network": "n"}]});
    let instance = api.member.post("/v1/instances", &new).await.expect(202);
    process.work_until(async || status(&api, &instance).await == "running").await;
    let working = fsck(&api).await;
    assert_eq!((&working["clean"], &working["hosts"]), (&json!(true), &json!(1)), "{working:#}");
    // A young guest is looked at for its addresses; then it rests.
    sqlx::query("update instances set started_at = now() - interval '1 hour'")
        .execute(&api.app.db)
        .await
        .expect("an old guest");
    process.work().await;
    let clean = fsck(&api).await;
    assert_eq!(
        (&clean["clean"], &clean["incarnations"], &clean["in_transit"]),
        (&json!(true), &json!(1), &json!(0)),
        "{clean:#}"
    );

    let id = InstanceId(instance["id"].as_str().expect("an id").parse().expect("an id"));
    let volumes = api.host.content().volumes;
    let named =
        |front: &str| volumes.keys().find(|name| name.starts_with(front)).expect("a volume");
    // On the host.
    api.host.pause(id).expect("paused");
    for front in ["disk-", "seed-", "base-"] {
        api.host.delete_volume(named(front)).expect("deleted");
    }
    let disk = named("disk-").strip_suffix(".qcow2").expect("a qcow2");
    api.host.add_foreign_volume(&format!("{disk}.before-upgrade"), 1);
    let foreign = Uuid::now_v7();
    api.host.add_foreign_volume("somebody's.qcow2", 1);
    api.host.add_foreign_volume(&format!("seed-{foreign}.iso"), 1);
    api.host.print(IncarnationId(foreign), "hello");
    let network = api.host.content().networks.keys().next().copied().expect("a network");
    api.host.delete_network(pileus::domain::id::NetworkId(network)).expect("deleted");
    let on_host = ["base_image", "disk", "domain", "network", "orphan", "seed", "snapshot"];
    assert_eq!(checks(&api).await, on_host.map(str::to_owned).into());
    let report = fsck(&api).await;
    assert!(!report.to_string().contains("somebody's"), "what is not ours is no fault: {report:#}");
    // In the image store.
    let seen = api.admin.get(&format!("/v1/images/{}", image["id"].as_str().expect("an id"))).await;
    let sum = seen.expect(200)["sha256"].as_str().expect("a checksum").to_owned();
    std::fs::remove_file(api.app.config.image_dir.join(sum)).expect("removed");
    assert!(checks(&api).await.contains("blob"));
    // In the database.
    for (sql, check) in [
        ("update hosts set used_vcpus = used_vcpus + 1", "claim"),
        ("update instance_use set vcpus = vcpus + 1", "use"),
        ("delete from addresses", "port"),
        ("update instances set revision = revision + 1", "forgotten"),
        (
            "insert into work (kind, item, due_at) values ('network', gen_random_uuid(), 'infinity')",
            "work",
        ),
    ] {
        sqlx::query(sql).execute(&api.app.db).await.expect(sql);
        assert!(checks(&api).await.contains(check), "{check} is found");
    }
    // A host that does not answer cannot be vouched for.
    api.host.set_reachable(false);
    let report = fsck(&api).await;
    assert_eq!(report["silent"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert!(!report.to_string().contains("\"disk\""), "nothing is said of its things: {report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deleted_instances_left_on_a_host_that_does_not_answer_is_told_of() {
    let api = Api::start_with(|flags| flags.set("host_gone_after_s", "1")).await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    let new = json!({"name": "vm", "image": "tiny", "flavor": "nano"});
    let instance = api.member.post("/v1/instances", &new).await.expect(202);
    process.work_until(async || status(&api, &instance).await == "running").await;
    api.host.set_reachable(false);
    process.look().await;
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    let silent =
        async || fsck(&api).await["silent"][0]["detail"].as_str().unwrap_or_default().to_owned();
    assert!(!silent().await.contains("left something"), "{}", silent().await);
    api.member.delete(&path).await.expect(202);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    process.work_until(async || status(&api, &instance).await == "gone").await;
    assert!(
        silent().await.contains("1 deleted instances left something there"),
        "{}",
        silent().await
    );
    api.host.set_reachable(true);
    process.look().await;
    process.work_until(async || fsck(&api).await["clean"] == true).await;
}
