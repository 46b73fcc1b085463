//! The queue for capacity: no room is no failure, whose turn it is, and who would rather fail.

use std::time::Duration;

use pileus::domain::clock::Clock;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::{Api, Client};

/// A cloud of one host of 64 vCPUs, with flavors named by theirs, and quotas that are no bound.
pub async fn cloud(more_hosts: usize) -> Api {
    cloud_with(more_hosts, |flags| flags).await
}

pub async fn cloud_with(
    more_hosts: usize,
    settings: impl FnOnce(pileus::config::Flags) -> pileus::config::Flags,
) -> Api {
    let mut api = Api::start_with(settings).await;
    api.image("tiny").await;
    for vcpus in [1, 8, 16, 32, 48, 64] {
        let new =
            json!({"name": format!("c{vcpus}"), "vcpus": vcpus, "memory_mib": 64, "disk_gib": 1});
        api.admin.post("/v1/flavors", &new).await.expect(201);
    }
    for tenant in [api.tenant_a, api.tenant_b] {
        let most = json!({"quota": {"vcpus": 100_000, "instances": 100_000, "memory_mib": 10_000_000, "disk_gib": 100_000}});
        api.admin.patch(&format!("/v1/tenants/{tenant}"), &most).await.expect(200);
    }
    api.run_on(more_hosts).await;
    // Until every host has been looked at, there is no room anywhere.
    until(&api.admin, "/v1/hosts", |page| {
        page["items"].as_array().expect("items").iter().all(|host| host["health"] == "up")
    })
    .await;
    api
}

/// Makes an instance of a flavor, with what else it asks for.
pub async fn make(client: &Client, name: &str, flavor: &str, more: Value) -> Value {
    let mut new = json!({"name": name, "image": "tiny", "flavor": flavor});
    for (key, value) in more.as_object().expect("an object") {
        new[key] = value.clone();
    }
    client.post("/v1/instances", &new).await.expect(202)
}

/// A time so many seconds ahead.
pub fn end(seconds: i64) -> String {
    (Clock::System.now() + chrono::TimeDelta::seconds(seconds)).to_rfc3339()
}

pub fn path(instance: &Value) -> String {
    format!("/v1/instances/{}", instance["id"].as_str().expect("an id"))
}

