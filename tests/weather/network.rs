//! Broken networks: between the server and PostgreSQL, and between the server and a host's libvirtd.

use std::time::{Duration, Instant};

use pileus::cli::postgres::throwaway;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::client::Answer;
use crate::cloud::{Cloud, Database, SOON, host, names};
use crate::proxy::{Air, Proxy};

/// A cloud whose way to its database leads through a proxy.
async fn behind_a_proxy(settings: &[(&'static str, &str)]) -> (Cloud, Proxy) {
    let direct = throwaway::empty().await.expect("a database");
    let socket = direct.get_socket().expect("a socket").join(".s.PGSQL.5432");
    let proxy = Proxy::before(&socket).await;
    let through = proxy.to_postgres(&direct);
    (Cloud::with(Database::Shared(through), settings).await, proxy)
}

fn new(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image, "flavor": "nano"})
}

/// Asks for an instance under its name as the key until it is accepted; gives its id.
async fn create(cloud: &Cloud, name: &str, image: &str) -> String {
    let end = Instant::now() + SOON;
    loop {
        let ask = cloud.admin.ask(Method::POST, "/v1/instances").header("idempotency-key", name);
        let answer = ask.json(&new(name, image)).try_send().await;
        match answer {
            Ok(answer) if answer.status < 500 => {
                return answer.expect(202)["id"].as_str().unwrap().to_owned();
            }
            Ok(_) | Err(_) => assert!(Instant::now() < end, "{name} is not accepted: {answer:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn stop(cloud: &Cloud, id: &str) -> Answer {
    let path = format!("/v1/instances/{id}/actions/stop");
    cloud.admin.post(&path, &json!({"hard": true})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_cut_off_slow_or_half_open_delays_and_loses_nothing() {
    let settings = [
        ("network-pool", "10.100.0.0/16"),
        ("request-timeout-s", "4"),
        ("database-patience-s", "5"),
        ("reconcile-lease-s", "5"),
    ];
    let (mut cloud, proxy) = behind_a_proxy(&settings).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let first = create(&cloud, "first", &image).await;
    cloud.until(&first, "settled", "running", SOON).await;

    // Cut: says so, does not die of it, and goes on by itself.
    proxy.set(Air::Cut);
    let end = Instant::now() + SOON;
    while cloud.admin.get("/readyz").await.status != 503 {
        assert!(Instant::now() < end, "ready without a database");
    }
    let answer = cloud.admin.get(&format!("/v1/instances/{first}")).await;
    assert!(answer.status >= 500, "{answer:?}");
    proxy.set(Air::Clear);
    let second = create(&cloud, "second", &image).await;
    cloud.until(&second, "settled", "running", SOON).await;

    // Slow: everything takes longer, and is done.
    proxy.set(Air::Slow(Duration::from_millis(30)));
    stop(&cloud, &second).await.expect(202);
    cloud.until(&second, "settled", "stopped", SOON).await;

    // Half-open: what was open then is lost for good, and nobody is told.
    proxy.set(Air::Dead);
    let begun = Instant::now();
    let mut asked = Vec::new();
    for _ in 0..4 {
        let admin = cloud.admin.clone();
        let path = format!("/v1/instances/{first}");
        asked.push(tokio::spawn(async move { admin.get(&path).await.status }));
    }
    for status in asked {
        assert_eq!(status.await.unwrap(), 503);
    }
    println!("half-open: requests were given up after {:?}", begun.elapsed());
    proxy.set(Air::Clear);
    let begun = Instant::now();
    let third = create(&cloud, "third", &image).await;
    println!("half-open: accepted {:?} after a way was open again", begun.elapsed());
    cloud.until(&third, "settled", "running", SOON).await;
    println!("half-open: running {:?} after a way was open again", begun.elapsed());
    assert!(cloud.has_ended().is_none());
    for id in [first, second, third] {
        cloud.delete(&id).await;
    }
    cloud.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_the_database_does_not_answer_ends_and_the_next_one_serves() {
    let settings = [("network-pool", "10.116.0.0/16"), ("database-patience-s", "3")];
    let (mut cloud, proxy) = behind_a_proxy(&settings).await;
    cloud.terminate().await;
    cloud.serve_from_now_on();
    for request in ["_sqlx_migrations", "clock_timestamp()", "from cloud", "from hosts"] {
        proxy.die_at(request);
        let begun = Instant::now();
        cloud.spawn(None);
        let status = cloud.ended().await;
        assert!(proxy.has_died(), "it never asked {request}");
        assert!(!status.success(), "{request}: {status}");
        println!("no answer to {request}: ended after {:?}", begun.elapsed());
        cloud.start().await;
        cloud.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_the_database_does_not_answer_is_given_up_and_the_next_one_sweeps() {
    let settings = [
        ("network-pool", "10.117.0.0/16"),
        ("database-patience-s", "2"),
        ("host-call-deadline-s", "3"),
        ("sweep-s", "1"),
        ("sweep-grace-s", "0"),
    ];
    let (cloud, proxy) = behind_a_proxy(&settings).await;
    // A connection is told a statement's words once, so that this is the sweep's first on its connection.
    proxy.die_at("pg_try_advisory_xact_lock(hashtextextended('sweep");
    let begun = Instant::now();
    while !proxy.has_died() {
        assert!(begun.elapsed() < SOON, "it never sweeps");
        sleep(Duration::from_millis(50)).await;
    }
    let seed = format!("pools/disks/seed-{}.iso", uuid::Uuid::new_v4());
    let left = cloud.state.path().join(seed);
    std::fs::write(&left, "left by nobody").unwrap();
    while left.exists() {
        assert!(begun.elapsed() < SOON, "no sweep after the one that got no answer");
        sleep(Duration::from_millis(50)).await;
    }
    println!("swept {:?} after a sweep that got no answer began", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_done_once_under_its_key() {
    let (cloud, proxy) = behind_a_proxy(&[("network-pool", "10.101.0.0/16")]).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    for name in ["lost-1", "lost-2", "lost-3"] {
        proxy.lose_answer(name, "commit");
        let lost = proxy.lost();
        let ask = cloud.admin.ask(Method::POST, "/v1/instances").header("idempotency-key", name);
        let answer = ask.json(&new(name, &image)).send().await;
        assert_eq!(proxy.lost(), lost + 1, "no answer was lost: {answer:?}");
        assert!(answer.status >= 500, "an answer that nobody has: {answer:?}");
        // It is there already, whatever the answer said: the same key finds it.
        let id = create(&cloud, name, &image).await;
        cloud.until(&id, "settled", "running", SOON).await;
        let found = cloud.admin.get(&format!("/v1/instances?name={name}")).await.expect(200);
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found:#}");
        cloud.delete(&id).await;
    }
    let accepted =
        "select count(*) from events where kind = 'instance.create' and outcome = 'accepted'";
    assert_eq!(cloud.count(accepted).await, 3);
}

/// Creates that are alike wait for the one under way, which has no client of its own: it must not wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_the_database_never_answers_holds_up_no_other() {
    let settings = [("network-pool", "10.137.0.0/16"), ("request-timeout-s", "3")];
    let (cloud, proxy) = behind_a_proxy(&settings).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    proxy.die_at("insert into instances");
    let lost = cloud.admin.post("/v1/instances", &new("lost", &image)).await;
    assert!(proxy.has_died() && lost.status == 503, "{lost:?}");
    // Its transaction may hold locks until the database ends it.
    let end = Instant::now() + SOON;
    let made = loop {
        let answer = cloud.admin.post("/v1/instances", &new("next", &image)).await;
        if answer.status == 202 {
            break answer.body();
        }
        assert!(Instant::now() < end, "it is held up: {answer:?}");
    };
    let id = made["id"].as_str().unwrap();
    cloud.until(id, "settled", "running", SOON).await;
    cloud.delete(id).await;
}

/// The same for a worker's commits: whatever it was told, it looks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_commits_get_no_answer_doubles_nothing() {
    let settings = [("network-pool", "10.102.0.0/16"), ("reconcile-lease-s", "3")];
    let (cloud, proxy) = behind_a_proxy(&settings).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let id = create(&cloud, "unlucky", &image).await;
    // One lost after the other, from the claim of a place to the last word of a deletion.
    let end = Instant::now() + SOON;
    while proxy.lost() < 6 {
        proxy.lose_answer("", "commit");
        sleep(Duration::from_millis(100)).await;
        if proxy.lost() == 3 {
            let _ = stop(&cloud, &id).await;
        }
        assert!(Instant::now() < end, "only {} answers were lost", proxy.lost());
    }
    let answer = loop {
        let answer =
            cloud.admin.delete(&format!("/v1/instances/{id}?wait=deleted&timeout=60")).await;
        if answer.status < 500 {
            break answer;
        }
    };
    assert!(answer.status == 404 || answer.body()["status"] == "deleted", "{answer:?}");
    let done = "select count(*) from events where kind = 'instance.delete' and outcome = 'done'";
    let end = Instant::now() + SOON;
    while cloud.count("select count(*) from instances").await > 0 {
        assert!(Instant::now() < end);
    }
    assert_eq!(cloud.count(done).await, 1);
    assert_eq!(cloud.count("select count(*) from incarnations").await, 0);
    assert!(names(&cloud.host, &["list", "--all", "--name"], &cloud.mark()).is_empty());
}

/// A host out of reach at a create, at a stop and at a delete, and back later.
async fn out_of_reach(air: Air, pool: &'static str) {
    let host = host();
    let proxy = Proxy::before(&host.path("run/libvirt-sock")).await;
    let uri = format!("qemu+tcp://{}/system", proxy.address);
    let settings = [
        ("network-pool", pool),
        ("libvirt-uri", &uri),
        ("heartbeat-s", "1"),
        ("host-call-deadline-s", "5"),
        ("host-gone-after-s", "3"),
        ("backoff-max-s", "2"),
    ];
    let direct = throwaway::empty().await.expect("a database");
    let cloud = Cloud::with(Database::Shared(direct), &settings).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let mut ids = Vec::new();
    for name in ["stays", "stops", "goes"] {
        ids.push(create(&cloud, name, &image).await);
    }
    let [stays, stops, goes] = &ids[..] else { panic!("three") };
    for id in &ids {
        cloud.until(id, "settled", "running", SOON).await;
    }
    let domain = |id: &str| format!("{}-{id}", cloud.mark());
    let life = cloud.host.virsh(&["domid", &domain(stays)]);

    proxy.set(air);
    let unknown = cloud.until_status(stays, "unknown").await;
    assert!(unknown["reason"].as_str().unwrap().contains("has not answered since"), "{unknown:#}");
    assert_eq!(unknown["wanted"], "running");
    let late = create(&cloud, "late", &image).await;
    stop(&cloud, stops).await.expect(202);
    let waits = cloud.until_status(&late, "waiting_for_capacity").await;
    assert!(waits["reason"].is_string(), "it does not say why: {waits:#}");
    // The tenant is done with it, and pays no more; the domain runs on, out of reach.
    cloud.delete(goes).await;
    assert_eq!(
        cloud.count("select count(*) from incarnations where fenced_at is not null").await,
        1
    );
    assert_eq!(cloud.host.virsh(&["domstate", &domain(goes)]).trim(), "running");

    proxy.set(Air::Clear);
    let begun = Instant::now();
    cloud.until(stays, "running", "running", SOON).await;
    println!("{air:?}: {:?} after the host was in reach it is up", begun.elapsed());
    cloud.until(stops, "stopped", "stopped", SOON).await;
    cloud.until(&late, "running", "running", SOON).await;
    let end = Instant::now() + SOON;
    while cloud.count("select count(*) from incarnations where fenced_at is not null").await > 0 {
        assert!(Instant::now() < end, "what was deleted meanwhile is still there");
        sleep(Duration::from_millis(100)).await;
    }
    let left = names(&cloud.host, &["list", "--all", "--name"], &cloud.mark());
    assert!(!left.contains(&domain(goes)), "{left:?}");
    assert_eq!(
        cloud.host.virsh(&["domid", &domain(stays)]),
        life,
        "the same domain, not another one"
    );
    for id in [stays, stops, &late] {
        cloud.delete(id).await;
    }
    crate::audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_cut_off_comes_to_its_wishes_when_it_is_back() {
    out_of_reach(Air::Cut, "10.103.0.0/16").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libvirtd_that_accepts_and_never_answers_comes_to_its_wishes_when_it_is_back() {
    out_of_reach(Air::Dead, "10.104.0.0/16").await;
}
