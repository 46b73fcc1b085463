//! Networks over HTTP.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

fn path(thing: &Value) -> String {
    format!("/v1/networks/{}", thing["id"].as_str().expect("id"))
}

#[tokio::test]
async fn a_network_has_the_subnet_that_was_asked_for_and_sensible_defaults() {
    let api = Api::start().await;
    let made = api.member.post("/v1/networks", &json!({"name": "ci", "cidr": "10.1.2.0/24"})).await;
    let network = made.expect(201);
    assert_eq!(made.header("location"), Some(path(&network).as_str()));
    assert_eq!(made.header("etag"), Some("\"1\""));
    for (field, value) in [
        ("name", json!("ci")),
        ("tenant_id", json!(api.tenant_a)),
        ("cidr", json!("10.1.2.0/24")),
        ("gateway", json!("10.1.2.1")),
        ("range_start", json!("10.1.2.2")),
        ("range_end", json!("10.1.2.254")),
        ("dns", json!([])),
        ("labels", json!({})),
        ("port_security", json!(false)),
        ("status", json!("active")),
        ("status_reason", Value::Null),
        ("revision", json!(1)),
    ] {
        assert_eq!(network[field], value, "{field}");
    }
    let full = json!({
        "name": "db", "cidr": "192.168.8.0/22", "gateway": "192.168.11.254", "range_start": "192.168.9.0",
        "range_end": "192.168.9.255", "dns": ["9.9.9.9", "1.1.1.1"], "port_security": true, "labels": {"team": "db"},
    });
    let second = api.member.post("/v1/networks", &full).await.expect(201);
    for (field, value) in full.as_object().expect("an object") {
        assert_eq!(&second[field], value, "{field}");
    }
    assert_eq!(api.reader.get(&path(&second)).await.expect(200), second);
    let list = async |query: &str| {
        api.reader.get(&format!("/v1/networks{query}")).await.expect(200)["items"].clone()
    };
    assert_eq!(list("").await, json!([network, second]));
    assert_eq!(list("?name=db").await, json!([second]));
    assert_eq!(list("?label=team=db").await, json!([second]));
    assert_eq!(list("?label=team=ci").await, json!([]));
    assert_eq!(list("?limit=1").await, json!([network]));
    assert_eq!(api.reader.get("/v1/networks?label=team").await.faults(), ["?label"]);
}

