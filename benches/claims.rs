//! What placing costs with its claims, on fake hosts, so that the database and the placer are all that is measured.
//!
//! `cargo bench --bench claims [-- ROUNDS]`: durable creates by HTTP (accepted, placed, claimed, committed) at 16 clients against
//! pgbench inserting the same rows; 10,000 instances at once over 1,000 hosts by two racing replicas; and how long 10,000
//! hosts with 200,000 instances take from PostgreSQL to a ready index.

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::world::World;
use common::{Client, PASSWORD, median, ms};
use pileus::domain::clock::Clock;
use pileus::domain::compared::Compared;
use pileus::domain::id::InstanceId;
use pileus::domain::password::Password;
use pileus::reconcile::placer::{Placer, Room};
use pileus::reconcile::{Context, Parts as ContextParts, Turns};
use pileus::service::bootstrap::{self, Bootstrap};
use pileus::service::{App, Parts};
use pileus::{api, server, store};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

const CLIENTS: usize = 16;
const SLICE: Duration = Duration::from_secs(6);

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    let rounds = common::argument(0, 3);
    creates(rounds).await;
    race().await;
    start(rounds).await;
}

/// Rows of instances that want to run, all unplaced; gives their ids.
async fn instances(db: &PgPool, count: i64, vcpus: i32) -> Vec<InstanceId> {
    sqlx::raw_sql(
        "insert into tenants (id, name, quota_instances, quota_vcpus, quota_memory_mib, quota_disk_gib, quota_networks, quota_images,
                              quota_keypairs, created_at)
         values ('00000000-0000-0000-0000-000000000001', 't', 1, 1, 1, 1, 1, 1, 1, now()) on conflict do nothing;
         insert into images (id, tenant_id, name, visibility, format, created_at)
         values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 'i', 'public', 'raw', now())
         on conflict do nothing",
    )
    .execute(db)
    .await
    .expect("a tenant");
    let rows = sqlx::query_scalar(
        "insert into instances (id, tenant_id, name, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib, wanted, wanted_at, created_at)
         select gen_random_uuid(), t.id, 'x', t.id, t.id, 'f', $2, 1024, 1, 'running', now(), now()
         from tenants t, generate_series(1, $1) where t.name = 't' returning id",
    )
    .bind(count)
    .bind(vcpus)
    .fetch_all(db)
    .await;
    rows.expect("instances")
}

async fn creates(rounds: usize) {
    // Room for all that may come.
    let world = World::new(100, 1024).await;
    world.register("unknown").await;
    let (hosts, signals) = world.hosts();
    let stop = tokio_util::sync::CancellationToken::new();
    let app = App::new(Parts {
        db: world.db.clone(),
        config: world.config(),
        clock: Clock::System,
        cloud: world.cloud,
        changes: store::changes::Changes::default(),
        hosts,
        compared: Compared::default(),
        shutdown: stop.clone(),
    });
    let first = Bootstrap { admin_user: "admin".into(), admin_password: Password::new(PASSWORD) };
    bootstrap::ensure(&app, &first).await.expect("a cloud");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(api::serve(listener, app.clone()));
    // What follows a claim on a host is not measured: the pace of this benchmark only places.
    let mut loops = server::loops(&app, signals).await.expect("the loops");
    let pace = tokio::spawn(place_forever(context(&app, app.compared.clone()), stop.clone()));
    let admin = Client::new(at).login("admin").await;
    let new = json!({"name": "image", "format": "raw", "visibility": "public"});
    let image = admin.post("/v1/images", &new).await.expect(201);
    let path = format!("/v1/images/{}/data", image["id"].as_str().expect("an id"));
    let sent = admin.ask(reqwest::Method::PUT, &path).body(vec![7; 1 << 20]).send().await;
    assert!(sent.status < 300, "{sent:?}");
    let flavor = json!({"name": "flavor", "vcpus": 1, "memory_mib": 64, "disk_gib": 1});
    admin.post("/v1/flavors", &flavor).await.expect(201);
    until(&world.db, "select count(*) = 0 from hosts where health <> 'up'").await;
    let script = world.state.path().join("script.sql");
    std::fs::write(&script, SCRIPT).expect("a file");
    let [mut queued, mut at_once, mut theirs] = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        theirs.push(common::pgbench(&world.url, &script, CLIENTS, SLICE));
        for (rates, how) in [(&mut queued, "queue"), (&mut at_once, "fail")] {
            let new = json!({"name": "w", "image": "image", "flavor": "flavor", "networks": [], "on_no_capacity": how});
            rates.push(per_second(&admin, &world.db, new).await);
            // Room for the next.
            sqlx::raw_sql(
                "delete from incarnations; delete from instances; delete from work where kind = 'instance';
                 update hosts set used_vcpus = 0, used_memory_mib = 0, used_disk_gib = 0",
            )
            .execute(&world.db)
            .await
            .expect("deleted");
        }
    }
    let b = median(&theirs);
    for (how, rates) in
        [("placed by the placer", &queued), ("placed in the request (fail)", &at_once)]
    {
        let a = median(rates);
        println!(
            "durable creates, {how}: {a:.0}/s, {b:.0}/s by pgbench at {CLIENTS} clients: {:.2} (reach 0.60)",
            a / b
        );
    }
    stop.cancel();
    pace.await.expect("it ends");
    while loops.join_next().await.is_some() {}
    drop(app);
    world.end().await;
}

