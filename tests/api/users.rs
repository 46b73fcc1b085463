//! Users: what an admin does to them, and what that does to their logins.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Api, Client, PASSWORD};

const OTHER: &str = "staple battery horse correct";

async fn user(api: &Api, name: &str) -> String {
    let found = api.admin.get(&format!("/v1/users?name={name}")).await.expect(200);
    format!("/v1/users/{}", found["items"][0]["id"].as_str().expect("an id"))
}

async fn login(api: &Api, user: &str, password: &str) -> u16 {
    let body = json!({"user": user, "password": password});
    api.anonymous.post("/v1/auth/login", &body).await.status
}

async fn whoami(client: &Client) -> u16 {
    client.get("/v1/auth/whoami").await.status
}

#[tokio::test]
async fn a_user_is_made_logs_in_and_is_removed() {
    let api = Api::start().await;
    let new = json!({"name": "anne", "password": PASSWORD});
    let made = api.admin.post("/v1/users", &new).await;
    let anne = made.expect(201);
    assert!(!made.text.contains("password") && !made.text.contains("argon2"), "{made:?}");
    let path = made.header("location").expect("a location").to_owned();
    assert_eq!(api.admin.get(&path).await.expect(200), anne);
    api.admin.post("/v1/users", &new).await.problem(409, "name-taken");
    // Nobody's member: logged in, and in no tenant.
    let client = api.anonymous.login("anne").await;
    assert_eq!(client.get("/v1/auth/whoami").await.expect(200)["tenant"], Value::Null);
    client.get("/v1/events").await.problem(403, "forbidden");
    client.get("/v1/flavors").await.expect(200);
    api.admin.delete(&path).await.expect(204);
    assert_eq!(whoami(&client).await, 401);
    assert_eq!(login(&api, "anne", PASSWORD).await, 401);
    let events = api.events().await;
    let kinds: Vec<_> = events
        .iter()
        .filter(|event| event["resource_id"] == anne["id"])
        .map(|event| &event["kind"])
        .collect();
    assert_eq!(kinds, ["user.create", "auth.login", "user.delete"]);
}

#[tokio::test]
async fn a_disabled_user_is_shut_out_at_once_and_their_old_logins_stay_so() {
    let api = Api::start().await;
    let path = user(&api, "member").await;
    let made = api.member.post("/v1/tokens", &json!({"name": "ci"})).await.expect(201);
    let token = api.anonymous.with_token(made["secret"].as_str().expect("a secret"));
    assert_eq!((whoami(&api.member).await, whoami(&token).await), (200, 200));
    api.admin.patch(&path, &json!({"enabled": false})).await.expect(200);
    assert_eq!((whoami(&api.member).await, whoami(&token).await), (401, 401));
    assert_eq!(login(&api, "member", PASSWORD).await, 401);
    api.admin.patch(&path, &json!({"enabled": true})).await.expect(200);
    assert_eq!(whoami(&api.member).await, 401, "the login has ended for good");
    assert_eq!(whoami(&token).await, 200, "the token was not revoked");
    assert_eq!(login(&api, "member", PASSWORD).await, 200);
}

#[tokio::test]
async fn a_change_of_rights_needs_a_new_login() {
    let api = Api::start().await;
    let path = user(&api, "member").await;
    let patched = api.admin.patch(&path, &json!({"admin": true})).await;
    assert_eq!(
        (&patched.expect(200)["admin"], patched.header("etag")),
        (&json!(true), Some("\"2\""))
    );
    assert_eq!(whoami(&api.member).await, 401);
    let raised = api.anonymous.login("member").await;
    raised.get("/v1/users").await.expect(200);
    api.admin.patch(&path, &json!({"admin": false})).await.expect(200);
    assert_eq!(raised.get("/v1/users").await.status, 401);
}

#[tokio::test]
async fn a_password_is_changed_by_an_admin_or_with_the_old_one() {
    let api = Api::start().await;
    let change = json!({"old_password": PASSWORD, "new_password": OTHER});
    let wrong = json!({"old_password": "wrong", "new_password": OTHER});
    assert_eq!(api.member.post("/v1/auth/password", &wrong).await.faults(), ["/old_password"]);
    let short = json!({"old_password": PASSWORD, "new_password": "short"});
    assert_eq!(api.member.post("/v1/auth/password", &short).await.faults(), ["/new_password"]);
    api.member.post("/v1/auth/password", &change).await.expect(204);
    assert_eq!(whoami(&api.member).await, 401);
    assert_eq!(login(&api, "member", PASSWORD).await, 401);
    assert_eq!(login(&api, "member", OTHER).await, 200);
    let path = user(&api, "member").await;
    api.admin.patch(&path, &json!({"password": PASSWORD})).await.expect(200);
    assert_eq!(login(&api, "member", PASSWORD).await, 200);
    let text = serde_json::to_string(&api.events().await).expect("text");
    assert!(!text.contains(OTHER) && !text.contains(PASSWORD), "{text}");
}

#[tokio::test]
async fn the_last_enabled_admin_stays() {
    let api = Api::start().await;
    let path = user(&api, "admin").await;
    for patch in [json!({"enabled": false}), json!({"admin": false})] {
        api.admin.patch(&path, &patch).await.problem(409, "last-admin");
    }
    api.admin.delete(&path).await.problem(409, "last-admin");
    let second = user(&api, "owner").await;
    api.admin.patch(&second, &json!({"admin": true, "enabled": false})).await.expect(200);
    api.admin.delete(&path).await.problem(409, "last-admin");
    api.admin.patch(&second, &json!({"enabled": true})).await.expect(200);
    let other = api.anonymous.login("owner").await;
    // Each removes the other at the same moment: one of them is the last.
    let (one, two) = tokio::join!(api.admin.delete(&second), other.delete(&path));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert!(matches!(statuses, [204, 401 | 409]), "{one:?} {two:?}");
}

#[tokio::test]
async fn a_repeated_key_counts_only_with_the_same_password() {
    let api = Api::start().await;
    let make = |password: &str| {
        let ask = api.admin.ask(Method::POST, "/v1/users").header("idempotency-key", "k");
        ask.json(&json!({"name": "anne", "password": password})).send()
    };
    let made = make(PASSWORD).await.expect(201);
    assert_eq!(make(PASSWORD).await.expect(201), made);
    make(OTHER).await.problem(409, "idempotency-key-reused");
    assert_eq!(login(&api, "anne", OTHER).await, 401);
}

#[tokio::test]
async fn bounds_and_revisions_are_kept() {
    let api = Api::start().await;
    let new = |name: &str, password: &str| json!({"name": name, "password": password});
    for (body, fault) in [
        (new("", PASSWORD), "/name"),
        (new("a\nb", PASSWORD), "/name"),
        (new("anne", "hunter2"), "/password"),
        (new("anne", &"x".repeat(257)), "/password"),
        (json!({"name": "anne"}), "/password"),
        (json!({"name": "anne", "password": PASSWORD, "role": "owner"}), "/role"),
    ] {
        let answer = api.admin.post("/v1/users", &body).await;
        assert_eq!(answer.faults(), [fault], "{body}");
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
    }
    let path = user(&api, "member").await;
    let patch = api.admin.ask(Method::PATCH, &path).header("if-match", "\"7\"");
    patch.json(&json!({"enabled": false})).send().await.problem(412, "precondition-failed");
    assert_eq!(whoami(&api.member).await, 200);
    let page = api.admin.get("/v1/users?limit=2").await.expect(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    assert!(page["next"].is_string());
}
