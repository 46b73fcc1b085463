//! Tests of `store::ports` on a real PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::PgPool;

use super::*;
use crate::cli::postgres::throwaway;
use crate::domain::id::UserId;
use crate::domain::subnet::{Subnet, Wishes};
use crate::store::networks::Insert;

const REST: TimeDelta = TimeDelta::seconds(150);

struct Cloud {
    pool: PgPool,
    tenant: TenantId,
}

fn at(second: i64) -> Time {
    DateTime::from_timestamp(1_700_000_000 + second, 0).expect("time")
}

async fn cloud() -> Cloud {
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
    Cloud { pool, tenant }
}

impl Cloud {
    async fn network(&self, cidr: &str) -> NetworkId {
        let id = NetworkId(Uuid::now_v7());
        let subnet = Subnet::new(cidr.parse().expect("cidr"), Wishes::default()).expect("subnet");
        let mut conn = self.pool.acquire().await.expect("conn");
        let name = Name::parse("", cidr.split('/').next().expect("name")).expect("name");
        let new = Insert {
            id,
            tenant: self.tenant,
            name: &name,
            labels: &BTreeMap::new(),
            dns: &[],
            port_security: false,
            created_by: UserId(Uuid::nil()),
        };
        networks::insert(&mut conn, &new, &subnet, at(0)).await.expect("insert");
        id
    }

    async fn instance(&self) -> InstanceId {
        let id = InstanceId(Uuid::now_v7());
        sqlx::query(
            "with image as (
                 insert into images (id, tenant_id, name, visibility, format, created_at)
                 values ($1, $2, 'i', 'private', 'raw', now())
             )
             insert into instances (id, tenant_id, name, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib,
                                    created_at, wanted, wanted_at)
             values ($1, $2, 'i', $1, $1, 'nano', 1, 1, 1, now(), 'running', now())",
        )
        .bind(id)
        .bind(self.tenant)
        .execute(&self.pool)
        .await
        .expect("instance");
        id
    }

    /// A free-standing port, committed.
    async fn port(&self, network: NetworkId, wanted: Option<&str>, now: Time) -> Result<Port> {
        let address = wanted.map(|text| text.parse().expect("address"));
        let plan = Plan { name: None, mac: None, address };
        let mut tx = self.pool.begin().await?;
        let port = create_free(&mut tx, Some(self.tenant), network, &plan, now, REST).await?;
        tx.commit().await?;
        Ok(port)
    }

    async fn delete(&self, port: PortId, now: Time) {
        let mut tx = self.pool.begin().await.expect("begin");
        let port = lock(&mut tx, None, port).await.expect("lock").expect("there");
        delete_free(&mut tx, &port, now).await.expect("delete");
        tx.commit().await.expect("commit");
    }
}

