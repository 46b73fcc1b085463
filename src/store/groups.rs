//! Groups in the database, and where their members are.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::group::{Group, NewGroup, Placed};
use crate::domain::id::{GroupId, HostId, TenantId, UserId};
use crate::domain::page::Page;
use crate::domain::text::Name;

macro_rules! groups {
    ($rest:literal) => {
        concat!(
            "select g.id, g.tenant_id, g.name, g.rule, g.scope, g.hard, g.created_by, g.created_at, g.revision,
                    (select count(*) from instances i where i.group_id = g.id) as instances
             from groups g where ",
            $rest
        )
    };
}

pub async fn insert(
    conn: &mut PgConnection,
    id: GroupId,
    tenant: TenantId,
    name: &Name,
    new: &NewGroup,
    created_by: UserId,
    now: Time,
) -> Result<()> {
    sqlx::query(
        "insert into groups (id, tenant_id, name, rule, scope, hard, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(id)
    .bind(tenant)
    .bind(name)
    .bind(new.rule)
    .bind(new.scope)
    .bind(new.hard)
    .bind(created_by)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: GroupId,
) -> Result<Option<Group>> {
    let group = sqlx::query_as(groups!("g.id = $1 and ($2::uuid is null or g.tenant_id = $2)"))
        .bind(id)
        .bind(scope)
        .fetch_optional(conn)
        .await?;
    Ok(group)
}

/// The tenant's group of this id or name.
pub async fn find(
    conn: &mut PgConnection,
    tenant: TenantId,
    id_or_name: &str,
) -> Result<Option<Group>> {
    let group = sqlx::query_as(groups!(
        "g.tenant_id = $1 and (g.id::text = $2 or g.name = $2) order by g.id::text = $2 desc limit 1"
    ))
    .bind(tenant)
    .bind(id_or_name)
    .fetch_optional(conn)
    .await?;
    Ok(group)
}

pub async fn list(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    page: &Page,
    name: Option<&str>,
) -> Result<Vec<Group>> {
    let groups = sqlx::query_as(groups!(
        "g.id > $1 and ($2::uuid is null or g.tenant_id = $2) and ($3::text is null or g.name = $3)
         order by g.id limit $4"
    ))
    .bind(page.after)
    .bind(tenant)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(groups)
}

/// Only without instances.
pub async fn delete(conn: &mut PgConnection, id: GroupId) -> Result<()> {
    sqlx::query("delete from groups where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// How many hosts may ever take a member, and in how many zones they are.
pub async fn places(conn: &mut PgConnection) -> Result<(i64, i64)> {
    let counts =
        sqlx::query_as("select count(*), count(distinct zone) from hosts where removed_at is null")
            .fetch_one(conn)
            .await?;
    Ok(counts)
}

/// How many instances of the group are to be there: those that are being deleted do not count.
pub async fn staying(conn: &mut PgConnection, id: GroupId) -> Result<i64> {
    let count = sqlx::query_scalar(
        "select count(*) from instances where group_id = $1 and wanted <> 'deleted'",
    )
    .bind(id)
    .fetch_one(conn)
    .await?;
    Ok(count)
}

/// A group under its lock, and what of it each host has.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    pub group: Group,
    pub on_hosts: BTreeMap<HostId, Placed>,
}

/// Locks these groups until the transaction ends, against whoever else places their members, and gives where those are. In the
/// order of their ids, so that two who lock the same ones never wait in a circle.
pub async fn hold(conn: &mut PgConnection, ids: &[GroupId]) -> Result<BTreeMap<GroupId, Members>> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query("select from groups where id = any($1) order by id for no key update")
        .bind(&ids)
        .execute(&mut *conn)
        .await?;
    // Only now: what is read is what others left when they let go.
    let groups: Vec<Group> =
        sqlx::query_as(groups!("g.id = any($1)")).bind(&ids).fetch_all(&mut *conn).await?;
    let placed: Vec<(GroupId, HostId, i64, i64, i64, i64)> = sqlx::query_as(
        "select i.group_id, c.host_id, count(*), sum(c.vcpus)::bigint, sum(c.memory_mib)::bigint, sum(c.disk_gib)::bigint
         from instances i
         join incarnations c on c.instance_id = i.id and c.fenced_at is null
         where i.group_id = any($1) group by 1, 2",
    )
    .bind(&ids)
    .fetch_all(conn)
    .await?;
    let mut all: BTreeMap<_, _> = groups
        .into_iter()
        .map(|group| (group.id, Members { group, on_hosts: BTreeMap::new() }))
        .collect();
    for (group, host, count, vcpus, memory_mib, disk_gib) in placed {
        if let Some(members) = all.get_mut(&group) {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let placed = Placed { members: count, vcpus, memory_mib, disk_gib };
            members.on_hosts.insert(host, placed);
        }
    }
    Ok(all)
}
