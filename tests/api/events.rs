//! The feed over HTTP: pages and streams, what each reader sees, and that none misses, repeats or holds up anything.

use chrono::TimeDelta;
use pileus::domain::clock::Clock;
use pileus::domain::event::{Actor, NewEvent, Outcome, Subject};
use pileus::domain::id::TenantId;
use pileus::reconcile::events::publish_forever;
use pileus::store;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::harness::Api;
use crate::sse::{PATIENCE, Stream};

const KIND: &str = "test.write";

fn event(tenant: Uuid, name: String, detail: Value) -> NewEvent {
    NewEvent {
        kind: KIND,
        subject: Subject { kind: "test", id: Uuid::now_v7(), name, tenant: Some(TenantId(tenant)) },
        actor: Actor { user: None, name: "test".into(), request_id: None },
        outcome: Outcome::Seen,
        detail,
    }
}

async fn write(api: &Api, tenant: Uuid, name: &str) {
    let mut conn = api.app.conn().await.expect("a connection");
    let new = event(tenant, name.into(), json!({}));
    store::events::insert(&mut conn, &new, api.app.clock.now()).await.expect("written");
    api.app.changes.changed(new.subject.id);
}

async fn publish(api: &Api) {
    let mut conn = api.app.conn().await.expect("a connection");
    store::events::publish(&mut conn).await.expect("numbered");
}

/// The publisher, as the server runs it.
fn publisher(api: &Api) -> JoinHandle<()> {
    let app = &api.app;
    tokio::spawn(publish_forever(
        app.db.clone(),
        app.changes.clone(),
        app.clock.clone(),
        app.beats().clone(),
        app.shutdown.clone(),
    ))
}

fn names(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["resource_name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_tenant_sees_its_own_events_and_an_admin_all() {
    let api = Api::start().await;
    write(&api, api.tenant_a, "a1").await;
    write(&api, api.tenant_b, "b1").await;
    write(&api, api.tenant_a, "a2").await;
    publish(&api).await;
    let path = format!("/v1/events?kind={KIND}");
    assert_eq!(names(&api.reader.get(&path).await.expect(200)), ["a1", "a2"]);
    assert_eq!(names(&api.stranger.get(&path).await.expect(200)), ["b1"]);
    assert_eq!(names(&api.admin.get(&path).await.expect(200)), ["a1", "a2"]);
    let all = format!("{path}&all_tenants=true");
    assert_eq!(names(&api.admin.get(&all).await.expect(200)), ["a1", "b1", "a2"]);
    api.owner.get(&all).await.problem(403, "forbidden");
    api.anonymous.get(&path).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn pages_lead_on_in_either_direction_and_filters_hold() {
    let api = Api::start().await;
    for n in 1..=5 {
        write(&api, api.tenant_a, &n.to_string()).await;
    }
    publish(&api).await;
    for (order, wanted) in [("asc", ["1", "2", "3", "4", "5"]), ("desc", ["5", "4", "3", "2", "1"])]
    {
        let base = format!("/v1/events?kind={KIND}&limit=2&order={order}");
        let mut seen = Vec::new();
        let mut path = base.clone();
        loop {
            let page = api.reader.get(&path).await.expect(200);
            seen.extend(names(&page).into_iter().map(str::to_owned));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("{base}&cursor={next}");
        }
        assert_eq!(seen, wanted);
    }
    let all = api.reader.get(&format!("/v1/events?kind={KIND}")).await.expect(200);
    let third = &all["items"][2];
    let after = format!("/v1/events?kind={KIND}&after={}", third["seq"]);
    assert_eq!(names(&api.reader.get(&after).await.expect(200)), ["4", "5"]);
    let about = format!("/v1/events?resource_id={}", third["resource_id"].as_str().expect("id"));
    assert_eq!(names(&api.reader.get(&about).await.expect(200)), ["3"]);
    for (query, fault) in [
        ("limit=0", "?limit"),
        ("cursor=AAAAAAAAAAA", "?cursor"),
        ("after=-1", "?after"),
        ("order=up", "?order"),
        ("resource_id=7", "?resource_id"),
    ] {
        let answer = api.reader.get(&format!("/v1/events?{query}")).await;
        assert_eq!(answer.faults(), [fault], "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_every_event_once_and_in_order_while_eight_write_and_the_reader_comes_back()
{
    const EACH: usize = 25;
    let api = Api::start().await;
    let publisher = publisher(&api);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (db, clock, tenant) = (api.app.db.clone(), api.app.clock.clone(), api.tenant_a);
            let changes = api.app.changes.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let mut tx = db.begin().await.expect("a transaction");
                    let new = event(tenant, format!("{writer}/{n}"), json!({}));
                    store::events::insert(&mut tx, &new, clock.now()).await.expect("written");
                    // The load itself, not a synchronisation: later ones overtake earlier ones.
                    let late = sqlx::query("select pg_sleep(random() * 0.02)");
                    late.execute(&mut *tx).await.expect("late");
                    tx.commit().await.expect("committed");
                    changes.changed(new.subject.id);
                }
            })
        })
        .collect();
    let path = format!("/v1/events?kind={KIND}");
    let mut seen: Vec<(i64, String)> = Vec::new();
    let mut last = 0;
    // The reader leaves and comes back with its last id, as a browser does.
    while seen.len() < 8 * EACH {
        let mut stream = Stream::open(&api.reader, &path, Some(last)).await;
        for _ in 0..60.min(8 * EACH - seen.len()) {
            let frame = stream.next().await.expect("no end");
            assert_eq!(frame.event, KIND);
            assert_eq!(frame.data["seq"], frame.seq());
            last = frame.seq();
            seen.push((last, frame.data["resource_name"].as_str().expect("a name").into()));
        }
    }
    for writer in writers {
        writer.await.expect("written");
    }
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "out of order: {seen:?}");
    let mut names: Vec<_> = seen.iter().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 8 * EACH);
    let page = api.admin.get("/v1/events?all_tenants=true&limit=1000").await.expect(200);
    let seqs = page["items"].as_array().expect("items").iter().map(|e| e["seq"].as_i64());
    assert!(seqs.eq((1..).map(Some).take(page["items"].as_array().map_or(0, Vec::len))));
    api.app.shutdown.cancel();
    publisher.await.expect("the publisher ends");
}