#[tokio::test]
async fn a_field_out_of_bounds_is_named_and_nothing_is_made() {
    let api = Api::start().await;
    let many = json!(["9.9.9.9", "9.9.9.9", "9.9.9.9", "9.9.9.9", "9.9.9.9"]);
    for (field, value, pointer) in [
        ("name", json!(""), "/name"),
        ("name", json!("x".repeat(64)), "/name"),
        ("name", json!("🦀"), "/name"),
        ("name", json!("<network/>"), "/name"),
        ("name", json!("a\u{7}"), "/name"),
        ("name", json!("'; drop table networks; --"), "/name"),
        ("cidr", json!(""), "/cidr"),
        ("cidr", json!(7), "/cidr"),
        ("cidr", json!("10.1.2.0"), "/cidr"),
        ("cidr", json!("10.1.2.0/33"), "/cidr"),
        ("cidr", json!("10.0.0.0/8"), "/cidr"),
        ("cidr", json!("10.1.2.0/30"), "/cidr"),
        ("cidr", json!("10.1.2.3/24"), "/cidr"),
        ("cidr", json!("fd00::/64"), "/cidr"),
        ("cidr", json!("127.0.0.0/24"), "/cidr"),
        ("cidr", json!("169.254.0.0/24"), "/cidr"),
        ("cidr", json!("224.0.0.0/24"), "/cidr"),
        ("cidr", json!("0.0.0.0/16"), "/cidr"),
        ("cidr", json!("255.255.255.0/24"), "/cidr"),
        ("cidr", json!("8.8.8.0/24"), "/cidr"),
        ("cidr", json!("10.1.2.0/24'; --"), "/cidr"),
        ("gateway", json!("10.1.2.0"), "/gateway"),
        ("gateway", json!("10.1.2.255"), "/gateway"),
        ("gateway", json!("10.1.3.1"), "/gateway"),
        ("gateway", json!("gateway"), "/gateway"),
        ("range_start", json!("10.1.1.255"), "/range_start"),
        ("range_end", json!("10.1.2.255"), "/range_end"),
        ("dns", json!(["dns.example"]), "/dns/0"),
        ("dns", json!(["9.9.9.9", "127.0.0.1"]), "/dns/1"),
        ("dns", json!(["255.255.255.255"]), "/dns/0"),
        ("dns", many, "/dns"),
        ("labels", json!({"a b": "c"}), "/labels/a b"),
        ("labels", json!({"a": "\u{0}"}), "/labels/a"),
        ("port_security", json!("yes"), "/port_security"),
        ("color", json!("red"), "/color"),
    ] {
        let mut body = json!({"name": "net", "cidr": "10.1.2.0/24"});
        body[field] = value;
        let answer = api.member.post("/v1/networks", &body).await;
        assert_eq!(answer.faults(), [pointer], "{answer:?}");
    }
    let backwards = json!({"name": "net", "cidr": "10.1.2.0/24", "range_start": "10.1.2.9", "range_end": "10.1.2.8"});
    assert_eq!(api.member.post("/v1/networks", &backwards).await.faults(), ["/range_end"]);
    let without = json!({"name": "net", "gateway": "10.1.2.1", "range_start": "10.1.2.9"});
    assert_eq!(
        api.member.post("/v1/networks", &without).await.faults(),
        ["/gateway", "/range_start"]
    );
    let listed = api.admin.get("/v1/networks?all_tenants=true&name=net").await.expect(200);
    assert_eq!(listed["items"], json!([]));
    // Public addresses are somebody's: an admin may know whose.
    let public = json!({"name": "net", "cidr": "8.8.8.0/24"});
    api.admin.post("/v1/networks", &public).await.expect(201);
}

#[tokio::test]
async fn a_cidr_that_collides_is_refused_without_a_word_about_whose_it_is() {
    let api = Api::start().await;
    let theirs = json!({"name": "secret", "cidr": "10.1.0.0/20"});
    let network = api.stranger.post("/v1/networks", &theirs).await.expect(201);
    for cidr in ["10.1.0.0/20", "10.1.4.0/24", "10.1.0.0/16"] {
        let body = json!({"name": "mine", "cidr": cidr});
        let problem = api.member.post("/v1/networks", &body).await.problem(409, "cidr-taken");
        let text = problem.to_string();
        let id = network["id"].as_str().expect("id");
        assert!(
            !text.contains("secret") && !text.contains(id) && !text.contains("10.1.0.0"),
            "{text}"
        );
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains("leave it out")), "{text}");
    }
    api.member
        .post("/v1/networks", &json!({"name": "mine", "cidr": "10.1.16.0/20"}))
        .await
        .expect(201);
}

#[tokio::test]
async fn a_tenant_takes_no_large_part_of_the_pool_that_all_share() {
    let api = Api::start_with(|flags| flags.set("network_pool", "10.80.0.0/12")).await;
    let large = json!({"name": "large", "cidr": "10.81.0.0/19"});
    assert_eq!(api.member.post("/v1/networks", &large).await.faults(), ["/cidr"]);
    let fair = json!({"name": "fair", "cidr": "10.81.0.0/20"});
    api.member.post("/v1/networks", &fair).await.expect(201);
    let outside = json!({"name": "outside", "cidr": "10.1.0.0/16"});
    api.member.post("/v1/networks", &outside).await.expect(201);
    let admins = json!({"name": "admins", "cidr": "10.82.0.0/16"});
    api.admin.post("/v1/networks", &admins).await.expect(201);
}

