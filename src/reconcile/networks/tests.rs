//! Tests of `reconcile::networks` with hosts in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::DateTime;
use ipnet::IpNet;
use uuid::Uuid;

use super::*;
use crate::cli::postgres::throwaway;
use crate::config::{Config, Flags};
use crate::domain::clock::Clock;
use crate::domain::id::{HostId, TenantId, UserId};
use crate::domain::subnet::{Subnet, Wishes};
use crate::domain::text::Name;
use crate::hypervisor::fake::{FakeHost, Inject};
use crate::hypervisor::{Fault, Hosts, Hypervisor, NetworkSpec};
use crate::reconcile::{Parts, pace};
use crate::store::changes::Changes;
use crate::store::work::Asked;

/// A network that is on two hosts and was wished away.
struct Cloud {
    ctx: Context,
    clock: Clock,
    fakes: [(HostId, Arc<FakeHost>); 2],
    network: NetworkId,
}

async fn cloud() -> Cloud {
    let options = throwaway::migrated(&store::MIGRATIONS).await.expect("postgres");
    let clock = Clock::manual(DateTime::from_timestamp(1_800_000_000, 0).expect("time"));
    let cloud = Uuid::new_v4();
    let fakes =
        [0, 1].map(|_| (HostId(Uuid::now_v7()), Arc::new(FakeHost::new(cloud, clock.clone()))));
    let (hosts, _) = Hosts::fake(fakes.iter().cloned());
    let ctx = Context::new(Parts {
        db: store::connect(options, 8).await.expect("a pool"),
        config: Config::load(&Flags::default(), []).expect("a configuration"),
        clock: clock.clone(),
        cloud,
        changes: Changes::default(),
        hosts,
        placer: crate::reconcile::placer::Placer::default(),
        settling: crate::reconcile::Turns::default(),
        making: crate::reconcile::Turns::default(),
        compared: crate::domain::compared::Compared::default(),
        owner: Uuid::new_v4(),
    });
    let network = NetworkId(Uuid::now_v7());
    populate(&ctx, network, &fakes).await;
    Cloud { ctx, clock, fakes, network }
}

async fn populate(ctx: &Context, network: NetworkId, fakes: &[(HostId, Arc<FakeHost>)]) {
    let mut conn = ctx.conn().await.expect("a connection");
    let tenant = TenantId(Uuid::now_v7());
    sqlx::query(
        "insert into tenants (id, name, quota_instances, quota_vcpus, quota_memory_mib, quota_disk_gib, quota_networks,
                              quota_images, quota_keypairs, created_at)
         values ($1, 't', 1, 1, 1, 1, 1, 1, 1, now())",
    )
    .bind(tenant)
    .execute(&mut *conn)
    .await
    .expect("a tenant");
    let cidr: IpNet = "10.1.2.0/24".parse().expect("a CIDR");
    let IpNet::V4(v4) = cidr else { unreachable!() };
    let subnet = Subnet::new(v4, Wishes::default()).expect("a subnet");
    let new = store::networks::Insert {
        id: network,
        tenant,
        name: &Name::parse("", "net").expect("a name"),
        labels: &BTreeMap::new(),
        dns: &[],
        port_security: false,
        created_by: UserId(Uuid::nil()),
    };
    let now = ctx.clock.now();
    store::networks::insert(&mut conn, &new, &subnet, now).await.expect("a network");
    let spec = NetworkSpec {
        id: network,
        cidr,
        gateway: subnet.gateway.into(),
        dns: Vec::new(),
        standing: Vec::new(),
        keep_others: false,
        known: false,
        hosts: Vec::new(),
    };
    for (id, fake) in fakes {
        sqlx::query(
            "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health, health_since)
             values ($1, $1::text, 'u', 'p', 'qemu', 1, 1, 1, now(), 'up', now())",
        )
        .bind(id)
        .execute(&mut *conn)
        .await
        .expect("a host");
        store::host_networks::note(&mut conn, *id, network).await.expect("noted");
        fake.ensure_network(&spec).expect("made");
    }
    store::networks::mark_deleted(&mut conn, network, now).await.expect("wished away");
    work::touch_afresh(&mut conn, Kind::Network, network.0, now, &Asked::default())
        .await
        .expect("touched");
}

impl Cloud {
    /// Works off what is due; gives whether the network is still there.
    async fn pass(&self) -> bool {
        pace::run_due(&self.ctx, 10).await.expect("a pass");
        let mut conn = self.ctx.conn().await.expect("a connection");
        store::networks::get(&mut conn, None, self.network).await.expect("a look").is_some()
    }

