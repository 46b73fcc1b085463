//! What is forgotten with time, and what a cloud begins with.

use chrono::{DateTime, TimeDelta};
use pileus::domain::clock::Clock;
use pileus::domain::password::Password;
use pileus::service::bootstrap::{self, Bootstrap};
use pileus::service::upkeep;
use reqwest::Method;
use serde_json::json;

use crate::harness::Api;

#[tokio::test]
async fn keys_events_and_ended_tokens_are_forgotten_in_their_time() {
    let clock = Clock::manual(DateTime::from_timestamp(1_800_000_000, 0).expect("a time"));
    let settings = |flags: pileus::config::Flags| {
        flags.set("idempotency_ttl_h", "24").set("event_retention_days", "90")
    };
    let api = Api::start_at(clock, settings).await;
    let make = async |name: &str| {
        let ask = api.anonymous.login("admin").await.ask(Method::POST, "/v1/flavors");
        let flavor = json!({"name": name, "vcpus": 1, "memory_mib": 64, "disk_gib": 1});
        ask.header("idempotency-key", "k").json(&flavor).send().await
    };
    make("one").await.expect(201);
    api.member.post("/v1/tokens", &json!({"name": "ci", "expires_in_s": 60})).await.expect(201);
    api.events().await;
    api.app.clock.advance(TimeDelta::hours(23));
    assert_eq!(upkeep::run_once(&api.app).await.expect("upkeep"), upkeep::Forgotten::default());
    make("two").await.problem(409, "idempotency-key-reused");
    api.app.clock.advance(TimeDelta::hours(2));
    let forgotten = upkeep::run_once(&api.app).await.expect("upkeep");
    assert_eq!((forgotten.idempotency_keys, forgotten.events), (1, 0));
    make("two").await.expect(201);
    api.app.clock.advance(TimeDelta::days(31));
    assert_eq!(upkeep::run_once(&api.app).await.expect("upkeep").tokens, 1);
    api.app.clock.advance(TimeDelta::days(90));
    assert!(upkeep::run_once(&api.app).await.expect("upkeep").events > 0);
}

#[tokio::test]
async fn a_second_start_adds_nothing_and_changes_no_password() {
    let api = Api::start().await;
    let flavors = api.admin.get("/v1/flavors").await.expect(200);
    let nano = flavors["items"][0]["id"].as_str().expect("an id");
    api.admin.delete(&format!("/v1/flavors/{nano}")).await.expect(204);
    let wanted =
        Bootstrap { admin_user: "admin".into(), admin_password: Password::new("another password") };
    let (one, two) =
        tokio::join!(bootstrap::ensure(&api.app, &wanted), bootstrap::ensure(&api.app, &wanted));
    let (one, two) = (one.expect("begun"), two.expect("begun"));
    assert_eq!((one, one.admin_made), (two, false));
    let left = api.admin.get("/v1/flavors").await.expect(200);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(4), "what was deleted stays so");
    api.anonymous.login("admin").await;
    let login = json!({"user": "admin", "password": "another password"});
    api.anonymous.post("/v1/auth/login", &login).await.problem(401, "unauthenticated");
    let names: Vec<_> =
        left["items"].as_array().expect("items").iter().map(|f| f["name"].clone()).collect();
    assert_eq!(names, ["micro", "small", "medium", "large"]);
}
