//! A database that takes no more writes: its disk is full, or it lets itself only be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::cloud::{Cloud, Database, SOON};
use crate::full::{bytes, create, use_all_of_the_disk};
use crate::libvirtd::Libvirtd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_disk_is_full_is_told_of_and_goes_on_when_there_is_room() {
    let host = Arc::new(Libvirtd::start());
    let settings = [("network-pool", "10.124.0.0/16"), ("heartbeat-s", "1")];
    let mut cloud = Cloud::on(host, Database::Own, &settings).await;
    cloud.terminate().await;
    // The whole state lies on a file system of its own, as it may on a machine with one disk, and that is nearly full.
    let (state, disk) = (cloud.state.path().display(), cloud.host.path("disk.img"));
    let script = format!(
        "set -e; truncate -s 2G {disk}; mkfs.ext4 -q -m 0 {disk}; mkdir /tmp/aside; mount -o loop {disk} /tmp/aside
         cp -a {state}/. /tmp/aside; umount /tmp/aside; rmdir /tmp/aside; mount -o loop {disk} {state}; chmod 711 {state}
         free=$(df --output=avail -B1 {state} | tail -n 1); fallocate -l $((free - 320 * 1048576)) {state}/others",
        disk = disk.display()
    );
    cloud.host.run("bash", &["-c", &script]);
    cloud.start().await;
    use_all_of_the_disk(&cloud).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let id = create(&cloud, "lives-through", &image).await;
    cloud.until(&id, "settled", "running", SOON).await;

    // Uploads leave a tenth of it, whoever sends how many.
    let mut refused = 0;
    for number in 0..10_u8 {
        let new =
            json!({"name": format!("fills-{number}"), "format": "raw", "visibility": "private"});
        let new = cloud.admin.post("/v1/images", &new).await.expect(201);
        let put = format!("/v1/images/{}/data", new["id"].as_str().unwrap());
        let answer = cloud.admin.ask(Method::PUT, &put).body(bytes(number, 16)).send().await;
        if answer.status != 200 {
            answer.problem(503, "unavailable");
            refused += 1;
        }
    }
    assert!(refused > 0, "nothing was refused");
    let state = cloud.state.path().display().to_string();
    let free = || {
        let told = cloud.host.run("df", &["--output=avail,size", "-m", &state]);
        let told: Vec<u64> = told.split_whitespace().skip(2).map(|n| n.parse().unwrap()).collect();
        (told[0], told[1])
    };
    let (left, size) = free();
    assert!(left + 2 >= size / 10, "{left} of {size} MiB are left");

    // Something else fills it.
    let tenant = cloud.admin.get("/v1/auth/whoami").await.expect(200)["tenant"]["id"].clone();
    let tenant = format!("/v1/tenants/{}", tenant.as_str().unwrap());
    cloud.admin.patch(&tenant, &json!({"quota": {"images": 1_000_000}})).await.expect(200);
    cloud.host.run("bash", &["-c", &format!("head -c 10G /dev/zero >{state}/filler || true")]);
    let (end, mut told) = (Instant::now() + SOON, false);
    for number in 0.. {
        let label = "x".repeat(200);
        let labels: serde_json::Map<_, _> =
            (0..30).map(|key| (format!("k{key}"), json!(label))).collect();
        let new = json!({"name": format!("n{number}"), "format": "raw", "labels": labels});
        let answer = cloud.admin.post("/v1/images", &new).await;
        assert!([201, 503].contains(&answer.status), "{answer:?}");
        told |= answer.text.contains("disk is full");
        if told && cloud.admin.get("/readyz").await.text.contains("disk is full") {
            break;
        }
        assert!(Instant::now() < end, "it is not told: {answer:?}");
    }
    // There is room again: nobody restarts anything.
    cloud.host.run("rm", &[&format!("{state}/filler")]);
    let end = Instant::now() + SOON;
    while cloud.admin.post("/v1/groups", &json!({"name": "again", "rule": "affinity"})).await.status
        == 503
    {
        assert!(Instant::now() < end, "it does not go on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    while cloud.admin.get("/readyz").await.status != 200 {
        assert!(Instant::now() < end, "it is not ready again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cloud.until(&id, "settled", "running", SOON).await;
    cloud.delete(&id).await;
    let (code, said) = cloud.pileus("admin fsck");
    assert_eq!(code, 0, "{said}");
    cloud.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_may_only_be_read_is_told_of_and_goes_on_when_it_may_be_written() {
    let cloud = Cloud::new(&[("network-pool", "10.133.0.0/16"), ("heartbeat-s", "1")]).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let id = create(&cloud, "lives-through", &image).await;
    cloud.until(&id, "settled", "running", SOON).await;
    // As a standby that took over too early, or an operator who holds everything up.
    let mut db = cloud.db().await;
    let mut may_write = async |may: &str| {
        let sql = format!(
            "do $$ begin execute format('alter database %I set default_transaction_read_only = {may}', current_database()); end $$;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    };
    let network = json!({"name": "written", "cidr": "10.134.0.0/24"});
    let until = async |status: u16, words: &str| {
        let end = Instant::now() + SOON;
        loop {
            let made = cloud.admin.post("/v1/networks", &network).await;
            let ready = cloud.admin.get("/readyz").await;
            if made.status == status && made.text.contains(words) && ready.text.contains(words) {
                return (made, ready);
            }
            assert!([201, 409, 503].contains(&made.status), "{made:?}");
            assert!(Instant::now() < end, "it is not told: {made:?} {ready:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    may_write("on").await;
    let (refused, ready) = until(503, "only be read").await;
    refused.problem(503, "unavailable");
    ready.problem(503, "unavailable");
    assert_eq!(
        cloud.admin.get(&format!("/v1/instances/{id}")).await.expect(200)["status"],
        "running"
    );
    may_write("off").await;
    until(201, "").await;
    let end = Instant::now() + SOON;
    while cloud.admin.get("/readyz").await.status != 200 {
        assert!(Instant::now() < end, "it is not ready again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cloud.delete(&id).await;
    let (code, said) = cloud.pileus("admin fsck");
    assert_eq!(code, 0, "{said}");
}