fn context(app: &App, compared: Compared) -> Context {
    Context::new(ContextParts {
        db: app.db.clone(),
        config: app.config.clone(),
        clock: Clock::System,
        cloud: app.cloud,
        changes: app.changes.clone(),
        hosts: app.hosts.clone(),
        placer: Placer::default(),
        settling: Turns::default(),
        making: Turns::default(),
        compared,
        owner: Uuid::now_v7(),
    })
}

/// Leases what is due, places all of it, and lets it rest: what the server's pace does up to there.
async fn place_forever(ctx: Context, stop: tokio_util::sync::CancellationToken) {
    let (length, longest) = (chrono::TimeDelta::seconds(30), chrono::TimeDelta::seconds(600));
    while !stop.is_cancelled() {
        let mut conn = ctx.conn().await.expect("a connection");
        let now = ctx.clock.now();
        let due = store::work::claim(&mut conn, ctx.owner, 1000, length, longest, now).await;
        drop(conn);
        let due = due.expect("leases");
        let items: Vec<_> = due.iter().map(|claimed| claimed.lease.item).collect();
        let place = due.iter().map(|claimed| {
            let (ctx, lease) = (ctx.clone(), claimed.lease);
            tokio::spawn(async move {
                if lease.kind == store::work::Kind::Instance {
                    ctx.placer.place(&ctx, InstanceId(lease.item)).await.expect("an answer");
                }
            })
        });
        for placed in futures_util::future::join_all(place.collect::<Vec<_>>()).await {
            placed.expect("it ends");
        }
        sqlx::query("update work set due_at = 'infinity', lease_owner = null, lease_until = null where item = any($1)")
            .bind(&items)
            .execute(&ctx.db)
            .await
            .expect("settled");
        if items.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What a create that is placed leaves in the database: instance, item of work, event, claim, incarnation, event.
const SCRIPT: &str = "\
\\set h random(1, 100)
begin;
with i as (
  insert into instances (id, tenant_id, name, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib, wanted, wanted_at, created_at)
  select gen_random_uuid(), m.tenant_id, 'w', m.id, m.id, 'flavor', 1, 64, 1, 'stopped', now(), now() from images m limit 1
  returning id, tenant_id),
w as (insert into work (kind, item, due_at, touched) select 'instance', id, 'infinity', 1 from i),
e as (insert into events (id, at, tenant_id, kind, resource_kind, resource_id, resource_name, actor, outcome, detail)
  select gen_random_uuid(), now(), tenant_id, 'instance.create', 'instance', id, 'w', 'admin', 'accepted', '{}' from i),
h as (update hosts set used_vcpus = used_vcpus + 0, generation = generation + 1
  where id = ('00000000-0000-0000-0000-' || lpad(to_hex(:h::bigint), 12, '0'))::uuid and used_vcpus + 0 <= limit_vcpus returning id),
c as (insert into incarnations (id, instance_id, tenant_id, host_id, vcpus, memory_mib, disk_gib, created_at, fenced_at)
  select gen_random_uuid(), i.id, tenant_id, h.id, 0, 0, 0, now(), now() from i, h returning id, tenant_id)
insert into events (id, at, tenant_id, kind, resource_kind, resource_id, resource_name, actor, outcome, detail)
  select gen_random_uuid(), now(), tenant_id, 'instance.placed', 'instance', id, 'w', 'reconciler', 'done', '{}' from c;
commit;
";

/// Creates per second until the last of them has its claim.
async fn per_second(admin: &Client, db: &PgPool, new: serde_json::Value) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let writers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, count, client, new) =
                (Arc::clone(&stop), Arc::clone(&count), admin.clone(), new.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.post("/v1/instances", &new).await.expect(202);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(SLICE).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("it wrote");
    }
    until(
        db,
        // Two counts: what joins them takes PostgreSQL seconds, until it has statistics.
        "select (select count(*) from instances where wanted = 'running')
              = (select count(*) from incarnations where fenced_at is null)",
    )
    .await;
    count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

async fn until(db: &PgPool, holds: &'static str) {
    let begun = Instant::now();
    while !sqlx::query_scalar::<_, bool>(holds).fetch_one(db).await.expect("an answer") {
        assert!(begun.elapsed() < Duration::from_secs(300), "it does not come to that: {holds}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two replicas place 10,000 instances over 1,000 hosts at once.
async fn race() {
    let world = World::new(1000, 64).await;
    world.register("up").await;
    let counters = pileus::service::metrics::counters().expect("counters");
    let ids = instances(&world.db, 10_000, 4).await;
    let replicas: Vec<_> = (0..2)
        .map(|_| {
            let compared = Compared::default();
            for (id, _) in &world.fakes {
                compared.note(*id);
            }
            Context::new(ContextParts {
                db: world.db.clone(),
                config: world.config(),
                clock: Clock::System,
                cloud: world.cloud,
                changes: store::changes::Changes::default(),
                hosts: world.hosts().0,
                placer: Placer::default(),
                settling: Turns::default(),
                making: Turns::default(),
                compared,
                owner: Uuid::now_v7(),
            })
        })
        .collect();
    let begun = Instant::now();
    let all = ids.iter().enumerate().map(|(n, id)| {
        let ctx = replicas[n % 2].clone();
        let id = *id;
        tokio::spawn(async move { ctx.placer.place(&ctx, id).await.expect("an answer") })
    });
    for placed in futures_util::future::join_all(all.collect::<Vec<_>>()).await {
        placed.expect("it ends");
    }
    let spent = begun.elapsed();
    let (placed, over): (i64, i64) = sqlx::query_as(
        "select (select count(*) from incarnations),
                (select count(*) from hosts h where used_vcpus > limit_vcpus
                    or used_vcpus <> (select coalesce(sum(vcpus), 0) from incarnations c where c.host_id = h.id))",
    )
    .fetch_one(&world.db)
    .await
    .expect("counts");
    let text = counters.render();
    let lost = text.lines().find_map(|line| line.strip_prefix("pileus_claims_lost_total "));
    let lost: f64 = lost.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0);
    println!(
        "10,000 at once over 1,000 hosts, two replicas: {placed} placed in {:.0} ms, {over} hosts overcommitted (0), {lost} claims \
         lost and decided again: {:.2} % (reach 1)",
        ms(spent),
        lost / 100.0
    );
    assert_eq!((placed, over), (10_000, 0));
    drop(replicas);
    world.end().await;
}

/// From a database to an index that may be asked, with and without what `lifetime_fit` wants to know.
async fn start(rounds: usize) {
    let world = World::new(10_000, 64).await;
    world.register("up").await;
    let ids = instances(&world.db, 200_000, 1).await;
    sqlx::query(
        "insert into incarnations (id, instance_id, tenant_id, host_id, vcpus, memory_mib, disk_gib, created_at)
         select gen_random_uuid(), i.id, i.tenant_id, ('00000000-0000-0000-0000-' || lpad(to_hex(1 + n % 10000), 12, '0'))::uuid,
                1, 1024, 1, now() - n % 100000 * interval '1 second'
         from (select id, tenant_id, row_number() over () as n from instances) i",
    )
    .execute(&world.db)
    .await
    .expect("incarnations");
    sqlx::raw_sql(
        "update hosts set used_vcpus = 20, used_memory_mib = 20480, used_disk_gib = 20; analyze",
    )
    .execute(&world.db)
    .await
    .expect("claims");
    let compared = Compared::default();
    for (id, _) in &world.fakes {
        compared.note(*id);
    }
    let mut conn = store::acquire(&world.db).await.expect("a connection");
    let who = store::queue::waiting(&mut conn, &ids[..1], 0).await.expect("rows");
    assert!(who.is_empty(), "all are placed");
    let [mut plain, mut whole] = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        let mut room = Room::default();
        let now = Clock::System.now();
        let begun = Instant::now();
        let moment = room.refresh(&mut conn, &compared, now).await.expect("an index");
        room.keep(moment);
        plain.push(ms(begun.elapsed()));
        room.learn(&mut conn, now).await.expect("lifetimes");
        whole.push(ms(begun.elapsed()));
        assert_eq!(room.index.len(), 10_000);
    }
    println!(
        "10,000 hosts and 200,000 instances to a ready index: {:.0} ms, with their lifetimes {:.0} ms (reach 3,000)",
        median(&plain),
        median(&whole)
    );
    drop(conn);
    world.end().await;
}
