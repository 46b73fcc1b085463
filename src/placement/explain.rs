//! Why a host was chosen or every host refused, and what would do: bounded in size, the same in every answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::host::{Constraints, HostState, Request};
use super::policy::{Policy, Share};
use super::resources::Resources;
use super::summary;
use crate::domain::id::HostId;

/// How many classes of hosts an explanation lists.
pub const MAX_CLASSES: usize = 8;
/// How many hosts of a class it names.
pub(super) const MAX_SAMPLE: usize = 3;
/// How many traits or changes it lists.
const MAX_LIST: usize = 8;
/// How many characters of a name, zone or trait it quotes.
const MAX_TEXT: usize = 64;

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
    /// The request names the host as one not to choose.
    Excluded,
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

/// Hosts that are alike, as the index lists them.
#[derive(Debug)]
pub(super) struct Class<'a> {
    pub(super) constraints: &'a Constraints,
    pub(super) limit: Resources,
    pub(super) used: Resources,
    pub(super) excluded: bool,
    pub(super) hosts: u64,
    /// The first by id, at most [`MAX_SAMPLE`].
    pub(super) sample: Vec<(HostId, &'a str)>,
}

impl Explanation {
    pub(super) fn of(
        request: &Request,
        chosen: Option<(HostId, &str, Resources, Resources)>,
        mut classes: Vec<Class<'_>>,
    ) -> Self {
        classes.sort_by_cached_key(|class| class.order(request));
        let count = |keep: &dyn Fn(&Class<'_>) -> bool| {
            classes.iter().filter(|class| keep(class)).map(|class| class.hosts).sum()
        };
        let admitted = || classes.iter().filter(|class| class.admitted(request));
        let mut explanation = Self {
            summary: String::new(),
            policy: request.policy,
            need: request.need,
            chosen: chosen.map(|(id, name, limit, free)| Chosen {
                host: Some(named((id, name))),
                score: request.policy.rank(limit, free, request.need).score(),
                free_after: free.saturating_sub(request.need),
            }),
            hosts: count(&|_| true),
            fitting: count(&|class| class.fits(request)),
            fitting_when_empty: count(&|class| {
                class.admitted(request) && request.need.fits_in(class.limit)
            }),
            most_free: admitted().fold(Resources::ZERO, |most, class| most.max(class.free())),
            classes: classes.iter().take(MAX_CLASSES).map(|class| class.account(request)).collect(),
            classes_left_out: classes.len().saturating_sub(MAX_CLASSES) as u64,
            would_fit_if: if chosen.is_some() { Vec::new() } else { remedies(request, &classes) },
        };
        explanation.summary = summary::of(&explanation);
        explanation
    }

    /// The form for those who may not know the hosts: counts, no ids and no names.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        if let Some(chosen) = &mut self.chosen {
            chosen.host = None;
        }
        for class in &mut self.classes {
            class.sample.clear();
        }
        for change in &mut self.would_fit_if {
            match change {
                WouldFit::Freed { host, .. } | WouldFit::HostReady { host, .. } => *host = None,
                WouldFit::SmallerNeed { .. }
                | WouldFit::OtherZone { .. }
                | WouldFit::NotRequired { .. }
                | WouldFit::NotForbidden { .. } => {}
            }
        }
        self.summary = summary::of(&self);
        self
    }
}

