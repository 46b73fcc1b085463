//! What is not where it was wished to be: due work that fails or waits, and hosts that do not answer.

use chrono::TimeDelta;
use sqlx::PgConnection;
use uuid::Uuid;

use super::work::Kind;
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::page::Page;
use crate::domain::stalled::{Stalled, StalledFilter, StalledKind};

impl From<StalledKind> for Kind {
    fn from(kind: StalledKind) -> Self {
        match kind {
            StalledKind::Instance => Self::Instance,
            StalledKind::Host => Self::Host,
            StalledKind::HostImage => Self::HostImage,
            StalledKind::Network => Self::Network,
            StalledKind::Image => Self::Image,
            StalledKind::Fence => Self::Fence,
        }
    }
}

/// Every item of the work list that is due some time, and every host that is not up; `$1` is the time. What rests is due at no
/// time, so that a quiet cloud's answer costs a look at an index.
macro_rules! items {
    ($rest:literal) => {
        concat!(
            "select * from (
                 select w.kind, w.item as id,
                        coalesce(i.tenant_id, n.tenant_id, m.tenant_id, f.tenant_id) as tenant_id,
                        coalesce(i.name, h.name, n.name, m.name, p.sha256) as name,
                        coalesce(c.host_id, h.id, f.host_id, p.host_id) as host_id,
                        case when w.stalled_at is not null then 'stalled' when w.attempts > 0 then 'failing' else 'waiting' end as state,
                        case when w.attempts > 0 then coalesce(w.last_error, 'it failed')
                             when w.lease_until > $1 then coalesce(w.reason, 'it is being worked on')
                             else coalesce(w.reason, 'it waits for its turn') end as reason,
                        coalesce(w.failing_since, i.wanted_at, h.removed_at, n.deleted_at, m.hidden_at, f.fenced_at, p.used_at, least(w.due_at, $1)) as since,
                        w.attempts, w.last_error, w.last_error_at, nullif(w.due_at, 'infinity') as next_attempt_at,
                        w.reason is not null and w.due_at < 'infinity' as waits
                 from work w
                 left join instances i on w.kind = 'instance' and i.id = w.item
                 left join incarnations c on c.instance_id = i.id and c.fenced_at is null
                 left join hosts h on w.kind = 'host' and h.id = w.item
                 left join networks n on w.kind = 'network' and n.id = w.item
                 left join images m on w.kind = 'image' and m.id = w.item
                 left join incarnations f on w.kind = 'fence' and f.id = w.item
                 left join host_images p on w.kind = 'host_image' and p.id = w.item
                 where w.due_at < 'infinity' and (h.id is null or h.health = 'up')
                 union all
                 select 'host', h.id, null, h.name, h.id, 'down', h.health_reason, h.health_since,
                        coalesce(w.attempts, 0), w.last_error, w.last_error_at, nullif(w.due_at, 'infinity'), true
                 from hosts h left join work w on w.kind = 'host' and w.item = h.id
                 where h.health <> 'up') item
             where ",
            $rest
        )
    };
}

pub async fn list(
    conn: &mut PgConnection,
    page: &Page,
    filter: &StalledFilter,
    now: Time,
) -> Result<Vec<Stalled>> {
    let rows = sqlx::query_as(items!(
        "id > $2 and ($3::text is null or kind = $3) and ($4::text is null or state = $4)
           and (state <> 'waiting' or (waits and since <= $5) or next_attempt_at <= $5)
         order by id limit $6"
    ))
    .bind(now)
    .bind(page.after)
    .bind(filter.kind)
    .bind(filter.state)
    .bind(now - TimeDelta::seconds(filter.waiting_s))
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The item, however it stands; `None`: it rests, or is none.
pub async fn get(
    conn: &mut PgConnection,
    kind: StalledKind,
    id: Uuid,
    now: Time,
) -> Result<Option<Stalled>> {
    let row = sqlx::query_as(items!("id = $2 and kind = $3"))
        .bind(now)
        .bind(id)
        .bind(kind)
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Whether there is such a thing, at rest or not.
pub async fn is_there(conn: &mut PgConnection, kind: StalledKind, id: Uuid) -> Result<bool> {
    let sql = match kind {
        StalledKind::Instance => "select exists (select from instances where id = $1)",
        StalledKind::Host => "select exists (select from hosts where id = $1)",
        StalledKind::HostImage => "select exists (select from host_images where id = $1)",
        StalledKind::Network => "select exists (select from networks where id = $1)",
        StalledKind::Image => "select exists (select from images where id = $1)",
        StalledKind::Fence => {
            "select exists (select from incarnations where id = $1 and fenced_at is not null)"
        }
    };
    Ok(sqlx::query_scalar(sql).bind(id).fetch_one(conn).await?)
}
