//! API tokens: shown once, no stronger than their maker, refused when revoked.

use chrono::{DateTime, TimeDelta};
use pileus::domain::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Api, Client};

fn manual() -> Clock {
    Clock::manual(DateTime::from_timestamp(1_800_000_000, 0).expect("a time"))
}

async fn make(client: &Client, body: Value) -> (Client, Value) {
    let made = client.post("/v1/tokens", &body).await.expect(201);
    let secret = made["secret"].as_str().expect("a secret");
    (client.with_token(secret), made["token"].clone())
}

fn path(token: &Value) -> String {
    format!("/v1/tokens/{}", token["id"].as_str().expect("an id"))
}

async fn whoami(client: &Client) -> Answer {
    client.get("/v1/auth/whoami").await
}

#[tokio::test]
async fn a_token_acts_as_its_user_and_its_secret_is_shown_once() {
    let api = Api::start().await;
    let answer = api.member.post("/v1/tokens", &json!({"name": "ci"})).await;
    let made = answer.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let secret = made["secret"].as_str().expect("a secret");
    assert!(secret.starts_with("pileus_") && secret.len() == 50, "256 bits: {secret}");
    assert_eq!(made["token"]["prefix"], secret[..14]);
    assert_eq!(answer.header("location"), Some(path(&made["token"]).as_str()));
    let me = whoami(&api.anonymous.with_token(secret)).await.expect(200);
    assert_eq!((&me["user"]["name"], &me["role"]), (&json!("member"), &json!("member")));
    assert_eq!(me["token_id"], made["token"]["id"]);
    let got = api.member.get(&path(&made["token"])).await;
    let listed = api.member.get("/v1/tokens").await;
    let events = serde_json::to_string(&api.events().await).expect("text");
    let mut conn = api.app.conn().await.expect("a connection");
    let kept: String = sqlx::query_scalar(
        "select (select string_agg(t::text, '') from api_tokens t)
             || coalesce((select string_agg(i::text, '') from idempotency_keys i), '')",
    )
    .fetch_one(&mut *conn)
    .await
    .expect("rows");
    for text in [&got.text, &listed.text, &events, &kept] {
        assert!(!text.contains(&secret[14..]), "{text}");
    }
    assert!(events.contains("token.create"));
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once() {
    let api = Api::start().await;
    let (client, token) = make(&api.member, json!({"name": "ci"})).await;
    whoami(&client).await.expect(200);
    api.owner.delete(&path(&token)).await.problem(404, "not-found");
    api.admin.get(&path(&token)).await.problem(404, "not-found");
    api.member.delete(&path(&token)).await.expect(204);
    whoami(&client).await.problem(401, "unauthenticated");
    api.member.get(&path(&token)).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_token_ends_when_it_was_told_to_and_its_use_is_noted_to_the_minute() {
    let api = Api::start_at(manual(), |flags| flags).await;
    let (client, token) = make(&api.member, json!({"name": "ci", "expires_in_s": 600})).await;
    assert_eq!(token["last_used_at"], Value::Null);
    let used = async || {
        let token = api.member.get(&path(&token)).await.expect(200);
        token["last_used_at"]
            .as_str()
            .map(|at| at.parse::<DateTime<chrono::Utc>>().expect("a time"))
    };
    let first = api.app.clock.now();
    whoami(&client).await.expect(200);
    assert_eq!(used().await, Some(first));
    api.app.clock.advance(TimeDelta::seconds(30));
    whoami(&client).await.expect(200);
    assert_eq!(used().await, Some(first), "not a write for each request");
    api.app.clock.advance(TimeDelta::seconds(40));
    whoami(&client).await.expect(200);
    assert_eq!(used().await, Some(first + TimeDelta::seconds(70)));
    api.app.clock.advance(TimeDelta::seconds(529));
    whoami(&client).await.expect(200);
    // Remembered from the request before, and yet it ends.
    api.app.clock.advance(TimeDelta::seconds(1));
    whoami(&client).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_token_makes_none_that_is_stronger_than_itself() {
    let api = Api::start().await;
    let weak = json!({"name": "weak", "role": "reader", "expires_in_s": 3600});
    let (reader, token) = make(&api.admin, weak).await;
    let me = whoami(&reader).await.expect(200);
    assert_eq!((&me["role"], &me["admin"]), (&json!("reader"), &json!(false)));
    let flavor = json!({"name": "x", "vcpus": 1, "memory_mib": 64, "disk_gib": 1});
    reader.post("/v1/flavors", &flavor).await.problem(403, "forbidden");
    for stronger in
        [json!({"name": "x", "role": "member"}), json!({"name": "x", "expires_in_s": 7200})]
    {
        reader.post("/v1/tokens", &stronger).await.problem(403, "forbidden");
    }
    let (child, made) = make(&reader, json!({"name": "child"})).await;
    assert_eq!((&made["role"], &made["expires_at"]), (&json!("reader"), &token["expires_at"]));
    let me = whoami(&child).await.expect(200);
    assert_eq!((&me["role"], &me["admin"]), (&json!("reader"), &json!(false)));
    // A weak token does not see, nor revoke, what its user has.
    let (_, other) = make(&api.admin, json!({"name": "other"})).await;
    reader.delete(&path(&other)).await.problem(404, "not-found");
    let listed = reader.get("/v1/tokens").await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    // A login is bound by its user's role too.
    let answer = api.reader.post("/v1/tokens", &json!({"name": "x", "role": "owner"})).await;
    answer.problem(403, "forbidden");
}

#[tokio::test]
async fn a_token_weakens_with_its_user() {
    let api = Api::start().await;
    let (client, _) = make(&api.member, json!({"name": "ci"})).await;
    let me = whoami(&client).await.expect(200);
    let member =
        format!("/v1/tenants/{}/members/{}", api.tenant_a, me["user"]["id"].as_str().expect("id"));
    api.owner.put(&member, &json!({"role": "reader"})).await.expect(200);
    assert_eq!(whoami(&client).await.expect(200)["role"], "reader");
    assert_eq!(whoami(&api.member).await.expect(200)["role"], "reader");
    api.owner.delete(&member).await.expect(204);
    whoami(&client).await.problem(401, "unauthenticated");
    whoami(&api.member).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_repeated_key_makes_no_second_token_and_names_the_first() {
    let api = Api::start().await;
    let ask = || {
        let ask = api.member.ask(Method::POST, "/v1/tokens").header("idempotency-key", "k");
        ask.json(&json!({"name": "ci"})).send()
    };
    let made = ask().await.expect(201);
    let again = ask().await.problem(409, "secret-shown-once");
    let id = made["token"]["id"].as_str().expect("an id");
    assert!(again["detail"].as_str().expect("detail").contains(id), "{again}");
    let listed = api.member.get("/v1/tokens").await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn bounds_are_kept_and_named() {
    let api = Api::start().await;
    for (body, fault) in [
        (json!({"name": ""}), "/name"),
        (json!({"name": "x", "expires_in_s": 59}), "/expires_in_s"),
        (json!({"name": "x", "expires_in_s": 315_360_001}), "/expires_in_s"),
        (json!({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"name": "x", "expires_at": "9999-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"name": "x", "expires_at": "soon"}), "/expires_at"),
        (
            json!({"name": "x", "expires_in_s": 60, "expires_at": "2099-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (json!({"name": "x", "role": "king"}), "/role"),
        (json!({"name": "x", "secret": "x"}), "/secret"),
    ] {
        let answer = api.member.post("/v1/tokens", &body).await;
        assert_eq!(answer.faults(), [fault], "{body}");
    }
    for i in 0..100 {
        api.member.post("/v1/tokens", &json!({"name": format!("t{i}")})).await.expect(201);
    }
    api.member.post("/v1/tokens", &json!({"name": "x"})).await.problem(409, "too-many-tokens");
    let first = api.member.get("/v1/tokens?limit=60").await.expect(200);
    let next = first["next"].as_str().expect("a next page");
    let second = api.member.get(&format!("/v1/tokens?limit=60&cursor={next}")).await.expect(200);
    assert_eq!(second["items"].as_array().map(Vec::len), Some(40));
    assert_eq!(second["next"], Value::Null);
}
