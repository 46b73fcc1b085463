//! Ports over HTTP.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta};
use pileus::domain::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

async fn network(api: &Api, cidr: &str) -> Value {
    api.member.post("/v1/networks", &json!({"name": "net", "cidr": cidr})).await.expect(201)
}

fn path(port: &Value) -> String {
    format!("/v1/ports/{}", port["id"].as_str().expect("id"))
}

#[tokio::test]
async fn a_port_is_made_found_listed_and_deleted() {
    let api = Api::start().await;
    let network = network(&api, "10.1.2.0/24").await;
    let made = api.member.post("/v1/ports", &json!({"network_id": network["id"]})).await;
    let port = made.expect(201);
    assert_eq!(made.header("location"), Some(path(&port).as_str()));
    for (field, value) in [
        ("network_id", network["id"].clone()),
        ("tenant_id", json!(api.tenant_a)),
        ("instance_id", Value::Null),
        ("name", json!("")),
        ("address", json!("10.1.2.2")),
        ("owned", json!(false)),
        ("position", json!(0)),
        ("revision", json!(1)),
    ] {
        assert_eq!(port[field], value, "{field}");
    }
    let mac = port["mac"].as_str().expect("mac");
    assert_eq!(mac, "52:54:0a:01:02:02");

    let wishes = json!({"network_id": network["id"], "name": "vip", "mac": "52:54:00:AA:bb:01", "address": "10.1.2.77"});
    let second = api.member.post("/v1/ports", &wishes).await.expect(201);
    assert_eq!(
        (&second["mac"], &second["address"]),
        (&json!("52:54:00:aa:bb:01"), &json!("10.1.2.77"))
    );
    let list = async |query: &str| {
        api.reader.get(&format!("/v1/ports{query}")).await.expect(200)["items"].clone()
    };
    assert_eq!(list("").await, json!([port, second]));
    assert_eq!(list("?name=vip").await, json!([second]));
    let on = format!("?network_id={}", network["id"].as_str().expect("id"));
    assert_eq!(list(&on).await, json!([port, second]));
    assert_eq!(list(&format!("?network_id={}", Uuid::now_v7())).await, json!([]));
    assert_eq!(list(&format!("?instance_id={}", Uuid::now_v7())).await, json!([]));

    let delete = api.member.ask(Method::DELETE, &path(&port)).header("if-match", "\"2\"");
    delete.send().await.problem(412, "precondition-failed");
    api.member.delete(&path(&port)).await.expect(204);
    api.member.delete(&path(&port)).await.problem(404, "not-found");
    api.reader.get(&path(&port)).await.problem(404, "not-found");
    let events = api.events().await;
    let about: Vec<_> = events.iter().filter(|event| event["resource_id"] == port["id"]).collect();
    let kinds: Vec<_> = about.iter().map(|event| event["kind"].as_str().expect("kind")).collect();
    assert_eq!(kinds, ["port.create", "port.delete"]);
}

