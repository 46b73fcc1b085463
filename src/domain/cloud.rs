//! The cloud itself: whether anything may be removed from it, what is on its hosts that nobody owns, and how its record and
//! its hosts agree.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::id::HostId;

/// The cloud, as its admins see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Cloud {
    /// In every stamp on the hosts.
    pub id: Uuid,
    /// Since when nothing is removed from the hosts: the world was found newer than the database. Null: all goes on.
    pub held_since: Option<DateTime<Utc>>,
    /// What was found.
    #[schema(max_length = 2000, example = "the database was restored, copied or upgraded")]
    pub held_reason: Option<String>,
    /// Hosts that are not up.
    #[schema(minimum = 0, example = 0)]
    pub hosts_down: i64,
    /// Items of work that have stalled.
    #[schema(minimum = 0, example = 0)]
    pub stalled: i64,
    /// Things on hosts that bear our stamp and have no owner.
    #[schema(minimum = 0, example = 0)]
    pub orphans: i64,
}

/// What becomes of a thing that nobody owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Fate {
    /// It is not ours: it is never touched.
    Foreign,
    /// It is ours, and is removed once it was without an owner for long enough.
    Swept,
    /// It is ours, and stays while the cloud is held.
    Held,
}

/// Something on a host that no row of the database owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Drift {
    /// Of this entry; the same as long as the thing is there.
    pub id: Uuid,
    pub host_id: HostId,
    /// The name of that host.
    #[schema(max_length = 63, example = "host-1")]
    pub host_name: String,
    /// `domain`, `volume`, `network` or `console`.
    #[schema(max_length = 20, example = "volume")]
    pub kind: String,
    /// What it is called on the host; of a domain its UUID.
    #[schema(max_length = 1000, example = "disk-0197a3f0-4c5e-8d3a-9d2f-000000000017.qcow2")]
    pub name: String,
    pub fate: Fate,
    /// When a sweep first found it without an owner.
    pub first_seen_at: DateTime<Utc>,
    /// When the last sweep found it.
    pub last_seen_at: DateTime<Utc>,
    /// How many sweeps found it.
    #[schema(minimum = 1, example = 3)]
    pub sightings: i64,
    /// How often its removal failed.
    #[schema(minimum = 0, example = 0)]
    pub attempts: i64,
    /// When it failed last.
    pub tried_at: Option<DateTime<Utc>>,
    /// Why it failed.
    #[schema(max_length = 4000, example = "delete volume disk-1.qcow2: Operation not permitted")]
    pub last_error: Option<String>,
}

/// What `POST /v1/cloud/actions/rotate-keys` may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Also refuse every token that the present keys signed: everybody logs in again. For keys that have leaked.
    #[serde(default)]
    #[schema(example = false)]
    pub revoke: bool,
}

/// A difference between the database and a host, or within the database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was compared.
    #[schema(max_length = 40, example = "disk")]
    pub check: String,
    /// The host that it is about.
    pub host_id: Option<HostId>,
    /// The thing that it is about.
    #[schema(max_length = 1000, example = "0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e")]
    pub thing: String,
    /// What does not agree.
    #[schema(max_length = 2000, example = "its disk is not on the host")]
    pub detail: String,
}

/// What a check of everything found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fsck {
    /// Whether nothing was found and every host was asked.
    pub clean: bool,
    /// At most 1,000 of them.
    #[schema(max_items = 1000)]
    pub findings: Vec<Finding>,
    /// There were more.
    pub cut: bool,
    /// How many incarnations were compared with their hosts.
    #[schema(minimum = 0, example = 3)]
    pub incarnations: i64,
    /// How many of them were left out, since they are being worked on.
    #[schema(minimum = 0, example = 0)]
    pub in_transit: i64,
    /// How many hosts were asked.
    #[schema(minimum = 0, example = 1)]
    pub hosts: i64,
    /// Hosts that did not answer, with what they said.
    #[schema(max_items = 1000)]
    pub silent: Vec<Finding>,
}
