//! Placement's account of a request, in the words that people and programs get.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::host::HostState;
use super::policy::Policy;
use super::resources::Resources;
use crate::domain::group::GroupScope;
use crate::domain::host::Zone;
use crate::domain::id::HostId;

/// Placement's account of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// One sentence in plain language.
    #[schema(
        example = "no host has room: need 64 vCPU, 2048 MiB, 10 GiB; the closest of 3 hosts, node-2, lacks 40 vCPU",
        max_length = 1000
    )]
    pub summary: String,
    pub policy: Policy,
    pub need: Resources,
    /// The host that is chosen now; absent if none fits.
    pub chosen: Option<Chosen>,
    /// How many hosts were considered.
    #[schema(example = 3)]
    pub hosts: u64,
    /// How many of them fit now.
    #[schema(example = 0)]
    pub fitting: u64,
    /// How many could take the request if nothing ran on them: where 0, waiting does not help.
    #[schema(example = 1)]
    pub fitting_when_empty: u64,
    /// The most that any admissible host has free, each resource by itself.
    pub most_free: Resources,
    /// Hosts that are alike, the most suitable first; at most 8.
    #[schema(max_items = 8)]
    pub classes: Vec<HostClass>,
    /// How many further classes are not listed.
    #[schema(example = 0)]
    pub classes_left_out: u64,
    /// Single changes each of which would let the request fit, the smallest first; at most 8.
    #[schema(max_items = 8)]
    pub would_fit_if: Vec<WouldFit>,
}

/// The chosen host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Chosen {
    /// Shown to administrators only.
    pub host: Option<NamedHost>,
    /// The policy's score, as a share of the host's limit; absent under round robin.
    #[schema(minimum = 0, maximum = 3, example = 0.25)]
    pub score: Option<f64>,
    /// What the host has left with the request on it.
    pub free_after: Resources,
}

/// A host by id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedHost {
    pub id: HostId,
    #[schema(max_length = 64, example = "node-2")]
    pub name: String,
}

/// Hosts that placement cannot tell apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostClass {
    /// How many there are.
    #[schema(example = 2)]
    pub hosts: u64,
    /// The first of them by id, at most 3; empty for who is not an administrator.
    #[schema(max_items = 3)]
    pub sample: Vec<NamedHost>,
    pub state: HostState,
    /// Where they are.
    #[schema(max_length = 64, example = "default")]
    pub zone: Option<String>,
    /// What may be taken of each in all.
    pub limit: Resources,
    /// What is left of each.
    pub free: Resources,
    /// The policy's score if the request fits.
    #[schema(minimum = 0, maximum = 3, example = 0.25)]
    pub score: Option<f64>,
    /// Every constraint that refuses; empty if the request fits.
    #[schema(max_items = 16)]
    pub refused_by: Vec<Refusal>,
}

/// A constraint that a host does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "constraint", rename_all = "snake_case")]
pub enum Refusal {
    /// The host takes nothing new.
    State {
        /// The state that it is in.
        have: HostState,
    },
    /// It is in another zone.
    Zone {
        /// The zone that the request names.
        #[schema(max_length = 64, example = "east")]
        need: String,
        /// The host's zone.
        #[schema(max_length = 64, example = "west")]
        have: Option<String>,
    },
    /// Traits that the request requires and the host has not.
    RequiredTraits {
        /// Those that it has not.
        missing: Vec<String>,
    },
    /// Traits that the request forbids and the host has.
    ForbiddenTraits {
        /// Those that it has.
        present: Vec<String>,
    },
    /// It is dedicated to other tenants.
    Dedicated,
    /// It, or its zone, has none of the group that is to be in one place.
    Affinity {
        /// What counts as a place.
        by: GroupScope,
    },
    /// It, or its zone, has one of the group whose members are to be apart.
    AntiAffinity {
        /// What counts as a place.
        by: GroupScope,
    },
    /// What it has is kept for an instance that has waited longer.
    Kept,
    /// More is taken of the host than its limit allows, so that it takes nothing more.
    OverLimit {
        /// What is taken.
        used: Resources,
        /// What may be taken.
        limit: Resources,
    },
    Vcpus(Shortage),
    MemoryMib(Shortage),
    DiskGib(Shortage),
}

/// An amount that is not there, in the unit of the constraint's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shortage {
    /// What the request needs.
    #[schema(example = 64)]
    pub need: u32,
    /// What the host has free.
    #[schema(example = 24)]
    pub have: u32,
    /// The difference.
    #[schema(example = 40)]
    pub lacks: u32,
}

/// One change that would let the request fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum WouldFit {
    /// The request were of this size: what the closest host has room for.
    SmallerNeed {
        /// The size that fits.
        need: Resources,
    },
    /// It were of this flavor: the largest that needs no more of anything and fits.
    OtherFlavor {
        /// The flavor's name.
        #[schema(max_length = 64, example = "nano")]
        name: String,
        /// Its size.
        need: Resources,
    },
    /// Its group were soft, so that it may break the rule.
    GroupSoft {
        /// How many hosts would then fit.
        #[schema(example = 1)]
        hosts: u64,
    },
    /// A host like this were added.
    HostAdded {
        /// What it must have at least, beside what it keeps for itself.
        size: Resources,
        /// Where it must be; null: anywhere.
        #[schema(max_length = 64, example = "east")]
        zone: Option<String>,
        /// Where it must not be: each of these zones, at most 8 of which are named, has one of its group.
        #[schema(value_type = Vec<Zone>, max_items = 8, example = json!([]))]
        not_in_zones: Vec<String>,
        /// What it must offer; at most 8 are named.
        #[schema(max_items = 8, example = json!(["ssd"]))]
        traits: Vec<String>,
    },
    /// It named this reservation of its tenant, of which a slot is free.
    FromReservation {
        /// The reservation's name.
        #[schema(max_length = 64, example = "nightly")]
        name: String,
    },
    /// An admin raised this quota of the tenant.
    QuotaRaised {
        /// Which one.
        #[schema(max_length = 64, example = "vcpus")]
        quota: String,
        /// To at least so much.
        #[schema(minimum = 0, example = 64)]
        to: i64,
    },
    /// This much more were free on the closest host.
    Freed {
        /// What is lacking.
        amount: Resources,
        /// Shown to administrators only.
        host: Option<NamedHost>,
    },
    /// A host with room were brought back from this state.
    HostReady {
        /// The state that it is in.
        state: HostState,
        /// How many such hosts there are.
        #[schema(example = 1)]
        hosts: u64,
        /// One of them; shown to administrators only.
        host: Option<NamedHost>,
    },
    /// The request allowed this zone, which has room; none is the zone of hosts without one.
    OtherZone {
        /// The zone.
        #[schema(max_length = 64, example = "east")]
        zone: Option<String>,
        /// How many of its hosts have room.
        #[schema(example = 1)]
        hosts: u64,
    },
    /// The request did not require these traits.
    NotRequired {
        /// The traits.
        #[schema(example = json!(["ssd"]))]
        traits: Vec<String>,
        /// How many hosts would then fit.
        #[schema(example = 1)]
        hosts: u64,
    },
    /// The request did not forbid these traits.
    NotForbidden {
        /// The traits.
        #[schema(example = json!(["ssd"]))]
        traits: Vec<String>,
        /// How many hosts would then fit.
        #[schema(example = 1)]
        hosts: u64,
    },
}
