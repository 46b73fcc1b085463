//! Keypairs over HTTP.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIBcWIJUgQcnhaeLmN0ARKdMM40WVFUIJU3TkPQHwfTN käthe@laptop";
const FINGERPRINT: &str = "SHA256:lSLU5QEHAwE1Y9lkkikwK2C9vegOOBfQuIXpg+a2XMA";

fn laptop() -> Value {
    json!({"name": "laptop", "public_key": KEY})
}

fn path(keypair: &Value) -> String {
    format!("/v1/keypairs/{}", keypair["id"].as_str().expect("id"))
}

#[tokio::test]
async fn a_keypair_is_made_found_listed_and_deleted() {
    let api = Api::start().await;
    let made = api
        .member
        .post("/v1/keypairs", &json!({"name": "laptop", "public_key": format!("{KEY}\n")}))
        .await;
    let keypair = made.expect(201);
    assert_eq!(made.header("location"), Some(path(&keypair).as_str()));
    assert_eq!(
        (&keypair["public_key"], &keypair["fingerprint"]),
        (&json!(KEY), &json!(FINGERPRINT))
    );
    assert_eq!(api.reader.get(&path(&keypair)).await.expect(200), keypair);
    let list = async |query: &str| {
        api.reader.get(&format!("/v1/keypairs{query}")).await.expect(200)["items"].clone()
    };
    assert_eq!(list("").await, json!([keypair]));
    assert_eq!(list("?name=laptop").await, json!([keypair]));
    assert_eq!(list("?name=other").await, json!([]));
    let same_name = api.member.post("/v1/keypairs", &laptop()).await;
    same_name.problem(409, "name-taken");
    let old = api.member.ask(Method::DELETE, &path(&keypair)).header("if-match", "\"2\"");
    old.send().await.problem(412, "precondition-failed");
    assert_eq!(list("").await, json!([keypair]));
    api.member.delete(&path(&keypair)).await.expect(204);
    api.reader.get(&path(&keypair)).await.problem(404, "not-found");
    api.member.delete(&path(&keypair)).await.problem(404, "not-found");
    let events = api.events().await;
    let about: Vec<_> =
        events.iter().filter(|event| event["resource_id"] == keypair["id"]).collect();
    let kinds: Vec<_> = about.iter().map(|event| event["kind"].as_str().expect("kind")).collect();
    assert_eq!(kinds, ["keypair.create", "keypair.delete"]);
    assert!(about.iter().all(|event| event["detail"]["fingerprint"] == FINGERPRINT));
}

#[tokio::test]
async fn what_is_no_public_key_is_refused_and_named() {
    let api = Api::start().await;
    let two = format!("{KEY}\n{KEY}");
    for key in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "no-pty ssh-ed25519 AAAA",
        "<key/>",
        "🦀",
        two.as_str(),
    ] {
        let answer =
            api.member.post("/v1/keypairs", &json!({"name": "k", "public_key": key})).await;
        assert_eq!(answer.faults(), ["/public_key"], "{answer:?}");
    }
    let both = api.member.post("/v1/keypairs", &json!({"name": "", "public_key": ""})).await;
    assert_eq!(both.faults(), ["/name", "/public_key"]);
    let unknown = json!({"name": "k", "public_key": KEY, "private_key": "x"});
    assert_eq!(api.member.post("/v1/keypairs", &unknown).await.faults(), ["/private_key"]);
    assert_eq!(api.member.get("/v1/keypairs").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_private_key_is_refused_and_kept_nowhere() {
    let api = Api::start().await;
    let secret = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";
    let text = format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{secret}\n-----END OPENSSH PRIVATE KEY-----\n"
    );
    let ask = api.member.ask(Method::POST, "/v1/keypairs").header("idempotency-key", "k");
    let answer = ask.json(&json!({"name": "k", "public_key": text})).send().await;
    assert_eq!(answer.faults(), ["/public_key"]);
    assert!(answer.text.contains("private key") && !answer.text.contains(secret), "{answer:?}");
    let events = serde_json::to_string(&api.events().await).expect("json");
    assert!(!events.contains(secret));
    let mut conn = api.app.conn().await.expect("a connection");
    let kept: i64 = sqlx::query_scalar("select count(*) from idempotency_keys")
        .fetch_one(&mut *conn)
        .await
        .expect("count");
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn another_tenants_keypair_is_not_there() {
    let api = Api::start().await;
    let keypair = api.stranger.post("/v1/keypairs", &laptop()).await.expect(201);
    api.member.get(&path(&keypair)).await.problem(404, "not-found");
    api.member.delete(&path(&keypair)).await.problem(404, "not-found");
    assert_eq!(api.member.get("/v1/keypairs").await.expect(200)["items"], json!([]));
    assert_eq!(
        api.admin.get("/v1/keypairs?all_tenants=true").await.expect(200)["items"],
        json!([keypair])
    );
    api.member.get("/v1/keypairs?all_tenants=true").await.problem(403, "forbidden");
    // Names are the tenant's own.
    api.member.post("/v1/keypairs", &laptop()).await.expect(201);
    api.reader
        .post("/v1/keypairs", &json!({"name": "k", "public_key": KEY}))
        .await
        .problem(403, "forbidden");
    let random = format!("/v1/keypairs/{}", Uuid::now_v7());
    api.member.delete(&random).await.problem(404, "not-found");
}

#[tokio::test]
async fn the_quota_of_keypairs_holds() {
    let api = Api::start_with(|flags| flags.set("quota_keypairs", "1")).await;
    api.member.post("/v1/keypairs", &laptop()).await.expect(201);
    let mut second = laptop();
    second["name"] = json!("desktop");
    api.member.post("/v1/keypairs", &second).await.problem(409, "quota-exceeded");
}
