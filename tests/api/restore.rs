//! A database that was restored from an older dump: what it does not know stays until an admin has looked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use pileus::cli::postgres::throwaway;
use pileus::reconcile::hold;
use serde_json::{Value, json};

use crate::backup;
use crate::harness::{Api, HOST};
use crate::world::{Process, status};

/// A cloud that went on after its database was dumped, and the same cloud on the restored dump.
struct Scene {
    /// On the restored database.
    api: Api,
    process: Process,
    kept: Value,
    /// Deleted after the dump.
    deleted: Value,
    /// Made after the dump, and running.
    newer: Value,
    /// The file of an image that was uploaded after the dump.
    image: PathBuf,
}

const NEWER: [&str; 2] = ["newer", "newer and stopped"];

async fn make(api: &Api, process: &Process, name: &str) -> Value {
    let new =
        json!({"name": name, "image": "tiny", "flavor": "nano", "networks": [{"network": "n"}]});
    let made = api.member.post("/v1/instances", &new).await.expect(202);
    process.work_until(async || status(api, &made).await == "running").await;
    made
}

async fn act(api: &Api, process: &Process, instance: &Value, action: &str, until: &str) {
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    match action {
        "delete" => api.member.delete(&path).await.expect(202),
        _ => api.member.post(&format!("{path}/actions/{action}"), &json!({})).await.expect(202),
    };
    process.work_until(async || status(api, instance).await == until).await;
}

/// `elsewhere`: as another database of the cluster, which shows by itself; otherwise as if in its own place.
async fn restored(elsewhere: bool) -> Scene {
    let api = Api::start_with(|flags| flags.set("sweep_grace_s", "0")).await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    hold::at_start(&process.0).await.expect("a start");
    api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let kept = make(&api, &process, "kept").await;
    let deleted = make(&api, &process, "deleted").await;
    let dir = tempfile::tempdir().expect("a directory");
    let dump = dir.path().join("dump");
    backup::dump(&api.database, &dump);
    // The world goes on.
    let newer = make(&api, &process, NEWER[0]).await;
    let stopped = make(&api, &process, NEWER[1]).await;
    act(&api, &process, &stopped, "stop", "stopped").await;
    act(&api, &process, &deleted, "delete", "gone").await;
    api.image_of("newer", vec![9; 1 << 20]).await;
    let image = api.admin.get("/v1/images?name=newer").await.expect(200);
    let sum = image["items"][0]["sha256"].as_str().expect("a checksum").to_owned();
    // What is young is not swept in any case.
    let image = api.app.config.image_dir.join(sum);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::open(&image).and_then(|file| file.set_modified(old)).expect("an old file");
    // Disaster, and the backup.
    let database = throwaway::empty().await.expect("a database");
    backup::restore(&dump, &database);
    let api = api.on(database).await;
    if !elsewhere {
        sqlx::query("update cloud set database = null")
            .execute(&api.app.db)
            .await
            .expect("as it was");
    }
    let process = Process::new(&api);
    Scene { api, process, kept, deleted, newer, image }
}

impl Scene {
    async fn rounds(&self, count: usize) {
        for _ in 0..count {
            self.process.look().await;
            self.process.turn().await;
            self.process.sweep().await;
            self.process.sweep_images().await;
        }
    }

    async fn cloud(&self) -> Value {
        self.api.admin.get("/v1/cloud").await.expect(200)
    }

    async fn fates(&self) -> BTreeSet<String> {
        let drift = self.api.admin.get("/v1/drift").await.expect(200);
        let items = drift["items"].as_array().expect("items").clone();
        items.iter().map(|item| format!("{} {}", item["kind"], item["fate"])).collect()
    }

