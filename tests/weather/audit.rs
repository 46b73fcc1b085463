//! The operator's audit, run on a test's host.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::cloud::{Cloud, Database, SOON};
use crate::libvirtd::Libvirtd;
use crate::postgres::Postgres;
use crate::process::run;

/// Runs `scripts/audit.sh` inside the cloud's host, where what is on its way has so long; gives its findings.
pub fn findings(cloud: &Cloud, url: &str, patience: Duration) -> Result<String, String> {
    let mut audit = cloud.host.command(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/audit.sh"));
    audit.args(["--here", "--deep", "--images"]).arg(cloud.state.path().join("images"));
    audit.args(["--settle", &patience.as_secs().to_string(), url]);
    let (clean, said) = run(&mut audit);
    if clean { Ok(said) } else { Err(said) }
}

/// Holds the cloud to the audit.
#[track_caller]
pub fn clean(cloud: &Cloud, url: &str) {
    match findings(cloud, url, SOON) {
        Ok(said) => println!("{}", said.trim()),
        Err(said) => panic!("{said}"),
    }
}

/// Holds a cloud whose database the tests share to the audit.
#[track_caller]
pub fn tidy(cloud: &Cloud) {
    clean(cloud, &cloud.database_url());
}

/// What is done to a host and a database behind the server's back, and what the audit must say of it.
const MISCHIEF: &[(&str, &str)] = &[
    ("rm $pools/disks/seed-$stopped.iso", "missing: disks seed-$stopped.iso"),
    ("rm $pools/consoles/$running.log*", "missing: consoles $running.log"),
    ("kill -9 $(cat /run/libvirt/qemu/$mark-$id.pid)", "missing: process $mark-$id"),
    ("kill -9 $(pgrep -f $mark-.*[.]conf)", "missing: dnsmasq $mark-"),
    (
        "touch $pools/disks/disk-00000000-0000-7000-8000-000000000001.qcow2",
        "left over: disks disk-0000",
    ),
    ("echo x >>$(ls $pools/disks/base-*.raw)", "damaged: base-"),
    (
        "qemu-img rebase -u -f qcow2 -b /nowhere -F raw $pools/disks/disk-$stopped.qcow2",
        "stands on /nowhere",
    ),
    ("touch $images/left", "image store: left over: left"),
    ("rm $images/$(sha256sum $state/bytes-2 | cut -c1-64)", "image store: missing: "),
    ("echo x >>$images/$(sha256sum $state/bytes-3 | cut -c1-64)", "image store: damaged: "),
    (
        "psql $url -c \"insert into blobs select 'nobodys', format, 1, 1, now() from blobs limit 1\"",
        "left over: row of nobodys",
    ),
    (
        "psql $url -c \"update images set hidden_at = now() where name = 'other'\"",
        "is deleted, and nobody uses it",
    ),
    ("ip link add pl0123456789ab type bridge", "left over: bridge pl0123456789ab"),
    // As after a network was made again, on another bridge.
    (
        "ip link set $(virsh domiflist $mark-$cut | awk '/vnet/ { print $1 }') master pl0123456789ab",
        "cut off: $mark-$cut: its vnet",
    ),
    ("ip tuntap add vnet99 mode tap", "left over: tap vnet99"),
    (
        "echo \"<network><name>$mark-00000000-0000-7000-8000-000000000002</name></network>\" >/tmp/n && virsh net-define /tmp/n && rm /tmp/n",
        "left over: network $mark-0000",
    ),
    ("sed -i s/^52:/53:/ /var/lib/libvirt/dnsmasq/$mark-*.hostsfile", "left over: dhcp $mark-"),
    ("psql $url -c 'delete from host_networks'", "no row notes: network $mark-"),
    (
        "psql $url -c 'update networks set deleted_at = now() where id not in (select network_id from ports)'",
        "is deleted and still there",
    ),
    ("psql $url -c 'update hosts set reserved_memory_mib = reserved_memory_mib + 1'", "may give"),
    (
        "psql $url -c 'delete from reservation_slots where id in (select id from reservation_slots limit 1)'",
        "reservation held has 1 slots of 2",
    ),
    (
        "psql $url -c 'update reservation_slots set incarnation_id = gen_random_uuid()'",
        "which is not on its host",
    ),
    (
        "psql $url -c 'update reservation_slots set disk_gib = disk_gib + 1'",
        "a slot that is not as large as it says",
    ),
    (
        "psql $url -c \"update reservations set expires_at = now() - interval '1 hour'\"",
        "reservation held is over since",
    ),
    (
        "psql $url -c \"update instances set reservation_id = r.id from reservations r where instances.id = '$id'\"",
        "instance $id has no slot of its reservation",
    ),
    (
        "psql $url -c \"update instances set expires_at = now() - interval '1 hour' where id = '$id'\"",
        "instance $id is over since",
    ),
    ("psql $url -c 'update hosts set used_vcpus = used_vcpus + 1'", "used, its claims are"),
    ("psql $url -c 'update instance_use set vcpus = vcpus + 1'", "tenant default counts"),
    (
        "psql $url -c \"insert into events select gen_random_uuid(), seq + 1000000, at, tenant_id, kind, resource_kind, resource_id, resource_name, actor_id, actor, request_id, outcome from events where kind = 'instance.create'\"",
        "was accepted 2 times",
    ),
    (
        "psql $url -c \"insert into work (kind, item, due_at) values ('instance', gen_random_uuid(), 'infinity')\"",
        ", which is gone",
    ),
    ("psql $url -c 'update instances set revision = revision + 1'", "is not as wished"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_and_not_noted_is_the_instances_all_the_same() {
    let settings = [("network-pool", "10.119.0.0/16"), ("reconcile-lease-s", "3")];
    let mut cloud = Cloud::new(&settings).await;
    cloud.terminate().await;
    cloud.serve_from_now_on();
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    // Its seed was made and not noted; nothing was made, its network neither.
    for (point, networks) in
        [("seed_written", json!([])), ("making", json!([{"network": "default"}]))]
    {
        cloud.terminate().await;
        cloud.start_armed(point).await;
        let new = json!({"name": "a", "image": image, "flavor": "nano", "networks": networks});
        let made = cloud.admin.post("/v1/instances", &new).await.expect(202);
        let id = made["id"].as_str().unwrap();
        cloud.ended().await;
        // Before anybody comes to start it.
        let stop = "update instances set wanted = 'stopped', revision = revision + 1";
        sqlx::query(stop).execute(&mut cloud.db().await).await.unwrap();
        cloud.start().await;
        cloud.until(id, "settled", "stopped", SOON).await;
        let query = "select count(*) from incarnations where not disk_made";
        assert_eq!(cloud.count(query).await, 1, "{point}");
        tidy(&cloud);
        let path = format!("/v1/instances/{id}/actions/start?wait=running&timeout=60");
        let running = cloud.admin.post(&path, &json!({})).await.expect(202);
        assert_eq!(running["status"], "running", "{running:#}");
        tidy(&cloud);
        cloud.delete(id).await;
        tidy(&cloud);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_what_is_missing_doubled_or_left_over() {
    let host = Arc::new(Libvirtd::start());
    let postgres = Postgres::start(&host).await;
    let mut cloud = Cloud::on(host, Database::Shared(postgres.options()), &[]).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    for number in [2, 3] {
        let bytes = vec![number; 1 << 20];
        std::fs::write(cloud.state.path().join(format!("bytes-{number}")), &bytes).unwrap();
        cloud.raw_image("other", bytes).await;
    }
    cloud.admin.post("/v1/networks", &json!({"name": "second"})).await.expect(201);
    let held = json!({
        "name": "held", "flavor": "nano", "slots": 2, "expires_at": chrono::Utc::now() + Duration::from_secs(86_400),
    });
    cloud.admin.post("/v1/reservations", &held).await.expect(201);
    let mut made = Vec::new();
    for wanted in ["running", "stopped", "cut off"] {
        let new = json!({"name": wanted, "image": image, "flavor": "nano", "networks": [{"network": "default"}]});
        let path = "/v1/instances?wait=running&timeout=90";
        let answer = cloud.admin.post(path, &new).await.expect(202);
        made.push(answer["id"].as_str().unwrap().to_owned());
    }
    let stop = format!("/v1/instances/{}/actions/stop?wait=stopped&timeout=60", made[1]);
    let stopped = cloud.admin.post(&stop, &json!({"hard": true})).await.expect(202);
    assert_eq!(stopped["status"], "stopped", "{stopped:#}");
    clean(&cloud, &postgres.url());

    // With nobody there to mend it.
    cloud.terminate().await;
    let mut conn = postgres.connect().await;
    let mut incarnations = Vec::new();
    for id in &made {
        let of = "select id::text from incarnations where instance_id = $1::uuid";
        let one: String = sqlx::query_scalar(of).bind(id).fetch_one(&mut conn).await.unwrap();
        incarnations.push(one);
    }
    let state = cloud.state.path().display();
    let words = [
        ("$running", incarnations[0].clone()),
        ("$stopped", incarnations[1].clone()),
        ("$id", made[0].clone()),
        ("$cut", made[2].clone()),
        ("$state", state.to_string()),
        ("$mark", cloud.mark()),
        ("$pools", format!("{state}/pools")),
        ("$images", format!("{state}/images")),
        ("$url", postgres.url()),
    ];
    let fill = |text: &str| {
        words.iter().fold(text.to_owned(), |text, (key, word)| text.replace(key, word))
    };
    for (deed, _) in MISCHIEF {
        let (done, said) = run(cloud.host.command("bash").args(["-c", &fill(deed)]));
        assert!(done, "{deed}: {said}");
    }
    let said = findings(&cloud, &postgres.url(), Duration::ZERO).expect_err("findings");
    for (deed, finding) in MISCHIEF {
        assert!(said.contains(&fill(finding)), "after {deed} there is no {finding:?} in\n{said}");
    }
}
