//! What is not where it was wished to be is in one list, with its reason, and can be tried now.

use std::time::Duration;

use pileus::hypervisor::{Fault, Inject};
use serde_json::{Value, json};

use crate::harness::{Api, HOST};
use crate::world::{Process, status};

/// A cloud with an image `tiny`, and a host that fails at this call for good.
async fn cloud(failing: &'static str) -> (Api, Process) {
    let api = Api::start_with(|flags| flags.set("host_gone_after_s", "1")).await;
    api.image("tiny").await;
    let process = Process::first(&api).await;
    api.host.inject(move |call| match call {
        call if call == failing => Inject::FailBefore(Fault::permanent("the disk is full")),
        _ => Inject::Pass,
    });
    (api, process)
}

async fn stalled(api: &Api, query: &str) -> Vec<Value> {
    let page = api.admin.get(&format!("/v1/stalled{query}")).await.expect(200);
    page["items"].as_array().expect("items").clone()
}

async fn make(api: &Api, name: &str) -> Value {
    let new = json!({"name": name, "image": "tiny", "flavor": "nano"});
    api.member.post("/v1/instances", &new).await.expect(202)
}

async fn retry(api: &Api, item: &Value) -> Value {
    let (kind, id) = (item["kind"].as_str().expect("a kind"), item["id"].as_str().expect("an id"));
    let path = format!("/v1/stalled/{kind}/{id}/actions/retry");
    api.admin.post(&path, &Value::Null).await.expect(202)
}

#[tokio::test]
async fn a_failing_instance_is_listed_with_its_reason_until_it_is_mended_and_retried() {
    let (api, process) = cloud("create_overlay").await;
    assert_eq!(stalled(&api, "?waiting_s=0").await, [] as [Value; 0]);
    let instance = make(&api, "vm").await;
    let of_instance = async |state: &str| {
        let items = stalled(&api, &format!("?kind=instance&state={state}")).await;
        items.first().cloned()
    };
    process.work_until(async || of_instance("failing").await.is_some()).await;
    let item = of_instance("failing").await.expect("an item");
    assert_eq!((&item["id"], &item["name"]), (&instance["id"], &json!("vm")));
    assert_eq!(item["tenant_id"], json!(api.tenant_a));
    assert_eq!(item["host_id"], json!(HOST));
    assert!(item["reason"].as_str().is_some_and(|r| r.contains("the disk is full")), "{item}");
    assert_eq!(item["last_error"], item["reason"]);
    assert!(item["attempts"].as_i64() >= Some(1) && !item["next_attempt_at"].is_null(), "{item}");
    process.work_until(async || of_instance("stalled").await.is_some()).await;
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    let seen = api.member.get(&path).await.expect(200);
    let item = of_instance("stalled").await.expect("an item");
    assert_eq!(item["attempts"], seen["attempts"]);
    assert_eq!(
        item["since"].as_str().map(|t| &t[..10]),
        seen["stalled_since"].as_str().map(|t| &t[..10])
    );
    api.host.heal();
    let retried = retry(&api, &item).await;
    assert_eq!((&retried["attempts"], &retried["state"]), (&json!(0), &json!("waiting")));
    process.work().await;
    process.work_until(async || status(&api, &instance).await == "running").await;
    assert_eq!(stalled(&api, "").await, [] as [Value; 0]);
    let events = api.events().await;
    let event = events.iter().find(|event| event["kind"] == "instance.retry").expect("an event");
    assert_eq!((&event["actor"], &event["resource_id"]), (&json!("admin"), &instance["id"]));
}

