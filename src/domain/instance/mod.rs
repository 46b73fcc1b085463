//! Instances: the wish, what was seen, the next step between them, and the status that people read.

mod cloud_init;
mod placing;
mod status;
mod step;
mod wish;

pub use cloud_init::{CloudInit, CloudInitStatus};
pub use placing::{Guest, OnNoCapacity, Size, Unplaced, check_expiry};
pub use status::{Account, Status, status};
pub use step::{Domain, Parts, Situation, Step, next_step};
pub use wish::{Action, FirstWish, Wanted, Wish};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::flavor::Trait;
use super::id::{
    FlavorId, GroupId, HostId, ImageId, InstanceId, NetworkId, PortId, ReservationId, TenantId,
    UserId,
};
use super::policy::Policy;
use super::queue::QueuePlace;
use super::text::{Labels, Name};

/// What an instance's domain was last seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Power {
    /// There is no domain.
    None,
    /// The domain is on its way out.
    Off,
    Running,
    Paused,
}

/// The logical VM that a tenant asked for; survives its incarnations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    pub id: InstanceId,
    pub tenant_id: TenantId,
    /// Names need not be unique.
    pub name: Name,
    #[schema(value_type = std::collections::HashMap<String, String>, example = json!({"pipeline": "4711"}))]
    pub labels: Labels,
    /// Computed from the wish, what was seen, and the last fault.
    pub status: Status,
    /// Why it is not (yet) what was wished for; null where it is.
    #[schema(max_length = 4000, example = "the image is on its way to the host: 40 of 120 MiB")]
    pub reason: Option<String>,
    /// The wish.
    pub wanted: Wanted,
    /// What the domain was last seen to be.
    pub power: Power,
    /// When it was last seen to change.
    pub observed_at: Option<DateTime<Utc>>,
    /// Counts changes of the wish; also the ETag.
    #[schema(minimum = 1, example = 3)]
    pub revision: i64,
    /// The revision that the world has come to match; equal to `revision` where nothing is left to do.
    #[schema(minimum = 0, example = 3)]
    pub observed_revision: i64,
    pub image_id: ImageId,
    pub flavor: FlavorCopy,
    /// Its interfaces, in order.
    #[schema(max_items = 16)]
    pub interfaces: Vec<Interface>,
    /// Its place in the queue for capacity; null where it does not wait for any.
    #[serde(default)]
    pub queue: Option<QueuePlace>,
    /// How its host is chosen; null: as the setting `placement_policy` has it.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// The zone that its host must be in; null: any.
    #[serde(default)]
    #[schema(max_length = 63, example = "default")]
    pub zone: Option<String>,
    /// What its host must offer: its flavor's traits and its own.
    #[serde(default)]
    #[schema(value_type = Vec<Trait>, max_items = 64, example = json!(["ssd"]))]
    pub required_traits: Vec<String>,
    /// What its host must not offer.
    #[serde(default)]
    #[schema(value_type = Vec<Trait>, max_items = 32, example = json!([]))]
    pub forbidden_traits: Vec<String>,
    /// The group whose rule its placement follows.
    #[serde(default)]
    pub group_id: Option<GroupId>,
    /// The reservation whose slots it may take; null, too, after that ended.
    #[serde(default)]
    pub reservation_id: Option<ReservationId>,
    /// When it is deleted by itself; null: never.
    #[serde(default)]
    #[schema(example = "2030-01-01T00:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether the guest agent's channel is connected.
    pub agent: bool,
    /// How cloud-init ended in its present power-on, as the guest agent tells; null: not seen to have finished.
    pub cloud_init: Option<CloudInit>,
    /// When its present power-on began.
    pub started_at: Option<DateTime<Utc>>,
    /// Power-ons wished for so far: a start or a reboot asks for one more.
    #[schema(minimum = 1, example = 1)]
    pub boot: i64,
    /// What went wrong last, also after it went well again.
    #[schema(max_length = 4000)]
    pub last_error: Option<String>,
    pub last_error_at: Option<DateTime<Utc>>,
    /// Failed attempts in a row.
    #[schema(minimum = 0, example = 0)]
    pub attempts: i64,
    /// When the next attempt is due; null where nothing is left to do or only a signal can help.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Since when it has been stalled: past its failure budget or deadline, and still tried again, slowly.
    pub stalled_since: Option<DateTime<Utc>>,
    /// The host that it is placed on; shown to admins only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub host_id: Option<HostId>,
    pub created_at: DateTime<Utc>,
    pub created_by: Option<UserId>,
}

