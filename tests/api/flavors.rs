//! Flavors over HTTP. Also the example of what a noun's tests hold: bounds, absence, pages, conditions, idempotency.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

fn tiny() -> Value {
    json!({"name": "tiny", "vcpus": 1, "memory_mib": 64, "disk_gib": 1})
}

#[tokio::test]
async fn a_flavor_is_made_found_listed_and_deleted() {
    let api = Api::start().await;
    let made = api.admin.post("/v1/flavors", &tiny()).await;
    let flavor = made.expect(201);
    let path = format!("/v1/flavors/{}", flavor["id"].as_str().expect("id"));
    assert_eq!(made.header("location"), Some(path.as_str()));
    assert_eq!(made.header("etag"), Some("\"1\""));
    assert_eq!(api.reader.get(&path).await.expect(200), flavor);
    let listed = api.reader.get("/v1/flavors?name=tiny").await.expect(200);
    assert_eq!(listed, json!({"items": [flavor], "next": null}));
    api.admin.delete(&path).await.expect(204);
    api.admin.get(&path).await.problem(404, "not-found");
    api.admin.delete(&path).await.problem(404, "not-found");
    let events = api.events().await;
    let about: Vec<_> =
        events.iter().filter(|event| event["resource_id"] == flavor["id"]).collect();
    let kinds: Vec<_> = about.iter().map(|event| event["kind"].as_str().expect("kind")).collect();
    assert_eq!(kinds, ["flavor.create", "flavor.delete"]);
    assert!(about.iter().all(|event| event["actor"] == "admin" && event["outcome"] == "done"));
}

#[tokio::test]
async fn a_field_out_of_bounds_is_named_and_nothing_is_made() {
    let api = Api::start().await;
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("x".repeat(64))),
        ("name", json!("a\u{0}b")),
        ("name", json!("🦀")),
        ("name", json!("'; drop table flavors; --")),
        ("name", Value::Null),
        ("vcpus", json!(0)),
        ("vcpus", json!(513)),
        ("vcpus", json!(1.5)),
        ("memory_mib", json!(63)),
        ("memory_mib", json!(16_777_217)),
        ("disk_gib", json!(0)),
        ("disk_gib", json!(65_537)),
        ("disk_gib", json!("1")),
        ("color", json!("red")),
    ] {
        let mut body = tiny();
        body[field] = value;
        let answer = api.admin.post("/v1/flavors", &body).await;
        assert_eq!(answer.faults(), [format!("/{field}")], "{answer:?}");
    }
    let mut several = tiny();
    several["vcpus"] = json!(0);
    several["traits"] = json!(["Bad!"]);
    assert_eq!(api.admin.post("/v1/flavors", &several).await.faults(), ["/vcpus", "/traits/0"]);
    let before = api.admin.get("/v1/flavors").await.expect(200)["items"].as_array().map(Vec::len);
    assert_eq!(before, Some(5), "only those of the bootstrap");
}

#[tokio::test]
async fn a_body_that_is_no_json_is_told_so() {
    let api = Api::start().await;
    let send = |kind: &'static str, body: &'static str| {
        api.admin.ask(Method::POST, "/v1/flavors").header("content-type", kind).body(body).send()
    };
    send("application/json", "{").await.problem(400, "malformed-json");
    send("application/json", "{} {}").await.problem(400, "malformed-json");
    send("text/plain", "{}").await.problem(415, "unsupported-media-type");
    let large = " ".repeat(2 * 1024 * 1024);
    let sent =
        api.admin.ask(Method::POST, "/v1/flavors").header("content-type", "application/json");
    sent.body(large).send().await.problem(413, "too-large");
}

#[tokio::test]
async fn a_name_is_given_once() {
    let api = Api::start().await;
    api.admin.post("/v1/flavors", &tiny()).await.expect(201);
    api.admin.post("/v1/flavors", &tiny()).await.problem(409, "name-taken");
}

#[tokio::test]
async fn what_is_not_there_is_404_whatever_its_id_looks_like() {
    let api = Api::start().await;
    let random = Uuid::now_v7().to_string();
    for id in [random.as_str(), "0", "x", "%00", "..%2f..", "%F0%9F%A6%80"] {
        api.reader.get(&format!("/v1/flavors/{id}")).await.problem(404, "not-found");
        api.admin.delete(&format!("/v1/flavors/{id}")).await.problem(404, "not-found");
    }
    api.reader.get("/v1/nothing").await.problem(404, "not-found");
    api.admin.patch("/v1/flavors", &json!({})).await.problem(405, "method-not-allowed");
}