#[tokio::test]
async fn a_silent_host_and_what_waits_for_it_are_listed_and_can_be_retried() {
    let (api, process) = cloud("").await;
    api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let new =
        json!({"name": "vm", "image": "tiny", "flavor": "nano", "networks": [{"network": "n"}]});
    let instance = api.member.post("/v1/instances", &new).await.expect(202);
    process.work_until(async || status(&api, &instance).await == "running").await;
    api.host.set_reachable(false);
    process.look().await;
    let down = stalled(&api, "").await;
    let [host] = down.as_slice() else { panic!("one item: {down:#?}") };
    assert_eq!(
        (&host["kind"], &host["state"], &host["id"]),
        (&json!("host"), &json!("down"), &json!(HOST))
    );
    assert!(host["reason"].as_str().is_some_and(|r| r.contains("does not answer")), "{host}");
    // Deleted while its host is silent: what is left there is a fence, which is listed, too.
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    api.member.delete(&path).await.expect(202);
    tokio::time::sleep(Duration::from_secs(1)).await;
    process.work_until(async || status(&api, &instance).await == "gone").await;
    process.work().await;
    let kinds = |items: &[Value]| {
        let mut kinds: Vec<_> = items.iter().map(|item| item["kind"].to_string()).collect();
        kinds.sort();
        kinds.join(" ")
    };
    let items = stalled(&api, "?waiting_s=0").await;
    assert_eq!(kinds(&items), r#""fence" "host""#, "{items:#?}");
    let fence = items.iter().find(|item| item["kind"] == "fence").expect("the fence");
    assert_eq!((&fence["host_id"], &fence["tenant_id"]), (&json!(HOST), &json!(api.tenant_a)));
    // A page at a time.
    let first = api.admin.get("/v1/stalled?waiting_s=0&limit=1").await.expect(200);
    let next = first["next"].as_str().expect("a cursor");
    let second = stalled(&api, &format!("?waiting_s=0&limit=1&cursor={next}")).await;
    assert_eq!([first["items"][0].clone(), second[0].clone()], items.as_slice());
    // It is back, and nobody waits for a heartbeat.
    api.host.set_reachable(true);
    retry(&api, host).await;
    process.work().await;
    retry(&api, fence).await;
    process.work().await;
    assert_eq!(stalled(&api, "").await, [] as [Value; 0]);
    assert!(api.host.content().domains.is_empty());
}

#[tokio::test]
async fn a_base_image_and_a_network_that_cannot_be_handled_are_listed_and_retried() {
    let (api, process) = cloud("upload").await;
    let instance = make(&api, "vm").await;
    let of_kind = async |kind: &str| stalled(&api, &format!("?kind={kind}")).await.first().cloned();
    process.work_until(async || of_kind("host_image").await.is_some()).await;
    let item = of_kind("host_image").await.expect("an item");
    assert!(item["reason"].as_str().is_some_and(|r| r.contains("the disk is full")), "{item}");
    assert_eq!((&item["host_id"], &item["tenant_id"]), (&json!(HOST), &Value::Null));
    api.host.heal();
    retry(&api, &item).await;
    process.work_until(async || status(&api, &instance).await == "running").await;

    let network = api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let new =
        json!({"name": "two", "image": "tiny", "flavor": "nano", "networks": [{"network": "n"}]});
    let other = api.member.post("/v1/instances", &new).await.expect(202);
    process.work_until(async || status(&api, &other).await == "running").await;
    api.host.inject(|call| match call {
        "delete_network" => Inject::FailBefore(Fault::permanent("the bridge is busy")),
        _ => Inject::Pass,
    });
    let path = format!("/v1/instances/{}", other["id"].as_str().expect("an id"));
    api.member.delete(&path).await.expect(202);
    process.work().await;
    let item = of_kind("instance").await.expect("an item");
    assert!(item["reason"].as_str().is_some_and(|r| r.contains("the bridge is busy")), "{item}");
    api.host.heal();
    retry(&api, &item).await;
    process.work_until(async || status(&api, &other).await == "gone").await;
    let path = format!("/v1/networks/{}", network["id"].as_str().expect("an id"));
    let seen = api.member.get(&path).await.expect(200);
    assert_eq!((&seen["attempts"], &seen["stalled_since"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn what_waits_for_room_is_listed_once_it_has_waited_for_long() {
    let (api, process) = cloud("").await;
    let huge = json!({"name": "huge", "vcpus": 40, "memory_mib": 1 << 10, "disk_gib": 4096});
    api.admin.post("/v1/flavors", &huge).await.expect(201);
    let quota = json!({"quota": {"disk_gib": 10_000}});
    api.admin.patch(&format!("/v1/tenants/{}", api.tenant_a), &quota).await.expect(200);
    let new = json!({"name": "vm", "image": "tiny", "flavor": "huge"});
    api.member.post("/v1/instances", &new).await.expect(202);
    process.work().await;
    assert_eq!(stalled(&api, "").await, [] as [Value; 0]);
    let items = stalled(&api, "?waiting_s=0").await;
    assert_eq!((&items[0]["state"], items.len()), (&json!("waiting"), 1), "{items:#?}");
    assert!(items[0]["reason"].as_str().is_some_and(|r| r.contains("disk")), "{items:#?}");
    api.admin
        .post("/v1/stalled/planet/0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e/actions/retry", &Value::Null)
        .await
        .problem(404, "not-found");
    api.admin
        .post(
            "/v1/stalled/network/0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e/actions/retry",
            &Value::Null,
        )
        .await
        .problem(404, "not-found");
    assert_eq!(api.admin.get("/v1/stalled?waiting_s=-1").await.faults(), ["?waiting_s"]);
}

#[tokio::test]
async fn a_database_that_holds_a_statement_up_is_told_of_in_words_and_the_work_goes_on_after_it() {
    let (api, process) = cloud("none").await;
    // As the statement's deadline ends it where somebody holds a lock on the host.
    let held_up = "create function held_up() returns trigger language plpgsql as
                       $$ begin raise exception 'canceling statement' using errcode = '57014'; end $$;
                   create trigger held_up before update of used_vcpus on hosts for each row execute function held_up();";
    sqlx::raw_sql(held_up).execute(&api.app.db).await.expect("a trigger");
    let instance = make(&api, "vm").await;
    let failing = async || stalled(&api, "?kind=instance&state=failing").await.pop();
    process.work_until(async || failing().await.is_some()).await;
    let item = failing().await.expect("an item");
    let reason = item["reason"].as_str().expect("a reason");
    assert!(reason.contains("holds a lock") && !reason.contains("try again"), "{item:#}");
    sqlx::raw_sql("drop trigger held_up on hosts").execute(&api.app.db).await.expect("it goes");
    process.work_until(async || status(&api, &instance).await == "running").await;
}

#[tokio::test]
async fn what_was_in_the_way_is_no_reason_any_more_of_one_that_is_as_wished() {
    let (api, process) = cloud("none").await;
    let instance = make(&api, "vm").await;
    process.work_until(async || status(&api, &instance).await == "running").await;
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    // As where the look that sees it run has not ended yet, and as where a later one has failed.
    for (seconds, reason) in [(-1, Value::Null), (1, json!("it was in the way"))] {
        let failed = "update work set attempts = 3, last_error = 'it was in the way',
                                      last_error_at = (select observed_at from instances) + $1 * interval '1 second'
                      where kind = 'instance'";
        sqlx::query(failed).bind(seconds).execute(&api.app.db).await.expect("a failure");
        let seen = api.admin.get(&path).await.expect(200);
        assert_eq!((&seen["status"], &seen["reason"]), (&json!("running"), &reason), "{seen:#}");
        assert_eq!(seen["last_error"], "it was in the way");
    }
}
