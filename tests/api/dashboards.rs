//! What the dashboard and the alerts ask for is what a running server tells.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::exposition::Exposition;
use crate::process::{SOON, Site};

/// Every metric of ours that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("pileus_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_dashboard_and_alerts_name_is_served() {
    let alerts = named(include_str!("../../docker/prometheus/alerts.yml"));
    let panels = named(include_str!("../../docker/grafana/pileus.json"));
    assert!(alerts.len() > 20 && panels.len() > 30, "{alerts:?} {panels:?}");
    let site = Site::new().await;
    let server = site.serve(&[("sweep-s", "1")]).await;
    site.host("test:///default").await;
    server.furnish().await;
    let new = json!({"name": "one", "image": "small", "flavor": "f1"});
    let path = "/v1/instances?wait=running&timeout=60";
    assert_eq!(server.api.post(path, &new).await.expect(202)["status"], "running");
    let missing = async || {
        let text = server.metrics.get("/metrics").await.text;
        let now = Exposition::parse(&text);
        let served: BTreeSet<_> = now.samples.iter().map(|(name, _, _)| name.as_str()).collect();
        let missing = alerts.union(&panels).filter(|name| !served.contains(**name));
        missing.map(|name| (*name).to_owned()).collect::<Vec<_>>()
    };
    let none = timeout(SOON, async {
        while !missing().await.is_empty() {
            sleep(Duration::from_millis(200)).await;
        }
    });
    let all = none.await.is_ok();
    assert!(all, "these are not served: {:?}", missing().await);
}