#[tokio::test]
async fn pages_show_everything_once_and_in_order() {
    let api = Api::start().await;
    let all = api.reader.get("/v1/flavors").await.expect(200);
    let all = all["items"].as_array().expect("items");
    let mut seen = Vec::new();
    let mut path = "/v1/flavors?limit=2".to_owned();
    loop {
        let page = api.reader.get(&path).await.expect(200);
        seen.extend(page["items"].as_array().expect("items").iter().cloned());
        assert!(seen.len() <= all.len(), "the pages do not end");
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/flavors?limit=2&cursor={next}");
    }
    assert_eq!(&seen, all);
    for (query, fault) in [
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
        ("limit=two", "?limit"),
        ("cursor=zz", "?cursor"),
    ] {
        let answer = api.reader.get(&format!("/v1/flavors?{query}")).await;
        assert_eq!(answer.faults(), [fault], "{answer:?}");
    }
    let unknown = api.reader.get("/v1/flavors?colour=red").await;
    assert_eq!(unknown.problem(422, "invalid-input")["errors"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_client_that_has_the_revision_is_not_sent_it_again() {
    let api = Api::start().await;
    let flavor = api.admin.post("/v1/flavors", &tiny()).await.expect(201);
    let path = format!("/v1/flavors/{}", flavor["id"].as_str().expect("id"));
    let ask = |tag: &str| api.reader.ask(Method::GET, &path).header("if-none-match", tag).send();
    let unchanged = ask("\"1\"").await;
    assert_eq!((unchanged.status, unchanged.text.as_str()), (304, ""));
    assert_eq!(unchanged.header("etag"), Some("\"1\""));
    assert_eq!(ask("\"2\"").await.expect(200), flavor);
    assert_eq!(ask("abc").await.faults(), ["if-none-match"]);
    assert_eq!(ask("\"2\", W/\"1\"").await.status, 304);
    assert_eq!(ask("\"somebody else's\"").await.status, 200);
}

#[tokio::test]
async fn a_change_that_is_meant_for_another_revision_is_refused() {
    let api = Api::start().await;
    let flavor = api.admin.post("/v1/flavors", &tiny()).await.expect(201);
    let path = format!("/v1/flavors/{}", flavor["id"].as_str().expect("id"));
    let delete = |tag: &str| api.admin.ask(Method::DELETE, &path).header("if-match", tag).send();
    delete("\"2\"").await.problem(412, "precondition-failed");
    assert_eq!(api.reader.get(&path).await.expect(200), flavor);
    delete("\"1\"").await.expect(204);
}

#[tokio::test]
async fn a_repeated_key_gives_the_same_answer_and_one_flavor() {
    let api = Api::start().await;
    let make = |key: &str, body: &Value| {
        api.admin.ask(Method::POST, "/v1/flavors").header("idempotency-key", key).json(body).send()
    };
    let first = make("k1", &tiny()).await.expect(201);
    let again = make("k1", &tiny()).await;
    assert_eq!(again.expect(201), first);
    assert_eq!(again.header("etag"), Some("\"1\""));
    let mut other = tiny();
    other["name"] = json!("other");
    make("k1", &other).await.problem(409, "idempotency-key-reused");
    make("k2", &tiny()).await.problem(409, "name-taken");
    // A refused request leaves its key free.
    make("k2", &other).await.expect(201);
    assert_eq!(make("", &tiny()).await.faults(), ["Idempotency-Key"]);
}

#[tokio::test]
async fn of_concurrent_requests_with_one_key_one_makes_the_flavor_and_all_get_it() {
    let api = Api::start().await;
    let make = || {
        let ask = api.admin.ask(Method::POST, "/v1/flavors").header("idempotency-key", "k");
        ask.json(&tiny()).send()
    };
    let answers = futures_util::future::join_all((0..8).map(|_| make())).await;
    let first = answers[0].expect(201);
    for answer in &answers {
        assert_eq!(answer.expect(201), first);
    }
    let listed = api.reader.get("/v1/flavors?name=tiny").await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
}
