//! Why a host was chosen or every host refused, and what would do: bounded in size, the same in every answer.

use std::collections::{BTreeMap, BTreeSet};

use super::account::{Chosen, Explanation, HostClass, NamedHost, Refusal, Shortage, WouldFit};
use super::host::{Constraints, HostState, Request};
use super::lifetime::ExitClass;
use super::policy::Share;
use super::resources::Resources;
use super::summary;
use crate::domain::group::GroupScope;
use crate::domain::id::HostId;

/// How many classes of hosts an explanation lists.
pub const MAX_CLASSES: usize = 8;
/// How many hosts of a class it names.
pub(super) const MAX_SAMPLE: usize = 3;
/// How many traits or changes it lists.
const MAX_LIST: usize = 8;
/// How many characters of a name, zone or trait it quotes.
const MAX_TEXT: usize = 64;

/// Why a request will not have a host that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outside {
    Kept,
    /// It has one of the group, and is not to have two.
    Apart,
    /// It has none of the group, which is to be in one place.
    NotTogether,
}

/// A flavor that a request might ask for instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlavorSize {
    pub name: String,
    pub need: Resources,
    pub traits: BTreeSet<String>,
}

impl FlavorSize {
    /// That it were of this flavor.
    pub fn instead(&self) -> WouldFit {
        WouldFit::OtherFlavor { name: cut(&self.name), need: self.need }
    }
}

/// Hosts that are alike, as the index lists them.
#[derive(Debug)]
pub(super) struct Class<'a> {
    pub(super) constraints: &'a Constraints,
    pub(super) limit: Resources,
    pub(super) used: Resources,
    pub(super) exit: ExitClass,
    /// Why the request will not have these very hosts.
    pub(super) outside: Option<Outside>,
    pub(super) hosts: u64,
    /// The first by id, at most [`MAX_SAMPLE`].
    pub(super) sample: Vec<(HostId, &'a str)>,
}

impl Explanation {
    pub(super) fn of(
        request: &Request,
        chosen: Option<(HostId, &str, Resources, Resources)>,
        mut classes: Vec<Class<'_>>,
        flavor: Option<&FlavorSize>,
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
            fitting_when_empty: count(&|class| class.could_take(request)),
            most_free: admitted().fold(Resources::ZERO, |most, class| most.max(class.free())),
            classes: classes.iter().take(MAX_CLASSES).map(|class| class.account(request)).collect(),
            classes_left_out: classes.len().saturating_sub(MAX_CLASSES) as u64,
            would_fit_if: match (chosen, flavor) {
                (Some(_), None) => Vec::new(),
                (Some(_), Some(flavor)) => vec![flavor.instead()],
                (None, _) => remedies(request, &classes, flavor),
            },
        };
        explanation.summarise();
        explanation
    }

    /// Adds a change that is smaller than those that are there.
    pub fn offer(&mut self, change: WouldFit) {
        self.would_fit_if.truncate(MAX_LIST - 1);
        self.would_fit_if.insert(0, change);
        self.summarise();
    }

    /// Leaves the changes that would do.
    pub fn retain_changes(&mut self, keep: impl Fn(&WouldFit) -> bool) {
        self.would_fit_if.retain(keep);
        self.summarise();
    }

    /// Says it in one sentence.
    fn summarise(&mut self) {
        self.summary = summary::of(self);
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
                | WouldFit::OtherFlavor { .. }
                | WouldFit::GroupSoft { .. }
                | WouldFit::HostAdded { .. }
                | WouldFit::FromReservation { .. }
                | WouldFit::QuotaRaised { .. }
                | WouldFit::OtherZone { .. }
                | WouldFit::NotRequired { .. }
                | WouldFit::NotForbidden { .. } => {}
            }
        }
        self.summarise();
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
        self.outside.is_none() && self.constraints.admit(request)
    }

    /// Whether it could take the request if nothing ran there.
    pub(super) fn could_take(&self, request: &Request) -> bool {
        self.admitted(request) && request.need.fits_in(self.limit)
    }

    fn fits(&self, request: &Request) -> bool {
        self.admitted(request) && self.has_room(request)
    }

    /// What would have to come free of each; more than is needed where it carries more than its limit.
    fn lacks(&self, request: &Request) -> [u32; 3] {
        let (need, used, limit) = (request.need.parts(), self.used.parts(), self.limit.parts());
        std::array::from_fn(|r| used[r].saturating_add(need[r]).saturating_sub(limit[r]))
    }

    /// The largest share of a needed amount that is lacking.
    pub(super) fn shortfall(&self, request: &Request) -> Share {
        let (need, lacks) = (request.need.parts(), self.lacks(request));
        let shares = (0..3).map(|r| Share::new(lacks[r], need[r], 0));
        shares.max().unwrap_or(Share::new(0, 1, 0))
    }

    /// Fitting classes by the policy, then those that only lack room, the closest first, then the others.
    fn order(&self, request: &Request) -> impl Ord + use<> {
        let refusals = self.other_refusals(request).len();
        let rank = self.fits(request).then(|| {
            let rank = request.policy.rank(self.limit, self.free(), request.need);
            (request.turn(self.exit), rank)
        });
        let first = self.sample.first().map(|(id, _)| *id);
        (refusals, !self.has_room(request), rank, self.shortfall(request), first)
    }

    fn account(&self, request: &Request) -> HostClass {
        let mut refused_by = self.other_refusals(request);
        if !self.used.fits_in(self.limit) {
            refused_by.push(Refusal::OverLimit { used: self.used, limit: self.limit });
        }
        let (need, free) = (request.need.parts(), self.free().parts());
        let lacks = self.lacks(request);
        let kinds = [Refusal::Vcpus, Refusal::MemoryMib, Refusal::DiskGib];
        for (r, kind) in kinds.into_iter().enumerate().filter(|(r, _)| need[*r] > free[*r]) {
            refused_by.push(kind(Shortage { need: need[r], have: free[r], lacks: lacks[r] }));
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
        if !host.takes(request) {
            refusals.push(Refusal::Dedicated);
        }
        let by = GroupScope::Zone;
        if !host.is_together(request) {
            refusals.push(Refusal::Affinity { by });
        }
        if host.is_apart(request) {
            refusals.push(Refusal::AntiAffinity { by });
        }
        let by = GroupScope::Host;
        match self.outside {
            Some(Outside::Kept) => refusals.push(Refusal::Kept),
            Some(Outside::Apart) => refusals.push(Refusal::AntiAffinity { by }),
            Some(Outside::NotTogether) => refusals.push(Refusal::Affinity { by }),
            None => {}
        }
        refusals
    }
}

