//! What the placer remembers between batches: an index of all hosts, read from the store once and then fed what has changed.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::compared::Compared;
use crate::domain::error::Result;
use crate::domain::host::Candidate;
use crate::domain::id::HostId;
use crate::domain::instance::Unplaced;
use crate::placement::{self, HostView, Index, Residents, RoundRobin, Stay};
use crate::store::fleet::{self, Moment};

/// Every host and its room.
#[derive(Default)]
pub struct Room {
    pub index: Index,
    /// Where round robin stands.
    pub cursor: RoundRobin,
    /// Up to when the index has seen what changed; `None`: it is to be read anew. So it is while a batch is under way, whose asker
    /// may leave in the middle: what was taken and never committed is then forgotten with everything else.
    seen: Option<Moment>,
    /// Hosts that are up and that this process has not compared with the database yet.
    unproven: BTreeMap<HostId, Candidate>,
    /// Kept from the first request on that is placed by how long guests stay.
    residents: Option<Residents>,
}

impl Room {
    /// Brings the index up to date; gives up to when, to be kept (`keep`) once what is taken in the index is committed.
    pub async fn refresh(
        &mut self,
        conn: &mut PgConnection,
        compared: &Compared,
        now: Time,
    ) -> Result<Moment> {
        let moment = fleet::moment(conn).await?;
        // Transactions only ever count up: else this is another database than a moment ago.
        let goes_on = |seen: &Moment| {
            seen.transaction <= moment.transaction
                && (seen.life, seen.of_table) == (moment.life, moment.of_table)
        };
        let since = self.seen.take().filter(goes_on);
        let changed = fleet::changed(conn, since).await?;
        let mut touched: Vec<_> = changed.iter().map(|host| host.id).collect();
        if since.is_none() {
            self.unproven.clear();
        }
        let proven: Vec<_> =
            self.unproven.keys().copied().filter(|host| compared.has(*host)).collect();
        let proven: Vec<_> = proven.iter().filter_map(|host| self.unproven.remove(host)).collect();
        // What has just changed comes last: it is newer than what was remembered.
        let views: Vec<_> = proven
            .into_iter()
            .chain(changed)
            .map(|host| {
                let host = self.proven(host, compared);
                let exit = self.residents.as_ref().map(|residents| residents.exit(host.id));
                HostView { exit: exit.unwrap_or_default(), ..placement::view(&host) }
            })
            .collect();
        if since.is_none() {
            self.index = Index::from_hosts(views);
        } else {
            for host in views {
                self.index.upsert(host);
            }
        }
        // A host that is gone leaves no row that tells of it.
        if since.is_some() && i64::try_from(self.index.len()).ok() != Some(moment.hosts) {
            return Box::pin(self.refresh(conn, compared, now)).await;
        }
        if let Some(residents) = &mut self.residents {
            touched.sort_unstable();
            touched.dedup();
            let hosts = since.map(|_| touched.as_slice());
            let guests = fleet::guests(conn, hosts).await?;
            residents.refresh(guests, &mut self.index, hosts, now);
        }
        Ok(moment)
    }

    /// For how long an instance is to be thought to stay; what is known of that is gathered from now on.
    pub async fn stay(
        &mut self,
        conn: &mut PgConnection,
        who: &Unplaced,
        now: Time,
    ) -> Result<Stay> {
        if self.residents.is_none() {
            self.learn(conn, now).await?;
        }
        let known = self.residents.as_ref().map(|residents| residents.stay(who, now));
        Ok(known.unwrap_or(Stay { seconds: 0, sure: false }))
    }

    /// Gathers who is where and for how long, from now on.
    pub async fn learn(&mut self, conn: &mut PgConnection, now: Time) -> Result<()> {
        let mut residents = Residents::default();
        residents.refresh(fleet::guests(conn, None).await?, &mut self.index, None, now);
        self.residents = Some(residents);
        Ok(())
    }

    /// All that was taken in the index since is committed.
    pub fn keep(&mut self, moment: Moment) {
        self.seen = Some(moment);
    }

