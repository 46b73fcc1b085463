//! A new instance, with its item of work and its event: one statement.

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

/// A row to be.
#[derive(Debug, Clone)]
pub struct Insert {
    pub id: InstanceId,
    pub tenant: TenantId,
    pub name: Name,
    pub labels: Labels,
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
    pub expires_at: Option<Time>,
    pub user_data: Option<String>,
    pub ssh_keys: Vec<String>,
    pub wanted: Wanted,
    pub stop_grace_s: i64,
    pub created_by: UserId,
    pub request_id: String,
}

impl Insert {
    /// What it needs a host for.
    pub fn unplaced(&self) -> Unplaced {
        let (vcpus, memory_mib, disk_gib) = (self.vcpus, self.memory_mib, self.disk_gib);
        Unplaced {
            id: self.id,
            flavor_name: self.flavor_name.clone(),
            traits: self.traits.clone(),
            forbidden_traits: self.forbidden_traits.clone(),
            zone: self.zone.clone(),
            policy: self.policy,
            group_id: self.group,
            reservation_id: self.reservation,
            labels: serde_json::to_string(&self.labels).unwrap_or_default(),
            expires_at: self.expires_at,
            ..Unplaced::of_size(self.tenant, Size { vcpus, memory_mib, disk_gib })
        }
    }
}

/// Writes the wish, puts it on the work list, due now, and tells of it. `None`, and nothing is written: the image is not there any
/// more; it cannot be deleted or hidden before this transaction ends.
pub async fn insert(
    conn: &mut PgConnection,
    new: &Insert,
    asked: &Asked,
    told: &NewEvent,
    now: Time,
) -> Result<Option<Record>> {
    let made = sqlx::query_as(concat!(
        "with image as materialized (select i.id from images i where i.id = $5 and i.hidden_at is null for share),
              made as (
                  insert into instances (id, tenant_id, name, labels, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib,
                                         traits, user_data, ssh_keys, created_by, request_id, created_at, wanted, wanted_at,
                                         stop_grace_s, forbidden_traits, zone, policy, group_id, reservation_id, expires_at)
                  select $1, $2, $3, $4, image.id, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $16, $18, $19, $20, $21, $22, $23, $24
                  from image returning *),
              item as (
                  insert into work (kind, item, due_at, touched, request_id, traceparent)
                  select 'instance', id, $16, 1, $25, $26 from made returning *),
              told as (
                  insert into events (id, at, tenant_id, kind, resource_kind, resource_id, resource_name,
                                      actor_id, actor, request_id, outcome, detail)
                  select $27, $16, tenant_id, $28, 'instance', id, name, $29, $30, $31, $32, $33 from made) ",
        columns!(),
        // It has no incarnation yet.
        "from made i left join incarnations c on false left join hosts h on false left join item w on true"
    ))
    .bind(new.id)
    .bind(new.tenant)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(new.image)
    .bind(new.flavor)
    .bind(&new.flavor_name)
    .bind(new.vcpus)
    .bind(new.memory_mib)
    .bind(new.disk_gib)
    .bind(&new.traits)
    .bind(&new.user_data)
    .bind(&new.ssh_keys)
    .bind(new.created_by)
    .bind(&new.request_id)
    .bind(now)
    .bind(new.wanted)
    .bind(new.stop_grace_s)
    .bind(&new.forbidden_traits)
    .bind(&new.zone)
    .bind(new.policy)
    .bind(new.group)
    .bind(new.reservation)
    .bind(new.expires_at)
    .bind(&asked.request_id)
    .bind(&asked.traceparent)
    .bind(Uuid::now_v7())
    .bind(told.kind)
    .bind(told.actor.user)
    .bind(&told.actor.name)
    .bind(&told.actor.request_id)
    .bind(told.outcome)
    .bind(&told.detail)
    .fetch_optional(conn)
    .await?;
    Ok(made)
}
