//! Reading over HTTP against the same statements by pgbench, at equal connections: one instance, a list of 100 of 10,000, and
//! all 10,000 by pages against the raw query.
//!
//! `cargo bench --bench reads [-- ROUNDS [CONNECTIONS]]`: the two alternate in one run; medians.

#[path = "common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Cloud, load, median, ms};
use pileus::domain::id::TenantId;
use pileus::domain::page::Page;
use pileus::store::{instances, ports};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const INSTANCES: usize = 10_000;
const SLICE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    let (rounds, connections) = (common::argument(0, 5), common::argument(1, 16));
    let cloud = Cloud::start(&[("database-pool", &connections.to_string())]).await;
    let mut conn = PgConnection::connect(&cloud.database).await.expect("the database");
    let tenant = fill(&mut conn).await;
    let token = cloud.admin.token.clone().expect("a token");
    let url = cloud.admin.url.clone();

    let id = "('00000000-0000-7000-8000-' || lpad(:n::text, 12, '0'))::uuid";
    let scope = format!("'{tenant}'::uuid");
    let one = [put(instances::GET, &[id, &scope]), put(ports::OF_INSTANCE, &[id])];
    let some = [
        put(&list(tenant, 100), &[id, &scope]),
        // pgbench cannot keep a list; the hundred ids follow one another.
        put(
            ports::OF_INSTANCES,
            &[
                "array(select ('00000000-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid from generate_series(:n + 1, :n + 101) i)",
            ],
        ),
    ];
    for (what, statements, most) in
        [("GET one", &one, INSTANCES), ("list 100 of 10,000", &some, INSTANCES - 101)]
    {
        let script = cloud.state.path().join("script.sql");
        let text = format!("\\set n random(1, {most})\n{};\n", statements.join(";\n"));
        std::fs::write(&script, text).expect("a file");
        let [mut ours, mut theirs] = [const { Vec::new() }; 2];
        for _ in 0..rounds {
            theirs.push(common::pgbench(&cloud.database, &script, connections, SLICE));
            let path = |connection: usize, sent: u64| {
                let n = (connection as u64 * 7919 + sent * 104_729) % most as u64 + 1;
                if statements == &one {
                    format!("/v1/instances/00000000-0000-7000-8000-{n:012}")
                } else {
                    format!("/v1/instances?limit=100&cursor={}", cursor(n))
                }
            };
            ours.push(load::per_second(&url, &token, connections, SLICE, path));
        }
        let (a, b) = (median(&ours), median(&theirs));
        println!(
            "{what}: {a:.0}/s over HTTP, {b:.0}/s by pgbench at {connections} connections: {:.2} (reach 0.50)",
            a / b
        );
    }
    pages(&url, &token, &mut conn, tenant, rounds).await;
    cloud.end().await;
}

/// All instances by pages of a thousand, against both statements for all of them in one.
async fn pages(url: &str, token: &str, conn: &mut PgConnection, tenant: uuid::Uuid, rounds: usize) {
    let nil = "'00000000-0000-0000-0000-000000000000'";
    let rows = put(&list(tenant, 20_000), &[nil, &format!("'{tenant}'::uuid")]);
    let held = put(ports::OF_INSTANCES, &["array(select id from instances)"]);
    let mut asker = load::Asker::new(url, token);
    let [mut ours, mut theirs] = [const { Vec::new() }; 2];
    for _ in 0..rounds.max(5) {
        let begun = Instant::now();
        let raw = conn.fetch_all(AssertSqlSafe(rows.clone())).await.expect("rows");
        let more = conn.fetch_all(AssertSqlSafe(held.clone())).await.expect("rows");
        theirs.push(ms(begun.elapsed()));
        assert_eq!((raw.len(), more.len()), (INSTANCES, INSTANCES));
        let begun = Instant::now();
        let (mut seen, mut next) = (0, String::new());
        loop {
            let page = asker.get(&format!("/v1/instances?limit=1000{next}"));
            // The end of a page, without parsing it: that would be the client's time.
            let tail = String::from_utf8_lossy(&page[page.len() - 80..]).into_owned();
            seen += 1000;
            match tail.split_once("\"next\":\"") {
                Some((_, cursor)) => {
                    next = format!("&cursor={}", cursor.split('"').next().unwrap_or_default());
                }
                None => break,
            }
        }
        ours.push(ms(begun.elapsed()));
        assert_eq!(seen, INSTANCES);
    }
    let (a, b) = (median(&ours), median(&theirs));
    println!("all 10,000 by pages: {a:.0} ms, the raw query {b:.0} ms: {:.2} (reach 2.00)", a / b);
}

/// The statement for a page of a tenant's instances.
fn list(tenant: uuid::Uuid, limit: i64) -> String {
    let filter = instances::Filter { tenant: Some(TenantId(tenant)), ..Default::default() };
    let page = Page { limit, after: uuid::Uuid::nil() };
    instances::list_statement(&filter, &page).sql().as_str().to_owned()
}

/// The statement with these in place of its parameters.
fn put(statement: &str, values: &[&str]) -> String {
    let mut text = statement.to_owned();
    for (i, value) in values.iter().enumerate().rev() {
        text = text.replace(&format!("${}", i + 1), value);
    }
    text
}

fn cursor(n: u64) -> String {
    use base64::Engine;
    let id: uuid::Uuid = format!("00000000-0000-7000-8000-{n:012}").parse().expect("an id");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(id.as_bytes())
}

/// 10,000 instances at rest, each with a port and its account; gives their tenant.
async fn fill(conn: &mut PgConnection) -> uuid::Uuid {
    let tenant =
        sqlx::query_scalar("select id from tenants").fetch_one(&mut *conn).await.expect("one");
    for sql in FILL {
        sqlx::query(*sql).bind(tenant).execute(&mut *conn).await.expect(sql);
    }
    sqlx::raw_sql("analyze").execute(&mut *conn).await.expect("analyze");
    tenant
}

const FILL: &[&str] = &[
    "insert into images (id, tenant_id, name, visibility, format, created_at)
     values ('00000000-0000-7000-9000-000000000001', $1, 'image', 'private', 'raw', now())",
    "insert into networks (id, tenant_id, name, cidr, gateway, range_start, range_end, next_address, created_at)
     values ('00000000-0000-7000-9000-000000000002', $1, 'n', '10.200.0.0/16', '10.200.0.1', '10.200.0.2', '10.200.255.254',
             '10.200.0.2', now())",
    "insert into instances (id, tenant_id, name, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib, created_at,
                            wanted, wanted_at)
     select ('00000000-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, $1, 'i-' || i, '00000000-0000-7000-9000-000000000001',
            gen_random_uuid(), 'small', 1, 128, 1, now(), 'stopped', now()
     from generate_series(1, 10000) i",
    "insert into work (kind, item, due_at) select 'instance', id, 'infinity' from instances where tenant_id = $1",
    "insert into ports (id, tenant_id, network_id, instance_id, mac, owned, created_at)
     select ('00000000-0000-7000-a000-' || lpad(i::text, 12, '0'))::uuid, $1, '00000000-0000-7000-9000-000000000002',
            ('00000000-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid,
            '52:54:00:' || substr(lpad(to_hex(i), 6, '0'), 1, 2) || ':' || substr(lpad(to_hex(i), 6, '0'), 3, 2) || ':'
                || substr(lpad(to_hex(i), 6, '0'), 5, 2), true, now()
     from generate_series(1, 10000) i",
    "insert into addresses (network_id, address, port_id)
     select network_id, '10.200.0.2'::inet + row_number() over (order by id), id from ports where tenant_id = $1",
];
