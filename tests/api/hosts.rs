//! `/v1/hosts`: registration, limits, and leaving.

use pileus::domain::id::HostId;
use pileus::store;
use pileus::store::hosts::Totals;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

fn new(name: &str) -> Value {
    json!({"name": name, "uri": "test:///default"})
}

async fn register(api: &Api, body: &Value) -> HostId {
    let host = api.admin.post("/v1/hosts", body).await.expect(202);
    HostId(host["id"].as_str().expect("an id").parse().expect("a UUID"))
}

/// The host answers, as the reconciler would note it.
async fn observe(api: &Api, id: HostId, vcpus: i64, memory_mib: i64, disk_gib: i64) {
    let facts = json!({"vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib});
    let totals = Totals { vcpus, memory_mib, disk_gib };
    let mut conn = api.app.conn().await.expect("a connection");
    let now = api.app.clock.now();
    store::hosts::observe(&mut conn, id, Uuid::from_u128(7), &facts, totals, now)
        .await
        .expect("observed");
}

/// Whether the reconciler is to look at the host.
async fn is_due(api: &Api, id: HostId) -> bool {
    sqlx::query_scalar(
        "select exists (select from work where kind = 'host' and item = $1 and due_at <= now())",
    )
    .bind(id)
    .fetch_one(&mut *api.app.conn().await.expect("a connection"))
    .await
    .expect("an answer")
}

async fn execute(api: &Api, sql: &'static str, id: HostId) {
    let mut conn = api.app.conn().await.expect("a connection");
    sqlx::query(sql).bind(id).execute(&mut *conn).await.expect("done");
}

#[tokio::test]
async fn a_host_is_registered_with_what_the_settings_say_and_is_to_be_contacted() {
    let api = Api::start_with(|flags| flags.set("overcommit_cpu", "2.5")).await;
    let answer = api.admin.post("/v1/hosts", &new("host-1")).await;
    let host = answer.expect(202);
    let path = answer.header("location").expect("a location").to_owned();
    let cloud = &api.app.cloud.simple().to_string()[..8];
    assert_eq!(host["pool_path"], format!("/var/lib/pileus/hosts/{cloud}"));
    assert_eq!(
        (&host["cpu_ratio"], &host["memory_ratio"], &host["disk_ratio"]),
        (&json!(2.5), &json!(1.0), &json!(1.0))
    );
    assert_eq!(
        (&host["zone"], &host["enabled"], &host["virt_type"]),
        (&json!("default"), &json!(true), &json!("auto"))
    );
    assert_eq!(
        (&host["health"], &host["health_reason"]),
        (&json!("unknown"), &json!("not contacted yet"))
    );
    assert_eq!(
        (&host["host_uuid"], &host["facts"], &host["leaving"]),
        (&Value::Null, &Value::Null, &json!(false))
    );
    assert_eq!(host["limit"], json!({"vcpus": 0, "memory_mib": 0, "disk_gib": 0}));
    assert_eq!(api.admin.get(&path).await.expect(200), host);
    assert!(is_due(&api, HostId(host["id"].as_str().unwrap().parse().unwrap())).await);
    api.admin.post("/v1/hosts", &new("host-1")).await.problem(409, "name-taken");
    let event = api.events().await.pop().expect("an event");
    assert_eq!((&event["kind"], &event["outcome"]), (&json!("host.create"), &json!("accepted")));
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let api = Api::start().await;
    let before = api.events().await.len();
    let host = api.admin.post("/v1/hosts?dry_run=true", &new("host-1")).await.expect(200);
    assert_eq!((&host["name"], &host["cpu_ratio"]), (&json!("host-1"), &json!(4.0)));
    let bad = json!({"name": "x", "uri": "qemu+ssh://h/system?command=/bin/sh"});
    assert_eq!(api.admin.post("/v1/hosts?dry_run=true", &bad).await.faults(), ["/uri"]);
    assert_eq!(api.admin.get("/v1/hosts").await.expect(200)["items"], json!([]));
    assert_eq!(api.events().await.len(), before);
    register(&api, &new("host-1")).await;
    api.admin.post("/v1/hosts?dry_run=true", &new("host-1")).await.problem(409, "name-taken");
}

#[tokio::test]
async fn hosts_are_for_admins() {
    let api = Api::start().await;
    let id = register(&api, &new("host-1")).await;
    let path = format!("/v1/hosts/{id}");
    api.owner.post("/v1/hosts", &new("host-2")).await.problem(403, "forbidden");
    api.owner.get("/v1/hosts").await.problem(403, "forbidden");
    api.owner.get(&path).await.problem(403, "forbidden");
    api.owner.patch(&path, &json!({"enabled": false})).await.problem(403, "forbidden");
    api.owner.delete(&path).await.problem(403, "forbidden");
    api.anonymous.get("/v1/hosts").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn each_bad_field_is_named_and_no_uri_runs_a_program_or_holds_a_password() {
    let api = Api::start().await;
    let bad = json!({"name": "🦀", "uri": "", "pool_path": "../x", "zone": "a b", "traits": [""], "cpu_ratio": 100, "reserved_vcpus": -1});
    let faults = api.admin.post("/v1/hosts", &bad).await.faults();
    assert_eq!(
        faults,
        ["/name", "/uri", "/pool_path", "/zone", "/traits/0", "/cpu_ratio", "/reserved_vcpus"]
    );
    for (uri, why) in [
        ("qemu+ssh://h/system?netcat=/bin/sh", "names a program"),
        ("qemu+ssh://root:secret@h/system", "password"),
        ("test:///", "/default"),
    ] {
        let answer = api.admin.post("/v1/hosts", &json!({"name": "x", "uri": uri})).await;
        assert_eq!(answer.faults(), ["/uri"]);
        assert!(answer.text.contains(why) && !answer.text.contains("secret"), "{answer:?}");
    }
    for (body, pointer) in [
        (json!({"name": "x", "uri": "test:///default", "host_uuid": Uuid::nil()}), "/host_uuid"),
        (json!({"name": "x", "uri": "test:///default", "virt_type": "xen"}), "/virt_type"),
    ] {
        assert_eq!(api.admin.post("/v1/hosts", &body).await.faults(), [pointer]);
    }
    assert_eq!(api.admin.get("/v1/hosts").await.expect(200)["items"], json!([]));
    let path = format!("/v1/hosts/{}", register(&api, &new("x")).await);
    assert_eq!(
        api.admin.patch(&path, &json!({"host_uuid": Uuid::nil()})).await.faults(),
        ["/host_uuid"]
    );
    assert_eq!(api.admin.patch(&path, &json!({"disk_ratio": 0})).await.faults(), ["/disk_ratio"]);
}

#[tokio::test]
async fn a_mock_host_is_refused_unless_the_settings_allow_it() {
    let api = Api::start_with(|flags| flags.set("allow_test_hosts", "false")).await;
    for uri in ["test:///default", "test:///etc/shadow"] {
        let answer = api.admin.post("/v1/hosts", &json!({"name": "x", "uri": uri})).await;
        assert_eq!(answer.faults(), ["/uri"]);
        assert!(answer.text.contains("allow_test_hosts"), "{answer:?}");
    }
    let real = json!({"name": "x", "uri": "qemu:///system"});
    let id = register(&api, &real).await;
    let patch = json!({"uri": "test:///default"});
    assert_eq!(api.admin.patch(&format!("/v1/hosts/{id}"), &patch).await.faults(), ["/uri"]);
}

#[tokio::test]
async fn limits_follow_ratios_and_reservations_exactly_and_never_fall_below_nothing() {
    let api = Api::start().await;
    let id = register(&api, &json!({"name": "a", "uri": "test:///default", "cpu_ratio": 1.15, "reserved_memory_mib": 24})).await;
    let path = format!("/v1/hosts/{id}");
    observe(&api, id, 100, 1024, 50).await;
    let host = api.admin.get(&path).await.expect(200);
    // 114.99999999999999 in binary fractions
    assert_eq!(host["limit"], json!({"vcpus": 115, "memory_mib": 1000, "disk_gib": 50}));
    assert_eq!((&host["health"], &host["host_uuid"]), (&json!("up"), &json!(Uuid::from_u128(7))));
    let change = json!({"cpu_ratio": 0.5, "reserved_vcpus": 1, "disk_ratio": 2.0, "reserved_memory_mib": 5000});
    let host = api.admin.patch(&path, &change).await.expect(202);
    assert_eq!(host["limit"], json!({"vcpus": 49, "memory_mib": 0, "disk_gib": 100}));
    assert_eq!(host["facts"]["vcpus"], 100);
    // and the next observation agrees
    observe(&api, id, 100, 1024, 50).await;
    assert_eq!(api.admin.get(&path).await.expect(200)["limit"], host["limit"]);
}

#[tokio::test]
async fn a_host_shrunk_below_what_it_carries_stays_and_takes_no_more() {
    let api = Api::start().await;
    let id = register(&api, &new("a")).await;
    observe(&api, id, 8, 8192, 100).await;
    execute(&api, "update hosts set used_vcpus = 20 where id = $1", id).await;
    let host =
        api.admin.patch(&format!("/v1/hosts/{id}"), &json!({"cpu_ratio": 1})).await.expect(202);
    assert_eq!((&host["limit"]["vcpus"], &host["used"]["vcpus"]), (&json!(8), &json!(20)));
    let mut conn = api.app.conn().await.expect("a connection");
    let claim = store::incarnations::Claim {
        instance: pileus::domain::id::InstanceId(Uuid::now_v7()),
        tenant: pileus::domain::id::TenantId(api.tenant_a),
        host: id,
        vcpus: 1,
        memory_mib: 1,
        disk_gib: 1,
        slot: None,
        zone: None,
    };
    let now = api.app.clock.now();
    let claimed = async |conn: &mut _, claim: &store::incarnations::Claim| {
        let claims = [(Uuid::now_v7(), claim.clone())];
        store::incarnations::claim(conn, &claims, now).await.expect("an answer").len()
    };
    assert_eq!(claimed(&mut conn, &claim).await, 0);
    // Nor does one that was put into another zone since it was chosen for the sake of its own.
    execute(&api, "update hosts set used_vcpus = 0 where id = $1", id).await;
    for (zone, made) in [(Some("elsewhere"), 0), (Some("default"), 1), (None, 1)] {
        let instance = pileus::domain::id::InstanceId(Uuid::now_v7());
        let claim =
            store::incarnations::Claim { instance, zone: zone.map(str::to_owned), ..claim.clone() };
        assert_eq!(claimed(&mut conn, &claim).await, made, "{zone:?}");
    }
}

#[tokio::test]
async fn a_change_is_made_at_its_revision_and_the_host_is_looked_at_again() {
    let api = Api::start().await;
    let id = register(&api, &new("a")).await;
    let path = format!("/v1/hosts/{id}");
    execute(&api, "update work set due_at = 'infinity' where item = $1", id).await;
    let change = json!({"name": "b", "uri": "qemu+unix:///system?socket=/run/x", "zone": "east", "traits": ["ssd"], "enabled": false, "virt_type": "qemu"});
    let ask = |tag: &'static str| {
        api.admin.ask(Method::PATCH, &path).header("if-match", tag).json(&change)
    };
    let host = ask("\"1\"").send().await.expect(202);
    for (key, value) in change.as_object().expect("an object") {
        assert_eq!(&host[key], value, "{key}");
    }
    assert_eq!(host["revision"], 2);
    assert!(is_due(&api, id).await);
    ask("\"1\"").send().await.problem(412, "precondition-failed");
    register(&api, &new("a")).await;
    api.admin.patch(&path, &json!({"name": "a"})).await.problem(409, "name-taken");
    api.admin
        .patch("/v1/hosts/00000000-0000-0000-0000-000000000000", &change)
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn kvm_is_refused_where_the_host_is_known_to_have_none() {
    let api = Api::start().await;
    let id = register(&api, &new("a")).await;
    let path = format!("/v1/hosts/{id}");
    let wish = |virt_type: &str| json!({"virt_type": virt_type});
    // What it can is not known yet.
    api.admin.patch(&path, &wish("kvm")).await.expect(202);
    execute(&api, "update hosts set facts = '{\"virt_type\": \"qemu\"}' where id = $1", id).await;
    // It stays what it is.
    api.admin.patch(&path, &wish("kvm")).await.expect(202);
    api.admin.patch(&path, &wish("auto")).await.expect(202);
    api.admin.patch(&path, &wish("kvm")).await.problem(409, "no-kvm");
    assert_eq!(api.admin.get(&path).await.expect(200)["virt_type"], "auto");
    execute(&api, "update hosts set facts = '{\"virt_type\": \"kvm\"}' where id = $1", id).await;
    assert_eq!(api.admin.patch(&path, &wish("kvm")).await.expect(202)["virt_type"], "kvm");
}

#[tokio::test]
async fn a_list_is_filtered_and_comes_in_pages() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for (name, zone, enabled) in [("a", "east", true), ("b", "west", true), ("c", "west", false)] {
        let body =
            json!({"name": name, "uri": "test:///default", "zone": zone, "enabled": enabled});
        ids.push(register(&api, &body).await.to_string());
    }
    observe(&api, HostId(ids[1].parse().unwrap()), 1, 1, 1).await;
    let listed = async |query: &str| {
        let page = api.admin.get(&format!("/v1/hosts?{query}")).await.expect(200);
        let items = page["items"].as_array().expect("items").clone();
        let ids: Vec<_> =
            items.iter().map(|i| i["id"].as_str().expect("an id").to_owned()).collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(listed("zone=west").await.0, ids[1..]);
    assert_eq!(listed("zone=west&enabled=true").await.0, ids[1..2]);
    assert_eq!(listed("health=up").await.0, ids[1..2]);
    assert_eq!(listed("name=a").await.0, ids[..1]);
    let (first, next) = listed("limit=2").await;
    assert_eq!(first, ids[..2]);
    assert_eq!(
        listed(&format!("limit=2&cursor={}", next.unwrap())).await,
        (ids[2..].to_vec(), None)
    );
    api.admin.get("/v1/hosts?health=well").await.problem(422, "invalid-input");
}

#[tokio::test]
async fn a_host_leaves_only_when_it_carries_nothing() {
    let api = Api::start().await;
    let id = register(&api, &new("a")).await;
    let path = format!("/v1/hosts/{id}");
    execute(
        &api,
        "insert into incarnations (id, instance_id, tenant_id, host_id, vcpus, memory_mib, disk_gib, created_at)
         values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $1, 1, 1, 1, now())",
        id,
    )
    .await;
    api.admin.delete(&path).await.problem(409, "host-in-use");
    let moved = json!({"pool_path": "/elsewhere"});
    api.admin.patch(&path, &moved).await.problem(409, "host-in-use");
    // The same path is no move.
    let same = json!({"pool_path": api.admin.get(&path).await.expect(200)["pool_path"]});
    api.admin.patch(&path, &same).await.expect(202);
    execute(&api, "delete from incarnations where host_id = $1", id).await;
    assert_eq!(api.admin.patch(&path, &moved).await.expect(202)["pool_path"], "/elsewhere");
    let host = api.admin.delete(&path).await.expect(202);
    assert_eq!(host["leaving"], true);
    assert_eq!(api.admin.delete(&path).await.expect(202)["revision"], host["revision"]);
    api.admin.patch(&path, &json!({"enabled": true})).await.problem(409, "host-leaving");
    assert!(is_due(&api, id).await);
}
