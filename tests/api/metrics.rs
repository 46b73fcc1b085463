//! `/metrics`: the numbers move, the labels stay few, and what is gone is not told of.

use std::time::Duration;

use pileus::api;
use serde_json::json;
use uuid::Uuid;

use crate::client::Client;
use crate::exposition::Exposition;
use crate::harness::Api;

/// The listener of the metrics, and how to ask it.
pub struct Metrics(Client);

impl Metrics {
    pub async fn of(api: &Api) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        pileus::service::metrics::counters().expect("counters");
        tokio::spawn(api::metrics::serve(listener, api.app.clone()));
        Self(Client::new(url))
    }

    async fn text(&self) -> String {
        let answer = self.0.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        answer.text
    }

    pub async fn scrape(&self) -> Exposition {
        Exposition::parse(&self.text().await)
    }

    /// Scrapes until `holds`.
    pub async fn until(&self, what: &str, holds: impl Fn(&Exposition) -> bool) -> Exposition {
        let found = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let scrape = self.scrape().await;
                if holds(&scrape) {
                    return scrape;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("not within a minute: {what}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instances_life_moves_the_numbers_and_the_host_goes_with_its_series() {
    let mut api = Api::start().await;
    let metrics = Metrics::of(&api).await;
    let before = metrics.scrape().await;
    api.run().await;
    api.image("small").await;
    api.admin
        .post("/v1/flavors", &json!({"name": "f1", "vcpus": 2, "memory_mib": 256, "disk_gib": 3}))
        .await
        .expect(201);
    let up = metrics.until("the host is up", |now| now.sum("pileus_host_up", &[]) == Some(1.0));
    up.await;
    let new = json!({"name": "one", "image": "small", "flavor": "f1"});
    let path = "/v1/instances?wait=running&timeout=60";
    let made = api.member.post(path, &new).await.expect(202);
    assert_eq!(made["status"], "running", "{made}");

    let now = metrics.scrape().await;
    // Other tests of this process count too, so that these are least amounts.
    let grew = |name: &str, labels: &[(&str, &str)]| {
        let by = now.sum(name, labels).unwrap_or(0.0) - before.sum(name, labels).unwrap_or(0.0);
        assert!(by >= 1.0, "{name} {labels:?} grew by {by}");
    };
    let created = [("route", "/v1/instances"), ("method", "POST")];
    grew("pileus_http_requests_total", &[created[0], created[1], ("status", "202")]);
    let waited = [created[0], created[1], ("class", "waiting")];
    grew("pileus_http_request_duration_seconds_count", &waited);
    let instance = ("kind", "instance");
    grew("pileus_reconciles_total", &[instance, ("outcome", "later")]);
    grew("pileus_reconcile_duration_seconds_count", &[instance]);
    let host = "00000000-0000-0000-0000-000000040577";
    let start = [("host", host), ("call", "start")];
    grew("pileus_host_calls_total", &[start[0], start[1], ("outcome", "ok")]);
    grew("pileus_host_call_duration_seconds_count", &start);
    grew("pileus_db_pool_wait_seconds_count", &[]);

    // These are this cloud's alone.
    let is = |name: &str, labels: &[(&str, &str)], value: f64| {
        assert_eq!(now.sum(name, labels), Some(value), "{name} {labels:?}");
    };
    is("pileus_host_vcpus_used", &[("name", "fake")], 2.0);
    is("pileus_host_memory_used_bytes", &[("host", host)], f64::from(256 << 20));
    is("pileus_host_disk_used_bytes", &[("host", host)], 3.0 * f64::from(1 << 30));
    is("pileus_host_claims", &[("host", host)], 1.0);
    is("pileus_host_filesystem_bytes", &[("host", host)], 1024.0 * f64::from(1 << 30));
    is("pileus_database_full", &[], 0.0);
    let files = |part: &str| now.sum(&format!("pileus_image_store_filesystem_{part}"), &[]);
    assert!(files("free_bytes") > Some(0.0) && files("free_bytes") < files("bytes"));
    is("pileus_instances", &[("wanted", "running"), ("observed", "running")], 1.0);
    is("pileus_work_stalled", &[], 0.0);
    is("pileus_database_up", &[], 1.0);
    is("pileus_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    is("pileus_limit", &[("what", "waits")], 1000.0);
    for task in ["pace", "watch", "events"] {
        assert!(now.sum("pileus_task_age_seconds", &[("task", task)]) < Some(60.0), "{task}");
    }

    let id = made["id"].as_str().expect("an id");
    let gone = api.member.delete(&format!("/v1/instances/{id}?wait=deleted&timeout=60")).await;
    gone.expect(202);
    let path = format!("/v1/hosts/{host}");
    api.admin.delete(&path).await;
    metrics.until("the host's series go", |now| now.sum("pileus_host_up", &[]).is_none()).await;
}

#[tokio::test]
async fn a_path_makes_no_label() {
    let api = Api::start().await;
    let metrics = Metrics::of(&api).await;
    let secret = Uuid::new_v4().to_string();
    api.member.get(&format!("/v1/instances/{secret}")).await.problem(404, "not-found");
    api.member.get(&format!("/{secret}")).await.problem(404, "not-found");
    let strange = reqwest::Method::from_bytes(b"BREW").expect("a method");
    api.member.ask(strange, "/v1/flavors").send().await.problem(405, "method-not-allowed");
    let text = metrics.text().await;
    assert!(!text.contains(&secret), "{text}");
    assert!(!text.contains("BREW"), "{text}");
    let now = Exposition::parse(&text);
    let asked = |labels: &[(&str, &str)]| now.sum("pileus_http_requests_total", labels);
    assert!(asked(&[("route", "/v1/instances/{id}"), ("status", "404")]) >= Some(1.0));
    assert!(asked(&[("route", "none"), ("status", "404")]) >= Some(1.0));
    assert!(asked(&[("method", "other"), ("status", "405")]) >= Some(1.0));
}

#[tokio::test]
async fn what_is_worked_on_is_told_and_so_is_a_database_that_does_not_answer() {
    let api = Api::start().await;
    let metrics = Metrics::of(&api).await;
    let in_use = async |what| metrics.scrape().await.sum("pileus_limit_in_use", &[("what", what)]);
    assert_eq!(in_use("streams").await, Some(0.0));
    let stream = api.member.ask(reqwest::Method::GET, "/v1/events");
    let stream = stream.header("accept", "text/event-stream").open().await;
    assert_eq!(in_use("streams").await, Some(1.0));
    drop(stream);
    metrics
        .until("the stream has ended", |now| {
            now.sum("pileus_limit_in_use", &[("what", "streams")]) == Some(0.0)
        })
        .await;

    api.app.db.close().await;
    let now = metrics.scrape().await;
    assert_eq!(now.sum("pileus_database_up", &[]), Some(0.0));
    assert_eq!(now.sum("pileus_work_due", &[]), None);
    assert!(now.sum("pileus_db_pool_limit", &[]).is_some());
}
