//! Instances in the database: requests write the wish, the reconciler what it saw; no statement writes both.

mod ends;
mod insert;
mod on_host;

pub use ends::*;
pub use insert::*;
pub use on_host::*;

use std::net::IpAddr;

use chrono::TimeDelta;
use ipnet::IpNet;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{
    FlavorId, GroupId, HostId, ImageId, IncarnationId, InstanceId, ReservationId, TenantId, UserId,
};
use crate::domain::instance::{Power, Wanted, Wish};
use crate::domain::page::Page;
use crate::domain::policy::Policy;
use crate::domain::text::{Labels, Name};

/// An instance with its incarnation, its host's health and its account on the work list.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Record {
    pub id: InstanceId,
    pub tenant_id: TenantId,
    pub name: Name,
    pub labels: Json<Labels>,
    pub image_id: ImageId,
    pub flavor_id: FlavorId,
    pub flavor_name: String,
    pub vcpus: i32,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub traits: Vec<String>,
    pub forbidden_traits: Vec<String>,
    pub zone: Option<String>,
    pub policy: Option<Policy>,
    pub group_id: Option<GroupId>,
    pub reservation_id: Option<ReservationId>,
    pub expires_at: Option<Time>,
    pub queued_at: Option<Time>,
    /// Why no host had room.
    pub queued_for: Option<String>,
    pub created_by: Option<UserId>,
    pub created_at: Time,

    pub wanted: Wanted,
    pub wanted_at: Time,
    pub boot: i64,
    pub hard: bool,
    pub stop_grace_s: i64,
    pub revision: i64,

    pub observed_power: Power,
    pub observed_boot: Option<i64>,
    pub observed_at: Option<Time>,
    pub observed_revision: i64,
    pub agent: bool,
    /// `None`: cloud-init was not seen to have finished in this boot.
    pub cloud_init_errors: Option<Vec<String>>,
    pub seen_addresses: Vec<IpNet>,
    pub started_at: Option<Time>,
    pub quick_exits: i64,

    pub incarnation_id: Option<IncarnationId>,
    pub host_id: Option<HostId>,
    pub disk_made: bool,
    pub seed_made: bool,
    pub host_health: Option<String>,
    pub host_reason: Option<String>,
    pub host_since: Option<Time>,

    pub due_at: Option<Time>,
    pub attempts: i64,
    pub stalled_at: Option<Time>,
    pub failing_since: Option<Time>,
    pub waiting: Option<String>,
    pub last_error: Option<String>,
    pub last_error_at: Option<Time>,
}

impl Record {
    pub fn wish(&self) -> Wish {
        Wish {
            wanted: self.wanted,
            wanted_at: self.wanted_at,
            boot: self.boot,
            hard: self.hard,
            grace: TimeDelta::seconds(self.stop_grace_s),
        }
    }

    pub fn saw_address(&self, address: IpAddr) -> bool {
        self.seen_addresses.iter().any(|net| net.addr() == address)
    }
}

/// The columns of a `Record`, of an instance `i`, its incarnation `c`, its host `h` and its item of work `w`.
macro_rules! columns {
    () => {
        "select i.id, i.tenant_id, i.name, i.labels, i.image_id, i.flavor_id, i.flavor_name, i.vcpus, i.memory_mib,
                i.disk_gib, i.traits, i.forbidden_traits, i.zone, i.policy, i.group_id, i.reservation_id,
                i.expires_at, i.queued_at, i.queue_account ->> 'summary' as queued_for, i.created_by, i.created_at, i.wanted, i.wanted_at, i.boot, i.hard,
                i.stop_grace_s, i.revision, i.observed_power, i.observed_boot, i.observed_at, i.observed_revision,
                i.agent, i.cloud_init_errors, i.seen_addresses, i.started_at, i.quick_exits,
                c.id as incarnation_id, c.host_id,
                coalesce(c.disk_made, false) as disk_made, coalesce(c.seed_made, false) as seed_made,
                h.health as host_health, h.health_reason as host_reason, h.health_since as host_since,
                nullif(w.due_at, 'infinity') as due_at, coalesce(w.attempts, 0) as attempts, w.stalled_at,
                w.failing_since, w.reason as waiting, w.last_error, w.last_error_at "
    };
}
use columns;

/// Everything of a `Record`; the filters follow.
macro_rules! records {
    ($filter:literal) => {
        concat!(
            columns!(),
            "from instances i
             left join incarnations c on c.instance_id = i.id and c.fenced_at is null
             left join hosts h on h.id = c.host_id
             left join work w on w.kind = 'instance' and w.item = i.id
             where ",
            $filter
        )
    };
}

/// The statement of `get`, which the benchmarks run by themselves, too.
pub const GET: &str = records!("i.id = $1 and i.tenant_id = coalesce($2, i.tenant_id)");

/// `scope`: the tenant whose instance it must be; `None` for an admin and for the reconciler.
pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: InstanceId,
) -> Result<Option<Record>> {
    Ok(sqlx::query_as(GET).bind(id).bind(scope).fetch_optional(conn).await?)
}