/// What is at the path as soon as it holds.
pub async fn until(client: &Client, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = timeout(Duration::from_secs(30), async {
        loop {
            last = client.get(path).await.body();
            if holds(&last) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(found.is_ok(), "it does not come to that: {last:#}");
    last
}

pub async fn runs(client: &Client, instance: &Value) -> Value {
    until(client, &path(instance), |now| now["status"] == "running").await
}

pub async fn waits(client: &Client, instance: &Value) -> Value {
    until(client, &path(instance), |now| now["status"] == "waiting_for_capacity").await
}

async fn gone(client: &Client, instance: &Value) {
    client.delete(&format!("{}?wait=deleted&timeout=30", path(instance))).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_an_instance_waits_its_turn_says_what_would_fit_and_starts_when_room_appears()
{
    let api = cloud(0).await;
    let first = make(&api.member, "first", "c48", json!({})).await;
    runs(&api.member, &first).await;
    let second = make(&api.member, "second", "c32", json!({})).await;
    let waiting = waits(&api.member, &second).await;
    let reason = waiting["reason"].as_str().expect("a reason");
    assert!(reason.contains("no host has room") && reason.contains("lacks 16 vCPU"), "{reason}");
    assert_eq!(waiting["queue"]["position"], 1, "{waiting:#}");
    let changes = waiting["queue"]["would_fit_if"].as_array().expect("changes");
    assert!(changes.iter().any(|change| change["change"] == "freed"), "{waiting:#}");
    assert!(!waiting.to_string().contains("fake"), "a tenant reads no host's name: {waiting:#}");
    let listed = api.member.get("/v1/instances?status=waiting_for_capacity").await.expect(200);
    assert_eq!(listed["items"][0]["queue"], waiting["queue"]);
    let third = make(&api.member, "third", "c32", json!({})).await;
    assert_eq!(waits(&api.member, &third).await["queue"]["position"], 2);
    gone(&api.member, &first).await;
    for instance in [&second, &third] {
        let now = runs(&api.member, instance).await;
        assert_eq!((&now["queue"], &now["reason"]), (&Value::Null, &Value::Null));
    }
    let events = api.events().await;
    let queued = events.iter().filter(|event| event["kind"] == "instance.queued");
    assert_eq!(queued.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_one_is_not_starved_by_small_ones_that_come_later() {
    let api = cloud(0).await;
    let mut small = Vec::new();
    for n in 0..4 {
        small.push(make(&api.member, &format!("s{n}"), "c16", json!({})).await);
    }
    for instance in &small {
        runs(&api.member, instance).await;
    }
    let big = make(&api.member, "big", "c48", json!({})).await;
    waits(&api.member, &big).await;
    let late = make(&api.stranger, "late", "c16", json!({})).await;
    waits(&api.stranger, &late).await;
    // Each time that room for a small one comes free, it is kept.
    for instance in &small[..2] {
        gone(&api.member, instance).await;
        let now = make(&api.stranger, "later", "c16", json!({})).await;
        let now = waits(&api.stranger, &now).await;
        assert!(now["reason"].as_str().expect("a reason").contains("waited longer"), "{now:#}");
        assert_eq!(api.stranger.get(&path(&late)).await.body()["status"], "waiting_for_capacity");
    }
    gone(&api.member, &small[2]).await;
    runs(&api.member, &big).await;
    gone(&api.member, &small[3]).await;
    runs(&api.stranger, &late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_a_big_one_lets_small_ones_pass() {
    let api = cloud_with(0, |flags| flags.set("queue_hold_s", "0")).await;
    let first = make(&api.member, "first", "c48", json!({})).await;
    runs(&api.member, &first).await;
    let big = make(&api.member, "big", "c64", json!({})).await;
    waits(&api.member, &big).await;
    let small = make(&api.member, "small", "c16", json!({})).await;
    runs(&api.member, &small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_take_turns_and_a_long_line_holds_up_its_own_tenant_alone() {
    let api = cloud(0).await;
    let full = make(&api.member, "full", "c64", json!({})).await;
    runs(&api.member, &full).await;
    let mut line = Vec::new();
    for n in 0..6 {
        let instance = make(&api.member, &format!("a{n}"), "c16", json!({})).await;
        waits(&api.member, &instance).await;
        line.push(instance);
    }
    let other = make(&api.stranger, "b", "c16", json!({})).await;
    let place = waits(&api.stranger, &other).await["queue"]["position"].as_i64().expect("a place");
    assert!(place <= 2, "it came last and stands at {place}");
    gone(&api.member, &full).await;
    runs(&api.stranger, &other).await;
    for instance in &line[..3] {
        runs(&api.member, instance).await;
    }
    for instance in &line[3..] {
        assert_eq!(waits(&api.member, instance).await["status"], "waiting_for_capacity");
    }
    // Who no longer wants to run no longer waits.
    api.member.post(&format!("{}/actions/stop", path(&line[3])), &json!({})).await.expect(202);
    until(&api.member, &path(&line[3]), |now| now["status"] == "stopped").await;
    assert_eq!(waits(&api.member, &line[4]).await["queue"]["position"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_rather_fail_gets_a_409_and_leaves_nothing() {
    let api = cloud(0).await;
    let new = |flavor: &str| json!({"name": "x", "image": "tiny", "flavor": flavor, "on_no_capacity": "fail"});
    let fits = api.member.post("/v1/instances", &new("c48")).await.expect(202);
    runs(&api.member, &fits).await;
    let there = async || {
        let all = api.admin.get("/v1/instances?all_tenants=true").await.expect(200);
        let all = all["items"].as_array().expect("items");
        all.iter().map(|instance| instance["id"].clone()).collect::<Vec<_>>()
    };
    let before = there().await;
    let refused = api.member.ask(reqwest::Method::POST, "/v1/instances");
    let refused = refused.header("idempotency-key", "once").json(&new("c32")).send().await;
    let problem = refused.problem(409, "no-capacity");
    assert!(problem["detail"].as_str().expect("a detail").contains("lacks 16 vCPU"), "{problem:#}");
    assert_eq!(problem["explanation"]["fitting"], 0, "{problem:#}");
    assert!(!problem.to_string().contains("fake"), "a tenant reads no host's name: {problem:#}");
    assert_eq!(there().await, before);
    // Nor does it go before those who wait.
    let big = make(&api.member, "big", "c32", json!({})).await;
    waits(&api.member, &big).await;
    let problem = api.member.post("/v1/instances", &new("c16")).await.problem(409, "no-capacity");
    // Nor is told to take what is kept.
    let new_48 = json!({"name": "x", "image": "tiny", "flavor": "c48"});
    let told = api.member.post("/v1/instances?dry_run=true", &new_48).await.expect(200);
    let changes = told["placement"]["would_fit_if"].to_string();
    assert!(!changes.contains("smaller_need") && !changes.contains("other_flavor"), "{told:#}");
    // Detail and account tell the same.
    assert!(problem["detail"].as_str().expect("a detail").contains("kept"), "{problem:#}");
    let account = &problem["explanation"];
    assert_eq!((&account["summary"], &account["chosen"]), (&problem["detail"], &Value::Null));
    gone(&api.member, &fits).await;
    runs(&api.member, &big).await;
    let now = api.member.post("/v1/instances", &new("c16")).await.expect(202);
    runs(&api.member, &now).await;
    let bad = json!({"name": "x", "image": "tiny", "flavor": "c1", "on_no_capacity": "perhaps"});
    assert_eq!(api.member.post("/v1/instances", &bad).await.faults(), ["/on_no_capacity"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_must_offer_is_kept_to_and_what_no_host_offers_is_refused_by_name() {
    let api = cloud(3).await;
    let hosts = api.admin.get("/v1/hosts").await.expect(200);
    let host = |name: &str| {
        let all = hosts["items"].as_array().expect("items").iter();
        all.clone().find(|host| host["name"] == name).expect("a host")["id"].clone()
    };
    let ssd = format!("/v1/hosts/{}", host("fake-3").as_str().expect("an id"));
    api.admin.patch(&ssd, &json!({"traits": ["ssd", "gpu"]})).await.expect(202);
    let ssd = format!("/v1/hosts/{}", host("fake-4").as_str().expect("an id"));
    api.admin.patch(&ssd, &json!({"traits": ["ssd"]})).await.expect(202);
    let on = async |more: Value| {
        let made = make(&api.admin, "x", "c1", more).await;
        runs(&api.admin, &made).await["host_id"].clone()
    };
    assert_eq!(on(json!({"zone": "east"})).await, host("fake-2"));
    assert_eq!(on(json!({"required_traits": ["gpu"]})).await, host("fake-3"));
    let other = json!({"required_traits": ["ssd"], "forbidden_traits": ["gpu"]});
    assert_eq!(on(other).await, host("fake-4"));
    let refused = async |more: Value| {
        let mut new = json!({"name": "x", "image": "tiny", "flavor": "c1"});
        for (key, value) in more.as_object().expect("an object") {
            new[key] = value.clone();
        }
        api.member.post("/v1/instances", &new).await.faults()
    };
    assert_eq!(
        refused(json!({"zone": "north", "required_traits": ["gpu", "tpu"]})).await,
        ["/zone", "/required_traits/1"]
    );
    assert_eq!(
        refused(json!({"required_traits": ["ssd"], "forbidden_traits": ["x", "ssd"]})).await,
        ["/forbidden_traits/1"]
    );
    assert_eq!(
        refused(json!({"zone": "a b", "required_traits": ["A"]})).await,
        ["/zone", "/required_traits/0"]
    );
    assert_eq!(refused(json!({"policy": "worst_fit"})).await, ["/policy"]);
    for (policy, distinct) in [("spread", 2), ("best_fit", 1)] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let host = on(json!({"policy": policy, "forbidden_traits": ["none"]})).await;
            seen.insert(host.to_string());
        }
        assert_eq!(seen.len(), distinct, "{policy}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_goes_by_itself_when_its_time_has_come() {
    let api = cloud(0).await;
    let short = make(&api.member, "short", "c1", json!({"expires_at": end(2)})).await;
    let moved = make(&api.member, "moved", "c1", json!({"expires_at": end(3)})).await;
    api.member.patch(&path(&moved), &json!({"expires_at": end(3600)})).await.expect(200);
    until(&api.member, &path(&short), |now| now["status"] == 404).await;
    assert_eq!(runs(&api.member, &moved).await["status"], "running");
    let events = api.events().await;
    let expired: Vec<_> =
        events.iter().filter(|event| event["kind"] == "instance.expire").collect();
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0]["resource_id"], short["id"]);
    for bad in [end(-5), end(400_000_000)] {
        let new = json!({"name": "x", "image": "tiny", "flavor": "c1", "expires_at": bad});
        assert_eq!(api.member.post("/v1/instances", &new).await.faults(), ["/expires_at"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn placement_explains_itself_with_the_flavor_the_host_and_the_quota_that_would_do() {
    let api = cloud(0).await;
    let full = make(&api.member, "full", "c48", json!({})).await;
    runs(&api.member, &full).await;
    let ask =
        async |client: &Client, query: Value| client.post("/v1/placement/explain", &query).await;
    let fits = ask(&api.member, json!({"flavor": "c16"})).await.expect(200);
    assert_eq!((&fits["fits"], &fits["waiting"]), (&json!(true), &json!(0)), "{fits:#}");
    let not = ask(&api.member, json!({"flavor": "c32"})).await.expect(200);
    assert_eq!(not["fits"], false);
    let changes = not["placement"]["would_fit_if"].to_string();
    assert!(changes.contains("other_flavor") && changes.contains("c16"), "{not:#}");
    assert!(!not.to_string().contains("fake"), "{not:#}");
    let shown = ask(&api.admin, json!({"flavor": "c32"})).await.expect(200);
    assert!(shown.to_string().contains("fake"), "{shown:#}");
    let large =
        ask(&api.member, json!({"vcpus": 512, "memory_mib": 64, "disk_gib": 1})).await.expect(200);
    assert!(large["placement"]["would_fit_if"].to_string().contains("host_added"), "{large:#}");
    let tenant = format!("/v1/tenants/{}", api.tenant_a);
    api.admin.patch(&tenant, &json!({"quota": {"vcpus": 50}})).await.expect(200);
    let over = ask(&api.member, json!({"flavor": "c16"})).await.expect(200);
    assert_eq!(over["fits"], false);
    let raised = json!({"change": "quota_raised", "quota": "vcpus", "to": 64});
    assert_eq!(over["placement"]["would_fit_if"][0], raised, "{over:#}");
    // No single change would do: none is told that would not.
    let both = ask(&api.member, json!({"flavor": "c64"})).await.expect(200);
    assert!(!both["placement"]["would_fit_if"].to_string().contains("quota_raised"), "{both:#}");
    let left = 50 - 48;
    for change in both["placement"]["would_fit_if"].as_array().expect("changes") {
        let need = change["need"]["vcpus"].as_i64().unwrap_or(0);
        assert!(need <= left, "the quota has no room for it: {change}");
    }
    let few = json!({"quota": {"vcpus": 50, "instances": 1}});
    api.admin.patch(&tenant, &few).await.expect(200);
    let many = ask(&api.member, json!({"flavor": "c16"})).await.expect(200);
    let summary = many["placement"]["summary"].as_str().expect("a summary").to_owned();
    assert!(
        summary.contains("quotas are in the way") && summary.contains("instances"),
        "{summary}"
    );
    api.admin.patch(&tenant, &json!({"quota": {"instances": 100}})).await.expect(200);
    let summary = both["placement"]["summary"].as_str().expect("a summary");
    assert!(summary.contains("the quota of vcpus is in the way, too"), "{summary}");
    for (bad, fault) in [
        (json!({}), vec!["/vcpus", "/memory_mib", "/disk_gib"]),
        (json!({"flavor": "c1", "vcpus": 1}), vec!["/vcpus"]),
        (json!({"flavor": "none"}), vec!["/flavor"]),
        (json!({"flavor": "c1", "group": "none"}), vec!["/group"]),
        (json!({"flavor": "c1", "zone": "nowhere"}), vec!["/zone"]),
        (json!({"flavor": "c1", "required_traits": ["gpu"]}), vec!["/required_traits/0"]),
        (
            json!({"flavor": "c1", "required_traits": ["virt:qemu"], "forbidden_traits": ["virt:qemu"]}),
            vec!["/forbidden_traits/0"],
        ),
        (
            json!({"vcpus": 0, "memory_mib": -1, "disk_gib": i64::MAX}),
            vec!["/vcpus", "/memory_mib", "/disk_gib"],
        ),
    ] {
        assert_eq!(ask(&api.member, bad).await.faults(), fault);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lifetime_fit_puts_those_together_that_leave_together() {
    let api = cloud(3).await;
    let end = |hours: i64| end(hours * 3600);
    let on = async |hours: i64| {
        let wish = json!({"policy": "lifetime_fit", "expires_at": end(hours)});
        let made = make(&api.admin, "x", "c16", wish).await;
        runs(&api.admin, &made).await["host_id"].clone()
    };
    // A host for a day and one for an hour, each with room; best fit alone would fill up whichever is fuller.
    let spread = json!({"policy": "spread", "expires_at": end(24)});
    let long = make(&api.admin, "long", "c16", spread).await;
    let long = runs(&api.admin, &long).await["host_id"].clone();
    let spread = json!({"policy": "spread", "expires_at": end(1)});
    let short = make(&api.admin, "short", "c32", spread).await;
    let short = runs(&api.admin, &short).await["host_id"].clone();
    assert_ne!(long, short);
    let come = (on(24).await, on(1).await, on(23).await);
    assert_eq!(come, (long.clone(), short.clone(), long.clone()));
    // A dry run, an explanation and one that does not wait choose as the placer does.
    for (hours, host) in [(1, short), (24, long)] {
        let mut ask = json!({"policy": "lifetime_fit", "expires_at": end(hours), "flavor": "c1"});
        let told = api.admin.post("/v1/placement/explain", &ask).await.expect(200);
        assert_eq!(told["placement"]["chosen"]["host"]["id"], host, "{told:#}");
        for (key, value) in [("name", "y"), ("image", "tiny"), ("on_no_capacity", "fail")] {
            ask[key] = json!(value);
        }
        let dry = api.admin.post("/v1/instances?dry_run=true", &ask).await.expect(200);
        assert_eq!(dry["placement"]["chosen"]["host"]["id"], host, "{dry:#}");
        let made = api.admin.post("/v1/instances", &ask).await.expect(202);
        assert_eq!(runs(&api.admin, &made).await["host_id"], host);
    }
}
