//! What a cloud costs that has nothing to do: 10,000 running instances on 100 hosts of libvirt's mock driver, each host a
//! world of its own within the server's process.
//!
//! `cargo bench --bench idle [-- SECONDS [INSTANCES [HOSTS]]]`: processor time, writes and memory over that time at rest.

#[path = "common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Cloud, argument};
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;
use virt::connect::Connect;

const NODE: &str = "<node><cpu><mhz>2000</mhz><model>i986</model><active>128</active><nodes>1</nodes><sockets>1</sockets>\
    <cores>128</cores><threads>1</threads></cpu><memory>268435456</memory></node>";

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    virt::error::clear_error_callback();
    let (seconds, instances, hosts) = (argument(0, 180), argument(1, 10_000), argument(2, 100));
    let mut cloud = Cloud::start(&[("host-call-deadline-s", "120"), ("log", "warn")]).await;
    cloud.image_and_flavor(128).await;
    let file = |i: usize| {
        let path = cloud.state.path().join(format!("node-{i}.xml"));
        std::fs::write(&path, NODE).expect("a file");
        format!("test://{}", path.display())
    };
    let uris: Vec<_> = (0..hosts).map(file).collect();
    let names: Vec<_> = (0..hosts).map(|i| format!("mock-{i}")).collect();
    join_all(names.iter().zip(&uris).map(|(name, uri)| cloud.host(name, uri, "/nowhere/idle")))
        .await;
    let mut conn = PgConnection::connect(&cloud.database).await.expect("the database");
    let begun = Instant::now();
    sqlx::query(WISHES)
        .bind(i64::try_from(instances).expect("a number"))
        .execute(&mut conn)
        .await
        .expect("wishes");
    until(&mut conn, "select count(*) = 0 from instances where observed_power <> 'running'").await;
    println!(
        "{instances} instances on {hosts} hosts run after {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    // As if they had been started a while ago: a young guest is looked at for its address and its agent.
    for sql in [
        "update instances set started_at = now() - interval '1 hour'",
        "update work set due_at = now() where kind = 'instance'",
        "vacuum analyze",
    ] {
        sqlx::raw_sql(sql).execute(&mut conn).await.expect(sql);
    }
    until(&mut conn, "select count(*) = 0 from work where due_at < 'infinity'").await;
    // A whole round of everything that comes round.
    sleep(Duration::from_secs(70)).await;
    checkpoint(&mut conn).await;

    let before = Sample::take(&cloud, &mut conn).await;
    let begun = Instant::now();
    sleep(Duration::from_secs(seconds as u64)).await;
    let time = begun.elapsed().as_secs_f64();
    let after = Sample::take(&cloud, &mut conn).await;
    let cpu = (after.cpu - before.cpu) / time * 100.0;
    println!("at rest for {time:.0} s: {cpu:.2} % of a core (reach 1)");
    println!(
        "rows written {} (reach 0), WAL {} bytes, transactions {:.1}/s",
        after.rows - before.rows,
        after.wal - before.wal,
        (after.commits - before.commits) as f64 / time
    );
    println!(
        "memory of the server {:.0} MiB (reach 80); {:.0} MiB of it are the mock hosts' own",
        after.rss,
        bare(&uris, instances)
    );
    cloud.end_server();
    cloud.end().await;
}

struct Sample {
    /// Seconds of the processor.
    cpu: f64,
    rows: i64,
    wal: i64,
    commits: i64,
    /// MiB.
    rss: f64,
}

impl Sample {
    async fn take(cloud: &Cloud, conn: &mut PgConnection) -> Self {
        // Backends tell their numbers when they have been idle for a second.
        let (rows, commits): (i64, i64) = sqlx::query_as(
            "select tup_inserted + tup_updated + tup_deleted, xact_commit from pg_stat_database where datname = current_database()",
        )
        .fetch_one(&mut *conn)
        .await
        .expect("numbers");
        let wal = sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0')::bigint")
            .fetch_one(conn)
            .await
            .expect("a position");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", cloud.pid())).expect("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
        Self { cpu: (ticks(11) + ticks(12)) / 100.0, rows, wal, commits, rss: rss(cloud.pid()) }
    }
}

fn rss(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// MiB that the same hosts and domains take in a process that does nothing else.
fn bare(uris: &[String], instances: usize) -> f64 {
    let before = rss(std::process::id());
    let hosts: Vec<_> =
        uris.iter().map(|uri| Connect::open(Some(uri)).expect("a mock host")).collect();
    let mut domains = Vec::with_capacity(instances);
    for i in 0..instances {
        let id = uuid::Uuid::new_v4();
        // As large as ours, with a stamp, a title and two disks.
        let xml = format!(
            "<domain type='test'><name>pileus-00000000-{id}</name><uuid>{id}</uuid><title>i-{i}</title><metadata>\
             <pileus:instance xmlns:pileus='https://pileus.dev/xmlns/instance/1' cloud='{id}' id='{id}' incarnation='{id}' revision='1' boot='1'/>\
             </metadata><memory unit='MiB'>128</memory><vcpu>1</vcpu><os><type arch='i686'>hvm</type></os><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/nowhere/idle/disks/disk-{id}.qcow2'/>\
             <target dev='vda' bus='virtio'/></disk><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='/nowhere/idle/disks/seed-{id}.iso'/><target dev='vdb' bus='virtio'/></disk></devices></domain>"
        );
        domains.push(hosts[i % hosts.len()].create_domain_xml(&xml, 0).expect("a domain"));
    }
    rss(std::process::id()) - before
}

async fn until(conn: &mut PgConnection, holds: &'static str) {
    let begun = Instant::now();
    loop {
        if sqlx::query_scalar::<_, bool>(holds).fetch_one(&mut *conn).await.expect(holds) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(1800), "not within half an hour: {holds}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// What the database owes the disk is written now, and not while we look.
async fn checkpoint(conn: &mut PgConnection) {
    sqlx::raw_sql("checkpoint").execute(&mut *conn).await.expect("a checkpoint");
    sleep(Duration::from_secs(20)).await;
}

const WISHES: &str = "
    with made as (
        insert into instances (id, tenant_id, name, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib, created_at,
                               wanted, wanted_at)
        select gen_random_uuid(), m.tenant_id, 'i-' || i, m.id, f.id, f.name, f.vcpus, f.memory_mib, f.disk_gib, now(),
               'running', now()
        from generate_series(1, $1) i, images m, flavors f where m.name = 'image' and f.name = 'flavor'
        returning id)
    insert into work (kind, item, due_at) select 'instance', id, now() from made";