    async fn reason(&self) -> String {
        let mut conn = self.ctx.conn().await.expect("a connection");
        let network = store::networks::get(&mut conn, None, self.network).await.expect("a look");
        network.expect("there").status_reason.unwrap_or_default()
    }

    fn on_hosts(&self) -> [bool; 2] {
        [0, 1].map(|n| !self.fakes[n].1.content().networks.is_empty())
    }

    async fn set_health(&self, host: HostId, health: &str) {
        sqlx::query("update hosts set health = $2 where id = $1")
            .bind(host)
            .bind(health)
            .execute(&self.ctx.db)
            .await
            .expect("set");
    }
}

#[tokio::test]
async fn a_deleted_network_is_gone_from_every_host_and_the_database() {
    let cloud = cloud().await;
    assert_eq!(cloud.on_hosts(), [true, true]);
    assert!(!cloud.pass().await);
    assert_eq!(cloud.on_hosts(), [false, false]);
    let left: (i64, i64) =
        sqlx::query_as("select (select count(*) from work), (select count(*) from host_networks)")
            .fetch_one(&cloud.ctx.db)
            .await
            .expect("counts");
    assert_eq!(left, (0, 0));
    let event: (String, String, Option<Uuid>) =
        sqlx::query_as("select kind, outcome, resource_id from events")
            .fetch_one(&cloud.ctx.db)
            .await
            .expect("one event");
    assert_eq!(event, ("network.delete".into(), "done".into(), Some(cloud.network.0)));
}

#[tokio::test]
async fn a_host_in_trouble_holds_the_deletion_up_with_a_reason_and_not_the_other_hosts() {
    let cloud = cloud().await;
    cloud.fakes[0].1.inject(|call| match call {
        "delete_network" => Inject::FailBefore(Fault::transient("the bridge is busy")),
        _ => Inject::Pass,
    });
    assert!(cloud.pass().await);
    assert_eq!(cloud.on_hosts(), [true, false]);
    assert!(cloud.reason().await.contains("the bridge is busy"));
    cloud.fakes[0].1.heal();
    cloud.clock.advance(TimeDelta::seconds(120));
    assert!(!cloud.pass().await);
    assert_eq!(cloud.on_hosts(), [false, false]);
}

#[tokio::test]
async fn a_reply_that_was_lost_changes_nothing_about_the_end() {
    let cloud = cloud().await;
    cloud.fakes[1].1.inject(|call| match call {
        "delete_network" => Inject::FailAfter(Fault::unreachable("no reply")),
        _ => Inject::Pass,
    });
    assert!(cloud.pass().await);
    cloud.fakes[1].1.heal();
    cloud.clock.advance(TimeDelta::seconds(120));
    assert!(!cloud.pass().await);
    assert_eq!(cloud.on_hosts(), [false, false]);
}

#[tokio::test]
async fn a_host_that_is_down_is_waited_for_and_cleaned_when_it_is_back() {
    let cloud = cloud().await;
    let (host, fake) = &cloud.fakes[0];
    cloud.set_health(*host, "down").await;
    fake.set_reachable(false);
    assert!(cloud.pass().await);
    assert_eq!(cloud.on_hosts(), [true, false]);
    assert!(cloud.reason().await.contains("1 of its hosts"), "{}", cloud.reason().await);
    fake.set_reachable(true);
    cloud.set_health(*host, "up").await;
    cloud.clock.advance(SILENT_PAUSE);
    assert!(!cloud.pass().await);
    assert_eq!(cloud.on_hosts(), [false, false]);
}

#[tokio::test]
async fn a_network_that_nobody_wished_away_is_made_whole_and_one_host_keeps_no_other_from_it() {
    let cloud = cloud().await;
    sqlx::query("update networks set deleted_at = null")
        .execute(&cloud.ctx.db)
        .await
        .expect("kept");
    cloud.fakes[0].1.inject(|call| match call {
        "rejoin" => Inject::FailBefore(Fault::transient("a guest is busy")),
        _ => Inject::Pass,
    });
    assert!(cloud.pass().await);
    assert!(cloud.reason().await.contains("a guest is busy"), "{}", cloud.reason().await);
    // Nobody on either host needs it.
    assert_eq!(cloud.on_hosts(), [false, false]);
    cloud.fakes[0].1.heal();
    cloud.clock.advance(TimeDelta::seconds(120));
    assert!(cloud.pass().await);
    assert_eq!(cloud.reason().await, "");
}