impl Class<'_> {
    fn free(&self) -> Resources {
        self.limit.saturating_sub(self.used)
    }

    fn has_room(&self, request: &Request) -> bool {
        self.used.checked_add(request.need).is_some_and(|used| used.fits_in(self.limit))
    }

    fn admitted(&self, request: &Request) -> bool {
        !self.excluded && self.constraints.admit(request)
    }

    fn fits(&self, request: &Request) -> bool {
        self.admitted(request) && self.has_room(request)
    }

    /// The largest share of a needed amount that is lacking.
    fn shortfall(&self, request: &Request) -> Share {
        let (need, free) = (request.need.parts(), self.free().parts());
        let shares = (0..3).map(|r| Share::new(need[r].saturating_sub(free[r]), need[r], 0));
        shares.max().unwrap_or(Share::new(0, 1, 0))
    }

    /// Fitting classes by the policy, then those that only lack room, the closest first, then the others.
    fn order(&self, request: &Request) -> impl Ord + use<> {
        let refusals = self.other_refusals(request).len();
        let rank =
            self.fits(request).then(|| request.policy.rank(self.limit, self.free(), request.need));
        let first = self.sample.first().map(|(id, _)| *id);
        (refusals, !self.has_room(request), rank, self.shortfall(request), first)
    }

    fn account(&self, request: &Request) -> HostClass {
        let mut refused_by = self.other_refusals(request);
        if !self.used.fits_in(self.limit) {
            refused_by.push(Refusal::OverLimit { used: self.used, limit: self.limit });
        }
        let (need, free) = (request.need.parts(), self.free().parts());
        let kinds = [Refusal::Vcpus, Refusal::MemoryMib, Refusal::DiskGib];
        for (r, kind) in kinds.into_iter().enumerate().filter(|(r, _)| need[*r] > free[*r]) {
            refused_by.push(kind(Shortage {
                need: need[r],
                have: free[r],
                lacks: need[r] - free[r],
            }));
        }
        let rank = request.policy.rank(self.limit, self.free(), request.need);
        HostClass {
            hosts: self.hosts,
            sample: self.sample.iter().copied().map(named).collect(),
            state: self.constraints.state,
            zone: self.constraints.zone.as_deref().map(cut),
            limit: self.limit,
            free: self.free(),
            score: if refused_by.is_empty() { rank.score() } else { None },
            refused_by,
        }
    }

    /// Every refusal that is not about amounts.
    fn other_refusals(&self, request: &Request) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let host = self.constraints;
        if host.state != HostState::Ready {
            refusals.push(Refusal::State { have: host.state });
        }
        if let Some(need) = request.zone.as_deref().filter(|_| !host.zone_suits(request)) {
            let have = host.zone.as_deref().map(cut);
            refusals.push(Refusal::Zone { need: cut(need), have });
        }
        let missing = list(request.required.difference(&host.traits));
        if !missing.is_empty() {
            refusals.push(Refusal::RequiredTraits { missing });
        }
        let present = list(request.forbidden.intersection(&host.traits));
        if !present.is_empty() {
            refusals.push(Refusal::ForbiddenTraits { present });
        }
        if self.excluded {
            refusals.push(Refusal::Excluded);
        }
        refusals
    }
}

/// Single changes that would do. The classes come in the order of [`Class::order`].
fn remedies(request: &Request, classes: &[Class<'_>]) -> Vec<WouldFit> {
    let mut changes = Vec::new();
    let closest = |room: &dyn Fn(&Class<'_>) -> bool| {
        classes.iter().find(|class| class.admitted(request) && room(class))
    };
    let sized = |class: &Class<'_>| {
        let (need, cut) = (request.need.parts(), request.need.min(class.free()).parts());
        class.used.fits_in(class.limit) && (0..3).all(|r| need[r] == 0 || cut[r] > 0)
    };
    if let Some(class) = closest(&sized) {
        changes.push(WouldFit::SmallerNeed { need: request.need.min(class.free()) });
    }
    if let Some(class) = closest(&|class| request.need.fits_in(class.limit)) {
        let wanted = class.used.checked_add(request.need).unwrap_or(class.limit);
        let amount = wanted.saturating_sub(class.limit);
        changes.push(WouldFit::Freed { amount, host: class.sample.first().copied().map(named) });
    }
    // Keyed by the single refusal in the way, so that equal changes are counted together.
    let mut others: BTreeMap<String, WouldFit> = BTreeMap::new();
    for class in classes.iter().filter(|class| class.has_room(request)) {
        let refusals = class.other_refusals(request);
        let [refusal] = refusals.as_slice() else { continue };
        let Some(change) = remedy(refusal, class) else { continue };
        let entry = others.entry(format!("{refusal:?}"));
        entry.and_modify(|known| known.count(class.hosts)).or_insert(change);
    }
    changes.extend(others.into_values());
    changes.truncate(MAX_LIST);
    changes
}

fn remedy(refusal: &Refusal, class: &Class<'_>) -> Option<WouldFit> {
    let hosts = class.hosts;
    match refusal {
        Refusal::State { have } => have.remedy().map(|_| WouldFit::HostReady {
            state: *have,
            hosts,
            host: class.sample.first().copied().map(named),
        }),
        Refusal::Zone { have, .. } => Some(WouldFit::OtherZone { zone: have.clone(), hosts }),
        Refusal::RequiredTraits { missing } => {
            Some(WouldFit::NotRequired { traits: missing.clone(), hosts })
        }
        Refusal::ForbiddenTraits { present } => {
            Some(WouldFit::NotForbidden { traits: present.clone(), hosts })
        }
        Refusal::Excluded
        | Refusal::OverLimit { .. }
        | Refusal::Vcpus(_)
        | Refusal::MemoryMib(_)
        | Refusal::DiskGib(_) => None,
    }
}

impl WouldFit {
    fn count(&mut self, more: u64) {
        match self {
            Self::HostReady { hosts, .. }
            | Self::OtherZone { hosts, .. }
            | Self::NotRequired { hosts, .. }
            | Self::NotForbidden { hosts, .. } => *hosts += more,
            Self::SmallerNeed { .. } | Self::Freed { .. } => {}
        }
    }
}

fn named((id, name): (HostId, &str)) -> NamedHost {
    NamedHost { id, name: cut(name) }
}

fn list<'a>(traits: impl Iterator<Item = &'a String>) -> Vec<String> {
    traits.take(MAX_LIST).map(|text| cut(text)).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