fn code(error: &Error) -> &str {
    match error {
        Error::Conflict { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn concurrent_ports_get_different_addresses_and_all_succeed() {
    let cloud = cloud().await;
    let network = cloud.network("10.1.0.0/26").await;
    let ports =
        futures_util::future::join_all((0..50).map(|_| cloud.port(network, None, at(0)))).await;
    let ports: Vec<_> = ports.into_iter().map(|port| port.expect("a port")).collect();
    let addresses: BTreeSet<_> = ports.iter().map(|port| port.address).collect();
    let expected: BTreeSet<IpAddr> = (2..52).map(|n| IpAddr::from([10, 1, 0, n])).collect();
    assert_eq!(addresses, expected);
    let macs: BTreeSet<_> = ports.iter().map(|port| &port.mac).collect();
    assert_eq!(macs.len(), 50);
}

#[tokio::test]
async fn a_released_address_rests_and_the_longest_rested_comes_back_first() {
    let cloud = cloud().await;
    let network = cloud.network("10.1.0.0/29").await;
    let mut ports = Vec::new();
    for _ in 0..5 {
        ports.push(cloud.port(network, None, at(0)).await.expect("a port"));
    }
    let full = cloud.port(network, None, at(0)).await.expect_err("a sixth");
    assert_eq!(code(&full), "addresses-exhausted");
    assert!(full.to_string().contains("5 of 5 are in use and 0 rest"), "{full}");

    cloud.delete(ports[3].id, at(10)).await;
    cloud.delete(ports[1].id, at(20)).await;
    let resting = cloud.port(network, None, at(159)).await.expect_err("one that rests");
    assert!(resting.to_string().contains("3 of 5 are in use and 2 rest"), "{resting}");
    let until = (at(10) + REST).format("%FT%TZ").to_string();
    assert!(resting.to_string().contains(&until), "{resting}");
    let asked = cloud.port(network, Some("10.1.0.5"), at(159)).await.expect_err("one that rests");
    assert_eq!(code(&asked), "address-taken");
    assert!(asked.to_string().contains(&until), "{asked}");

    let back = cloud.port(network, None, at(200)).await.expect("a port");
    assert_eq!(back.address, ports[3].address);
    let back = cloud.port(network, None, at(200)).await.expect("a port");
    assert_eq!(back.address, ports[1].address);
}

#[tokio::test]
async fn an_address_asked_for_is_passed_over_later_and_one_that_cannot_be_had_is_refused() {
    let cloud = cloud().await;
    let network = cloud.network("10.1.0.0/24").await;
    for wanted in ["10.1.0.3", "10.1.0.4", "10.1.0.254"] {
        let port = cloud.port(network, Some(wanted), at(0)).await.expect("a port");
        assert_eq!(port.address.to_string(), wanted);
    }
    for expected in ["10.1.0.2", "10.1.0.5", "10.1.0.6"] {
        let port = cloud.port(network, None, at(0)).await.expect("a port");
        assert_eq!(port.address.to_string(), expected);
    }
    let taken = cloud.port(network, Some("10.1.0.3"), at(0)).await.expect_err("taken");
    assert_eq!(code(&taken), "address-taken");
    for bad in ["10.1.0.0", "10.1.0.1", "10.1.0.255", "10.1.1.2", "fd00::1"] {
        let error = cloud.port(network, Some(bad), at(0)).await.expect_err(bad);
        assert!(
            matches!(&error, Error::Invalid(faults) if faults[0].pointer == "/address"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_instance_that_goes_takes_its_own_ports_and_leaves_the_others_free() {
    let cloud = cloud().await;
    let (one, two) = (cloud.network("10.1.0.0/24").await, cloud.network("10.2.0.0/24").await);
    let (instance, other) = (cloud.instance().await, cloud.instance().await);
    let free = cloud.port(two, None, at(0)).await.expect("a port");
    let mut conn = cloud.pool.acquire().await.expect("conn");
    let owned = create_owned(&mut conn, cloud.tenant, one, instance, 1, None, at(0), REST)
        .await
        .expect("a port");
    attach(&mut conn, cloud.tenant, free.id, instance, 0).await.expect("attach");
    let again =
        attach(&mut conn, cloud.tenant, free.id, other, 0).await.expect_err("attached twice");
    assert_eq!(code(&again), "port-attached");
    let stranger = TenantId(Uuid::now_v7());
    let foreign = attach(&mut conn, stranger, free.id, other, 0).await;
    assert!(matches!(foreign, Err(Error::NotFound { .. })));
    let foreign = create_owned(&mut conn, stranger, one, other, 0, None, at(0), REST).await;
    assert!(matches!(foreign, Err(Error::NotFound { .. })));
    let held = lock(&mut conn, None, free.id).await.expect("lock").expect("there");
    let kept = delete_free(&mut conn, &held, at(0)).await.expect_err("attached");
    assert_eq!(code(&kept), "port-attached");

    let ports = of_instance(&mut conn, instance).await.expect("ports");
    let seen: Vec<_> = ports.iter().map(|p| (p.id, p.network_id, p.address, p.position)).collect();
    assert_eq!(seen, [(free.id, two, free.address, 0), (owned.id, one, owned.address, 1)]);
    let all = of_instances(&mut conn, &[instance, other]).await.expect("ports");
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [(instance, ports)]);

    release_of_instance(&mut conn, instance, at(5)).await.expect("release");
    assert_eq!(of_instance(&mut conn, instance).await.expect("ports"), []);
    assert_eq!(get(&mut conn, None, owned.id).await.expect("get"), None);
    let free = get(&mut conn, None, free.id).await.expect("get").expect("still there");
    assert_eq!((free.instance_id, free.revision), (None, 3));
    let released: Time = sqlx::query_scalar(
        "select released_at from addresses where network_id = $1 and port_id is null",
    )
    .bind(one)
    .fetch_one(&mut *conn)
    .await
    .expect("the address rests");
    assert_eq!(released, at(5));
}

/// What random users do to a network of five addresses.
#[derive(Debug, Clone)]
enum Act {
    Create,
    Ask(u8),
    Delete(prop::sample::Index),
    Wait(i64),
}

/// Against an account that is kept beside it: an address is held once, rests after its release, and a port is refused only
/// where nothing can be had.
#[test]
fn whatever_users_do_an_address_is_held_by_one_port_and_rests_afterwards() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let cloud = runtime.block_on(cloud());
    let act = prop_oneof![
        4 => Just(Act::Create),
        1 => (0..8_u8).prop_map(Act::Ask),
        3 => any::<prop::sample::Index>().prop_map(Act::Delete),
        2 => (1..200_i64).prop_map(Act::Wait),
    ];
    let acts = proptest::collection::vec(act, 1..40);
    // Each case has a subnet of its own.
    let subnets = std::cell::Cell::new(0_u32);
    let mut runner =
        TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let result = runner.run(&acts, |acts| {
        subnets.set(subnets.get() + 1);
        let base = (10 << 24) + (subnets.get() << 3);
        runtime.block_on(async {
            let address = |n: u8| IpAddr::from((base + u32::from(n)).to_be_bytes());
            let network = cloud.network(&format!("{}/29", address(0))).await;
            let (mut now, mut held, mut resting) =
                (0, BTreeMap::new(), BTreeMap::<IpAddr, i64>::new());
            for act in acts {
                let can = |a: IpAddr,
                           held: &BTreeMap<IpAddr, PortId>,
                           resting: &BTreeMap<IpAddr, i64>| {
                    !held.contains_key(&a)
                        && resting.get(&a).is_none_or(|since| since + REST.num_seconds() <= now)
                };
                let (wanted, possible) = match act {
                    Act::Create => (None, (2..7).any(|n| can(address(n), &held, &resting))),
                    Act::Ask(n) => {
                        (Some(address(n)), (2..7).contains(&n) && can(address(n), &held, &resting))
                    }
                    Act::Delete(which) => {
                        if !held.is_empty() {
                            let (address, port) = held
                                .iter()
                                .nth(which.index(held.len()))
                                .map(|(a, p)| (*a, *p))
                                .expect("one");
                            cloud.delete(port, at(now)).await;
                            held.remove(&address);
                            resting.insert(address, now);
                        }
                        continue;
                    }
                    Act::Wait(seconds) => {
                        now += seconds;
                        continue;
                    }
                };
                let text = wanted.map(|a| a.to_string());
                match cloud.port(network, text.as_deref(), at(now)).await {
                    Ok(port) => {
                        prop_assert!(possible, "{} was given out", port.address);
                        prop_assert!((2..7).any(|n| address(n) == port.address));
                        prop_assert!(
                            can(port.address, &held, &resting),
                            "{} is held or rests",
                            port.address
                        );
                        prop_assert!(wanted.is_none_or(|wanted| wanted == port.address));
                        resting.remove(&port.address);
                        held.insert(port.address, port.id);
                    }
                    Err(error) => prop_assert!(!possible, "{error}"),
                }
            }
            Ok(())
        })
    });
    result.expect("the account holds");
}
