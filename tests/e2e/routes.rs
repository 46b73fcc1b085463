//! A CIDR that the host itself routes is refused before anything is made, and none such is chosen.

use serde_json::{Value, json};
use std::time::Instant;

use crate::cloud::{Cloud, SOON};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cidr_of_the_hosts_own_interface_is_refused_and_never_chosen() {
    // A pool of two, one of which is the interface's. `up` makes a first network in the other.
    let settings =
        [("network-pool", "10.93.4.0/23"), ("network-prefix", "24"), ("heartbeat-s", "1")];
    let host = crate::cloud::host();
    host.run("ip", &["link", "add", "uplink93", "type", "bridge"]);
    host.run("ip", &["addr", "add", "10.93.4.20/24", "dev", "uplink93"]);
    host.run("ip", &["link", "set", "uplink93", "up"]);
    let cloud = Cloud::new(&settings).await;
    let admin = &cloud.admin;
    let networks = admin.get("/v1/networks").await.expect(200);
    let cidrs: Vec<_> =
        networks["items"].as_array().unwrap().iter().map(|n| n["cidr"].clone()).collect();
    assert_eq!(cidrs, ["10.93.5.0/24"]);
    let taken = json!({"name": "mine", "cidr": "10.93.4.128/25"});
    admin.post("/v1/networks", &taken).await.problem(409, "cidr-taken");
    admin.post("/v1/networks", &json!({"name": "any"})).await.problem(409, "cidr-pool-exhausted");

    // The interface goes, and its CIDR is free.
    host.run("ip", &["link", "del", "uplink93"]);
    let begun = Instant::now();
    let made: Value = loop {
        let answer = admin.post("/v1/networks", &taken).await;
        if answer.status == 201 {
            break answer.body();
        }
        assert!(begun.elapsed() < SOON, "{answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(made["cidr"], "10.93.4.128/25");
}