#[tokio::test]
async fn a_stream_begins_now_and_shows_only_what_its_reader_may_see() {
    let api = Api::start().await;
    write(&api, api.tenant_a, "before").await;
    publish(&api).await;
    let path = format!("/v1/events?kind={KIND}");
    let mut stream = Stream::open(&api.reader, &path, None).await;
    let mut all = Stream::open(&api.admin, &format!("{path}&all_tenants=true"), None).await;
    let _publisher = publisher(&api);
    write(&api, api.tenant_b, "theirs").await;
    write(&api, api.tenant_a, "ours").await;
    assert_eq!(stream.next().await.expect("an event").data["resource_name"], "ours");
    assert_eq!(all.next().await.expect("an event").data["resource_name"], "theirs");
    assert_eq!(all.next().await.expect("an event").data["resource_name"], "ours");
    api.app.shutdown.cancel();
}

#[tokio::test]
async fn what_retention_took_from_a_reader_is_said() {
    let api = Api::start().await;
    for name in ["1", "2"] {
        write(&api, api.tenant_a, name).await;
    }
    publish(&api).await;
    let path = format!("/v1/events?kind={KIND}");
    let page = api.reader.get(&path).await.expect(200);
    let (first, second) = (page["items"][0]["seq"].as_i64(), page["items"][1]["seq"].as_i64());
    sqlx::query("update events set at = at - interval '2 days' where seq <= $1")
        .bind(first)
        .execute(&api.app.db)
        .await
        .expect("aged");
    let mut conn = api.app.conn().await.expect("a connection");
    let before = api.app.clock.now() - TimeDelta::days(1);
    store::events::forget(&mut conn, before).await.expect("forgotten");
    let mut stream = Stream::open(&api.reader, &path, Some(0)).await;
    let gap = stream.next().await.expect("a gap");
    assert_eq!((gap.event.as_str(), &gap.data), ("gap", &json!({ "forgotten_seq": first })));
    assert_eq!(Some(gap.seq()), first);
    assert_eq!(stream.next().await.map(|f| f.seq()), second);
    let mut stream = Stream::open(&api.reader, &path, first).await;
    assert_eq!(stream.next().await.map(|f| f.seq()), second, "nothing was missed: no gap");
}