#[tokio::test]
async fn concurrent_networks_without_a_cidr_get_different_ones_until_none_is_left() {
    let settings = |flags: pileus::config::Flags| {
        flags.set("network_pool", "10.77.0.0/20").set("quota_networks", "100")
    };
    let api = Api::start_with(settings).await;
    let made = futures_util::future::join_all((0..8).map(async |n: usize| {
        // Half of them race with a CIDR of their own.
        let mut body = json!({"name": format!("n{n}")});
        if n % 2 == 1 {
            body["cidr"] = json!(format!("10.77.{n}.0/24"));
        }
        api.member.post("/v1/networks", &body).await
    }))
    .await;
    let mut cidrs = BTreeSet::new();
    for (n, answer) in made.iter().enumerate() {
        // One that asks for a CIDR may come too late for it; one that asks for any never does.
        if n % 2 == 0 || answer.status == 201 {
            assert!(cidrs.insert(answer.expect(201)["cidr"].as_str().expect("cidr").to_owned()));
        } else {
            answer.problem(409, "cidr-taken");
        }
    }
    for n in cidrs.len()..16 {
        let body = json!({"name": format!("m{n}")});
        let network = api.stranger.post("/v1/networks", &body).await.expect(201);
        assert!(cidrs.insert(network["cidr"].as_str().expect("cidr").to_owned()));
    }
    assert!(
        cidrs.iter().all(|cidr| cidr.starts_with("10.77.") && cidr.ends_with(".0/24")),
        "{cidrs:?}"
    );
    let full = api.stranger.post("/v1/networks", &json!({"name": "one more"})).await;
    full.problem(409, "cidr-pool-exhausted");
}

#[tokio::test]
async fn a_network_changes_its_name_labels_and_name_servers_and_nothing_else() {
    let api = Api::start().await;
    let network = api
        .member
        .post("/v1/networks", &json!({"name": "a", "labels": {"x": "y"}}))
        .await
        .expect(201);
    let path = path(&network);
    let changed = api.member.patch(&path, &json!({"name": "b", "dns": ["9.9.9.9"]})).await;
    assert_eq!(changed.header("etag"), Some("\"2\""));
    let mut expected = network.clone();
    expected["name"] = json!("b");
    expected["dns"] = json!(["9.9.9.9"]);
    expected["revision"] = json!(2);
    assert_eq!(changed.expect(200), expected);
    assert_eq!(api.reader.get(&path).await.expect(200), expected);
    let emptied = api.member.patch(&path, &json!({"labels": {}, "dns": []})).await.expect(200);
    assert_eq!((&emptied["labels"], &emptied["dns"]), (&json!({}), &json!([])));
    assert_eq!(api.member.patch(&path, &json!({"cidr": "10.0.0.0/24"})).await.faults(), ["/cidr"]);
    let odd = api.member.patch(&path, &json!({"name": "", "dns": ["x"], "labels": {"": ""}})).await;
    assert_eq!(odd.faults(), ["/name", "/labels/", "/dns/0"]);
    let old = api
        .member
        .ask(Method::PATCH, &path)
        .header("if-match", "\"1\"")
        .json(&json!({"name": "c"}));
    old.send().await.problem(412, "precondition-failed");
    api.member.post("/v1/networks", &json!({"name": "c"})).await.expect(201);
    api.member.patch(&path, &json!({"name": "c"})).await.problem(409, "name-taken");
    assert_eq!(api.reader.get(&path).await.expect(200), emptied);
}

