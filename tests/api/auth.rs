//! Logins, JWTs and who one is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta};
use pileus::domain::clock::Clock;
use pileus::service::auth::authenticate;
use serde_json::{Value, json};

use crate::harness::{Api, PASSWORD};

fn manual() -> Clock {
    Clock::manual(DateTime::from_timestamp(1_800_000_000, 0).expect("a time"))
}

/// The parts of a JWT that anybody can read.
fn read(token: &str, part: usize) -> Value {
    let text = token.split('.').nth(part).expect("a part");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
}

#[tokio::test]
async fn a_login_gives_a_token_that_says_who_one_is() {
    let api = Api::start().await;
    let login = json!({"user": "member", "password": PASSWORD});
    let answer = api.anonymous.post("/v1/auth/login", &login).await;
    let body = answer.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["tenant"], json!({"id": api.tenant_a, "name": "default"}));
    let token = body["token"].as_str().expect("a token");
    let head = read(token, 0);
    assert_eq!(head["alg"], "EdDSA");
    let claims = read(token, 1);
    assert_eq!(claims["aud"], "pileus");
    assert_eq!(claims["iss"], json!(api.app.cloud));
    assert_eq!(claims["role"], "member");
    assert_eq!(claims["adm"], false);
    let whoami = api.anonymous.with_token(token).get("/v1/auth/whoami").await.expect(200);
    assert_eq!(whoami["user"], body["user"]);
    assert_eq!(whoami["tenant"], body["tenant"]);
    assert_eq!((&whoami["role"], &whoami["admin"]), (&json!("member"), &json!(false)));
    let keys = api.anonymous.get("/v1/auth/jwks.json").await.expect(200);
    assert_eq!(keys["keys"][0]["kid"], head["kid"]);
    assert_eq!(keys["keys"][0]["crv"], "Ed25519");
    assert!(keys["keys"][0].get("d").is_none(), "the private half stays here");
}

#[tokio::test]
async fn a_wrong_password_an_unknown_user_and_a_disabled_user_get_one_answer() {
    let api = Api::start().await;
    let mut conn = api.app.conn().await.expect("a connection");
    sqlx::query("update users set enabled = false where name = 'reader'")
        .execute(&mut *conn)
        .await
        .expect("disabled");
    let mut details = Vec::new();
    for (user, password) in
        [("member", "wrong"), ("nobody", PASSWORD), ("reader", PASSWORD), ("x' or '1'='1", "x")]
    {
        let login = json!({"user": user, "password": password});
        let answer = api.anonymous.post("/v1/auth/login", &login).await;
        details.push(answer.problem(401, "unauthenticated")["detail"].clone());
    }
    assert!(details.iter().all(|detail| *detail == details[0]), "{details:?}");
}

#[tokio::test]
async fn logins_are_in_the_feed_without_the_password() {
    let api = Api::start().await;
    for (user, password) in [("member", "hunter2hunter2"), ("hunter3hunter3", "x")] {
        let login = json!({"user": user, "password": password});
        api.anonymous.post("/v1/auth/login", &login).await.problem(401, "unauthenticated");
    }
    let events = api.events().await;
    let text = serde_json::to_string(&events).expect("text");
    assert!(!text.contains("hunter") && !text.contains(PASSWORD), "{text}");
    let failed: Vec<_> = events.iter().filter(|event| event["outcome"] == "failed").collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|event| event["kind"] == "auth.login"));
    assert_eq!(failed[0]["resource_name"], "member");
    assert_eq!(failed[0]["detail"]["address"], "127.0.0.1");
    let done =
        events.iter().filter(|event| event["kind"] == "auth.login" && event["outcome"] == "done");
    assert_eq!(done.count(), 5, "those of the harness");
    let seen = api.member.get("/v1/events?limit=1000").await.expect(200).to_string();
    assert!(!seen.contains("auth.login"), "logins are the admins' to see");
}