/// Less than this of anything nobody asks for.
const LEAST: Resources = Resources::new(1, 64, 1);

/// Single changes that would do. The classes come in the order of [`Class::order`].
fn remedies(
    request: &Request,
    classes: &[Class<'_>],
    flavor: Option<&FlavorSize>,
) -> Vec<WouldFit> {
    let mut changes = Vec::new();
    let closest = |room: &dyn Fn(&Class<'_>) -> bool| {
        classes.iter().find(|class| class.admitted(request) && room(class))
    };
    let sized = |class: &Class<'_>| {
        let (need, cut) = (request.need.parts(), request.need.min(class.free()).parts());
        class.used.fits_in(class.limit) && (0..3).all(|r| cut[r] >= LEAST.parts()[r].min(need[r]))
    };
    if let Some(class) = closest(&sized) {
        changes.push(WouldFit::SmallerNeed { need: request.need.min(class.free()) });
    }
    changes.extend(flavor.map(FlavorSize::instead));
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
    // Where waiting does not help and nothing smaller does.
    // For a group that is to stay together, a host more is not where it is.
    let together = request.together.is_some() || request.together_zones.is_some();
    if !together && !classes.iter().any(|class| class.could_take(request)) {
        changes.truncate(MAX_LIST - 1);
        changes.push(WouldFit::HostAdded {
            size: request.need,
            zone: request.zone.as_deref().map(cut),
            not_in_zones: list(request.apart_zones.iter()),
            traits: list(request.required.iter()),
        });
    }
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
        Refusal::Affinity { .. } | Refusal::AntiAffinity { .. } => {
            Some(WouldFit::GroupSoft { hosts })
        }
        Refusal::Dedicated
        | Refusal::Kept
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
            Self::GroupSoft { hosts } => *hosts += more,
            Self::SmallerNeed { .. }
            | Self::OtherFlavor { .. }
            | Self::HostAdded { .. }
            | Self::FromReservation { .. }
            | Self::Freed { .. }
            | Self::QuotaRaised { .. } => {}
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
