//! Placement on several real hosts: groups, hosts for one tenant, reservations and lifetimes, with guests that run there.

use std::time::Instant;

use pileus::cli::postgres::throwaway;
use pileus::domain::clock::Clock;
use serde_json::{Value, json};

use crate::cloud::{Cloud, Database, SOON, names};
use crate::libvirtd::Libvirtd;

/// A cloud with its own host and another one, which is the zone `second`.
async fn cloud(second: &Libvirtd) -> Cloud {
    let options = throwaway::empty().await.expect("a database");
    let settings = [
        ("network-pool", "10.123.0.0/16"),
        ("heartbeat-s", "1"),
        ("backoff-max-s", "2"),
        ("base-image-keep-s", "0"),
        ("sweep-s", "2"),
        ("overcommit-cpu", "16"),
    ];
    let cloud = Cloud::with(Database::Shared(options), &settings).await;
    let new = json!({
        "name": "second", "uri": second.uri(), "pool_path": second.pool_path(), "zone": "second", "virt_type": "qemu",
    });
    cloud.admin.post("/v1/hosts", &new).await.expect(202);
    let end = Instant::now() + SOON;
    loop {
        let hosts = cloud.admin.get("/v1/hosts").await.expect(200);
        if hosts["items"].as_array().unwrap().iter().all(|host| host["health"] == "up") {
            return cloud;
        }
        assert!(Instant::now() < end, "the hosts do not come up: {hosts:#}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Whether the guest runs on that libvirt.
fn is_on(cloud: &Cloud, host: &Libvirtd, instance: &Value) -> bool {
    let id = instance["id"].as_str().unwrap();
    names(host, &["list", "--name"], &cloud.mark()).iter().any(|name| name.ends_with(id))
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_run_where_groups_aggregates_reservations_and_lifetimes_want_them() {
    let second = Libvirtd::start();
    let cloud = cloud(&second).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let create = async |name: &str, more: Value| {
        let mut new = json!({"name": name, "image": image, "flavor": "nano", "networks": [{"network": "default"}]});
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cloud.admin.post("/v1/instances", &new).await
    };
    let run = async |name: &str, more: Value| {
        let made = create(name, more).await.expect(202);
        cloud.until(made["id"].as_str().unwrap(), "settled", "running", SOON).await
    };
    let on_second = |instance: &Value| {
        let there = [is_on(&cloud, &cloud.host, instance), is_on(&cloud, &second, instance)];
        assert_ne!(there[0], there[1], "on one host, and on one alone");
        there[1]
    };

    // Apart, and no more than there are hosts; together.
    for (name, rule) in [("apart", "anti_affinity"), ("together", "affinity")] {
        let new = json!({"name": name, "rule": rule});
        cloud.admin.post("/v1/groups", &new).await.expect(201);
    }
    let one = run("apart-1", json!({"group": "apart"})).await;
    let other = run("apart-2", json!({"group": "apart"})).await;
    assert_ne!(on_second(&one), on_second(&other));
    assert_eq!(create("apart-3", json!({"group": "apart"})).await.faults(), ["/group"]);
    let first = run("together-1", json!({"group": "together", "zone": "second"})).await;
    let next = run("together-2", json!({"group": "together"})).await;
    assert!(on_second(&first) && on_second(&next));

    // One tenant's host: others wait, and say why, until it is open.
    let tenant = cloud.admin.post("/v1/tenants", &json!({"name": "buyer"})).await.expect(201);
    let hosts = cloud.admin.get("/v1/hosts").await.expect(200);
    let hosts = hosts["items"].as_array().unwrap();
    let host = hosts.iter().find(|host| host["name"] == "second").unwrap();
    let new = json!({"name": "bought", "hosts": [host["id"]], "tenants": [tenant["id"]]});
    let bought = cloud.admin.post("/v1/aggregates", &new).await.expect(201);
    let shut_out = create("shut-out", json!({"zone": "second"})).await.expect(202);
    let at = format!("/v1/instances/{}", shut_out["id"].as_str().unwrap());
    until("it does not wait", async || {
        let seen = cloud.admin.get(&at).await.expect(200);
        seen["status"] == "waiting_for_capacity" && seen["queue"]["position"] == 1
    })
    .await;
    let at = format!("/v1/aggregates/{}", bought["id"].as_str().unwrap());
    cloud.admin.delete(&at).await.expect(204);
    let let_in = cloud.until(shut_out["id"].as_str().unwrap(), "settled", "running", SOON).await;
    assert!(on_second(&let_in));

    // A slot that is held, and one who leaves with those who leave then.
    let soon = (Clock::System.now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let new =
        json!({"name": "held", "flavor": "nano", "slots": 1, "zone": "second", "expires_at": soon});
    cloud.admin.post("/v1/reservations", &new).await.expect(201);
    let held = run("in-slot", json!({"reservation": "held"})).await;
    assert!(on_second(&held));
    let short = run("short", json!({"policy": "lifetime_fit", "expires_at": soon})).await;
    on_second(&short);

    // All go, and the host too: nothing of ours is left on it.
    let all = [one, other, first, next, let_in, held, short];
    for instance in &all {
        cloud.delete(instance["id"].as_str().unwrap()).await;
    }
    let reservations = cloud.admin.get("/v1/reservations").await.expect(200);
    for held in reservations["items"].as_array().unwrap() {
        let at = format!("/v1/reservations/{}", held["id"].as_str().unwrap());
        cloud.admin.delete(&at).await.expect(204);
    }
    let at = format!("/v1/hosts/{}", host["id"].as_str().unwrap());
    cloud.admin.delete(&at).await.expect(202);
    until("the host stays", async || cloud.admin.get(&at).await.status == 404).await;
    for list in [
        ["list", "--all", "--name"],
        ["net-list", "--all", "--name"],
        ["pool-list", "--all", "--name"],
    ] {
        assert_eq!(names(&second, &list, &cloud.mark()), [] as [String; 0], "{list:?}");
    }
    let files = second.run("find", &[&second.pool_path(), "-type", "f"]);
    assert_eq!(files, "", "left on the second host");
    crate::audit::tidy(&cloud);
}