#[tokio::test]
async fn a_network_with_ports_stays_and_one_without_is_deleted_and_frees_its_name() {
    let api = Api::start().await;
    let network = api.member.post("/v1/networks", &json!({"name": "a"})).await.expect(201);
    let path = path(&network);
    let port =
        api.member.post("/v1/ports", &json!({"network_id": network["id"]})).await.expect(201);
    let kept = api.member.delete(&path).await.problem(409, "in-use");
    assert!(kept["detail"].as_str().is_some_and(|d| d.contains("1 free-standing")), "{kept}");
    assert_eq!(api.reader.get(&path).await.expect(200)["status"], "active");

    api.member.delete(&format!("/v1/ports/{}", port["id"].as_str().expect("id"))).await.expect(204);
    let old = api.member.ask(Method::DELETE, &path).header("if-match", "\"7\"");
    old.send().await.problem(412, "precondition-failed");
    let going = api.member.delete(&path).await.expect(202);
    assert_eq!((&going["status"], &going["revision"]), (&json!("deleting"), &json!(2)));
    // Again, as often as anybody likes.
    assert_eq!(api.member.delete(&path).await.expect(202), going);
    api.member
        .post("/v1/ports", &json!({"network_id": network["id"]}))
        .await
        .problem(409, "network-deleting");
    api.member.patch(&path, &json!({"name": "b"})).await.problem(409, "network-deleting");
    api.member.post("/v1/networks", &json!({"name": "a"})).await.expect(201);
    // Its CIDR it keeps, until no host has it any more.
    let body = json!({"name": "c", "cidr": network["cidr"]});
    api.member.post("/v1/networks", &body).await.problem(409, "cidr-taken");

    let events = api.events().await;
    let about = events.iter().filter(|event| event["resource_id"] == network["id"]);
    let kinds: Vec<_> = about.map(|e| (e["kind"].as_str(), e["outcome"].as_str())).collect();
    assert_eq!(
        kinds,
        [(Some("network.create"), Some("done")), (Some("network.delete"), Some("accepted"))]
    );
}

#[tokio::test]
async fn another_tenants_network_is_not_there() {
    let api = Api::start().await;
    let network = api.stranger.post("/v1/networks", &json!({"name": "theirs"})).await.expect(201);
    let path = path(&network);
    for client in [&api.reader, &api.member, &api.owner] {
        client.get(&path).await.problem(404, "not-found");
    }
    api.member.patch(&path, &json!({"name": "mine"})).await.problem(404, "not-found");
    api.member.delete(&path).await.problem(404, "not-found");
    assert_eq!(api.member.get("/v1/networks").await.expect(200)["items"], json!([]));
    api.member.get("/v1/networks?all_tenants=true").await.problem(403, "forbidden");
    let all = api.admin.get("/v1/networks?all_tenants=true").await.expect(200);
    assert_eq!(all["items"], json!([network]));
    assert_eq!(api.admin.get("/v1/networks").await.expect(200)["items"], json!([]));
    // The same name, and the same answer to a reader who may not change anything.
    api.member.post("/v1/networks", &json!({"name": "theirs"})).await.expect(201);
    api.reader.post("/v1/networks", &json!({"name": "x"})).await.problem(403, "forbidden");
    let random = format!("/v1/networks/{}", Uuid::now_v7());
    api.member.get(&random).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_repeated_key_makes_one_network_even_where_the_cidr_is_chosen() {
    let api = Api::start().await;
    let make = || {
        let ask = api.member.ask(Method::POST, "/v1/networks").header("idempotency-key", "k");
        ask.json(&json!({"name": "once"})).send()
    };
    let answers = futures_util::future::join_all((0..5).map(|_| make())).await;
    let first = answers[0].expect(201);
    assert!(answers.iter().all(|answer| answer.expect(201) == first));
    let listed = api.reader.get("/v1/networks").await.expect(200);
    assert_eq!(listed["items"], json!([first]));
}

#[tokio::test]
async fn the_quota_of_networks_holds() {
    let api = Api::start_with(|flags| flags.set("quota_networks", "2")).await;
    for name in ["a", "b"] {
        api.member.post("/v1/networks", &json!({"name": name})).await.expect(201);
    }
    let refused = api.member.post("/v1/networks", &json!({"name": "c"})).await;
    refused.problem(409, "quota-exceeded");
}