#[tokio::test]
async fn a_field_at_fault_is_named_and_nothing_is_made() {
    let api = Api::start().await;
    let network = network(&api, "10.1.2.0/24").await;
    for (field, value) in [
        ("network_id", json!("net")),
        ("network_id", json!(Uuid::now_v7())),
        ("name", json!("")),
        ("name", json!("a\nb")),
        ("mac", json!("")),
        ("mac", json!("52:54:00:00:00")),
        ("mac", json!("52:54:0a:01:02:03")),
        ("mac", json!("00:16:3e:00:00:01")),
        ("mac", json!("ff:ff:ff:ff:ff:ff")),
        ("mac", json!("fe:54:00:00:00:01")),
        ("address", json!("10.1.2.0")),
        ("address", json!("10.1.2.1")),
        ("address", json!("10.1.2.255")),
        ("address", json!("10.1.3.7")),
        ("address", json!("fd00::7")),
        ("address", json!("10.1.2.7/24")),
        ("address", json!("host")),
        ("instance_id", json!(Uuid::now_v7())),
    ] {
        let mut body = json!({"network_id": network["id"]});
        body[field] = value;
        let answer = api.member.post("/v1/ports", &body).await;
        assert_eq!(answer.faults(), [format!("/{field}")], "{answer:?}");
    }
    assert_eq!(api.member.get("/v1/ports").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn another_tenants_network_and_ports_are_not_there() {
    let api = Api::start().await;
    let network = network(&api, "10.1.2.0/24").await;
    let port =
        api.member.post("/v1/ports", &json!({"network_id": network["id"]})).await.expect(201);
    let answer = api.stranger.post("/v1/ports", &json!({"network_id": network["id"]})).await;
    assert_eq!(answer.faults(), ["/network_id"]);
    // In the very words of one that does not exist.
    let nothing = Uuid::now_v7().to_string();
    let nowhere = api.stranger.post("/v1/ports", &json!({"network_id": nothing})).await;
    let id = network["id"].as_str().expect("id");
    assert_eq!(answer.text.replace(id, ""), nowhere.text.replace(&nothing, ""));
    api.stranger.get(&path(&port)).await.problem(404, "not-found");
    api.stranger.delete(&path(&port)).await.problem(404, "not-found");
    let on = format!("/v1/ports?network_id={id}");
    assert_eq!(api.stranger.get(&on).await.expect(200)["items"], json!([]));
    assert_eq!(api.admin.get(&path(&port)).await.expect(200), port);
    api.reader.delete(&path(&port)).await.problem(403, "forbidden");
    assert_eq!(api.member.get(&path(&port)).await.expect(200), port);
}

#[tokio::test]
async fn fifty_ports_at_once_get_fifty_addresses() {
    let api = Api::start().await;
    let network = network(&api, "10.1.2.0/24").await;
    let body = json!({"network_id": network["id"]});
    let made =
        futures_util::future::join_all((0..50).map(|_| api.member.post("/v1/ports", &body))).await;
    let text = |port: &Value, field: &str| port[field].as_str().expect("text").to_owned();
    let addresses: BTreeSet<_> =
        made.iter().map(|answer| text(&answer.expect(201), "address")).collect();
    let expected: BTreeSet<_> = (2..52).map(|n| format!("10.1.2.{n}")).collect();
    assert_eq!(addresses, expected);
    let macs: BTreeSet<_> = made.iter().map(|answer| text(&answer.body(), "mac")).collect();
    assert_eq!(macs.len(), 50);
}

#[tokio::test]
async fn a_released_address_rests_before_it_is_given_out_again() {
    let start = DateTime::from_timestamp(1_800_000_000, 0).expect("time");
    let clock = Clock::manual(start);
    let settings = |flags: pileus::config::Flags| {
        flags.set("address_quarantine_s", "100").set("token_ttl_s", "86400")
    };
    let api = Api::start_at(clock.clone(), settings).await;
    let network = network(&api, "10.1.2.0/29").await;
    let body = json!({"network_id": network["id"]});
    let mut ports = Vec::new();
    for _ in 0..5 {
        ports.push(api.member.post("/v1/ports", &body).await.expect(201));
    }
    let full = api.member.post("/v1/ports", &body).await.problem(409, "addresses-exhausted");
    assert!(full["detail"].as_str().is_some_and(|d| d.contains("5 of 5 are in use")), "{full}");

    api.member.delete(&path(&ports[2])).await.expect(204);
    clock.advance(TimeDelta::seconds(99));
    let resting = api.member.post("/v1/ports", &body).await.problem(409, "addresses-exhausted");
    let free_at = (start + TimeDelta::seconds(100)).format("%FT%TZ").to_string();
    assert!(
        resting["detail"].as_str().is_some_and(|d| d.contains("1 rest") && d.contains(&free_at)),
        "{resting}"
    );
    let mut this = body.clone();
    this["address"] = ports[2]["address"].clone();
    api.member.post("/v1/ports", &this).await.problem(409, "address-taken");
    clock.advance(TimeDelta::seconds(1));
    let again = api.member.post("/v1/ports", &body).await.expect(201);
    assert_eq!(again["address"], ports[2]["address"]);
}

#[tokio::test]
async fn an_address_and_a_mac_are_held_by_one_port() {
    let api = Api::start().await;
    let network = network(&api, "10.1.2.0/24").await;
    let body =
        json!({"network_id": network["id"], "mac": "52:54:00:00:00:01", "address": "10.1.2.9"});
    api.member.post("/v1/ports", &body).await.expect(201);
    let mut same_mac = body.clone();
    same_mac["address"] = json!("10.1.2.10");
    api.member.post("/v1/ports", &same_mac).await.problem(409, "mac-taken");
    let mut same_address = body.clone();
    same_address["mac"] = json!("52:54:00:00:00:02");
    api.member.post("/v1/ports", &same_address).await.problem(409, "address-taken");
    assert_eq!(
        api.member.get("/v1/ports").await.expect(200)["items"].as_array().map(Vec::len),
        Some(1)
    );
    // What others have on networks of theirs nobody learns by trying.
    let beside = json!({"name": "net", "cidr": "10.1.3.0/24"});
    let beside = api.stranger.post("/v1/networks", &beside).await.expect(201);
    let body = json!({"network_id": beside["id"], "mac": "52:54:00:00:00:01"});
    api.stranger.post("/v1/ports", &body).await.expect(201);
}