/// How many are open.
fn streams(api: &Api) -> u32 {
    let all = api.app.limits().in_use();
    all.iter().find(|(what, ..)| *what == "streams").expect("counted").1
}

#[tokio::test]
async fn a_stream_that_cannot_be_is_refused_and_named() {
    let api = Api::start_with(|flags| flags.set("max_streams", "1")).await;
    let open = |client: &crate::harness::Client, query: &str, last: &str| {
        let path = format!("/v1/events?{query}");
        let ask = client.ask(reqwest::Method::GET, &path).header("accept", "text/event-stream");
        if last.is_empty() { ask.send() } else { ask.header("last-event-id", last).send() }
    };
    assert_eq!(open(&api.reader, "", "999999").await.faults(), ["Last-Event-ID"]);
    assert_eq!(open(&api.reader, "", "x").await.faults(), ["Last-Event-ID"]);
    assert_eq!(open(&api.reader, "after=999999", "").await.faults(), ["?after"]);
    assert_eq!(open(&api.reader, "limit=5", "").await.faults(), ["?limit"]);
    assert_eq!(open(&api.reader, "order=desc", "").await.faults(), ["?order"]);
    open(&api.reader, "all_tenants=true", "").await.problem(403, "forbidden");
    let only = Stream::open(&api.reader, "/v1/events", None).await;
    let refused = open(&api.reader, "", "").await;
    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A page takes no place of a stream; a reader that leaves gives its place back.
    api.reader.get("/v1/events").await.expect(200);
    drop(only);
    tokio::time::timeout(PATIENCE, async {
        while streams(&api) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the place is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_reads_is_cut_off_and_gives_its_place_back() {
    let settings =
        |f: pileus::config::Flags| f.set("max_streams", "1").set("stream_keepalive_s", "1");
    let api = Api::start_with(settings).await;
    // More than every buffer between us takes.
    let large = json!({ "fill": "x".repeat(200_000) });
    let mut conn = api.app.conn().await.expect("a connection");
    for n in 0..200 {
        let new = event(api.tenant_a, n.to_string(), large.clone());
        store::events::insert(&mut conn, &new, api.app.clock.now()).await.expect("written");
    }
    drop(conn);
    publish(&api).await;
    let deaf = Stream::open(&api.reader, "/v1/events", Some(0)).await;
    assert_eq!(streams(&api), 1);
    tokio::time::timeout(PATIENCE, async {
        while streams(&api) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the place is given back");
    // The connection is gone too: what was on its way is all there is.
    assert!(deaf.drain().await < 200 * 200_000);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does_and_says_why() {
    let clock = Clock::manual(Clock::System.now());
    let settings = |f: pileus::config::Flags| f.set("stream_keepalive_s", "1");
    let api = Api::start_at(clock.clone(), settings).await;
    let mut stream = Stream::open(&api.reader, "/v1/events", None).await;
    stream.comment().await;
    clock.advance(TimeDelta::hours(2));
    let end = stream.next().await.expect("a reason");
    assert_eq!(end.event, "end");
    assert!(end.data["reason"].as_str().is_some_and(|r| r.contains("token")), "{end:?}");
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_stream_ends_with_the_server_and_does_not_hold_it_up() {
    let api = Api::start().await;
    let mut stream = Stream::open(&api.reader, "/v1/events", None).await;
    api.app.shutdown.cancel();
    assert_eq!(stream.next().await.map(|f| f.event), Some("end".into()));
    assert_eq!(stream.next().await, None);
}
