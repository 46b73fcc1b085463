//! Reservations over HTTP: capacity that is held for a while.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Api;
use crate::queue::{cloud, end, make, path, runs, until, waits};

fn new(slots: i64) -> Value {
    json!({"name": "nightly", "flavor": "c16", "slots": slots, "expires_at": end(3600)})
}

/// vCPUs that are taken of all hosts.
async fn used(api: &Api) -> i64 {
    let hosts = api.admin.get("/v1/hosts").await.expect(200);
    let hosts = hosts["items"].as_array().expect("items").iter();
    hosts.map(|host| host["used"]["vcpus"].as_i64().expect("vCPUs")).sum()
}

/// The claims of each host add up.
async fn sound(api: &Api) {
    let fsck = api.admin.get("/v1/fsck").await.expect(200);
    let claims = fsck["findings"].as_array().expect("findings").iter();
    let claims: Vec<_> = claims.filter(|finding| finding["check"] == "claim").collect();
    assert!(claims.is_empty(), "{claims:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_capacity_is_kept_for_who_names_it_and_comes_back_to_it() {
    let api = cloud(0).await;
    let made = api.member.post("/v1/reservations", &new(3)).await;
    let held = made.expect(201);
    let at = format!("/v1/reservations/{}", held["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(at.as_str()));
    assert_eq!((&held["free"], &held["slots"], used(&api).await), (&json!(3), &json!(3), 48));
    sound(&api).await;
    // Others, and its own tenant without its name, have what is left.
    let other = make(&api.stranger, "other", "c32", json!({})).await;
    waits(&api.stranger, &other).await;
    let inside = make(&api.member, "in", "c16", json!({"reservation": "nightly"})).await;
    assert_eq!(runs(&api.member, &inside).await["reservation_id"], held["id"]);
    let small = make(&api.member, "small", "c8", json!({"reservation": "nightly"})).await;
    runs(&api.member, &small).await;
    assert_eq!((&api.reader.get(&at).await.expect(200)["free"], used(&api).await), (&json!(1), 48));
    sound(&api).await;
    let third = make(&api.member, "third", "c16", json!({"reservation": "nightly"})).await;
    runs(&api.member, &third).await;
    let fourth = make(&api.member, "fourth", "c16", json!({"reservation": "nightly"})).await;
    let waiting = waits(&api.member, &fourth).await;
    assert!(waiting["reason"].as_str().expect("a reason").contains("no free slot"), "{waiting:#}");
    let fail = json!({"name": "x", "image": "tiny", "flavor": "c16", "reservation": "nightly", "on_no_capacity": "fail"});
    api.member.post("/v1/instances", &fail).await.problem(409, "no-capacity");
    // A slot that is left is the next one's.
    api.member.delete(&format!("{}?wait=deleted&timeout=30", path(&inside))).await.expect(202);
    runs(&api.member, &fourth).await;
    api.member.delete(&format!("{}?wait=deleted&timeout=30", path(&small))).await.expect(202);
    assert_eq!((&api.reader.get(&at).await.expect(200)["free"], used(&api).await), (&json!(1), 48));
    sound(&api).await;
    // At its end what is free is anybody's, and what is in it stays.
    let moved = api.member.patch(&at, &json!({"expires_at": end(1)})).await.expect(200);
    assert_eq!(moved["revision"], 2);
    until(&api.member, &at, |now| now["status"] == 404).await;
    assert_eq!(runs(&api.member, &third).await["reservation_id"], Value::Null);
    runs(&api.stranger, &other).await;
    assert_eq!(used(&api).await, 64);
    sound(&api).await;
    let events = api.events().await;
    let expired = events.iter().filter(|event| event["kind"] == "reservation.expire").count();
    assert_eq!(expired, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_whole_or_not_at_all_is_counted_and_is_its_tenants_own() {
    let api = cloud(1).await;
    let refused = api.member.post("/v1/reservations", &new(9)).await.problem(409, "no-capacity");
    assert!(
        refused["detail"].as_str().expect("a detail").contains("room for 8 of 9"),
        "{refused:#}"
    );
    assert_eq!(used(&api).await, 0);
    let held = api.member.post("/v1/reservations", &new(8)).await.expect(201);
    let at = format!("/v1/reservations/{}", held["id"].as_str().unwrap());
    api.stranger.get(&at).await.problem(404, "not-found");
    let theirs = json!({"name": "x", "image": "tiny", "flavor": "c16", "reservation": held["id"]});
    assert_eq!(api.stranger.post("/v1/instances", &theirs).await.faults(), ["/reservation"]);
    let large = json!({"name": "x", "image": "tiny", "flavor": "c32", "reservation": "nightly"});
    assert_eq!(api.member.post("/v1/instances", &large).await.faults(), ["/reservation"]);
    let more = json!({"name": "more", "flavor": "c16", "slots": 1, "expires_at": end(60)});
    api.member.post("/v1/reservations", &more).await.problem(409, "no-capacity");
    api.member.post("/v1/reservations", &new(1)).await.problem(409, "name-taken");
    let tenant = format!("/v1/tenants/{}", api.tenant_a);
    assert_eq!(api.admin.get(&tenant).await.expect(200)["usage"]["vcpus"], 128);
    // What is in a slot is counted once.
    let inside = make(&api.member, "in", "c16", json!({"reservation": "nightly"})).await;
    runs(&api.member, &inside).await;
    assert_eq!(api.admin.get(&tenant).await.expect(200)["usage"]["vcpus"], 128);
    api.admin.patch(&tenant, &json!({"quota": {"vcpus": 128}})).await.expect(200);
    let explain = json!({"flavor": "c16", "reservation": "nightly"});
    let told = api.member.post("/v1/placement/explain", &explain).await.expect(200);
    assert_eq!(told["fits"], true, "{told:#}");
    // A host with slots does not leave.
    let host = format!("/v1/hosts/{}", crate::harness::MORE[0].0.0);
    api.admin.delete(&host).await.problem(409, "host-in-use");
    api.member.delete(&at).await.expect(204);
    assert_eq!(api.admin.get(&tenant).await.expect(200)["usage"]["vcpus"], 16);
    sound(&api).await;
    api.admin.patch(&tenant, &json!({"quota": {"vcpus": 47}})).await.expect(200);
    api.member.post("/v1/reservations", &new(2)).await.problem(409, "quota-exceeded");
    assert_eq!(used(&api).await, 16);
    for (bad, faults) in [
        (
            json!({"name": "", "flavor": "", "slots": 0, "expires_at": end(-1)}),
            vec!["/name", "/flavor", "/slots", "/expires_at"],
        ),
        (
            json!({"name": "x", "flavor": "c16", "slots": i64::MAX, "expires_at": end(400_000_000)}),
            vec!["/slots", "/expires_at"],
        ),
        (
            json!({"name": "x", "flavor": "none", "slots": 1, "expires_at": end(60)}),
            vec!["/flavor"],
        ),
        (
            json!({"name": "x", "flavor": "c16", "slots": 1, "expires_at": end(60), "zone": "a b"}),
            vec!["/zone"],
        ),
        (
            json!({"name": "x", "flavor": "c16", "slots": 1, "expires_at": end(60), "zone": "nowhere"}),
            vec!["/zone"],
        ),
    ] {
        assert_eq!(api.member.post("/v1/reservations", &bad).await.faults(), faults, "{bad}");
    }
    // The same key, the same answer, and one reservation.
    let body = json!({"name": "once", "flavor": "c16", "slots": 1, "expires_at": end(3600)});
    let once = async || {
        let ask = api.member.ask(Method::POST, "/v1/reservations").header("idempotency-key", "k");
        ask.json(&body).send().await.expect(201)
    };
    assert_eq!(once().await, once().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_answered_is_so_again_when_the_end_that_it_set_has_come() {
    let api = cloud(0).await;
    let held = api.member.post("/v1/reservations", &new(1)).await.expect(201);
    let held = format!("/v1/reservations/{}", held["id"].as_str().expect("an id"));
    let there = path(&make(&api.member, "there", "c1", json!({})).await);
    let soon = end(5);
    let reserve = json!({"name": "soon", "flavor": "c16", "slots": 1, "expires_at": soon});
    let create = json!({"name": "soon", "image": "tiny", "flavor": "c1", "expires_at": soon});
    let change = json!({ "expires_at": soon });
    let asks = [
        (Method::POST, "/v1/reservations", &reserve),
        (Method::PATCH, held.as_str(), &change),
        (Method::POST, "/v1/instances", &create),
        (Method::PATCH, there.as_str(), &change),
    ];
    let ask_all = async || {
        let mut answers = Vec::new();
        for (n, (method, path, body)) in asks.iter().enumerate() {
            let ask = api.member.ask(method.clone(), path).header("idempotency-key", n.to_string());
            let answer = ask.json(body).send().await;
            answers.push((answer.status, answer.body()["id"].clone()));
        }
        answers
    };
    let answers = ask_all().await;
    let statuses: Vec<_> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [201, 200, 202, 200], "{answers:?}");
    for list in ["/v1/instances", "/v1/reservations"] {
        until(&api.member, list, |page| page["items"] == json!([])).await;
    }
    assert_eq!(ask_all().await, answers);
}

/// Deletes it, and waits until it is gone.
async fn delete(api: &Api, instance: &Value) {
    api.member.delete(&format!("{}?wait=deleted&timeout=30", path(instance))).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_there_for_its_next_instance_whatever_was_in_it_before() {
    let api = cloud(0).await;
    api.member.post("/v1/reservations", &new(3)).await.expect(201);
    let small = make(&api.member, "small", "c1", json!({"reservation": "nightly"})).await;
    runs(&api.member, &small).await;
    // What the slot has beside it is nobody else's.
    let other = make(&api.stranger, "other", "c16", json!({})).await;
    runs(&api.stranger, &other).await;
    let more = make(&api.stranger, "more", "c8", json!({})).await;
    waits(&api.stranger, &more).await;
    delete(&api, &small).await;
    for name in ["a", "b", "c"] {
        let inside = make(&api.member, name, "c16", json!({"reservation": "nightly"})).await;
        runs(&api.member, &inside).await;
    }
    assert_eq!(used(&api).await, 64, "as much as there is");
    sound(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dry_run_says_of_a_slot_is_what_comes_of_it() {
    let api = cloud(0).await;
    api.member.post("/v1/reservations", &new(3)).await.expect(201);
    let plain = make(&api.member, "plain", "c16", json!({})).await;
    runs(&api.member, &plain).await;
    let inside = json!({"name": "x", "image": "tiny", "flavor": "c16", "reservation": "nightly"});
    let dry = async || api.member.post("/v1/instances?dry_run=true", &inside).await.expect(200);
    // The host is full, and the slot is not.
    let plan = dry().await;
    assert_eq!(plan["fits"], true, "{plan:#}");
    assert!(plan["placement"]["summary"].as_str().unwrap().contains("3 free slots"), "{plan:#}");
    for name in ["a", "b", "c"] {
        let one = make(&api.member, name, "c16", json!({"reservation": "nightly"})).await;
        runs(&api.member, &one).await;
    }
    delete(&api, &plain).await;
    // The host has room, and the reservation has none.
    let plan = dry().await;
    assert_eq!(plan["fits"], false, "{plan:#}");
    let summary = plan["placement"]["summary"].as_str().unwrap();
    assert!(summary.contains("no free slot"), "{plan:#}");
    let waiting = make(&api.member, "d", "c16", json!({"reservation": "nightly"})).await;
    assert_eq!(waits(&api.member, &waiting).await["reason"], summary);
    // Who waits for a slot takes no room from who asks for none.
    let mut now = json!({"name": "y", "image": "tiny", "flavor": "c16"});
    now["on_no_capacity"] = json!("fail");
    let now = api.member.post("/v1/instances", &now).await.expect(202);
    runs(&api.member, &now).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_who_waits_is_had_by_no_reservation_and_a_dry_run_says_so() {
    let api = cloud(0).await;
    let first = make(&api.member, "first", "c48", json!({})).await;
    runs(&api.member, &first).await;
    let big = make(&api.member, "big", "c64", json!({})).await;
    waits(&api.member, &big).await;
    let small = json!({"name": "x", "image": "tiny", "flavor": "c1"});
    let plan = api.stranger.post("/v1/placement/explain", &json!({"flavor": "c1"})).await;
    let plan = plan.expect(200);
    assert_eq!(plan["fits"], false, "{plan:#}");
    assert!(plan["placement"]["summary"].as_str().unwrap().contains("kept"), "{plan:#}");
    let plan = api.member.post("/v1/instances?dry_run=true", &small).await.expect(200);
    assert_eq!(plan["fits"], false, "{plan:#}");
    let refused = api.member.post("/v1/reservations", &new(1)).await.problem(409, "no-capacity");
    assert!(refused["detail"].as_str().unwrap().contains("kept for an instance"), "{refused:#}");
    delete(&api, &first).await;
    runs(&api.member, &big).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_slots_are_had_at_once_by_those_who_wait_and_those_who_do_not() {
    let api = cloud(0).await;
    let held = json!({"name": "many", "flavor": "c1", "slots": 24, "expires_at": end(3600)});
    api.member.post("/v1/reservations", &held).await.expect(201);
    let creates = (0..24).map(|n| {
        let mut one = json!({"name": format!("n-{n}"), "image": "tiny", "flavor": "c1", "reservation": "many", "networks": []});
        if n % 2 == 0 {
            one["on_no_capacity"] = json!("fail");
        }
        let client = api.member.clone();
        async move { client.post("/v1/instances", &one).await.expect(202) }
    });
    for made in futures_util::future::join_all(creates).await {
        runs(&api.member, &made).await;
    }
    assert_eq!(used(&api).await, 24);
    sound(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_group_is_told_what_it_lacks_and_keeps_a_host_as_others_do() {
    let api = cloud(0).await;
    let group = json!({"name": "spread", "rule": "anti_affinity", "hard": false});
    api.member.post("/v1/groups", &group).await.expect(201);
    let first = make(&api.member, "first", "c48", json!({"group": "spread"})).await;
    runs(&api.member, &first).await;
    let second = make(&api.member, "second", "c48", json!({"group": "spread"})).await;
    let waiting = waits(&api.member, &second).await;
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.contains("lacks 32 vCPU") && !reason.contains("even when empty"), "{reason}");
    // A smaller flavor is named, as in a dry run.
    let fit = waiting["queue"]["would_fit_if"].to_string();
    assert!(fit.contains("c16"), "{fit}");
    let behind = make(&api.stranger, "behind", "c1", json!({})).await;
    waits(&api.stranger, &behind).await;
    delete(&api, &first).await;
    runs(&api.member, &second).await;
    runs(&api.stranger, &behind).await;
}
