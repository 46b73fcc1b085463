//! Groups over HTTP: instances that share a host or a zone, or do not.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Api;
use crate::queue::{cloud, make, path, runs, waits};

async fn group(api: &Api, new: Value) -> Value {
    api.member.post("/v1/groups", &new).await.expect(201)
}

/// Where an instance runs.
async fn host(api: &Api, instance: &Value) -> String {
    runs(&api.admin, instance).await["host_id"].as_str().expect("a host").to_owned()
}

#[tokio::test]
async fn a_group_is_made_found_listed_and_deleted() {
    let api = Api::start().await;
    let made =
        api.member.post("/v1/groups", &json!({"name": "web", "rule": "anti_affinity"})).await;
    let group = made.expect(201);
    assert_eq!((&group["scope"], &group["hard"]), (&json!("host"), &json!(true)));
    assert_eq!(
        made.header("location"),
        Some(format!("/v1/groups/{}", group["id"].as_str().unwrap()).as_str())
    );
    let at = format!("/v1/groups/{}", group["id"].as_str().unwrap());
    assert_eq!(api.reader.get(&at).await.expect(200), group);
    assert_eq!(api.reader.get("/v1/groups?name=web").await.expect(200)["items"], json!([group]));
    api.stranger.get(&at).await.problem(404, "not-found");
    api.stranger.delete(&at).await.problem(404, "not-found");
    api.reader
        .post("/v1/groups", &json!({"name": "x", "rule": "affinity"}))
        .await
        .problem(403, "forbidden");
    api.member
        .post("/v1/groups", &json!({"name": "web", "rule": "affinity"}))
        .await
        .problem(409, "name-taken");
    for (bad, fault) in [
        (json!({"name": "", "rule": "affinity"}), "/name"),
        (json!({"name": "x"}), "/rule"),
        (json!({"name": "x", "rule": "near"}), "/rule"),
        (json!({"name": "x", "rule": "affinity", "scope": "rack"}), "/scope"),
        (json!({"name": "x", "rule": "affinity", "hard": "yes"}), "/hard"),
    ] {
        assert_eq!(api.member.post("/v1/groups", &bad).await.faults(), [fault], "{bad}");
    }
    let old = api.member.ask(Method::DELETE, &at).header("if-match", "\"2\"");
    old.send().await.problem(412, "precondition-failed");
    api.member.delete(&at).await.expect(204);
    api.member.get(&at).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_hard_group_are_apart_whoever_places_them_and_one_too_many_is_refused() {
    let api = cloud(3).await;
    group(&api, json!({"name": "db", "rule": "anti_affinity"})).await;
    let mut members = Vec::new();
    for n in 0..4 {
        members.push(make(&api.member, &format!("db{n}"), "c1", json!({"group": "db"})).await);
    }
    let mut hosts = BTreeSet::new();
    for member in &members {
        hosts.insert(host(&api, member).await);
    }
    assert_eq!(hosts.len(), 4);
    let new = json!({"name": "db4", "image": "tiny", "flavor": "c1", "group": "db"});
    let refused = api.member.post("/v1/instances", &new).await;
    assert_eq!(refused.faults(), ["/group"]);
    let told = refused.body().to_string();
    assert!(told.contains("has 4 instances") && told.contains("not hard"), "{told}");
    let at = api.member.get("/v1/groups?name=db").await.expect(200)["items"][0].clone();
    assert_eq!(at["instances"], 4);
    let at = format!("/v1/groups/{}", at["id"].as_str().unwrap());
    api.member.delete(&at).await.problem(409, "in-use");
    // Another tenant's group is not there.
    assert_eq!(api.stranger.post("/v1/instances", &new).await.faults(), ["/group"]);
    // Where one is gone, there is a place again, and it is that one's.
    let gone = host(&api, &members[2]).await;
    api.member.delete(&format!("{}?wait=deleted&timeout=30", path(&members[2]))).await.expect(202);
    let next = api.member.post("/v1/instances", &new).await.expect(202);
    assert_eq!(host(&api, &next).await, gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_come_at_once_to_a_hard_group_as_many_as_there_are_places_get_in() {
    let api = cloud(3).await;
    group(&api, json!({"name": "db", "rule": "anti_affinity"})).await;
    let new: Vec<_> = (0..12)
        .map(|n| json!({"name": format!("db{n}"), "image": "tiny", "flavor": "c1", "group": "db"}))
        .collect();
    let asked = new.iter().map(|new| api.member.post("/v1/instances", new));
    let answers = futures_util::future::join_all(asked).await;
    let (taken, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 202);
    assert_eq!(taken.len(), 4);
    assert!(refused.iter().all(|answer| answer.faults() == ["/group"]), "{refused:?}");
    let mut hosts = BTreeSet::new();
    for made in taken {
        hosts.insert(host(&api, &made.body()).await);
    }
    assert_eq!(hosts.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_finds_no_place_waits_and_a_soft_group_gives_way() {
    let api = cloud(1).await;
    group(&api, json!({"name": "pair", "rule": "affinity"})).await;
    group(&api, json!({"name": "loose", "rule": "affinity", "hard": false})).await;
    group(&api, json!({"name": "spread", "rule": "anti_affinity", "scope": "zone", "hard": false}))
        .await;
    let first = make(&api.member, "p0", "c48", json!({"group": "pair"})).await;
    let at = host(&api, &first).await;
    let second = make(&api.member, "p1", "c16", json!({"group": "pair"})).await;
    assert_eq!(host(&api, &second).await, at);
    let third = make(&api.member, "p2", "c8", json!({"group": "pair"})).await;
    let waiting = waits(&api.member, &third).await;
    assert!(waiting["queue"]["would_fit_if"].to_string().contains("group_soft"), "{waiting:#}");
    let one = host(&api, &make(&api.member, "l0", "c48", json!({"group": "loose"})).await).await;
    assert_ne!(one, at);
    api.member.delete(&format!("{}?wait=deleted&timeout=30", path(&first))).await.expect(202);
    assert_eq!(host(&api, &third).await, at);
    let two = make(&api.member, "l1", "c32", json!({"group": "loose"})).await;
    assert_eq!(host(&api, &two).await, at, "together as long as there is room");
    let mut zones = BTreeSet::new();
    for n in 0..2 {
        zones.insert(
            host(
                &api,
                &make(&api.member, &format!("z{n}"), "c1", json!({"group": "spread"})).await,
            )
            .await,
        );
    }
    assert_eq!(zones.len(), 2);
    runs(&api.member, &make(&api.member, "z3", "c1", json!({"group": "spread"})).await).await;
    let fail = json!({"name": "p4", "image": "tiny", "flavor": "c32", "group": "pair", "on_no_capacity": "fail"});
    api.member.post("/v1/instances", &fail).await.problem(409, "no-capacity");
}
