//! Two servers on one PostgreSQL: work is shared and never worked twice at a time, and what one does the other one's clients see.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pileus::cli::postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use crate::audit;
use crate::client::Client;
use crate::cloud::{Cloud, Database, SOON, free_address, ready};
use crate::process::Process;

const LEASE: Duration = Duration::from_secs(3);

async fn cloud(pool: &'static str) -> Cloud {
    let options = throwaway::empty().await.expect("a database");
    let settings = [
        ("network-pool", pool),
        ("reconcile-lease-s", "3"),
        ("host-call-deadline-s", "20"),
        ("overcommit-cpu", "16"),
    ];
    let mut cloud = Cloud::with(Database::Shared(options), &settings).await;
    // One like the other.
    cloud.terminate().await;
    cloud.serve_from_now_on();
    cloud
}

async fn create(admin: &Client, name: &str, image: &str) -> String {
    let new = json!({
        "name": name, "image": image, "flavor": "nano", "networks": [{ "network": "default" }],
    });
    let made = admin.post("/v1/instances", &new).await.expect(202);
    made["id"].as_str().unwrap().to_owned()
}

/// One more server of a cloud.
struct Replica {
    process: Process,
    admin: Client,
    log: PathBuf,
}

impl Replica {
    /// Lines of its log with this in them.
    fn log_lines(&self, words: &str) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }
}

impl Cloud {
    /// Another server of this cloud: a `pileus serve` on the same database and images, ready.
    async fn replica(&self, fault: Option<&str>) -> Replica {
        let fault = fault.map(|point| ("PILEUS_FAULT_POINT", point));
        self.replica_with(fault.as_slice()).await
    }

    /// The same, with these in its environment.
    async fn replica_with(&self, environment: &[(&str, &str)]) -> Replica {
        let listen = free_address();
        let log = self.state.path().join(format!("replica-{}.log", listen.replace(':', "-")));
        let mut command = self.command("serve", &listen, log.clone());
        command.envs(environment.iter().copied());
        let admin = self.admin.at(format!("http://{listen}"));
        let mut replica = Replica { process: Process::spawn(command), admin, log };
        ready(&replica.admin, || replica.process.has_ended()).await;
        replica
    }
}

