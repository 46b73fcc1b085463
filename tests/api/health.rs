//! Health: what is wrong is named, and a busy server still answers.

use std::time::Duration;

use chrono::TimeDelta;
use pileus::domain::clock::Clock;
use serde_json::json;

use crate::harness::Api;

#[tokio::test]
async fn a_sound_server_is_ready_and_tells_anyone() {
    let api = Api::start().await;
    assert_eq!(api.anonymous.get("/healthz").await.expect(200), json!({"status": "ok"}));
    assert_eq!(api.anonymous.get("/readyz").await.expect(200), json!({"status": "ok"}));
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_why_and_lives() {
    let clock = Clock::manual(Clock::System.now());
    let api = Api::start_at(clock.clone(), |flags| flags).await;
    let reason = async || {
        let answer = api.anonymous.get("/readyz").await;
        assert_eq!(answer.header("retry-after"), Some("1"));
        answer.problem(503, "unavailable")["detail"].as_str().expect("a detail").to_owned()
    };
    let beat = api.app.beats().register("placer", Duration::from_secs(5), clock.now());
    clock.advance(TimeDelta::seconds(6));
    assert!(reason().await.contains("placer"));
    beat.alive(clock.now());
    api.anonymous.get("/readyz").await.expect(200);
    sqlx::query(
        "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)",
    )
    .execute(&api.app.db)
    .await
    .expect("an old schema");
    assert!(reason().await.contains("pileus migrate"));
    api.app.db.close().await;
    assert!(reason().await.contains("the database cannot be asked"));
    api.anonymous.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused_and_health_is_still_told() {
    let api = Api::start_with(|flags| flags.set("max_requests", "8")).await;
    let places: Vec<_> = (0..8).map(|_| api.app.limits().request().expect("a place")).collect();
    let refused = api.reader.get("/v1/flavors").await;
    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.header("x-request-id").is_some());
    api.anonymous.get("/readyz").await.expect(200);
    drop(places);
    api.reader.get("/v1/flavors").await.expect(200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let api = Api::start_with(|flags| flags.set("request_timeout_s", "1")).await;
    let mut lock = api.app.db.begin().await.expect("a transaction");
    sqlx::query("lock table flavors").execute(&mut *lock).await.expect("locked");
    api.reader.get("/v1/flavors").await.problem(503, "timeout");
    lock.rollback().await.expect("unlocked");
    api.reader.get("/v1/flavors").await.expect(200);
}