/// The flavor as it was when the instance was made: later changes of the flavor do not reach it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlavorCopy {
    pub id: FlavorId,
    #[schema(max_length = 63, example = "nano")]
    pub name: String,
    #[schema(minimum = 1, maximum = 512, example = 1)]
    pub vcpus: i32,
    #[schema(minimum = 64, maximum = 16777216, example = 192)]
    pub memory_mib: i64,
    #[schema(minimum = 1, maximum = 65536, example = 1)]
    pub disk_gib: i64,
}

/// An interface of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    pub port_id: PortId,
    pub network_id: NetworkId,
    #[schema(max_length = 17, example = "52:54:00:1a:2b:3c")]
    pub mac: String,
    #[schema(max_length = 45, example = "10.64.3.2")]
    pub address: String,
    /// Whether the guest was seen to hold the address in its present power-on.
    pub seen: bool,
}

/// What a new instance is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstance {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; need not be unique. Becomes the hostname, made a DNS label.
    #[schema(min_length = 1, max_length = 63, example = "ci-runner-1")]
    pub name: String,
    /// Id or name of an image that is ready.
    #[schema(min_length = 1, max_length = 63, example = "pileus-guest")]
    pub image: String,
    /// Id or name of a flavor.
    #[schema(min_length = 1, max_length = 63, example = "nano")]
    pub flavor: String,
    /// Its interfaces, in order. Left out: one on the tenant's only network, or none where there is no network.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub networks: Option<Vec<NewInterface>>,
    /// Ids or names of keypairs for the guest's first user.
    #[serde(default)]
    #[schema(max_items = 32, example = json!(["laptop"]))]
    pub keypairs: Vec<String>,
    /// Given to the guest as it is, as NoCloud user-data: up to 65536 bytes, no NUL.
    #[serde(default)]
    #[schema(max_length = 65536, example = "#!/bin/sh\necho hello\n")]
    pub user_data: Option<String>,
    /// Up to 32 pairs.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>, example = json!({"pipeline": "4711"}))]
    pub labels: Labels,
    /// `running` (the default) or `stopped`.
    #[serde(default)]
    pub wanted: Option<FirstWish>,
    /// When it is deleted by itself, whatever it does then; within ten years. Null: never. Placement by `lifetime_fit` goes by it.
    #[serde(default)]
    #[schema(example = "2030-01-01T00:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// How its host is chosen; null: as its flavor has it, else as the setting `placement_policy` does.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Only hosts of this zone.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$", example = json!(null))]
    pub zone: Option<String>,
    /// What its host must offer beside what its flavor asks for: up to 32.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!([]))]
    pub required_traits: Vec<String>,
    /// What its host must not offer: up to 32.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!([]))]
    pub forbidden_traits: Vec<String>,
    /// Id or name of a group of the tenant.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = json!(null))]
    pub group: Option<String>,
    /// Id or name of a reservation of the tenant: it takes one of its slots, and nothing else while that lasts.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = json!(null))]
    pub reservation: Option<String>,
    /// Where no host has room now: `queue` (the default) waits for some, `fail` answers 409 and makes nothing.
    #[serde(default)]
    pub on_no_capacity: OnNoCapacity,
}

/// An interface to be made: on a network, or with a port that was made before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInterface {
    /// Id or name of a network; a port is made on it.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = "default")]
    pub network: Option<String>,
    /// A port that no instance has; instead of `network`.
    #[serde(default)]
    pub port_id: Option<Uuid>,
    /// The address to take on `network`; a free one if left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 45, example = "10.64.3.9")]
    pub address: Option<std::net::IpAddr>,
}

/// What may be changed of an instance without touching its guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceChange {
    /// A new name; the hostname stays.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = "ci-runner-2")]
    pub name: Option<String>,
    /// When it is to be deleted by itself; within ten years.
    #[serde(default)]
    #[schema(example = "2030-01-01T00:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The new labels, all of them.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>, example = json!({"pipeline": "4712"}))]
    pub labels: Option<Labels>,
}

/// The hostname that the guest is given: the name as a DNS label, or one made of the id's random end.
pub fn hostname(name: &Name, id: InstanceId) -> String {
    let digits = id.0.simple().to_string();
    name.hostname(&format!("vm-{}", &digits[20..]))
}
