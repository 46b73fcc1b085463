//! What is proposed to one that finds no room: it would do, for this tenant, beside those who wait already.

use serde_json::{Value, json};

use crate::harness::{Api, MORE};
use crate::queue::{cloud, end, make, runs, waits};

async fn explain(api: &Api, ask: &Value) -> Value {
    api.member.post("/v1/placement/explain", ask).await.expect(200)
}

async fn quota(api: &Api, quota: Value) {
    let tenant = format!("/v1/tenants/{}", api.tenant_a);
    api.admin.patch(&tenant, &json!({ "quota": quota })).await.expect(200);
}

fn proposed(account: &Value, change: &str) -> Option<Value> {
    let changes = account["would_fit_if"].as_array().expect("changes");
    changes.iter().find(|one| one["change"] == change).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_the_tenants_own_reservation_is_proposed_to_whoever_it_would_do_for() {
    let api = cloud(0).await;
    let held = json!({"name": "nightly", "flavor": "c48", "slots": 1, "expires_at": end(3600)});
    api.member.post("/v1/reservations", &held).await.expect(201);
    let own = Some(json!({"change": "from_reservation", "name": "nightly"}));
    let waiting = make(&api.member, "waits", "c32", json!({})).await;
    let waiting = waits(&api.member, &waiting).await;
    assert_eq!(proposed(&waiting["queue"], "from_reservation"), own, "{waiting:#}");
    assert!(waiting["reason"].as_str().expect("a reason").contains("nightly"), "{waiting:#}");
    let told = explain(&api, &json!({"flavor": "c32"})).await;
    assert_eq!(proposed(&told["placement"], "from_reservation"), own, "{told:#}");
    let now = json!({"name": "x", "image": "tiny", "flavor": "c32", "on_no_capacity": "fail"});
    let refused = api.member.post("/v1/instances", &now).await.problem(409, "no-capacity");
    assert_eq!(proposed(&refused["explanation"], "from_reservation"), own, "{refused:#}");
    // Where the quota is in the way, too: a slot is in it already.
    quota(&api, json!({"vcpus": 80})).await;
    let told = explain(&api, &json!({"flavor": "c16"})).await;
    assert_eq!(proposed(&told["placement"], "from_reservation"), own, "{told:#}");
    // Not to who is too large for it, nor to another tenant, nor where it would not do, nor once it is taken.
    let told = explain(&api, &json!({"flavor": "c64"})).await;
    assert_eq!(proposed(&told["placement"], "from_reservation"), None, "{told:#}");
    let told = api.stranger.post("/v1/placement/explain", &json!({"flavor": "c32"})).await;
    assert_eq!(proposed(&told.expect(200)["placement"], "from_reservation"), None);
    let elsewhere = json!({"flavor": "c32", "forbidden_traits": ["virt:qemu"]});
    let told = explain(&api, &elsewhere).await;
    assert_eq!(proposed(&told["placement"], "from_reservation"), None, "{told:#}");
    let inside = make(&api.member, "in", "c32", json!({"reservation": "nightly"})).await;
    runs(&api.member, &inside).await;
    let told = explain(&api, &json!({"flavor": "c32"})).await;
    assert_eq!(proposed(&told["placement"], "from_reservation"), None, "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_quota_is_in_the_way_the_largest_flavor_is_proposed_that_it_has_room_for() {
    let api = cloud(0).await;
    quota(&api, json!({"vcpus": 40})).await;
    let told = explain(&api, &json!({"flavor": "c48"})).await;
    assert_eq!(told["fits"], false);
    let account = &told["placement"];
    let raised = json!({"change": "quota_raised", "quota": "vcpus", "to": 48});
    assert_eq!(account["would_fit_if"][0], raised, "{told:#}");
    assert_eq!(proposed(account, "other_flavor").expect("one")["name"], "c32", "{told:#}");
    // Two quotas in the way: raising one would not do, and a smaller flavor does.
    quota(&api, json!({"memory_mib": 64})).await;
    let large = json!({"vcpus": 48, "memory_mib": 1024, "disk_gib": 1});
    let told = explain(&api, &large).await;
    let account = &told["placement"];
    assert_eq!(proposed(account, "quota_raised"), None, "{told:#}");
    assert_eq!(proposed(account, "other_flavor").expect("one")["name"], "c32", "{told:#}");
    // Neither room nor quota: what does for both.
    quota(&api, json!({"vcpus": 12, "memory_mib": 100_000})).await;
    let full = make(&api.stranger, "full", "c48", json!({})).await;
    runs(&api.stranger, &full).await;
    let told = explain(&api, &json!({"flavor": "c32"})).await;
    let account = &told["placement"];
    assert_eq!(proposed(account, "other_flavor").expect("one")["name"], "c8", "{told:#}");
    // No instance more: nothing of any size would do.
    quota(&api, json!({"instances": 0})).await;
    let told = explain(&api, &json!({"flavor": "c32"})).await;
    assert_eq!(proposed(&told["placement"], "other_flavor"), None, "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_would_do_is_told_of_with_its_zone_and_its_traits() {
    let api = cloud(1).await;
    let group = json!({"name": "db", "rule": "anti_affinity", "scope": "zone"});
    api.member.post("/v1/groups", &group).await.expect(201);
    for n in 0..2 {
        let member = make(&api.member, &format!("db{n}"), "c1", json!({"group": "db"})).await;
        runs(&api.member, &member).await;
    }
    let told = explain(&api, &json!({"flavor": "c1", "group": "db"})).await;
    let added = proposed(&told["placement"], "host_added").expect("a host");
    assert_eq!(added["not_in_zones"], json!(["default", "east"]), "{told:#}");
    let summary = told["placement"]["summary"].as_str().expect("a summary");
    assert!(summary.contains("zone that has one of its group"), "{summary}");
    let ssd = format!("/v1/hosts/{}", MORE[0].0.0);
    api.admin.patch(&ssd, &json!({"traits": ["ssd"]})).await.expect(202);
    let large = json!({"vcpus": 100, "memory_mib": 64, "disk_gib": 1, "zone": "east", "required_traits": ["ssd"]});
    let told = explain(&api, &large).await;
    let added = proposed(&told["placement"], "host_added").expect("a host");
    assert_eq!((&added["zone"], &added["traits"]), (&json!("east"), &json!(["ssd"])), "{told:#}");
    assert_eq!(added["size"]["vcpus"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_not_told_to_take_what_is_kept_for_another() {
    let api = cloud(0).await;
    let first = make(&api.member, "first", "c48", json!({})).await;
    runs(&api.member, &first).await;
    let big = make(&api.member, "big", "c64", json!({})).await;
    let big = waits(&api.member, &big).await;
    // What is kept for itself it may have.
    let smaller = proposed(&big["queue"], "other_flavor");
    assert_eq!(smaller.expect("one")["name"], "c16", "{big:#}");
    let late = make(&api.stranger, "late", "c32", json!({})).await;
    let late = waits(&api.stranger, &late).await;
    for change in ["other_flavor", "smaller_need"] {
        assert_eq!(proposed(&late["queue"], change), None, "{late:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_needs_of_a_host_is_asked_for_with_it() {
    let api = cloud(1).await;
    let images = api.member.get("/v1/images?name=tiny").await.expect(200);
    let image = format!("/v1/images/{}", images["items"][0]["id"].as_str().expect("an id"));
    assert_eq!(images["items"][0]["required_traits"], json!([]));
    let before = make(&api.member, "before", "c1", json!({})).await;
    runs(&api.member, &before).await;
    let arm = json!({"required_traits": ["arch:aarch64"]});
    let patched = api.owner.patch(&image, &arm).await.expect(200);
    assert_eq!(patched["required_traits"], arm["required_traits"]);
    assert_eq!(patched["labels"], images["items"][0]["labels"], "what is not given stays");
    let instance = make(&api.member, "arm", "c1", json!({})).await;
    assert_eq!(instance["required_traits"], arm["required_traits"]);
    let waiting = waits(&api.member, &instance).await;
    assert!(waiting["reason"].as_str().expect("a reason").contains("arch:aarch64"), "{waiting:#}");
    let told = explain(&api, &json!({"flavor": "c1", "image": "tiny"})).await;
    assert_eq!(told["fits"], false, "{told:#}");
    let added = proposed(&told["placement"], "host_added").expect("a host");
    assert_eq!(added["traits"], arm["required_traits"]);
    assert_eq!(explain(&api, &json!({"flavor": "c1"})).await["fits"], true);
    let forbidden =
        json!({"name": "x", "image": "tiny", "flavor": "c1", "forbidden_traits": ["arch:aarch64"]});
    let refused = api.member.post("/v1/instances", &forbidden).await;
    assert_eq!(refused.faults(), ["/forbidden_traits/0"]);
    let host = format!("/v1/hosts/{}", MORE[0].0.0);
    api.admin.patch(&host, &json!({"traits": ["arch:aarch64"]})).await.expect(202);
    assert_eq!(runs(&api.admin, &instance).await["host_id"], json!(MORE[0].0));
    // Bad input is named, and nothing changes.
    let bad = json!({"required_traits": ["ssd", "A b"]});
    assert_eq!(api.owner.patch(&image, &bad).await.faults(), ["/required_traits/1"]);
    let new = json!({"name": "y", "format": "raw", "required_traits": ["ssd", "ssd"]});
    assert_eq!(api.member.post("/v1/images", &new).await.faults(), ["/required_traits/1"]);
    assert_eq!(api.owner.get(&image).await.expect(200), patched);
    for (ask, fault) in [
        (json!({"flavor": "c1", "image": "none"}), "/image"),
        (json!({"flavor": "c1", "image": ""}), "/image"),
    ] {
        assert_eq!(api.member.post("/v1/placement/explain", &ask).await.faults(), [fault]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_stays_in_its_zone_while_somebody_is_there_for_its_sake() {
    let api = cloud(1).await;
    let east = format!("/v1/hosts/{}", MORE[0].0.0);
    let north = json!({"zone": "north"});
    let named = make(&api.member, "named", "c1", json!({"zone": "east"})).await;
    runs(&api.member, &named).await;
    let refused = api.admin.patch(&east, &north).await.problem(409, "host-in-use");
    assert!(refused["detail"].as_str().expect("a detail").contains("1 instances"), "{refused:#}");
    // Everything else of it may change, and its zone to what it is.
    api.admin.patch(&east, &json!({"zone": "east", "traits": ["ssd"]})).await.expect(202);
    let gone = format!("/v1/instances/{}?wait=deleted&timeout=30", named["id"].as_str().unwrap());
    api.member.delete(&gone).await.expect(202);
    let group = json!({"name": "db", "rule": "affinity", "scope": "zone"});
    api.member.post("/v1/groups", &group).await.expect(201);
    let member = json!({"group": "db", "required_traits": ["ssd"]});
    let member = make(&api.member, "member", "c1", member).await;
    runs(&api.member, &member).await;
    api.admin.patch(&east, &north).await.problem(409, "host-in-use");
    let gone = format!("/v1/instances/{}?wait=deleted&timeout=30", member["id"].as_str().unwrap());
    api.member.delete(&gone).await.expect(202);
    let held =
        json!({"name": "r", "flavor": "c1", "slots": 2, "expires_at": end(3600), "zone": "east"});
    let held = api.member.post("/v1/reservations", &held).await.expect(201);
    let refused = api.admin.patch(&east, &north).await.problem(409, "host-in-use");
    assert!(refused["detail"].as_str().expect("a detail").contains("2 slots"), "{refused:#}");
    let held = format!("/v1/reservations/{}", held["id"].as_str().unwrap());
    api.member.delete(&held).await.expect(204);
    // Who is there for no zone's sake is in nobody's way.
    let other = make(&api.member, "other", "c1", json!({"required_traits": ["ssd"]})).await;
    runs(&api.member, &other).await;
    assert_eq!(api.admin.patch(&east, &north).await.expect(202)["zone"], "north");
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_choose_as_creates_do_beside_what_is_kept_for_another() {
    let api = cloud(1).await;
    let admin = &api.admin;
    let on = |zone: &str| json!({ "zone": zone });
    runs(admin, &make(admin, "fuller", "c48", on("default")).await).await;
    runs(admin, &make(admin, "emptier", "c32", on("east")).await).await;
    // The emptier one is kept for this one.
    waits(&api.stranger, &make(&api.stranger, "big", "c64", json!({})).await).await;
    let ask = json!({"flavor": "c1", "policy": "spread"});
    let told = admin.post("/v1/placement/explain", &ask).await.expect(200);
    let chosen = told["placement"]["chosen"]["host"]["name"].clone();
    assert_eq!(chosen, "fake", "{told:#}");
    assert_eq!(told["placement"]["fitting"], 1, "{told:#}");
    assert!(
        told["placement"]["classes"].to_string().contains(r#""constraint":"kept""#),
        "{told:#}"
    );
    let mut new = json!({"name": "x", "image": "tiny", "flavor": "c1", "policy": "spread"});
    let plan = admin.post("/v1/instances?dry_run=true", &new).await.expect(200);
    assert_eq!(plan["placement"]["chosen"]["host"]["name"], chosen, "{plan:#}");
    new["on_no_capacity"] = json!("fail");
    let made = admin.post("/v1/instances", &new).await.expect(202);
    assert_eq!(runs(admin, &made).await["host_id"], told["placement"]["chosen"]["host"]["id"]);
    // Nor is anything proposed that makes room on the kept one.
    new["flavor"] = json!("c32");
    let refused = admin.post("/v1/instances", &new).await.problem(409, "no-capacity");
    let account = &refused["explanation"];
    assert_eq!(proposed(account, "freed").expect("one")["host"]["name"], "fake", "{refused:#}");
    assert_eq!(proposed(account, "other_flavor").expect("one")["name"], "c8", "{refused:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_quota_is_in_the_way_too_no_other_change_is_proposed_that_it_has_no_room_for() {
    let api = cloud(1).await;
    quota(&api, json!({"vcpus": 8})).await;
    let ask = json!({"flavor": "c16", "zone": "east", "forbidden_traits": ["virt:qemu"]});
    let told = explain(&api, &ask).await;
    assert_eq!(told["placement"]["would_fit_if"], json!([]), "{told:#}");
    let summary = told["placement"]["summary"].as_str().expect("a summary");
    assert!(summary.contains("the quota of vcpus is in the way, too"), "{summary}");
    quota(&api, json!({"vcpus": 16})).await;
    let told = explain(&api, &ask).await;
    assert!(proposed(&told["placement"], "not_forbidden").is_some(), "{told:#}");
}
