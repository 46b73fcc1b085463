//! Instances over HTTP, made real on a fake host by the real reconciler.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Api, Client};

fn path(thing: &Value) -> String {
    format!("/v1/instances/{}", thing["id"].as_str().expect("id"))
}

/// A cloud whose reconciler runs, with an image `tiny`.
pub async fn cloud() -> Api {
    let mut api = Api::start().await;
    api.image("tiny").await;
    api.run().await;
    api
}

fn tiny(name: &str) -> Value {
    json!({"name": name, "image": "tiny", "flavor": "nano"})
}

async fn act(client: &Client, instance: &Value, action: &str) -> Value {
    let path = format!("{}/actions/{action}", path(instance));
    client.ask(Method::POST, &path).send().await.expect(202)
}

#[tokio::test]
async fn an_instance_goes_through_its_whole_life_and_leaves_nothing() {
    let api = cloud().await;
    let network = api.member.post("/v1/networks", &json!({"name": "ci"})).await.expect(201);
    let new = json!({
        "name": "runner", "image": "tiny", "flavor": "nano", "labels": {"pipeline": "7"},
        "networks": [{"network": "ci"}], "user_data": "#!/bin/sh\necho hi\n",
    });
    let made = api.member.post("/v1/instances?wait=address&timeout=30", &new).await;
    let instance = made.expect(202);
    assert_eq!(made.header("location"), Some(path(&instance).as_str()));
    assert_eq!(instance["status"], "running", "{instance}");
    assert_eq!(instance["interfaces"][0]["seen"], true, "{instance}");
    assert_eq!(instance["interfaces"][0]["network_id"], network["id"]);
    assert_eq!(instance.get("host_id"), None, "where it runs is for admins");
    assert_eq!(api.host.content().domains.len(), 1);
    let wait = format!("{}?wait=cloud_init&timeout=30", path(&instance));
    let told = api.member.get(&wait).await.expect(200);
    assert_eq!(told["cloud_init"], json!({"status": "done", "errors": []}), "{told}");

    let stopped = act(&api.member, &instance, "stop?wait=stopped&timeout=30").await;
    assert_eq!((&stopped["status"], &stopped["power"]), (&json!("stopped"), &json!("none")));
    assert_eq!(stopped["cloud_init"], Value::Null, "it was of the boot that is over");
    let started = act(&api.member, &instance, "start?wait=running&timeout=30").await;
    assert_eq!((&started["status"], &started["boot"]), (&json!("running"), &json!(2)));
    let rebooted = act(&api.member, &instance, "reboot?wait=running&timeout=30").await;
    assert_eq!((&rebooted["status"], &rebooted["boot"]), (&json!("running"), &json!(3)));
    let paused = act(&api.member, &instance, "pause?wait=paused&timeout=30").await;
    assert_eq!(paused["status"], "paused");
    let resumed = act(&api.member, &instance, "resume?wait=running&timeout=30").await;
    assert_eq!(resumed["status"], "running");

    let gone = api
        .member
        .delete(&format!("{}?wait=deleted&timeout=30", path(&instance)))
        .await
        .expect(202);
    assert_eq!(gone["status"], "deleted", "{gone}");
    api.member.get(&path(&instance)).await.problem(404, "not-found");
    let content = api.host.content();
    assert!(content.domains.is_empty() && content.networks.is_empty(), "{content:?}");
    assert_eq!(content.volumes.len(), 1, "the base image only: {content:?}");
    let kinds: Vec<_> =
        api.events().await.iter().map(|e| e["kind"].as_str().expect("kind").to_owned()).collect();
    for kind in ["instance.create", "instance.placed", "instance.stop", "instance.delete"] {
        assert!(kinds.iter().any(|k| k == kind), "{kind} is in {kinds:?}");
    }
}

