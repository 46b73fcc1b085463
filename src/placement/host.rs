//! What placement knows of a host, and what it is asked for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::lifetime::{ExitClass, Stay};
use super::policy::Policy;
use super::resources::Resources;
use crate::domain::id::{HostId, TenantId};

/// Whether a host takes new instances, and if not, why.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    Ready,
    /// An operator keeps new instances away.
    Disabled,
    /// No complete answer of late.
    Unreachable,
    /// Registered, but its capacity was never read.
    NoFacts,
    /// On its way out of the cloud.
    Deleting,
}

impl HostState {
    /// After "the host".
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::Ready => "is ready",
            Self::Disabled => "is disabled",
            Self::Unreachable => "is unreachable",
            Self::NoFacts => "has not told its capacity yet",
            Self::Deleting => "is being deleted",
        }
    }

    /// What would bring it back, after "if the host"; none where nothing does.
    pub(super) fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Ready | Self::Deleting => None,
            Self::Disabled => Some("were enabled"),
            Self::Unreachable => Some("were reachable"),
            Self::NoFacts => Some("told its capacity"),
        }
    }
}

/// A host as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub id: HostId,
    /// For explanations to administrators.
    pub name: String,
    /// What may be taken in all: capacity after overcommit and less what the host keeps for itself.
    pub limit: Resources,
    /// What is taken. May exceed the limit where a host shrank; such a host takes nothing until it fits again.
    pub used: Resources,
    pub traits: BTreeSet<String>,
    pub zone: Option<String>,
    /// The tenants that alone may use it; none: it is open to all.
    pub dedicated: BTreeSet<TenantId>,
    pub state: HostState,
    /// For `lifetime_fit`; kept by [`Guests`](super::Guests).
    pub exit: ExitClass,
}

impl HostView {
    /// What is left, with 0 where more is taken than may be.
    pub fn free(&self) -> Resources {
        self.limit.saturating_sub(self.used)
    }
}

/// What is to be placed, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub need: Resources,
    /// Traits that the host must have.
    pub required: BTreeSet<String>,
    /// Traits that the host must not have.
    pub forbidden: BTreeSet<String>,
    /// None: any zone.
    pub zone: Option<String>,
    /// Hosts that must not be chosen: kept for others, or one that just refused a claim.
    pub exclude: BTreeSet<HostId>,
    /// Who asks; none: nobody for whom hosts are dedicated.
    pub tenant: Option<TenantId>,
    /// Only these hosts: where the rest of its group is.
    pub together: Option<BTreeSet<HostId>>,
    /// Hosts of its group, where it has to be, that could not have it beside those of the group even if nobody else were there.
    pub filled: BTreeSet<HostId>,
    /// None of these hosts: each has one of its group.
    pub apart: BTreeSet<HostId>,
    /// Only these zones.
    pub together_zones: Option<BTreeSet<String>>,
    /// None of these zones.
    pub apart_zones: BTreeSet<String>,
    pub policy: Policy,
    /// For `lifetime_fit`, which without it is best fit.
    pub stay: Option<Stay>,
}

impl Request {
    pub fn new(need: Resources, policy: Policy) -> Self {
        Self { need, policy, ..Self::default() }
    }

    /// In which turn hosts of an exit class are considered; those of a later turn only if none of an earlier one fits.
    pub(super) fn turn(&self, host: ExitClass) -> u8 {
        match self.stay {
            Some(stay) if self.policy == Policy::LifetimeFit => stay.turn(host),
            _ => 0,
        }
    }
}

/// What hosts of one class share beside their amounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Constraints {
    pub(super) state: HostState,
    pub(super) zone: Option<String>,
    pub(super) traits: BTreeSet<String>,
    pub(super) dedicated: BTreeSet<TenantId>,
}

impl Constraints {
    /// Whether a host like this may be considered at all, whatever its room. Every placement asks this of every set, and most
    /// ask for little: what is empty is passed over.
    pub(super) fn admit(&self, request: &Request) -> bool {
        self.state == HostState::Ready
            && self.zone_suits(request)
            && self.takes(request)
            && self.is_together(request)
            && !self.is_apart(request)
            && (request.required.is_empty() || request.required.is_subset(&self.traits))
            && (request.forbidden.is_empty() || request.forbidden.is_disjoint(&self.traits))
    }

    pub(super) fn zone_suits(&self, request: &Request) -> bool {
        request.zone.is_none() || request.zone == self.zone
    }

    /// Whether it is open to who asks.
    pub(super) fn takes(&self, request: &Request) -> bool {
        self.dedicated.is_empty()
            || request.tenant.is_some_and(|tenant| self.dedicated.contains(&tenant))
    }

    /// Whether its zone is one where the group is; a host without a zone is in none.
    pub(super) fn is_together(&self, request: &Request) -> bool {
        let zones = request.together_zones.as_ref();
        zones.is_none_or(|zones| self.zone.as_ref().is_some_and(|zone| zones.contains(zone)))
    }

    /// Whether its zone has one of the group.
    pub(super) fn is_apart(&self, request: &Request) -> bool {
        !request.apart_zones.is_empty()
            && self.zone.as_ref().is_some_and(|zone| request.apart_zones.contains(zone))
    }
}
