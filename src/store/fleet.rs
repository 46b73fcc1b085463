//! The hosts as placement is told of them: all of them once, and then those that have changed.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::error::Result;
use crate::domain::host::Candidate;
use crate::domain::id::HostId;
use crate::domain::instance::Guest;

/// A moment up to which changes of hosts have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The oldest transaction that was under way: what it and later ones change is still to be seen.
    pub transaction: i64,
    /// How many hosts there are.
    pub hosts: i64,
    /// Since when the database lives: another one after it recovered from a crash, which may have taken back what was seen.
    pub life: Uuid,
    /// Which table the hosts are in: another one after a restore in place.
    pub of_table: i64,
}

/// Now. To be asked for before the changes, which may then be seen twice and are never missed.
pub async fn moment(conn: &mut PgConnection) -> Result<Moment> {
    let read = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as transaction, (select count(*) from hosts) as hosts,
                       (select id from lives) as life, 'hosts'::regclass::oid::bigint as of_table";
    if let Some(moment) = sqlx::query_as(read).fetch_one(&mut *conn).await.map(alive)? {
        return Ok(moment);
    }
    let begin = "insert into lives default values on conflict do nothing";
    sqlx::query(begin).execute(&mut *conn).await?;
    let moment = sqlx::query_as(read).fetch_one(conn).await.map(alive)?;
    moment.ok_or_else(|| anyhow::anyhow!("the table `lives` stays empty").into())
}

fn alive((transaction, hosts, life, of_table): (i64, i64, Option<Uuid>, i64)) -> Option<Moment> {
    life.map(|life| Moment { transaction, hosts, life, of_table })
}

/// Every host that has changed since; `None`: every host.
pub async fn changed(conn: &mut PgConnection, since: Option<Moment>) -> Result<Vec<Candidate>> {
    let rows = sqlx::query_as(
        "select h.id, h.name, h.zone, h.offered as traits, h.enabled, h.removed_at is not null as leaving, h.health,
                h.limit_vcpus, h.limit_memory_mib, h.limit_disk_gib, h.used_vcpus, h.used_memory_mib, h.used_disk_gib,
                array(select distinct t.tenant_id from aggregate_hosts a join aggregate_tenants t using (aggregate_id)
                      where a.host_id = h.id order by 1) as dedicated
         from hosts h where $1::text is null or h.changed_by >= $1::text::xid8 order by h.id",
    )
    .bind(since.map(|moment| moment.transaction.to_string()))
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The guests of these hosts, or of all, oldest first.
pub async fn guests(conn: &mut PgConnection, hosts: Option<&[HostId]>) -> Result<Vec<Guest>> {
    let guests = sqlx::query_as(
        "select c.id, c.host_id, c.tenant_id, i.flavor_name, coalesce(i.labels::text, '') as labels, c.created_at, i.expires_at
         from incarnations c left join instances i on i.id = c.instance_id
         where $1::uuid[] is null or c.host_id = any($1) order by c.created_at",
    )
    .bind(hosts.map(|hosts| hosts.iter().map(|host| host.0).collect::<Vec<_>>()))
    .fetch_all(conn)
    .await?;
    Ok(guests)
}

/// What hosts offer that requests may name.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub struct Offers {
    pub zones: Vec<String>,
    pub traits: Vec<String>,
}

pub async fn offers(conn: &mut PgConnection) -> Result<Offers> {
    let offers = sqlx::query_as(
        "select array(select distinct zone from hosts where removed_at is null order by 1) as zones,
                array(select distinct unnest(offered) from hosts where removed_at is null order by 1) as traits",
    )
    .fetch_one(conn)
    .await?;
    Ok(offers)
}

/// Every host.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Candidate>> {
    changed(conn, None).await
}
