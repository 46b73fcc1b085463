//! Aggregates over HTTP: hosts that are dedicated to tenants.

use serde_json::json;
use uuid::Uuid;

use crate::harness::{HOST, MORE};
use crate::queue::{cloud, make, path, runs, waits};

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_host_takes_its_tenants_alone_until_it_is_open_again() {
    let api = cloud(1).await;
    let (first, second) = (HOST.0, MORE[0].0.0);
    let new = json!({"name": "ours", "description": "bought by B", "hosts": [second], "tenants": [api.tenant_b]});
    api.member.post("/v1/aggregates", &new).await.problem(403, "forbidden");
    let made = api.admin.post("/v1/aggregates", &new).await.expect(201);
    let at = format!("/v1/aggregates/{}", made["id"].as_str().unwrap());
    assert_eq!(api.admin.get(&at).await.expect(200), made);
    let big = make(&api.member, "a", "c48", json!({})).await;
    runs(&api.member, &big).await;
    let more = make(&api.member, "a2", "c32", json!({})).await;
    let waiting = waits(&api.member, &more).await;
    assert!(waiting["reason"].as_str().expect("a reason").contains("lacks"), "{waiting:#}");
    let explained =
        api.member.post("/v1/placement/explain", &json!({"flavor": "c48"})).await.expect(200);
    assert!(explained["placement"]["classes"].to_string().contains("dedicated"), "{explained:#}");
    // Its own tenant may use it, and others' hosts too.
    for n in 0..2 {
        let theirs = make(&api.stranger, &format!("b{n}"), "c16", json!({})).await;
        runs(&api.stranger, &theirs).await;
    }
    let one = make(&api.stranger, "b2", "c32", json!({})).await;
    let host = runs(&api.admin, &one).await["host_id"].clone();
    assert_eq!(host, json!(second), "the other has no room, or is kept");
    let opened = api.admin.patch(&at, &json!({"tenants": []})).await.expect(200);
    assert_eq!((&opened["revision"], &opened["hosts"]), (&json!(2), &json!([second])));
    api.stranger.delete(&format!("{}?wait=deleted&timeout=30", path(&one))).await.expect(202);
    runs(&api.member, &more).await;
    // Bad input is named, and nothing changes.
    let nobody = Uuid::from_u128(1);
    let bad = json!({"name": "x", "hosts": [first, nobody], "tenants": [nobody]});
    assert_eq!(api.admin.post("/v1/aggregates", &bad).await.faults(), ["/hosts/1", "/tenants/0"]);
    let twice = json!({"name": "x", "hosts": [first, first]});
    assert_eq!(api.admin.post("/v1/aggregates", &twice).await.faults(), ["/hosts/1"]);
    api.admin.post("/v1/aggregates", &new).await.problem(409, "name-taken");
    assert_eq!(api.admin.get("/v1/aggregates").await.expect(200)["items"], json!([opened]));
    api.admin.delete(&at).await.expect(204);
    api.admin.get(&at).await.problem(404, "not-found");
}