    /// The host as it may be placed on now; one that is not proven is remembered until it is.
    fn proven(&mut self, host: Candidate, compared: &Compared) -> Candidate {
        self.unproven.remove(&host.id);
        if !compared.has(host.id) {
            self.unproven.insert(host.id, host.clone());
        }
        compared.open(host)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::cli::postgres::throwaway;
    use crate::placement::HostState;
    use crate::store;

    async fn run(db: &PgPool, sql: &'static str) {
        sqlx::raw_sql(sql).execute(db).await.unwrap();
    }

    /// The index that was fed is the one that is read anew.
    async fn refreshed(room: &mut Room, db: &PgPool, compared: &Compared) {
        let mut conn = store::acquire(db).await.unwrap();
        let now = chrono::DateTime::from_timestamp(2_000_000_000, 0).unwrap();
        let moment = room.refresh(&mut conn, compared, now).await.unwrap();
        room.keep(moment);
        let mut fresh = Room::default();
        fresh.refresh(&mut conn, compared, now).await.unwrap();
        let hosts = |room: &Room| room.index.hosts().collect::<Vec<_>>();
        assert_eq!(hosts(room), hosts(&fresh));
    }

    #[tokio::test]
    async fn what_is_fed_is_what_is_read_anew_also_where_a_commit_comes_late() {
        let options = throwaway::migrated(&store::MIGRATIONS).await.unwrap();
        let db = store::connect(options, 4).await.unwrap();
        run(
            &db,
            "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health_since, zone, traits,
                                health, limit_vcpus, limit_memory_mib, limit_disk_gib)
             select gen_random_uuid(), 'h' || n, 'test:///default', '/p', 'auto', 1, 1, 1, now(), now(), 'z', '{}', 'up', 8, 8192, 80
             from generate_series(1, 5) n",
        )
        .await;
        let (mut room, compared) = (Room::default(), Compared::default());
        refreshed(&mut room, &db, &compared).await;
        assert!(room.index.hosts().all(|host| host.state == HostState::NoFacts), "none is proven");
        let ids: Vec<_> = room.index.hosts().map(|host| host.id).collect();
        for id in &ids {
            compared.note(*id);
        }
        refreshed(&mut room, &db, &compared).await;
        assert!(room.index.hosts().all(|host| host.state == HostState::Ready));
        // A batch whose asker left in the middle: what it took is not believed.
        let mut conn = store::acquire(&db).await.unwrap();
        room.refresh(&mut conn, &compared, chrono::DateTime::default()).await.unwrap();
        drop(conn);
        room.index.take(ids[0], crate::placement::Resources::new(8, 8192, 80)).unwrap();
        refreshed(&mut room, &db, &compared).await;
        assert_eq!(room.index.host(ids[0]).unwrap().used.vcpus, 0);
        // The same where it was committed, and a crash of the database took it back: then this table is empty.
        let mut conn = store::acquire(&db).await.unwrap();
        let now = chrono::DateTime::default();
        let moment = room.refresh(&mut conn, &compared, now).await.unwrap();
        drop(conn);
        room.index.take(ids[0], crate::placement::Resources::new(8, 8192, 80)).unwrap();
        room.keep(moment);
        run(&db, "truncate lives").await;
        refreshed(&mut room, &db, &compared).await;
        assert_eq!(room.index.host(ids[0]).unwrap().used.vcpus, 0);
        // One that began before the look, and commits after it.
        let mut late = store::begin(&db).await.unwrap();
        sqlx::query("update hosts set used_vcpus = 3 where id = $1")
            .bind(ids[0])
            .execute(&mut *late)
            .await
            .unwrap();
        // Another one: the ids are in an order of their own.
        run(&db, "update hosts set used_vcpus = 1 where id = (select id from hosts order by id desc limit 1)").await;
        refreshed(&mut room, &db, &compared).await;
        late.commit().await.unwrap();
        refreshed(&mut room, &db, &compared).await;
        assert_eq!(room.index.host(ids[0]).unwrap().used.vcpus, 3);
        // What it offers by itself counts as what its admin gave it.
        run(
            &db,
            r#"update hosts set facts = '{"arch": "x86_64", "virt_type": "kvm", "cpu_level": 3}' where name = 'h4';
               update hosts set facts = '{"arch": "aarch64", "virt_type": "kvm", "cpu_level": 0}', traits = '{ssd}' where name = 'h3';
               update hosts set facts = '{"arch": "x86_64", "virt_type": "kvm", "cpu_level": 4}', virt_type = 'qemu' where name = 'h1'"#,
        )
        .await;
        refreshed(&mut room, &db, &compared).await;
        let traits = |name: &str| {
            let host = room.index.hosts().find(|host| host.name == name).unwrap();
            host.traits.into_iter().collect::<Vec<_>>().join(" ")
        };
        let levels =
            |most: usize| (1..=most).map(|n| format!("cpu:x86-64-v{n} ")).collect::<String>();
        assert_eq!(traits("h4"), format!("arch:x86_64 {}virt:kvm", levels(3)));
        assert_eq!(traits("h3"), "arch:aarch64 ssd virt:kvm");
        assert_eq!(traits("h1"), format!("arch:x86_64 {}virt:qemu", levels(2)));
        assert_eq!(traits("h5"), "", "not seen yet");
        run(&db, "delete from hosts where name = 'h2'").await;
        refreshed(&mut room, &db, &compared).await;
        assert_eq!(room.index.len(), 4);
        run(
            &db,
            "insert into tenants (id, name, quota_instances, quota_vcpus, quota_memory_mib, quota_disk_gib, quota_networks, quota_images,
                                  quota_keypairs, created_at)
             values (gen_random_uuid(), 't', 1, 1, 1, 1, 1, 1, 1, now());
             insert into aggregates (id, name, created_at) values (gen_random_uuid(), 'a', now());",
        )
        .await;
        let mut conn = store::acquire(&db).await.unwrap();
        let aggregate = sqlx::query_scalar("select id from aggregates").fetch_one(&mut *conn).await;
        let tenant = sqlx::query_scalar("select id from tenants").fetch_one(&mut *conn).await;
        let patch = crate::domain::aggregate::AggregatePatch {
            description: None,
            hosts: Some(room.index.hosts().take(1).map(|host| host.id).collect()),
            tenants: Some(vec![tenant.unwrap()]),
        };
        store::aggregates::update(&mut conn, aggregate.unwrap(), &patch, true).await.unwrap();
        drop(conn);
        refreshed(&mut room, &db, &compared).await;
    }
}