/// The same, locked until the transaction ends: for a change of the wish.
pub async fn lock(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: InstanceId,
) -> Result<Option<Record>> {
    let record = sqlx::query_as(records!(
        "i.id = $1 and ($2::uuid is null or i.tenant_id = $2) for update of i"
    ))
    .bind(id)
    .bind(scope)
    .fetch_optional(conn)
    .await?;
    Ok(record)
}

/// Which instances a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tenant: Option<TenantId>,
    pub name: Option<String>,
    /// Labels that all must be there.
    pub labels: Labels,
    pub host: Option<HostId>,
}

/// The statement of `list`. Only the conditions that are asked for are in it, and the limit is in its text: PostgreSQL plans a
/// statement with conditions that may be off, or with a limit that it does not know, anew at every execution.
pub fn list_statement(filter: &Filter, page: &Page) -> QueryBuilder<Postgres> {
    let mut list = QueryBuilder::new(records!("i.id > "));
    list.push_bind(page.after);
    if let Some(tenant) = filter.tenant {
        list.push(" and i.tenant_id = ").push_bind(tenant);
    }
    if let Some(name) = &filter.name {
        list.push(" and i.name = ").push_bind(name.clone());
    }
    if !filter.labels.is_empty() {
        list.push(" and i.labels @> ").push_bind(Json(filter.labels.clone()));
    }
    if let Some(host) = filter.host {
        list.push(" and c.host_id = ").push_bind(host);
    }
    list.push(" order by i.id limit ").push(page.fetch());
    list
}

pub async fn list(conn: &mut PgConnection, filter: &Filter, page: &Page) -> Result<Vec<Record>> {
    Ok(list_statement(filter, page).build_query_as().fetch_all(conn).await?)
}

/// Writes the wish; gives the new revision.
pub async fn wish(conn: &mut PgConnection, id: InstanceId, wish: &Wish) -> Result<i64> {
    let revision = sqlx::query_scalar(
        "update instances set wanted = $2, wanted_at = $3, boot = $4, hard = $5, stop_grace_s = $6, revision = revision + 1
         where id = $1 returning revision",
    )
    .bind(id)
    .bind(wish.wanted)
    .bind(wish.wanted_at)
    .bind(wish.boot)
    .bind(wish.hard)
    .bind(wish.grace.num_seconds())
    .fetch_one(conn)
    .await?;
    Ok(revision)
}

/// Changes what the guest does not see.
pub async fn rename(
    conn: &mut PgConnection,
    id: InstanceId,
    name: Option<&Name>,
    labels: Option<&Labels>,
    expires_at: Option<Time>,
) -> Result<()> {
    sqlx::query(
        "update instances set name = coalesce($2, name), labels = coalesce($3, labels),
             expires_at = coalesce($4, expires_at), revision = revision + 1,
             observed_revision = case when observed_revision = revision then revision + 1 else observed_revision end
         where id = $1",
    )
    .bind(id)
    .bind(name)
    .bind(labels.map(Json))
    .bind(expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// What was seen in one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub power: Power,
    pub boot: Option<i64>,
    pub agent: bool,
    pub cloud_init_errors: Option<Vec<String>>,
    pub addresses: Vec<IpAddr>,
    /// The revision of the wish that the world was seen to match; `None`: it did not match yet.
    pub matches: Option<i64>,
    pub started_at: Option<Time>,
    pub quick_exits: i64,
}

/// Writes what was seen; gives whether anything was new.
pub async fn observe(
    conn: &mut PgConnection,
    id: InstanceId,
    seen: &Observation,
    now: Time,
) -> Result<bool> {
    let addresses: Vec<IpNet> = seen.addresses.iter().copied().map(IpNet::from).collect();
    let done = sqlx::query(
        "update instances
         set observed_power = $2, observed_boot = coalesce($3, observed_boot), agent = $4, seen_addresses = $5,
             observed_revision = coalesce($6, observed_revision), started_at = $7, quick_exits = $8, observed_at = $9,
             cloud_init_errors = $10
         where id = $1
           and (observed_power, coalesce(observed_boot, -1), agent, seen_addresses, observed_revision,
                coalesce(started_at, 'epoch'), quick_exits, cloud_init_errors)
               is distinct from
               ($2, coalesce($3, observed_boot, -1), $4, $5, coalesce($6, observed_revision),
                coalesce($7, 'epoch'), $8, $10)",
    )
    .bind(id)
    .bind(seen.power)
    .bind(seen.boot)
    .bind(seen.agent)
    .bind(addresses)
    .bind(seen.matches)
    .bind(seen.started_at)
    .bind(seen.quick_exits)
    .bind(now)
    .bind(&seen.cloud_init_errors)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What only the seed needs.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SeedData {
    pub user_data: Option<String>,
    pub ssh_keys: Vec<String>,
}

pub async fn seed_data(conn: &mut PgConnection, id: InstanceId) -> Result<Option<SeedData>> {
    let data = sqlx::query_as("select user_data, ssh_keys from instances where id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(data)
}

/// The row goes: the last statement of a deletion.
pub async fn forget(conn: &mut PgConnection, id: InstanceId) -> Result<()> {
    sqlx::query("delete from instances where id = $1").bind(id).execute(conn).await?;
    Ok(())
}
