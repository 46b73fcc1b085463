//! SIGTERM: nothing new, nothing lost, and what was begun is another process's at once.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::process::{SOON, Site};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_to_end_turns_away_lets_go_and_finishes_what_runs() {
    let site = Site::new().await;
    let settings = [("drain-s", "10"), ("shutdown-deadline-s", "60"), ("wait-max-s", "600")];
    let mut server = site.serve(&settings).await;
    server.furnish().await;
    // There is no host, so that this waits.
    let new = json!({"name": "one", "image": "small", "flavor": "f1"});
    let made = server.api.post("/v1/instances", &new).await.expect(202);
    let path = format!("/v1/instances/{}?wait=running&timeout=600", made["id"].as_str().unwrap());
    let api = server.api.clone();
    let waiting = tokio::spawn(async move { api.get(&path).await });
    let stream = server.api.ask(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let stream = stream.open().await;
    // And a request that takes its time: the table that it writes is locked.
    let mut db = site.db().await;
    let mut lock = sqlx::Connection::begin(&mut db).await.expect("a transaction");
    sqlx::query("lock table keypairs").execute(&mut *lock).await.expect("locked");
    let api = server.api.clone();
    let key = json!({"name": "k", "public_key": KEY});
    let running = tokio::spawn(async move { api.post("/v1/keypairs", &key).await });
    let begun = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                 where not l.granted and d.datname = current_database()";
    until("the request waits for the lock", async || {
        sqlx::query_scalar::<_, i64>(begun).fetch_one(&mut site.db().await).await.unwrap() > 0
    })
    .await;

    server.terminate();
    until("it says that it is not ready", async || server.status("/readyz").await == Some(503))
        .await;
    let text = timeout(SOON, stream.text()).await.expect("the stream ends").expect("its text");
    assert!(text.contains("the server stops"), "{text}");
    let waited = timeout(SOON, waiting).await.expect("the wait ends").expect("a task");
    assert_ne!(waited.expect(200)["status"], "running");
    // It still answers who comes late.
    assert_eq!(server.status("/healthz").await, Some(200));
    assert!(!running.is_finished());
    lock.rollback().await.expect("unlocked");
    running.await.expect("a task").expect(201);
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert_eq!(server.status("/healthz").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_held_at_its_end_is_anothers_at_once() {
    let site = Site::new().await;
    // A lease outlives the test.
    let settings = [
        ("reconcile-lease-s", "600"),
        ("host-call-deadline-s", "600"),
        ("shutdown-deadline-s", "20"),
    ];
    let mut first = site.serve(&settings).await;
    // libvirt that takes the connection and never says a word: the step hangs.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().unwrap().port();
    let host = site.host(&format!("qemu+tcp://127.0.0.1:{port}/system")).await;
    sqlx::query("insert into work (kind, item, due_at) values ('host', $1, now())")
        .bind(host)
        .execute(&mut site.db().await)
        .await
        .expect("work");
    let held = async || -> Option<Uuid> {
        sqlx::query_scalar("select lease_owner from work where item = $1")
            .bind(host)
            .fetch_one(&mut site.db().await)
            .await
            .expect("the item")
    };
    until("the first holds the item", async || held().await.is_some()).await;
    let owner = held().await;
    let second = site.serve(&settings).await;
    assert_eq!(held().await, owner);
    first.terminate();
    let status = first.ended().await;
    assert_eq!(status.code(), Some(0), "{status:?}");
    until("the second holds the item", async || held().await.is_some_and(|now| Some(now) != owner))
        .await;
    drop((second, silent));
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let held = timeout(SOON, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}