    /// Domains, volumes, networks and consoles on the host.
    fn count(&self) -> [usize; 4] {
        let content = self.api.host.content();
        let networks = content.networks.values().filter(|network| network.spec.is_some()).count();
        [content.domains.len(), content.volumes.len(), networks, content.consoles.len()]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_until_an_admin_has_looked_and_then_all_goes_on() {
    let scene = restored(false).await;
    let before = scene.count();
    assert_eq!(
        before,
        [2, 7, 1, 3],
        "kept, newer and the stopped one: {:#?}",
        scene.api.host.content()
    );
    scene.rounds(5).await;
    assert_eq!(scene.count(), before);
    assert!(scene.image.exists(), "the newer image's bytes are kept");
    // It says so, once.
    let cloud = scene.cloud().await;
    assert!(!cloud["held_since"].is_null(), "{cloud}");
    let reason = cloud["held_reason"].as_str().expect("a reason");
    assert!(reason.contains("older than the world") && reason.contains("fake"), "{reason}");
    let events = scene.api.events().await;
    let holds: Vec<_> = events.iter().filter(|event| event["kind"] == "cloud.hold").collect();
    assert_eq!(holds.len(), 1, "{holds:#?}");
    let ready = scene.api.anonymous.get("/readyz").await.expect(200);
    assert_eq!(ready["held_since"], cloud["held_since"], "{ready}");
    let held = [r#""console" "held""#, r#""domain" "held""#, r#""volume" "held""#];
    assert_eq!(scene.fates().await, held.map(str::to_owned).into());
    // What it knows, it works on: a tenant's new things are made, and what is deleted goes.
    let new =
        json!({"name": "made in the hold", "image": "tiny", "flavor": "nano", "networks": []});
    let made = scene.api.member.post("/v1/instances", &new).await.expect(202);
    let runs = async || status(&scene.api, &made).await == "running";
    scene.process.work_until(runs).await;
    act(&scene.api, &scene.process, &made, "delete", "gone").await;
    // Its addresses may be taken by guests that it does not know: none is given twice on a host.
    let new =
        json!({"name": "twin", "image": "tiny", "flavor": "nano", "networks": [{"network": "n"}]});
    let twin = scene.api.member.post("/v1/instances", &new).await.expect(202);
    let path = format!("/v1/instances/{}", twin["id"].as_str().expect("an id"));
    let refused = async || {
        let twin = scene.api.member.get(&path).await.expect(200);
        twin["reason"].as_str().is_some_and(|reason| reason.contains("address of another guest"))
    };
    scene.process.work_until(refused).await;
    act(&scene.api, &scene.process, &twin, "delete", "gone").await;
    // A port with a MAC address of its own takes its place in a network that stays as it is, and is in nobody's way.
    let network = scene.api.member.get("/v1/networks?name=n").await.expect(200)["items"][0].clone();
    let port = json!({"network_id": network["id"], "mac": "52:54:00:00:00:01", "address": network["range_end"]});
    let port = scene.api.member.post("/v1/ports", &port).await.expect(201);
    for _ in 0..2 {
        let new = json!({"name": "own", "image": "tiny", "flavor": "nano", "networks": [{"port_id": port["id"]}]});
        let own = scene.api.member.post("/v1/instances", &new).await.expect(202);
        scene.process.work_until(async || status(&scene.api, &own).await == "running").await;
        act(&scene.api, &scene.process, &own, "delete", "gone").await;
    }
    assert_eq!(scene.count()[..2], before[..2]);
    assert_eq!(status(&scene.api, &scene.kept).await, "running");
    // What was deleted since cannot be brought back, and says so.
    let deleted = format!("/v1/instances/{}", scene.deleted["id"].as_str().expect("an id"));
    let deleted = scene.api.admin.get(&deleted).await.expect(200);
    assert!(deleted["reason"].as_str().is_some_and(|r| r.contains("disk")), "{deleted}");
    // A replica that starts now keeps to it, too.
    let other = Process::new(&scene.api);
    other.look().await;
    other.sweep().await;
    other.sweep().await;
    assert_eq!(scene.count()[..2], before[..2]);

    scene.api.member.post("/v1/cloud/actions/resume", &json!({})).await.problem(403, "forbidden");
    scene.api.admin.post("/v1/cloud/actions/resume", &json!({})).await.expect(200);
    scene.api.admin.post("/v1/cloud/actions/resume", &json!({})).await.problem(409, "not-held");
    act(&scene.api, &scene.process, &scene.deleted, "delete", "gone").await;
    scene.rounds(8).await;
    let content = scene.api.host.content();
    assert_eq!(content.domains.len(), 1, "{:#?}", content.domains.keys());
    assert_eq!(scene.count(), [1, 3, 1, 1], "{content:#?}");
    assert!(!scene.image.exists());
    assert_eq!(scene.cloud().await["held_since"], Value::Null);
    assert_eq!(status(&scene.api, &scene.newer).await, "gone");
    let fsck = scene.api.admin.get("/v1/fsck").await.expect(200);
    assert_eq!(fsck["clean"], true, "{fsck:#}");
    assert_eq!((&fsck["incarnations"], &fsck["hosts"]), (&json!(1), &json!(1)), "{fsck:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_another_place_is_held_from_its_start() {
    let scene = restored(true).await;
    hold::at_start(&scene.process.0).await.expect("a start");
    let cloud = scene.cloud().await;
    assert!(cloud["held_reason"].as_str().is_some_and(|r| r.contains("restored")), "{cloud}");
    let before = scene.count();
    scene.rounds(3).await;
    assert_eq!(scene.count(), before);
    scene.api.admin.post("/v1/cloud/actions/resume", &json!({})).await.expect(200);
    hold::at_start(&scene.process.0).await.expect("another start");
    // Every host was compared in the hold: what it has is not found newer again.
    scene.rounds(8).await;
    assert_eq!(scene.cloud().await["held_since"], Value::Null);
    assert_eq!(scene.count()[0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_an_image_a_network_and_a_leaving_host_wait_for_the_end_of_the_hold() {
    let api =
        Api::start_with(|flags| flags.set("host_gone_after_s", "1").set("base_image_keep_s", "0"))
            .await;
    let image = api.image("tiny").await;
    let process = Process::first(&api).await;
    let network = api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let instance = make(&api, &process, "vm").await;
    let set = async |held: bool| {
        let sql = if held {
            "update cloud set held_since = now(), held_reason = 'a test'"
        } else {
            "update cloud set held_since = null, held_reason = null"
        };
        sqlx::query(sql).execute(&api.app.db).await.expect("held");
    };
    // The instance leaves without its host, which comes back to a cloud that is held.
    api.host.set_reachable(false);
    process.look().await;
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    api.member.delete(&path).await.expect(202);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    process.work_until(async || status(&api, &instance).await == "gone").await;
    set(true).await;
    api.host.set_reachable(true);
    process.look().await;
    for (noun, thing) in [("networks", &network), ("images", &image)] {
        let path = format!("/v1/{noun}/{}", thing["id"].as_str().expect("an id"));
        let answer = api.admin.delete(&path).await;
        assert!(answer.status < 300, "{answer:?}");
    }
    api.admin.delete(&format!("/v1/hosts/{}", HOST.0)).await.expect(202);
    let passes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    process.work_until(async || passes.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 5).await;
    let content = api.host.content();
    assert_eq!((content.domains.len(), content.volumes.len(), content.networks.len()), (1, 3, 1));
    let waiting = api.admin.get("/v1/stalled?waiting_s=0").await.expect(200);
    let kinds: BTreeSet<_> = waiting["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| {
            assert!(item["reason"].as_str().is_some_and(|r| r.contains("admin resume")), "{item}");
            item["kind"].as_str().expect("a kind").to_owned()
        })
        .collect();
    assert!(["fence", "host", "network"].iter().all(|kind| kinds.contains(*kind)), "{waiting:#}");
    set(false).await;
    process.work_until(async || api.host.content().volumes.is_empty()).await;
    let gone = async || {
        let hosts = api.admin.get("/v1/hosts").await.expect(200);
        hosts["items"] == json!([])
    };
    process.work_until(gone).await;
    let content = api.host.content();
    assert!(content.domains.is_empty() && content.networks.is_empty(), "{content:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_left_and_came_back_is_not_taken_for_newer() {
    let api = Api::start_with(|flags| flags.set("host_gone_after_s", "1")).await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let instance = make(&api, &process, "vm").await;
    act(&api, &process, &instance, "delete", "gone").await;
    api.admin.delete(&format!("/v1/hosts/{}", HOST.0)).await.expect(202);
    process
        .work_until(async || api.admin.get("/v1/hosts").await.expect(200)["items"] == json!([]))
        .await;
    // Somebody's copy of a disk is put back there.
    let left = "disk-01a2154c-d056-8287-b572-000000000001.qcow2";
    api.host.add_foreign_volume(left, 1);
    api.register().await;
    // As `POST /v1/hosts` does it: the count begins where that of the hosts that left has ended.
    let floor: i64 = sqlx::query_scalar(
        "update hosts set generation = generation_floor from cloud returning generation",
    )
    .fetch_one(&api.app.db)
    .await
    .expect("the floor");
    assert_eq!(floor, 1);
    let process = Process::new(&api);
    process.look().await;
    process.sweep().await;
    assert_eq!(api.admin.get("/v1/cloud").await.expect(200)["held_since"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_under_a_server_is_noticed_whatever_the_numbers_say() {
    let mut api = Api::start().await;
    api.image("tiny").await;
    api.run().await;
    let dir = tempfile::tempdir().expect("a directory");
    let dump = dir.path().join("dump");
    backup::dump(&api.database, &dump);
    let held = async || api.admin.get("/v1/cloud").await.body()["held_since"].is_string();
    // It has listed its hosts by then.
    crate::queue::until(&api.admin, "/v1/hosts", |page| page["items"][0]["health"] == "up").await;
    assert!(!held().await);
    sqlx::raw_sql("drop schema public cascade; create schema public")
        .execute(&api.app.db)
        .await
        .expect("nothing left");
    backup::restore(&dump, &api.database);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !held().await {
        assert!(std::time::Instant::now() < end, "it was not noticed");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let cloud = api.admin.get("/v1/cloud").await.expect(200);
    assert!(cloud.to_string().contains("made anew while it was served"), "{cloud:#}");
}