#[tokio::test]
async fn a_field_out_of_bounds_is_named_and_nothing_is_made() {
    let api = Api::start().await;
    api.image("tiny").await;
    let nobody = Uuid::now_v7();
    let many: Vec<_> = (0..17).map(|_| json!({"network": "n"})).collect();
    for (field, value, pointer) in [
        ("name", json!(""), "/name"),
        ("name", json!("a\u{0}b"), "/name"),
        ("name", json!("🦀"), "/name"),
        ("name", json!("<domain/>"), "/name"),
        ("name", json!("'; drop table instances; --"), "/name"),
        ("image", json!("nothing"), "/image"),
        ("image", json!(nobody), "/image"),
        ("image", json!("../../etc/passwd"), "/image"),
        ("flavor", json!("nothing"), "/flavor"),
        ("flavor", json!(7), "/flavor"),
        ("user_data", json!("x".repeat(65537)), "/user_data"),
        ("user_data", json!("a\u{0}"), "/user_data"),
        ("keypairs", json!(["nobody"]), "/keypairs/0"),
        ("keypairs", json!(vec!["k"; 33]), "/keypairs"),
        ("networks", json!([{"network": "nothing"}]), "/networks/0/network"),
        ("networks", json!([{}]), "/networks/0"),
        ("networks", json!([{"port_id": nobody}]), "/networks/0/port_id"),
        ("networks", json!([{"port_id": nobody, "network": "n"}]), "/networks/0"),
        ("networks", json!([{"network": "n", "address": "10.0.0.300"}]), "/networks/0/address"),
        ("networks", json!([{"netwrk": "n"}]), "/networks/0/netwrk"),
        ("networks", json!(many), "/networks"),
        ("labels", json!({"": "x"}), "/labels/"),
        ("labels", json!({"a": "x\n"}), "/labels/a"),
        ("wanted", json!("paused"), "/wanted"),
        ("wanted", json!("dancing"), "/wanted"),
        ("colour", json!("red"), "/colour"),
    ] {
        let mut new = tiny("x");
        new[field] = value.clone();
        let answer = api.member.post("/v1/instances", &new).await;
        assert_eq!(answer.faults(), [pointer], "{field} = {value}");
    }
    let list = api.member.get("/v1/instances").await.expect(200);
    assert_eq!(list["items"], json!([]));
    for query in
        ["?wait=never", "?timeout=-1", "?wait=running&timeout=99999", "?dry_run=perhaps", "?x=1"]
    {
        let answer = api.member.post(&format!("/v1/instances{query}"), &tiny("x")).await;
        assert!(matches!(answer.status, 400 | 422), "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn a_dry_run_explains_and_changes_nothing() {
    let api = Api::start().await;
    api.image("tiny").await;
    let plan = api.member.post("/v1/instances?dry_run=true", &tiny("x")).await.expect(200);
    assert_eq!(plan["fits"], false, "there is no host: {plan}");
    assert!(plan["placement"]["summary"].as_str().is_some_and(|s| !s.is_empty()), "{plan}");
    let mut api = api;
    api.run().await;
    let up = "/v1/instances?wait=running&timeout=30";
    let running = api.member.post(up, &tiny("first")).await.expect(202);
    assert_eq!(running["status"], "running", "{running}");
    let plan = api.member.post("/v1/instances?dry_run=true", &tiny("x")).await.expect(200);
    assert_eq!(plan["fits"], true, "{plan}");
    assert!(!plan.to_string().contains("\"fake\""), "tenants do not learn hosts' names: {plan}");
    let listed = api.member.get("/v1/instances").await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_same_key_makes_one_instance_however_often_it_is_sent() {
    let api = cloud().await;
    let send = async |body: &Value| {
        let ask = api.member.ask(Method::POST, "/v1/instances").header("idempotency-key", "once");
        ask.json(body).send().await
    };
    let body = tiny("once");
    let (first, second, third) = tokio::join!(send(&body), send(&body), send(&body));
    let id = first.expect(202)["id"].clone();
    assert_eq!((&second.expect(202)["id"], &third.expect(202)["id"]), (&id, &id));
    send(&tiny("other")).await.problem(409, "idempotency-key-reused");
    let listed = api.member.get("/v1/instances").await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn another_tenants_things_are_not_there() {
    let api = cloud().await;
    let network = api.stranger.post("/v1/networks", &json!({"name": "theirs"})).await.expect(201);
    let theirs = api.stranger.post("/v1/instances", &tiny("theirs")).await.expect(202);
    let port = json!({"network_id": network["id"]});
    let port = api.stranger.post("/v1/ports", &port).await.expect(201);
    for body in [
        json!({"name": "x", "image": "tiny", "flavor": "nano", "networks": [{"network": network["id"]}]}),
        json!({"name": "x", "image": "tiny", "flavor": "nano", "networks": [{"port_id": port["id"]}]}),
    ] {
        assert!(!api.member.post("/v1/instances", &body).await.faults().is_empty());
    }
    let path = path(&theirs);
    api.member.get(&path).await.problem(404, "not-found");
    api.member.delete(&path).await.problem(404, "not-found");
    api.member.patch(&path, &json!({"name": "mine"})).await.problem(404, "not-found");
    api.member.get(&format!("{path}/console")).await.problem(404, "not-found");
    for action in ["start", "stop", "reboot", "pause", "resume", "retry"] {
        let answer = api.member.ask(Method::POST, &format!("{path}/actions/{action}")).send().await;
        answer.problem(404, "not-found");
    }
    let all = api.admin.get("/v1/instances?all_tenants=true").await.expect(200);
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1));
    api.member.get("/v1/instances?all_tenants=true").await.problem(403, "forbidden");
}

#[tokio::test]
async fn changes_are_guarded_by_the_revision_and_by_the_state() {
    let api = cloud().await;
    let made =
        api.member.post("/v1/instances?wait=running&timeout=30", &tiny("a")).await.expect(202);
    let change = json!({"name": "b", "labels": {"k": "v"}});
    let ask = |tag: &str| {
        api.member.ask(Method::PATCH, &path(&made)).header("if-match", tag).json(&change)
    };
    ask("\"99\"").send().await.problem(412, "precondition-failed");
    let changed = ask("\"1\"").send().await.expect(200);
    assert_eq!((&changed["name"], &changed["revision"]), (&json!("b"), &json!(2)));
    assert_eq!(changed["observed_revision"], 2, "a new name asks nothing of the world: {changed}");
    let list = async |query: &str| {
        let page = api.member.get(&format!("/v1/instances{query}")).await.expect(200);
        page["items"].as_array().map(Vec::len)
    };
    assert_eq!(list("?label=k=v&status=running&name=b").await, Some(1));
    assert_eq!(list("?status=stopped").await, Some(0));
    act(&api.member, &made, "stop?wait=stopped&timeout=30").await;
    let reboot = format!("{}/actions/reboot", path(&made));
    api.member.ask(Method::POST, &reboot).send().await.problem(409, "instance-stopped");
    let grace = json!({"grace_s": 99999});
    let stop = format!("{}/actions/stop", path(&made));
    assert_eq!(api.member.post(&stop, &grace).await.faults(), ["/grace_s"]);
}

#[tokio::test]
async fn who_has_it_as_it_was_on_its_way_is_told_of_its_end() {
    let mut api = Api::start().await;
    api.image("tiny").await;
    let made = api.member.post("/v1/instances", &tiny("a")).await.expect(202);
    let ask = |tag: &str| {
        let ask = api.member.ask(Method::GET, &path(&made)).header("if-none-match", tag);
        async { ask.send().await }
    };
    let tag = |answer: &crate::harness::Answer| answer.header("etag").expect("a tag").to_owned();
    let way = tag(&ask("\"0\"").await);
    assert!(way.starts_with("\"1-"), "{way}");
    let same = ask(&way).await;
    assert_eq!((same.status, tag(&same)), (304, way.clone()), "nothing has happened");
    api.run().await;
    let ask = |tag: &str| {
        let ask = api.member.ask(Method::GET, &path(&made)).header("if-none-match", tag);
        async { ask.send().await }
    };
    act(&api.member, &made, "stop?wait=settled&timeout=30").await;
    let there = ask(&way).await;
    assert_eq!((there.status, tag(&there)), (200, "\"2\"".into()));
    assert_eq!(ask("\"2\"").await.status, 304);
    let rename = api.member.ask(Method::PATCH, &path(&made)).header("if-match", "\"2-0badcafe\"");
    rename.json(&json!({"name": "b"})).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_the_last_places_of_a_quota_as_many_as_there_are_get_one() {
    let api = Api::start_with(|flags| flags.set("quota_instances", "3")).await;
    api.image("tiny").await;
    api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    // Side by side where they share no network, one after the other where they do.
    for networks in [json!([]), json!([{"network": "n"}])] {
        let new: Vec<_> = (0..12)
            .map(|i| json!({"name": format!("i-{i}"), "image": "tiny", "flavor": "nano", "networks": networks}))
            .collect();
        let asked = new.iter().map(|new| api.member.post("/v1/instances", new));
        let answers = futures_util::future::join_all(asked).await;
        let (taken, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status == 202);
        assert_eq!(taken.len(), 3);
        for answer in refused {
            answer.problem(409, "quota-exceeded");
        }
        for answer in taken {
            let id = answer.body()["id"].as_str().expect("an id").to_owned();
            api.member.delete(&format!("/v1/instances/{id}")).await.expect(202);
        }
    }
}

#[tokio::test]
async fn a_quota_is_counted_and_a_deletion_gives_it_back_at_once() {
    let api = cloud().await;
    let quota = json!({"quota": {"instances": 1}});
    let tenant = format!("/v1/tenants/{}", api.tenant_a);
    let answer = api.admin.patch(&tenant, &quota).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let first = api.member.post("/v1/instances", &tiny("a")).await.expect(202);
    let refused = api.member.post("/v1/instances", &tiny("b")).await.problem(409, "quota-exceeded");
    assert!(refused["detail"].as_str().is_some_and(|d| d.contains("instances")), "{refused}");
    api.member.delete(&path(&first)).await.expect(202);
    api.member.post("/v1/instances", &tiny("b")).await.expect(202);
}

#[tokio::test]
async fn no_room_is_said_and_waited_for() {
    let api = cloud().await;
    let huge = json!({"name": "huge", "vcpus": 500, "memory_mib": 1_000_000, "disk_gib": 10});
    api.admin.post("/v1/flavors", &huge).await.expect(201);
    api.admin
        .patch(
            &format!("/v1/tenants/{}", api.tenant_a),
            &json!({"quota": {"vcpus": 1000, "memory_mib": 10_000_000}}),
        )
        .await;
    let new = json!({"name": "x", "image": "tiny", "flavor": "huge"});
    let made = api.member.post("/v1/instances?wait=running&timeout=2", &new).await.expect(202);
    assert_eq!(made["status"], "waiting_for_capacity", "{made}");
    let reason = made["reason"].as_str().expect("a reason");
    assert!(reason.contains("500 vCPU"), "{reason}");
    let gone =
        api.member.delete(&format!("{}?wait=deleted&timeout=20", path(&made))).await.expect(202);
    assert_eq!(gone["status"], "deleted");
}

#[tokio::test]
async fn a_guest_is_believed_to_be_through_with_cloud_init_only_where_it_shows_a_result() {
    let api = cloud().await;
    let result = |bytes: &[u8]| api.host.set_file("/run/cloud-init/result.json", bytes);
    result(br#"{"v1": {"errors": "many"}}"#);
    let wait = "/v1/instances?wait=cloud_init&timeout=3";
    let made = api.member.post(wait, &tiny("a")).await.expect(202);
    assert_eq!((&made["status"], &made["cloud_init"]), (&json!("running"), &Value::Null));
    result(br#"{"v1": {"errors": ["('runcmd',\u0000\u001b[2J)"]}}"#);
    let wait = format!("{}?wait=cloud_init&timeout=30", path(&made));
    let told = api.member.get(&wait).await.expect(200);
    let failed = json!({"status": "error", "errors": ["('runcmd',  [2J)"]});
    assert_eq!(told["cloud_init"], failed, "{told}");
}
