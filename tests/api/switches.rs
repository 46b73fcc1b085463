//! Kill switches: one background task rests, the rest serves, and it is told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::Api;
use crate::metrics::Metrics;

/// A cloud with its loops, one of them switched off, and a wish for an instance.
async fn without(task: &str) -> (Api, Metrics, String) {
    let mut api = Api::start_with(|flags| flags.set(task, "off")).await;
    let metrics = Metrics::of(&api).await;
    api.run().await;
    api.image("small").await;
    let flavor = json!({"name": "f1", "vcpus": 1, "memory_mib": 64, "disk_gib": 1});
    api.admin.post("/v1/flavors", &flavor).await.expect(201);
    let new = json!({"name": "one", "image": "small", "flavor": "f1"});
    let made = api.member.post("/v1/instances", &new).await.expect(202);
    let path = format!("/v1/instances/{}", made["id"].as_str().expect("an id"));
    // Nobody calls it dead.
    api.anonymous.get("/readyz").await.expect(200);
    (api, metrics, path)
}

impl Metrics {
    /// Whether each task runs, and whether its heartbeat is looked at.
    async fn runs(&self, task: &str) -> (Option<f64>, bool) {
        let now = self.scrape().await;
        let labels = [("task", task)];
        let age = now.sum("pileus_task_age_seconds", &labels);
        (now.sum("pileus_task_enabled", &labels), age.is_some())
    }
}

async fn until(api: &Api, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let found = timeout(Duration::from_secs(60), async {
        loop {
            let now = api.member.get(path).await.expect(200);
            if holds(&now) {
                return now;
            }
            sleep(Duration::from_millis(30)).await;
        }
    });
    found.await.expect("within a minute")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_placer_an_instance_waits_and_says_why() {
    let (api, metrics, path) = without("task_placer").await;
    let says = |now: &Value| now["reason"].as_str().is_some_and(|r| r.contains("task_placer"));
    until(&api, &path, says).await;
    assert_eq!(metrics.runs("placer").await.0, Some(0.0));
    assert_eq!(metrics.runs("pace").await, (Some(1.0), true));
    // A delete needs no host.
    api.member.delete(&format!("{path}?wait=deleted&timeout=60")).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_watch_no_host_is_asked_and_the_rest_goes_on() {
    let (api, metrics, path) = without("task_watch").await;
    // The pace and the placer have been round: there is no host that is up.
    let full = |now: &Value| now["reason"].as_str().is_some_and(|r| r.contains("no host has room"));
    until(&api, &path, full).await;
    assert_eq!(api.admin.get("/v1/hosts").await.expect(200)["items"][0]["health"], "unknown");
    assert_eq!(metrics.runs("watch").await.0, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_pace_and_sweeper_requests_are_served_and_wishes_kept() {
    let (api, metrics, path) = without("task_pace").await;
    assert_eq!(metrics.runs("pace").await, (Some(0.0), false));
    let due = |now: &crate::exposition::Exposition| {
        now.sum("pileus_work_due", &[("kind", "instance")]) == Some(1.0)
    };
    metrics.until("the wish is due", due).await;
    api.member.get(&path).await.expect(200);
    let (_api, metrics, _) = without("task_sweeper").await;
    assert_eq!(metrics.runs("sweep").await, (Some(0.0), false));
    assert_eq!(metrics.runs("events").await, (Some(1.0), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_publisher_the_feed_waits_for_another_process() {
    let (api, metrics, _) = without("task_publisher").await;
    assert_eq!(metrics.runs("events").await, (Some(0.0), false));
    let newest = api.app.changes.newest();
    assert_eq!(*newest.borrow(), 0);
    let waiting = metrics.scrape().await.sum("pileus_events_unpublished", &[]);
    assert!(waiting > Some(0.0), "{waiting:?}");
    // Another process numbers them, and the streams of this one hear of it.
    let all = api.events().await.len();
    assert!(all > 0);
    let mut newest = api.app.changes.newest();
    let heard = timeout(Duration::from_secs(60), newest.wait_for(|seq| *seq > 0)).await;
    heard.expect("within a minute").expect("a feed");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_expiry_an_instance_outlives_its_time() {
    let soon = || json!({ "expires_at": crate::queue::end(2) });
    let gone = async |api: &Api, path: &str| {
        let end = tokio::time::Instant::now() + Duration::from_secs(8);
        while tokio::time::Instant::now() < end {
            if api.member.get(path).await.status == 404 {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    };
    let (api, metrics, path) = without("task_expiry").await;
    assert_eq!(metrics.runs("expiry").await, (Some(0.0), false));
    until(&api, &path, |now| now["status"] == "running").await;
    api.member.patch(&path, &soon()).await.expect(200);
    assert!(!gone(&api, &path).await, "it was ended all the same");
    // With it, it is ended: the time was right.
    let (api, metrics, path) = without("task_upkeep").await;
    assert_eq!(metrics.runs("upkeep").await, (Some(0.0), false));
    assert_eq!(metrics.runs("expiry").await, (Some(1.0), true));
    until(&api, &path, |now| now["status"] == "running").await;
    api.member.patch(&path, &soon()).await.expect(200);
    assert!(gone(&api, &path).await, "it outlives its time");
}