/// Waits until the process stands still.
async fn stands_still(replica: &Replica) {
    let end = Instant::now() + SOON;
    loop {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", replica.process.pid())).unwrap();
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return;
        }
        assert!(Instant::now() < end, "it does not stop at its point");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Points at which a worker is frozen: after an effect before it is noted, before a write, and in the last moment before an effect.
const POINTS: [&str; 5] = ["placed", "create the disk", "network_made", "start", "power off"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_frozen_past_its_lease_does_no_harm_when_it_thaws() {
    let mut cloud = cloud("10.105.0.0/16").await;
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    for point in POINTS {
        let begun = Instant::now();
        // Alone, so that it is the one who works.
        cloud.terminate().await;
        let stop = format!("stop:{point}");
        let frozen = cloud.replica(Some(&stop)).await;
        let id = create(&frozen.admin, "frozen", &image).await;
        if point == "power off" {
            let path = format!("/v1/instances/{id}?wait=running&timeout=60");
            assert_eq!(frozen.admin.get(&path).await.expect(200)["status"], "running");
            let path = format!("/v1/instances/{id}/actions/reboot");
            frozen.admin.post(&path, &json!({"hard": true})).await.expect(202);
        }
        stands_still(&frozen).await;

        // The other takes over when the lease has run out, and brings it to its wish.
        cloud.start().await;
        let taken = Instant::now();
        let running = cloud.until(&id, "settled", "running", SOON).await;
        println!("frozen at {point}: running {:?} after another came", taken.elapsed());
        let name = format!("{}-{id}", cloud.mark());
        let life = cloud.host.virsh(&["domid", &name]);

        frozen.process.signal(Signal::SIGCONT);
        let end = Instant::now() + SOON;
        while frozen.log_lines("fault point: going on").is_empty() {
            assert!(Instant::now() < end, "it does not thaw");
            sleep(Duration::from_millis(20)).await;
        }
        // It answers again, so that it has done what it was about to do; then the world is the same as before.
        let seen = frozen.admin.get(&format!("/v1/instances/{id}")).await.expect(200);
        assert_eq!((&seen["revision"], &seen["status"]), (&running["revision"], &json!("running")));
        let end = Instant::now() + SOON;
        while frozen.log_lines("lease was lost").is_empty() {
            assert!(Instant::now() < end, "{point}: it does not notice that its lease was lost");
            sleep(Duration::from_millis(50)).await;
        }
        audit::tidy(&cloud);
        assert_eq!(cloud.host.virsh(&["domid", &name]), life, "{point}: the same domain");
        cloud.delete(&id).await;
        audit::tidy(&cloud);
        drop(frozen);
        println!("frozen at {point}: {:?}", begun.elapsed());
    }
}

/// What a crash of PostgreSQL does to a claim whose commit did not wait for the disk.
const TAKE_BACK: &str = "with gone as (delete from incarnations returning host_id, vcpus, memory_mib, disk_gib)
     update hosts h set used_vcpus = h.used_vcpus - gone.vcpus, used_memory_mib = h.used_memory_mib - gone.memory_mib,
                        used_disk_gib = h.used_disk_gib - gone.disk_gib, generation = h.generation - 1
     from gone where h.id = gone.host_id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_made_for_a_claim_that_a_crash_took_back() {
    let mut cloud = cloud("10.118.0.0/16").await;
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    cloud.terminate().await;
    // The worker has read its claim, and is about to act on it.
    let frozen = cloud.replica(Some("stop:making")).await;
    let id = create(&frozen.admin, "crashed", &image).await;
    stands_still(&frozen).await;
    let mut conn = cloud.db().await;
    let of = "select id::text from incarnations";
    let before: String = sqlx::query_scalar(of).fetch_one(&mut conn).await.unwrap();
    assert_eq!(sqlx::query(TAKE_BACK).execute(&mut conn).await.unwrap().rows_affected(), 1);
    frozen.process.signal(Signal::SIGCONT);

    let path = format!("/v1/instances/{id}?wait=running&timeout=60");
    assert_eq!(frozen.admin.get(&path).await.expect(200)["status"], "running");
    let now: String = sqlx::query_scalar(of).fetch_one(&mut conn).await.unwrap();
    assert_ne!(now, before);
    assert_eq!(cloud.count("select count(*) from cloud where held_reason is not null").await, 0);
    audit::tidy(&cloud);
    drop(frozen);
    cloud.start().await;
    cloud.delete(&id).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_server_worked_on_waits_for_its_lease_and_no_longer() {
    let mut cloud = cloud("10.106.0.0/16").await;
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    cloud.terminate().await;
    let mut victim = cloud.replica(Some("disk_created")).await;
    let ids =
        [create(&victim.admin, "one", &image).await, create(&victim.admin, "two", &image).await];
    assert_eq!(victim.process.ended().await.signal(), Some(Signal::SIGABRT as i32));
    let died = Instant::now();
    let survivor = cloud.replica(None).await;
    let came = died.elapsed();
    // When the other took the items up, apart from how long a start takes on a busy machine.
    let mut taken = Vec::new();
    for id in &ids {
        let item = format!("item={id}");
        while survivor.log_lines(&item).is_empty() {
            assert!(died.elapsed() < SOON, "nobody takes {id} up");
            sleep(Duration::from_millis(20)).await;
        }
        taken.push(died.elapsed());
    }
    for id in &ids {
        let path = format!("/v1/instances/{id}?wait=running&timeout=60");
        assert_eq!(survivor.admin.get(&path).await.expect(200)["status"], "running");
    }
    let took = died.elapsed();
    println!(
        "taken up {taken:?} and running {took:?} after a server died over them, {came:?} of it until another was there"
    );
    // The lease, the poll of half a second, and a moment of a busy machine.
    let most = came.max(LEASE) + Duration::from_secs(3);
    assert!(taken.iter().all(|taken| *taken < most), "{taken:?} and not {most:?}");
    drop(survivor);
    cloud.start().await;
    for id in &ids {
        cloud.delete(id).await;
    }
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_and_streams_see_what_another_server_does_and_both_work() {
    let mut cloud = cloud("10.107.0.0/16").await;
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let other = cloud.replica(None).await;
    let stream = other.admin.ask(reqwest::Method::GET, "/v1/events");
    let mut stream = stream.header("accept", "text/event-stream").open().await;

    let mut lags = Vec::new();
    let mut ids = Vec::new();
    for number in 0..6 {
        let id = create(&cloud.admin, &format!("shared-{number}"), &image).await;
        let path = format!("/v1/instances/{id}?wait=running&timeout=60");
        let (here, there) = tokio::join!(at(&cloud.admin, &path), at(&other.admin, &path));
        lags.push(there.max(here) - there.min(here));
        ids.push(id);
    }
    println!("a wait on one server and one on the other end so far apart: {lags:?}");
    lags.sort();
    assert!(lags[lags.len() / 2] < Duration::from_millis(700), "{lags:?}");

    // Every accepted create is in the stream of the server that did not accept it.
    let mut text = String::new();
    let end = Instant::now() + SOON;
    while !ids.iter().all(|id| text.contains(id.as_str())) {
        assert!(Instant::now() < end, "not in the stream: {text}");
        let chunk = tokio::time::timeout(SOON, stream.chunk()).await.expect("a chunk in time");
        text += &String::from_utf8_lossy(&chunk.unwrap().expect("an open stream"));
    }

    // A burst is shared.
    let burst: Vec<_> = (0..8).map(|number| format!("burst-{number}")).collect();
    for name in &burst {
        ids.push(create(&cloud.admin, name, &image).await);
    }
    for id in &ids {
        cloud.until(id, "settled", "running", SOON).await;
    }
    let (ours, theirs) = (cloud.log_lines("step=").len(), other.log_lines("step=").len());
    println!("looks: {ours} by one, {theirs} by the other");
    assert!(ours > 0 && theirs > 0, "one has done it all: {ours}, {theirs}");
    for id in &ids {
        cloud.delete(id).await;
    }
    audit::tidy(&cloud);
}

/// When the wait was answered.
async fn at(admin: &Client, path: &str) -> Instant {
    let answer = admin.get(path).await.expect(200);
    assert_eq!(answer["status"], "running", "{answer:#}");
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_server_goes_on_and_starts_again_while_a_newer_one_has_migrated() {
    let mut cloud = cloud("10.108.0.0/16").await;
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let id = create(&cloud.admin, "before", &image).await;
    cloud.until(&id, "settled", "running", SOON).await;

    // What a newer binary does at its start: a change that an older one can live with, and its place in the history.
    let mut conn: PgConnection = cloud.db().await;
    sqlx::raw_sql(
        "begin;
         alter table instances add column from_the_future text not null default 'yes';
         insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, '\\x00', 1);
         commit",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    conn.close().await.unwrap();

    assert_eq!(cloud.admin.get("/readyz").await.status, 200);
    let during = create(&cloud.admin, "during", &image).await;
    cloud.until(&during, "settled", "running", SOON).await;
    cloud.kill().await;
    cloud.start().await;
    let after = create(&cloud.admin, "after", &image).await;
    let found: Value = cloud.until(&after, "settled", "running", SOON).await;
    assert_eq!(found["attempts"], 0, "{found:#}");
    for id in [id, during, after] {
        cloud.delete(&id).await;
    }
    audit::tidy(&cloud);
}

/// Where a distribution's libfaketime lies.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A server on a machine whose clock jumps by an hour, beside one whose clock is right: nothing is leased twice, late or early,
/// and what has a time has the right one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_an_hour_either_way_changes_nothing() {
    let mut cloud = cloud("10.115.0.0/16").await;
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let offset = cloud.state.path().join("offset");
    let jump = |by: &str| std::fs::write(&offset, by).unwrap();
    jump("+0");
    let jumpy = cloud
        .replica_with(&[
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
            // Read at every look, and only the date: a monotonic clock is one that does not jump.
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ])
        .await;
    for by in ["+1h", "-1h", "+0"] {
        jump(by);
        let begun = Instant::now();
        let now = chrono::Utc::now();
        let id = create(&jumpy.admin, "between-times", &image).await;
        let path = format!("/v1/instances/{id}");
        let made = jumpy.admin.get(&path).await.expect(200);
        let created: chrono::DateTime<chrono::Utc> =
            made["created_at"].as_str().unwrap().parse().unwrap();
        assert!((created - now).num_seconds().abs() < 60, "{by}: {created} at {now}");
        let many: Vec<_> = (0..4).map(|number| format!("jump-{number}")).collect();
        let mut ids = Vec::new();
        for (number, name) in many.iter().enumerate() {
            let admin = if number % 2 == 0 { &jumpy.admin } else { &cloud.admin };
            ids.push(create(admin, name, &image).await);
        }
        for id in ids.iter().chain([&id]) {
            let seen = cloud.until(id, "settled", "running", SOON).await;
            assert_eq!(seen["attempts"], 0, "{by}: {seen:#}");
        }
        // What ends by itself does so at its time.
        let (asked, life) = (Instant::now(), Duration::from_secs(10));
        let ends = json!({"expires_at": (chrono::Utc::now() + life).to_rfc3339()});
        jumpy.admin.patch(&path, &ends).await.expect(200);
        for id in &ids {
            cloud.delete(id).await;
        }
        while cloud.admin.get(&path).await.status != 404 {
            assert!(asked.elapsed() < SOON, "{by}: it has not ended");
            sleep(Duration::from_millis(100)).await;
        }
        assert!(asked.elapsed() + Duration::from_secs(1) > life, "{by}: it ended too soon");
        println!("{by}: all of it in {:?}", begun.elapsed());
    }
    // It did see the jumps: its log's lines are written by the machine's clock.
    let ahead = chrono::Utc::now() + chrono::TimeDelta::minutes(30);
    let stamps: Vec<chrono::DateTime<chrono::Utc>> = jumpy
        .log_lines("Z ")
        .iter()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(stamps.iter().max().is_some_and(|last| *last > ahead), "{:?}", stamps.iter().max());
    assert!(!jumpy.log_lines("step=").is_empty(), "it has worked on nothing");
    for lost in [cloud.log_lines("the lease was lost"), jumpy.log_lines("the lease was lost")] {
        assert!(lost.is_empty(), "{lost:?}");
    }
    audit::tidy(&cloud);
}
