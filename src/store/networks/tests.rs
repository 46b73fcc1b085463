//! Tests of `store::networks` on a real PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use sqlx::PgPool;
use uuid::Uuid;

use super::*;
use crate::cli::postgres::throwaway;

fn at(second: i64) -> Time {
    DateTime::from_timestamp(1_700_000_000 + second, 0).expect("time")
}

fn name(text: &str) -> Name {
    Name::parse("", text).expect("a name")
}

/// A new cloud with one tenant.
async fn cloud() -> (PgPool, TenantId) {
    let options = throwaway::migrated(&crate::store::MIGRATIONS).await.expect("postgres");
    let pool = crate::store::connect(options, 20).await.expect("pool");
    let tenant = TenantId(Uuid::now_v7());
    sqlx::query(
        "insert into tenants (id, name, quota_instances, quota_vcpus, quota_memory_mib, quota_disk_gib, quota_networks,
                              quota_images, quota_keypairs, created_at)
         values ($1, $1::text, 1, 1, 1, 1, 1, 1, 1, now())",
    )
    .bind(tenant)
    .execute(&pool)
    .await
    .expect("tenant");
    (pool, tenant)
}

fn new(tenant: TenantId, name: &Name) -> Insert<'_> {
    static LABELS: Labels = BTreeMap::new();
    let (id, created_by) = (NetworkId(Uuid::now_v7()), UserId(Uuid::nil()));
    Insert { id, tenant, name, labels: &LABELS, dns: &[], port_security: false, created_by }
}

fn subnet(cidr: &str) -> Subnet {
    Subnet::new(cidr.parse().expect("a CIDR"), Wishes::default()).expect("a subnet")
}

fn code(error: &Error) -> &str {
    match error {
        Error::Conflict { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_chosen_cidr_avoids_other_networks_and_what_hosts_have_and_concurrent_choices_all_succeed()
 {
    let (db, tenant) = cloud().await;
    let mut conn = db.acquire().await.expect("conn");
    insert(&mut conn, &new(tenant, &name("first")), &subnet("10.9.0.0/25"), at(0))
        .await
        .expect("insert");
    sqlx::query(
        "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health_since, facts)
         values (gen_random_uuid(), 'h', 'u', 'p', 'qemu', 1, 1, 1, now(), now(),
                 '{\"foreign_subnets\": [\"10.9.1.7/24\", \"fd00::/64\", \"192.168.122.0/24\"]}')",
    )
    .execute(&mut *conn)
    .await
    .expect("host");
    let pool = Pool { cidr: "10.9.0.0/21".parse().expect("pool"), prefix: 24, spread: 7 };
    let create = async |n: usize| {
        let name = name(&format!("n{n}"));
        let new = new(tenant, &name);
        let mut tx = db.begin().await?;
        insert_anywhere(&mut tx, &new, &pool, at(0)).await?;
        tx.commit().await?;
        let network = get(&mut *db.acquire().await?, None, new.id).await?;
        Ok::<_, Error>(network.expect("there").cidr.to_string())
    };
    let chosen = futures_util::future::join_all((0..6).map(create)).await;
    let chosen: BTreeSet<_> = chosen.into_iter().map(|cidr| cidr.expect("a network")).collect();
    let expected: BTreeSet<_> = (2..8).map(|n| format!("10.9.{n}.0/24")).collect();
    assert_eq!(chosen, expected);
    assert_eq!(code(&create(6).await.expect_err("none is left")), "cidr-pool-exhausted");

    for taken in ["10.9.1.128/25", "10.9.0.0/16", "10.9.7.0/24", "192.168.0.0/16"] {
        let error = insert(&mut conn, &new(tenant, &name("x")), &subnet(taken), at(0))
            .await
            .expect_err(taken);
        assert_eq!(code(&error), "cidr-taken");
    }
}

#[tokio::test]
async fn a_network_goes_only_after_it_was_wished_away_and_no_host_has_it() {
    let (db, tenant) = cloud().await;
    let mut conn = db.acquire().await.expect("conn");
    let name = name("a");
    let new = new(tenant, &name);
    insert(&mut conn, &new, &subnet("10.9.0.0/24"), at(0)).await.expect("insert");
    sqlx::query(
        "with host as (
             insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health_since)
             values (gen_random_uuid(), 'h', 'u', 'p', 'qemu', 1, 1, 1, now(), now()) returning id
         )
         insert into host_networks (host_id, network_id) select id, $1 from host",
    )
    .bind(new.id)
    .execute(&mut *conn)
    .await
    .expect("host");
    assert!(!remove(&mut conn, new.id).await.expect("not wished"));
    mark_deleted(&mut conn, new.id, at(1)).await.expect("wish");
    assert!(!remove(&mut conn, new.id).await.expect("on a host"));
    sqlx::query("delete from host_networks").execute(&mut *conn).await.expect("gone from the host");
    assert!(remove(&mut conn, new.id).await.expect("gone"));
    assert_eq!(get(&mut conn, None, new.id).await.expect("get"), None);
}

#[tokio::test]
async fn a_network_is_found_by_id_or_name_in_its_tenant_alone() {
    let (db, tenant) = cloud().await;
    let mut conn = db.acquire().await.expect("conn");
    let a = name("a");
    let new = new(tenant, &a);
    insert(&mut conn, &new, &subnet("10.9.0.0/24"), at(0)).await.expect("insert");
    let id = new.id.to_string();
    for text in ["a", id.as_str(), id.to_uppercase().as_str()] {
        let found = find(&mut conn, tenant, text).await.expect("find").expect(text);
        assert_eq!(found.id, new.id);
        assert_eq!(find(&mut conn, TenantId(Uuid::now_v7()), text).await.expect("find"), None);
    }
    mark_deleted(&mut conn, new.id, at(1)).await.expect("wish");
    assert_eq!(find(&mut conn, tenant, "a").await.expect("find"), None);
    assert!(find(&mut conn, tenant, &id).await.expect("find").is_some());
}