#[tokio::test]
async fn attempts_are_limited_and_the_wait_is_told() {
    let api = Api::start_at(manual(), |flags| flags.set("login_attempts_per_minute", "6")).await;
    // The harness has logged in five times from this address.
    let login = json!({"user": "member", "password": PASSWORD});
    api.anonymous.post("/v1/auth/login", &login).await.expect(200);
    let refused = api.anonymous.post("/v1/auth/login", &login).await;
    assert_eq!(refused.problem(429, "too-many-requests")["retry_after"], 10);
    assert_eq!(refused.header("retry-after"), Some("10"));
    // Whoever is logged in already goes on.
    api.member.get("/v1/auth/whoami").await.expect(200);
    api.app.clock.advance(TimeDelta::seconds(10));
    let forged = api.anonymous.ask(reqwest::Method::POST, "/v1/auth/login").json(&login);
    forged.send().await.expect(200);
    let forged = api.anonymous.ask(reqwest::Method::POST, "/v1/auth/login").json(&login);
    forged.header("x-forwarded-for", "192.0.2.7").send().await.problem(429, "too-many-requests");
}

#[tokio::test]
async fn a_token_ends_when_it_says() {
    let api = Api::start_at(manual(), |flags| flags.set("token_ttl_s", "60")).await;
    api.app.clock.advance(TimeDelta::seconds(59));
    api.member.get("/v1/auth/whoami").await.expect(200);
    api.app.clock.advance(TimeDelta::seconds(1));
    let ended = api.member.get("/v1/auth/whoami").await;
    ended.problem(401, "unauthenticated");
    assert_eq!(ended.header("www-authenticate"), Some("Bearer"));
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let api = Api::start().await;
    let token = api.reader.token.clone().expect("a token");
    let [head, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("{token}")
    };
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut raised = read(&token, 1);
    raised["adm"] = json!(true);
    let kid = read(&token, 0)["kid"].clone();
    let none = encode(&json!({"alg": "none", "typ": "JWT", "kid": kid}));
    let hmac = encode(&json!({"alg": "HS256", "typ": "JWT", "kid": kid}));
    let unknown = encode(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "unknown"}));
    for forged in [
        format!("{head}.{}.{signature}", encode(&raised)),
        format!("{none}.{claims}."),
        format!("{hmac}.{claims}.{signature}"),
        format!("{unknown}.{claims}.{signature}"),
        format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        format!("{head}.{claims}"),
        "pileus_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into(),
        "x".into(),
        String::new(),
    ] {
        let answer = api.anonymous.with_token(&forged).get("/v1/auth/whoami").await;
        answer.problem(401, "unauthenticated");
    }
    api.anonymous.with_token(&token).get("/v1/auth/whoami").await.expect(200);
    api.anonymous.get("/v1/auth/whoami").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_token_of_another_cloud_is_refused() {
    let (one, other) = tokio::join!(Api::start(), Api::start());
    let token = other.admin.token.clone().expect("a token");
    let answer = one.anonymous.with_token(&token).get("/v1/auth/whoami").await;
    answer.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_tenant_is_named_by_id_or_name_or_is_the_oldest_membership() {
    let api = Api::start().await;
    let mut conn = api.app.conn().await.expect("a connection");
    sqlx::query(
        "insert into memberships select $1, id, 'reader', now() from users where name = 'member'",
    )
    .bind(api.tenant_b)
    .execute(&mut *conn)
    .await
    .expect("a second membership");
    let login = async |user: &str, tenant: Value| {
        let mut body = json!({"user": user, "password": PASSWORD});
        if !tenant.is_null() {
            body["tenant"] = tenant;
        }
        api.anonymous.post("/v1/auth/login", &body).await
    };
    let unnamed = login("member", Value::Null).await.expect(200);
    assert_eq!(unnamed["tenant"]["name"], "default");
    assert_eq!(login("member", json!("other")).await.expect(200)["role"], "reader");
    assert_eq!(login("member", json!(api.tenant_a)).await.expect(200)["role"], "member");
    for nowhere in ["nowhere", "default"] {
        assert_eq!(login("stranger", json!(nowhere)).await.faults(), ["/tenant"]);
    }
    let admin = login("admin", json!("other")).await.expect(200);
    assert_eq!((&admin["role"], &admin["admin"]), (&Value::Null, &json!(true)));
}

#[tokio::test]
async fn keys_are_replaced_with_age_and_the_old_ones_tokens_live_to_their_end() {
    let settings = |flags: pileus::config::Flags| {
        flags.set("key_rotation_days", "1").set("token_ttl_s", "3600")
    };
    let api = Api::start_at(manual(), settings).await;
    let kids = async || {
        let keys = api.anonymous.get("/v1/auth/jwks.json").await.expect(200);
        let keys = keys["keys"].as_array().expect("keys").clone();
        keys.iter().map(|key| key["kid"].as_str().expect("kid").to_owned()).collect::<Vec<_>>()
    };
    let first = kids().await;
    assert_eq!(first.len(), 1);
    api.app.clock.advance(TimeDelta::minutes(24 * 60 - 30));
    let late = api.anonymous.login("member").await;
    api.app.clock.advance(TimeDelta::minutes(40));
    let fresh = api.anonymous.login("member").await;
    let both = kids().await;
    assert_eq!((both.len(), &both[1]), (2, &first[0]));
    assert_eq!(read(fresh.token.as_deref().expect("token"), 0)["kid"], both[0]);
    late.get("/v1/auth/whoami").await.expect(200);
    api.app.clock.advance(TimeDelta::minutes(51));
    fresh.get("/v1/auth/whoami").await.expect(200);
    late.get("/v1/auth/whoami").await.problem(401, "unauthenticated");
    assert_eq!(kids().await, both[..1]);
    pileus::service::auth::rotate_keys(&api.app).await.expect("rotated");
    let mut conn = api.app.conn().await.expect("a connection");
    let kept: i64 = sqlx::query_scalar("select count(*) from signing_keys")
        .fetch_one(&mut *conn)
        .await
        .expect("a count");
    assert_eq!(kept, 1, "the old key is removed");
}

/// Another process on the same database.
fn replica(api: &Api) -> pileus::service::App {
    pileus::service::App::new(pileus::service::Parts {
        db: api.app.db.clone(),
        config: api.app.config.clone(),
        clock: api.app.clock.clone(),
        cloud: api.app.cloud,
        changes: pileus::store::changes::Changes::default(),
        hosts: pileus::hypervisor::Hosts::fake([]).0,
        compared: pileus::domain::compared::Compared::default(),
        shutdown: tokio_util::sync::CancellationToken::default(),
    })
}

#[tokio::test]
async fn every_process_knows_the_next_key_before_it_signs() {
    let api = Api::start_at(manual(), |flags| flags.set("key_rotation_days", "1")).await;
    let other = replica(&api);
    let kid = |token: &str| read(token, 0)["kid"].as_str().expect("kid").to_owned();
    let old = api.member.token.clone().expect("a token");
    authenticate(&other, &old).await.expect("the member");
    // Half an hour before the key retires, one process makes the next one. The other looks once a minute.
    api.app.clock.advance(TimeDelta::minutes(24 * 60 - 30));
    pileus::service::upkeep::run_once(&api.app).await.expect("upkeep");
    let before = api.anonymous.login("member").await.token.expect("a token");
    assert_eq!(kid(&before), kid(&old), "the old key signs to its end");
    authenticate(&other, &before).await.expect("the member");
    api.app.clock.advance(TimeDelta::seconds(30 * 60 - 1));
    authenticate(&other, &api.anonymous.login("member").await.token.expect("a token"))
        .await
        .expect("the member");
    // The new one signs, and the other process has just looked: it must know the key already.
    api.app.clock.advance(TimeDelta::seconds(1));
    let after = api.anonymous.login("member").await.token.expect("a token");
    assert_ne!(kid(&after), kid(&old));
    api.app.db.close().await;
    let held = pileus::service::auth::public_keys(&other).await.expect("keys");
    assert_eq!(held.keys.len(), 2, "both are published: {held:?}");
    assert!(held.keys.iter().any(|key| key.kid == kid(&after)), "{held:?}");
}

#[tokio::test]
async fn a_new_processs_tokens_are_good_in_the_one_that_runs() {
    let api = Api::start_at(manual(), |flags| flags).await;
    let mut conn = api.app.conn().await.expect("a connection");
    // As another process would, with a key that this one has not seen.
    sqlx::query("update signing_keys set retires_at = created_at")
        .execute(&mut *conn)
        .await
        .expect("retired");
    let other = replica(&api);
    let login = serde_json::from_value(json!({"user": "member", "password": PASSWORD}));
    let login = login.expect("a login");
    let origin = pileus::service::auth::Origin::default();
    let logged_in = pileus::service::auth::login(&other, &login, &origin).await;
    let token = logged_in.expect("logged in").token;
    api.app.clock.advance(TimeDelta::seconds(2));
    api.anonymous.with_token(&token).get("/v1/auth/whoami").await.expect(200);
}

#[tokio::test]
async fn a_token_that_was_seen_a_moment_ago_costs_no_query() {
    let api = Api::start_at(manual(), |flags| flags).await;
    let jwt = api.member.token.clone().expect("a token");
    let made = api.member.post("/v1/tokens", &json!({"name": "ci"})).await.expect(201);
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    for token in [&jwt, &secret] {
        authenticate(&api.app, token).await.expect("the member");
    }
    api.app.db.close().await;
    for token in [&jwt, &secret] {
        let caller = authenticate(&api.app, token).await.expect("without the database");
        assert_eq!(caller.user_name, "member");
    }
    api.app.clock.advance(TimeDelta::seconds(5));
    for token in [&jwt, &secret] {
        authenticate(&api.app, token).await.expect_err("what is older is looked up");
    }
}

#[tokio::test]
async fn an_admin_replaces_the_keys_and_may_take_back_what_they_signed() {
    let api = Api::start_at(manual(), |flags| flags).await;
    let other = replica(&api);
    let kid = |token: &str| read(token, 0)["kid"].as_str().expect("kid").to_owned();
    let old = api.admin.token.clone().expect("a token");
    authenticate(&other, &old).await.expect("the admin");
    let rotate = "/v1/cloud/actions/rotate-keys";
    api.owner.post(rotate, &json!({})).await.problem(403, "forbidden");
    api.admin.ask(reqwest::Method::POST, rotate).send().await.expect(200);
    // The old key signs until every process knows the new one, and what it signed stays good.
    assert_eq!(kid(&api.anonymous.login("member").await.token.expect("a token")), kid(&old));
    api.app.clock.advance(TimeDelta::seconds(121));
    let fresh = api.anonymous.login("admin").await;
    assert_ne!(kid(fresh.token.as_deref().expect("a token")), kid(&old));
    authenticate(&other, &old).await.expect("the admin");
    api.admin.get("/v1/auth/whoami").await.expect(200);
    authenticate(&other, fresh.token.as_deref().expect("a token")).await.expect("the admin");

    fresh.post(rotate, &json!({"revoke": true})).await.expect(200);
    api.app.clock.advance(TimeDelta::seconds(60));
    for token in [&old, fresh.token.as_ref().expect("a token")] {
        authenticate(&other, token).await.expect_err("it was taken back");
    }
    fresh.get("/v1/auth/whoami").await.problem(401, "unauthenticated");
    api.anonymous.login("admin").await.get("/v1/auth/whoami").await.expect(200);
}
