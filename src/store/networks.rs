//! Networks in the database, and the choice of a CIDR that nobody has.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::constraint::CIDR_TAKEN;
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::id::{NetworkId, TenantId, UserId};
use crate::domain::network::{Change, Network};
use crate::domain::page::Page;
use crate::domain::subnet::{Subnet, Wishes, first_free};
use crate::domain::text::{Labels, Name};

/// A row to be.
#[derive(Debug, Clone)]
pub struct Insert<'a> {
    pub id: NetworkId,
    pub tenant: TenantId,
    pub name: &'a Name,
    pub labels: &'a Labels,
    pub dns: &'a [IpAddr],
    pub port_security: bool,
    pub created_by: UserId,
}

/// Where a CIDR is taken from, when none is given.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    pub cidr: Ipv4Net,
    pub prefix: u8,
    /// Where the search begins: a number that other clouds on the same machine do not share.
    pub spread: u64,
}

/// Everything of a `Network`; the filters follow.
macro_rules! networks {
    ($filter:literal) => {
        concat!(
            "select n.id, n.tenant_id, n.name, n.labels, n.cidr, n.gateway, n.dns, n.range_start, n.range_end,
                    n.port_security, n.created_at, n.revision,
                    case when n.deleted_at is null then 'active' else 'deleting' end as status,
                    case when w.attempts > 0 then w.last_error
                         when n.deleted_at is not null then w.reason end as status_reason,
                    coalesce(w.attempts, 0) as attempts, case when w.attempts > 0 then w.last_error end as last_error,
                    nullif(w.due_at, 'infinity') as next_attempt_at, w.stalled_at as stalled_since
             from networks n
             left join work w on w.kind = 'network' and w.item = n.id
             where ",
            $filter
        )
    };
}

/// Inserts with this subnet. `cidr-taken` where it overlaps another network's, or one that a host has on its own.
pub async fn insert(
    conn: &mut PgConnection,
    new: &Insert<'_>,
    subnet: &Subnet,
    now: Time,
) -> Result<()> {
    let foreign: bool = sqlx::query_scalar(
        "select exists (select from hosts h, jsonb_array_elements_text(h.facts -> 'foreign_subnets') s
                        where s::inet && $1)",
    )
    .bind(IpNet::V4(subnet.cidr))
    .fetch_one(&mut *conn)
    .await?;
    if foreign {
        return Err(Error::conflict("cidr-taken", CIDR_TAKEN));
    }
    sqlx::query(
        "insert into networks (id, tenant_id, name, labels, cidr, gateway, dns, range_start, range_end, next_address,
                               port_security, created_by, created_at)
         values ($1, $2, $3, $4, $5::inet::cidr, $6, $7, $8, $9, $8, $10, $11, $12)",
    )
    .bind(new.id)
    .bind(new.tenant)
    .bind(new.name)
    .bind(Json(new.labels))
    .bind(IpNet::V4(subnet.cidr))
    .bind(IpAddr::V4(subnet.gateway))
    .bind(new.dns)
    .bind(IpAddr::V4(subnet.range_start))
    .bind(IpAddr::V4(subnet.range_end))
    .bind(new.port_security)
    .bind(new.created_by)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts with a free CIDR of the pool; `cidr-pool-exhausted` where there is none.
pub async fn insert_anywhere(
    conn: &mut PgConnection,
    new: &Insert<'_>,
    pool: &Pool,
    now: Time,
) -> Result<()> {
    // One chooser at a time until its transaction ends: otherwise all that choose at once would choose the same.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('networks.cidr', 0))")
        .execute(&mut *conn)
        .await?;
    // A network with a given CIDR does not wait for that lock: it may still come in between, and then another is chosen.
    for _ in 0..16 {
        let taken = taken(conn, pool.cidr).await?;
        let free = first_free(pool.cidr, pool.prefix, pool.spread, &taken);
        let Some(cidr) = free else { return Err(exhausted(pool)) };
        let subnet = Subnet::new(cidr, Wishes::default())?;
        sqlx::raw_sql("savepoint chosen").execute(&mut *conn).await?;
        match insert(conn, new, &subnet, now).await {
            Ok(()) => return Ok(()),
            Err(Error::Conflict { code: "cidr-taken", .. }) => {
                sqlx::raw_sql("rollback to savepoint chosen").execute(&mut *conn).await?;
            }
            Err(other) => return Err(other),
        }
    }
    Err(Error::conflict(
        "cidr-taken",
        "every free CIDR was taken by somebody else in the same moment: try again",
    ))
}

