//! What a host, its hypervisor or somebody on it does to us: it is put right, or told, and keeps nobody else waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pileus::domain::id::{IncarnationId, InstanceId, NetworkId};
use pileus::hypervisor::{Fault, Hypervisor, Inject};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;
use crate::world::{Process, status};

async fn create(api: &Api, body: Value) -> Value {
    let mut new = json!({"image": "tiny", "flavor": "nano"});
    new.as_object_mut().expect("an object").extend(body.as_object().expect("one").clone());
    api.member.post("/v1/instances", &new).await.expect(202)
}

fn path(thing: &Value) -> String {
    format!("/v1/instances/{}", thing["id"].as_str().expect("an id"))
}

async fn until<F: AsyncFn() -> bool>(what: &str, done: F) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls that wait until the gate opens, which it does when it is dropped.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let mut open = self.0.0.lock().expect("a lock");
        while !*open {
            open = self.0.1.wait(open).expect("a lock");
        }
    }
}

struct Shut(Gate);

impl Drop for Shut {
    fn drop(&mut self) {
        *self.0.0.0.lock().expect("a lock") = true;
        self.0.0.1.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_halted_by_a_full_disk_says_so_is_resumed_now_and_then_and_goes_on() {
    let settings = |flags: pileus::config::Flags| {
        flags
            .set("backoff_min_ms", "100")
            .set("backoff_max_s", "1")
            .set("stall_after_failures", "4")
    };
    let mut api = Api::start_with(settings).await;
    api.image("tiny").await;
    api.run().await;
    let instance = create(&api, json!({"name": "writer"})).await;
    until("it does not run", async || status(&api, &instance).await == "running").await;
    let resumes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&resumes);
    api.host.inject(move |call| {
        counted.fetch_add(usize::from(call == "resume"), Ordering::SeqCst);
        Inject::Pass
    });
    api.host.set_disk_full(true);
    let seen = async || api.member.get(&path(&instance)).await.expect(200);
    until("it does not stall", async || !seen().await["stalled_since"].is_null()).await;
    let stalled = seen().await;
    let reason = stalled["reason"].as_str().expect("a reason");
    assert!(reason.contains("no room"), "{stalled:#}");
    assert!(stalled["attempts"].as_i64() >= Some(4), "{stalled:#}");
    // Every attempt stirs up two signals: they must not bring on the next.
    let tried = async || seen().await["attempts"].as_i64().expect("a number");
    let (begun, first, before) = (Instant::now(), tried().await, resumes.load(Ordering::SeqCst));
    until("it is not tried again", async || tried().await >= first + 4).await;
    let took = begun.elapsed();
    let (more, counted) = (resumes.load(Ordering::SeqCst) - before, tried().await - first);
    assert!(
        took >= Duration::from_millis(1400),
        "4 attempts in {took:?}, with pauses of 0.5 to 1 s"
    );
    assert!(
        more <= usize::try_from(counted).expect("a count") + 1,
        "{more} resumes in {counted} attempts"
    );
    api.host.set_disk_full(false);
    until("it does not go on", async || {
        let seen = seen().await;
        seen["status"] == "running" && seen["attempts"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_that_cannot_be_removed_says_why_and_keeps_nobody_from_being_swept() {
    let api = Api::start_with(|flags| flags.set("sweep_grace_s", "0")).await;
    let process = Process::first(&api).await;
    let names = [1, 2].map(|_| format!("disk-{}.qcow2", IncarnationId(Uuid::now_v7())));
    for name in &names {
        api.host.add_foreign_volume(name, 1);
    }
    let denied = |message: &'static str| {
        let first = Mutex::new(true);
        api.host.inject(move |call| match call {
            // The first of each sweep: one of them is always refused before the other is tried.
            "delete_volume" if *first.lock().expect("a lock") => {
                *first.lock().expect("a lock") = false;
                Inject::FailBefore(Fault::permanent(message))
            }
            _ => Inject::Pass,
        });
    };
    process.sweep().await;
    denied("Operation not permitted");
    process.sweep().await;
    let drift = async || api.admin.get("/v1/drift").await.expect(200)["items"].clone();
    let refused = drift().await;
    let refused: Vec<_> =
        refused.as_array().expect("items").iter().filter(|item| item["attempts"] == 1).collect();
    let [refused] = refused.as_slice() else { panic!("{refused:#?}") };
    assert_eq!(refused["last_error"], "Operation not permitted");
    assert!(!refused["tried_at"].is_null());
    // The other one's turn, and then again this one's.
    process.sweep().await;
    let left: Vec<_> = api.host.content().volumes.into_keys().collect();
    assert_eq!(left, [refused["name"].as_str().expect("a name")]);
    denied("Operation not permitted");
    process.sweep().await;
    assert_eq!(drift().await[0]["attempts"], 2);
    let events = api.events().await;
    let failed =
        events.iter().filter(|event| event["kind"] == "host.sweep" && event["outcome"] == "failed");
    assert_eq!(failed.count(), 1, "{events:#?}");
    api.host.heal();
    process.sweep().await;
    assert!(api.host.content().volumes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_taken_away_and_a_base_image_that_was_damaged_are_made_whole_by_the_sweep()
 {
    let api = Api::start().await;
    let image = api.image("tiny").await;
    let process = Process::first(&api).await;
    let network = api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let instance = create(&api, json!({"name": "vm", "networks": [{"network": "n"}]})).await;
    process.work_until(async || status(&api, &instance).await == "running").await;
    let whole = api.host.content();
    let id: Uuid = network["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    api.host.delete_network(NetworkId(id)).expect("gone");
    let image = api
        .admin
        .get(&format!("/v1/images/{}", image["id"].as_str().expect("an id")))
        .await
        .expect(200);
    let base = format!("base-{}.raw", image["sha256"].as_str().expect("a sum"));
    assert!(api.host.damage(&base));
    process.sweep().await;
    process.work().await;
    let now = api.host.content();
    assert_eq!(now.networks.keys().collect::<Vec<_>>(), whole.networks.keys().collect::<Vec<_>>());
    assert_eq!(now.volumes[&base], whole.volumes[&base]);
    assert_eq!(status(&api, &instance).await, "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_host_keeps_things_is_told_to_admins_alone() {
    let api = Api::start().await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    let said = "Cannot access storage file '/srv/pools/disks/x': No such file";
    api.host.inject(move |call| match call {
        "start" => Inject::FailBefore(Fault::permanent(said)),
        _ => Inject::Pass,
    });
    let instance = create(&api, json!({"name": "vm"})).await;
    let seen = async || api.admin.get(&path(&instance)).await.expect(200);
    process.work_until(async || seen().await["attempts"].as_i64() > Some(0)).await;
    assert!(seen().await["last_error"].as_str().expect("an error").contains("/srv/pools/disks/x"));
    let member = api.member.get(&path(&instance)).await.expect(200);
    assert_eq!(member["last_error"], "Cannot access storage file '<path>': No such file");
    assert!(!member.to_string().contains("/srv/"), "{member:#}");
    api.events().await;
    let events = api.member.get("/v1/events?limit=1000").await.expect(200);
    assert!(
        events.to_string().contains("No such file") && !events.to_string().contains("/srv/"),
        "{events:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_take_long_leave_their_host_to_others() {
    let mut api = Api::start().await;
    for number in 0..4_u8 {
        api.image_of(&format!("image-{number}"), vec![number + 1; 1 << 20]).await;
    }
    api.image("tiny").await;
    api.run().await;
    let first = create(&api, json!({"name": "first"})).await;
    until("it does not run", async || status(&api, &first).await == "running").await;
    let gate = Gate::default();
    let shut = Shut(gate.clone());
    let uploading = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&uploading);
    api.host.inject(move |call| {
        // The seeds are uploads, too; theirs come after the image's.
        if call == "upload:half" {
            counted.fetch_add(1, Ordering::SeqCst);
            gate.wait();
        }
        Inject::Pass
    });
    let mut others = Vec::new();
    for number in 0..4 {
        let body = json!({"name": format!("other-{number}"), "image": format!("image-{number}")});
        others.push(create(&api, body).await);
    }
    until("they do not begin", async || uploading.load(Ordering::SeqCst) == 2).await;
    let waits = |item: &Value| item["reason"].as_str().is_some_and(|r| r.contains("other images"));
    until("the others do not wait", async || {
        let items = api.admin.get("/v1/stalled?waiting_s=0&kind=host_image").await.expect(200);
        items["items"].as_array().expect("items").iter().filter(|item| waits(item)).count() == 2
    })
    .await;
    assert_eq!(uploading.load(Ordering::SeqCst), 2);
    // The host is up, and does what others ask.
    let stop = format!("{}/actions/stop", path(&first));
    api.member.post(&stop, &json!({"hard": true})).await.expect(202);
    until("it does not stop", async || status(&api, &first).await == "stopped").await;
    drop(shut);
    for other in &others {
        until("it does not run", async || status(&api, other).await == "running").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_keeps_no_other_waiting() {
    let settings = |flags: pileus::config::Flags| {
        // Nobody calls it down before the test ends.
        flags
            .set("reconcile_workers", "4")
            .set("host_call_deadline_s", "60")
            .set("heartbeat_s", "600")
    };
    let mut api = Api::start_with(settings).await;
    api.image("tiny").await;
    api.run_on(1).await;
    let zone = |zone: &str| json!({"zone": zone});
    let with = |name: String, mut body: Value| {
        body["name"] = json!(name);
        body
    };
    let mut here = Vec::new();
    for number in 0..8 {
        here.push(create(&api, with(format!("here-{number}"), zone("default"))).await);
    }
    let there = create(&api, with("there".into(), zone("east"))).await;
    for instance in here.iter().chain([&there]) {
        until("it does not run", async || status(&api, instance).await == "running").await;
    }
    let gate = Gate::default();
    let shut = Shut(gate.clone());
    let hanging = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hanging);
    api.host.inject(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        gate.wait();
        Inject::Pass
    });
    for instance in &here {
        api.member.delete(&path(instance)).await.expect(202);
    }
    until("not all workers hang", async || hanging.load(Ordering::SeqCst) >= 4).await;
    api.member.delete(&path(&there)).await.expect(202);
    let begun = Instant::now();
    until("it is not deleted", async || status(&api, &there).await == "gone").await;
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for the other host");
    assert_eq!(status(&api, &here[0]).await, "deleting");
    drop(shut);
    for instance in &here {
        until("it is not deleted", async || status(&api, instance).await == "gone").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_that_disks_cannot_be_made_on_is_uploaded_anew() {
    let api = Api::start().await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    let uploads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&uploads);
    // Bases and seeds are uploads: with the first base whole and damaged, nothing comes up before the second.
    api.host.inject(move |call| match call {
        "upload:half" => {
            counted.fetch_add(1, Ordering::SeqCst);
            Inject::Pass
        }
        "create_overlay" if counted.load(Ordering::SeqCst) < 4 => {
            Inject::FailBefore(Fault::permanent("create volume x: Image is not in qcow2 format"))
        }
        _ => Inject::Pass,
    });
    let instance = create(&api, json!({"name": "vm"})).await;
    process.work_until(async || status(&api, &instance).await == "running").await;
    let whole = uploads.load(Ordering::SeqCst);
    // As an admin may ask for at any time.
    let items = "select id from host_images";
    let id: Uuid = sqlx::query_scalar(items).fetch_one(&api.app.db).await.expect("a base image");
    let path = format!("/v1/stalled/host_image/{id}/actions/retry");
    api.admin.post(&path, &Value::Null).await.expect(202);
    process.work().await;
    assert_eq!(uploads.load(Ordering::SeqCst), whole + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_looked_at_later_for_its_guests_sake_is_not_left_out_of_the_heartbeat() {
    let api = Api::start().await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    let instance = create(&api, json!({"name": "vm"})).await;
    process.work_until(async || status(&api, &instance).await == "running").await;
    // As while it waits for an agent that is silent.
    sqlx::query("update work set due_at = now() + interval '10 minutes' where kind = 'instance'")
        .execute(&api.app.db)
        .await
        .expect("later");
    let id = InstanceId(instance["id"].as_str().and_then(|id| id.parse().ok()).expect("an id"));
    assert!(api.host.kill(id), "it runs");
    process.look().await;
    assert!(process.work().await > 0, "nobody saw that it had ended");
    let back = async || api.host.content().domains.contains_key(&id);
    process.work_until(back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_room_is_looked_at_as_soon_as_one_before_it_is_stopped_or_deleted() {
    let api = Api::start().await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    let run = async |sql: &'static str| {
        sqlx::query(sql).execute(&api.app.db).await.expect(sql);
    };
    run("update hosts set limit_vcpus = 0").await;
    let mut line = Vec::new();
    for name in ["stopped", "deleted", "last"] {
        let instance = create(&api, json!({ "name": name })).await;
        let waits = async || status(&api, &instance).await == "waiting_for_capacity";
        process.work_until(waits).await;
        line.push(instance);
    }
    let [stopped, deleted, last] = line.as_slice() else { panic!("three of them") };
    // Whoever is looked at places all that fit: it is the first of the queue.
    for (before, next, stop) in [(stopped, deleted, true), (deleted, last, false)] {
        let id: Uuid = next["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let due = async || {
            let due = "select due_at <= now() from work where kind = 'instance' and item = $1";
            let due = sqlx::query_scalar::<_, bool>(due).bind(id);
            due.fetch_one(&api.app.db).await.expect("its work")
        };
        run("update work set due_at = now() + interval '10 minutes' where kind = 'instance'").await;
        assert!(!due().await);
        if stop {
            let stop = format!("{}/actions/stop", path(before));
            api.member.post(&stop, &json!({"hard": true})).await.expect(202);
        } else {
            api.member.delete(&path(before)).await.expect(202);
        }
        assert!(due().await, "it waits for its time, and it is its turn");
    }
}
