//! New instances, with their items of work and their events: one statement.

use std::collections::HashMap;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Record, columns};
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::event::NewEvent;
use crate::domain::id::{FlavorId, GroupId, ImageId, InstanceId, ReservationId, TenantId, UserId};
use crate::domain::instance::{Size, Unplaced, Wanted};
use crate::domain::policy::Policy;
use crate::domain::text::{Labels, Name};
use crate::store::work::Asked;

/// What new instances have in common.
#[derive(Debug, Clone)]
pub struct Insert {
    pub tenant: TenantId,
    pub image: ImageId,
    pub flavor: FlavorId,
    pub flavor_name: String,
    pub vcpus: i32,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub traits: Vec<String>,
    pub forbidden_traits: Vec<String>,
    pub zone: Option<String>,
    pub policy: Option<Policy>,
    pub group: Option<GroupId>,
    pub reservation: Option<ReservationId>,
    pub ssh_keys: Vec<String>,
    pub wanted: Wanted,
    pub stop_grace_s: i64,
}

/// What is one's own.
#[derive(Debug, Clone)]
pub struct Own {
    pub id: InstanceId,
    pub name: Name,
    pub labels: Labels,
    pub user_data: Option<String>,
    pub expires_at: Option<Time>,
    pub created_by: UserId,
    pub request_id: String,
    pub asked: Asked,
    pub told: NewEvent,
}

impl Insert {
    /// What it needs a host for.
    pub fn unplaced(&self, own: &Own) -> Unplaced {
        let (vcpus, memory_mib, disk_gib) = (self.vcpus, self.memory_mib, self.disk_gib);
        Unplaced {
            id: own.id,
            flavor_name: self.flavor_name.clone(),
            traits: self.traits.clone(),
            forbidden_traits: self.forbidden_traits.clone(),
            zone: self.zone.clone(),
            policy: self.policy,
            group_id: self.group,
            reservation_id: self.reservation,
            labels: serde_json::to_string(&own.labels).unwrap_or_default(),
            expires_at: own.expires_at,
            ..Unplaced::of_size(self.tenant, Size { vcpus, memory_mib, disk_gib })
        }
    }
}

/// Writes the wishes, puts them on the work list, due now, and tells of them; gives them in their order. Nothing, and nothing is
/// written: the image is not there any more; it cannot be deleted or hidden before this transaction ends.
pub async fn insert(
    conn: &mut PgConnection,
    new: &Insert,
    each: &[Own],
    now: Time,
) -> Result<Vec<Record>> {
    fn all<'a, T>(each: &'a [Own], of: impl Fn(&'a Own) -> T) -> Vec<T> {
        each.iter().map(of).collect()
    }
    let made: Vec<Record> = sqlx::query_as(concat!(
        "with image as materialized (select i.id from images i where i.id = $1 and i.hidden_at is null for share),
              each as materialized (
                  select * from unnest($17::uuid[], $18::text[], $19::jsonb[], $20::text[], $21::timestamptz[], $22::uuid[],
                                       $23::text[], $24::text[], $25::text[], $26::uuid[], $27::text[], $28::uuid[], $29::text[],
                                       $30::text[], $31::text[], $32::jsonb[])
                      as e (id, name, labels, user_data, expires_at, created_by, request_id, asked, traceparent,
                            event, kind, actor_id, actor, told_request_id, outcome, detail)),
              made as (
                  insert into instances (id, tenant_id, name, labels, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib,
                                         traits, user_data, ssh_keys, created_by, request_id, created_at, wanted, wanted_at,
                                         stop_grace_s, forbidden_traits, zone, policy, group_id, reservation_id, expires_at)
                  select e.id, $2, e.name, e.labels, image.id, $3, $4, $5, $6, $7, $8, e.user_data, $9, e.created_by, e.request_id,
                         $10, $11, $10, $12, $13, $14, $15, $16, $33, e.expires_at
                  from each e, image returning *),
              item as (
                  insert into work (kind, item, due_at, touched, request_id, traceparent)
                  select 'instance', e.id, $10, 1, e.asked, e.traceparent from each e, image returning *),
              told as (
                  insert into events (id, at, tenant_id, kind, resource_kind, resource_id, resource_name,
                                      actor_id, actor, request_id, outcome, detail)
                  select e.event, $10, $2, e.kind, 'instance', e.id, e.name, e.actor_id, e.actor, e.told_request_id, e.outcome, e.detail
                  from each e, image) ",
        columns!(),
        // They have no incarnation yet.
        "from made i left join incarnations c on false left join hosts h on false join item w on w.item = i.id"
    ))
    .bind(new.image)
    .bind(new.tenant)
    .bind(new.flavor)
    .bind(&new.flavor_name)
    .bind(new.vcpus)
    .bind(new.memory_mib)
    .bind(new.disk_gib)
    .bind(&new.traits)
    .bind(&new.ssh_keys)
    .bind(now)
    .bind(new.wanted)
    .bind(new.stop_grace_s)
    .bind(&new.forbidden_traits)
    .bind(&new.zone)
    .bind(new.policy)
    .bind(new.group)
    .bind(all(each, |own| own.id.0))
    .bind(all(each, |own| own.name.as_str()))
    .bind(all(each, |own| Json(&own.labels)))
    .bind(all(each, |own| own.user_data.as_deref()))
    .bind(all(each, |own| own.expires_at))
    .bind(all(each, |own| own.created_by.0))
    .bind(all(each, |own| own.request_id.as_str()))
    .bind(all(each, |own| own.asked.request_id.as_deref()))
    .bind(all(each, |own| own.asked.traceparent.as_deref()))
    .bind(all(each, |_| Uuid::now_v7()))
    .bind(all(each, |own| own.told.kind))
    .bind(all(each, |own| own.told.actor.user.map(|user| user.0)))
    .bind(all(each, |own| own.told.actor.name.as_str()))
    .bind(all(each, |own| own.told.actor.request_id.as_deref()))
    .bind(all(each, |own| own.told.outcome.as_str()))
    .bind(all(each, |own| Json(&own.told.detail)))
    .bind(new.reservation)
    .fetch_all(conn)
    .await?;
    let mut made: HashMap<_, _> = made.into_iter().map(|record| (record.id, record)).collect();
    Ok(each.iter().filter_map(|own| made.remove(&own.id)).collect())
}