fn exhausted(pool: &Pool) -> Error {
    let Pool { cidr, prefix, .. } = pool;
    let detail = format!(
        "the cloud's pool {cidr} has no free /{prefix}: give a cidr, delete a network, or ask an admin to enlarge network_pool"
    );
    Error::conflict("cidr-pool-exhausted", detail)
}

/// What overlaps the pool: other networks, and subnets that hosts have on their own.
async fn taken(conn: &mut PgConnection, pool: Ipv4Net) -> Result<Vec<Ipv4Net>> {
    let nets: Vec<IpNet> = sqlx::query_scalar(
        "select cidr::inet from networks where cidr && $1
         union all
         select s::inet from hosts h, jsonb_array_elements_text(h.facts -> 'foreign_subnets') s
         where s::inet && $1",
    )
    .bind(IpNet::V4(pool))
    .fetch_all(conn)
    .await?;
    let v4 = |net: IpNet| match net {
        IpNet::V4(net) => Some(net.trunc()),
        IpNet::V6(_) => None,
    };
    Ok(nets.into_iter().filter_map(v4).collect())
}

pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: NetworkId,
) -> Result<Option<Network>> {
    let network = sqlx::query_as(networks!("n.id = $1 and ($2::uuid is null or n.tenant_id = $2)"))
        .bind(id)
        .bind(scope)
        .fetch_optional(conn)
        .await?;
    Ok(network)
}

/// The tenant's network of this id, or else of this name. One that is being deleted has no name any more.
pub async fn find(
    conn: &mut PgConnection,
    tenant: TenantId,
    id_or_name: &str,
) -> Result<Option<Network>> {
    let network = sqlx::query_as(networks!(
        "n.tenant_id = $1 and (n.id::text = lower($2) or (n.name = $2 and n.deleted_at is null))
         order by n.id::text = lower($2) desc limit 1"
    ))
    .bind(tenant)
    .bind(id_or_name)
    .fetch_optional(conn)
    .await?;
    Ok(network)
}

/// Up to `limit` networks of the tenant that are to stay.
pub async fn ids(conn: &mut PgConnection, tenant: TenantId, limit: i64) -> Result<Vec<NetworkId>> {
    let ids = sqlx::query_scalar(
        "select id from networks where tenant_id = $1 and deleted_at is null order by id limit $2",
    )
    .bind(tenant)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(ids)
}

/// Locks networks until the transaction ends, always in the same order: whoever makes ports on several networks in one
/// transaction locks all of them first, or two of them could wait for one another. Gives those that there are.
pub async fn lock(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    ids: &[NetworkId],
) -> Result<Vec<Network>> {
    let networks = sqlx::query_as(networks!(
        "n.id = any($1) and ($2::uuid is null or n.tenant_id = $2) order by n.id for no key update of n"
    ))
    .bind(ids)
    .bind(scope)
    .fetch_all(conn)
    .await?;
    Ok(networks)
}

pub async fn list(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    page: &Page,
    name: Option<&str>,
    labels: &Labels,
) -> Result<Vec<Network>> {
    let networks = sqlx::query_as(networks!(
        "n.id > $1 and ($2::uuid is null or n.tenant_id = $2) and ($3::text is null or n.name = $3)
         and n.labels @> $4
         order by n.id limit $5"
    ))
    .bind(page.after)
    .bind(tenant)
    .bind(name)
    .bind(Json(labels))
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(networks)
}

pub async fn change(conn: &mut PgConnection, id: NetworkId, change: &Change) -> Result<()> {
    sqlx::query(
        "update networks set name = coalesce($2, name), labels = coalesce($3, labels), dns = coalesce($4, dns),
                             revision = revision + 1
         where id = $1",
    )
    .bind(id)
    .bind(&change.name)
    .bind(change.labels.as_ref().map(Json))
    .bind(&change.dns)
    .execute(conn)
    .await?;
    Ok(())
}

/// Wishes it away.
pub async fn mark_deleted(conn: &mut PgConnection, id: NetworkId, now: Time) -> Result<()> {
    sqlx::query("update networks set deleted_at = $2, revision = revision + 1 where id = $1 and deleted_at is null")
        .bind(id)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Removes a network that was wished away and is on no host; its addresses go with it. `false`: it is not (yet) such a one.
pub async fn remove(conn: &mut PgConnection, id: NetworkId) -> Result<bool> {
    let done = sqlx::query(
        "delete from networks n where n.id = $1 and n.deleted_at is not null
         and not exists (select from host_networks h where h.network_id = n.id)",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests;
