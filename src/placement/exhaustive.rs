//! A million random decisions of the index against an exhaustive search over plain structs.

#![expect(clippy::cast_possible_truncation, reason = "every amount is far below the limits")]
#![expect(clippy::cast_lossless, reason = "the formulas read better")]

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::{ExitClass, HostState, HostView, Index, Policy, Request, Resources, RoundRobin, Stay};
use crate::domain::id::{HostId, TenantId};

/// What the search knows of a host, and the bits of its constraints.
struct Host {
    id: HostId,
    limit: [u64; 3],
    used: [u64; 3],
    traits: u8,
    zone: u8,
    ready: bool,
    /// Bits of the tenants that alone may use it; 0: it is open.
    dedicated: u8,
    /// In how many seconds it is left; none: nobody knows.
    exit_s: Option<u64>,
}

const TRAITS: [&str; 3] = ["gpu", "nvme", "sev"];
const ZONES: [&str; 3] = ["a", "b", "c"];

fn traits(bits: u8) -> BTreeSet<String> {
    let named = TRAITS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    named.map(|(_, name)| (*name).to_owned()).collect()
}

impl Host {
    fn random(n: u64, random: &mut StdRng) -> Self {
        // Whole racks of one kind, some of another, and hosts that tell slightly different amounts of memory.
        let limit = match random.random_range(0..4u32) {
            0 => [64, 262_144, 2000],
            1 => [96, 393_216 + random.random_range(0..2000), 1900],
            2 => [16, 65_536, 0],
            _ => [128 * 4, 257_000 + random.random_range(0..900), random.random_range(0..4000)],
        };
        Self {
            id: HostId(Uuid::from_u64_pair(random.random_range(0..4), n)),
            limit,
            // Something that never leaves, in small amounts so that free amounts differ.
            used: limit.map(|limit| random.random_range(0..=limit / 3)),
            traits: random.random_range(0..8u8) & random.random_range(0..8u8),
            zone: random.random_range(0..3),
            ready: random.random_range(0..20u32) > 0,
            dedicated: if random.random_range(0..10u32) == 0 {
                random.random_range(1..8)
            } else {
                0
            },
            exit_s: (random.random_range(0..4u32) > 0).then(|| span(random)),
        }
    }

    fn view(&self) -> HostView {
        let sized = |all: [u64; 3]| Resources::from_parts(all.map(|one| one as u32));
        HostView {
            id: self.id,
            name: "node".into(),
            limit: sized(self.limit),
            used: sized(self.used),
            traits: traits(self.traits),
            zone: Some(ZONES[usize::from(self.zone)].into()),
            dedicated: (0..3).filter(|bit| self.dedicated >> bit & 1 == 1).map(tenant).collect(),
            state: if self.ready { HostState::Ready } else { HostState::Disabled },
            exit: self.exit_s.map_or(ExitClass::NONE, ExitClass::of),
        }
    }
}

fn tenant(bit: u8) -> TenantId {
    TenantId(Uuid::from_u128(bit.into()))
}

/// Seconds from none to months, as often short as long.
fn span(random: &mut StdRng) -> u64 {
    random.random_range(0..64u64) << random.random_range(0..20u32)
}

fn zones(bits: u8) -> BTreeSet<String> {
    (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| ZONES[bit].to_owned()).collect()
}

/// Up to so many hosts.
fn some(fleet: &[Host], most: usize, random: &mut StdRng) -> BTreeSet<HostId> {
    let count = random.random_range(0..=most);
    (0..count).map(|_| fleet[random.random_range(0..fleet.len())].id).collect()
}

struct Ask {
    need: [u64; 3],
    required: u8,
    forbidden: u8,
    zone: Option<u8>,
    tenant: Option<u8>,
    /// Hosts where its group is and must be, hosts that it must not have, and bits of zones likewise.
    together: Option<BTreeSet<HostId>>,
    apart: BTreeSet<HostId>,
    together_zones: Option<u8>,
    apart_zones: u8,
    policy: Policy,
    stay: Stay,
}

impl Ask {
    fn random(fleet: &[Host], random: &mut StdRng) -> Self {
        let size = 1 << random.random_range(0..5u32);
        let per_core = [896, 1792, 2048, 4096, 8192][random.random_range(0..5usize)];
        let required =
            if random.random_range(0..4u32) == 0 { 1 << random.random_range(0..3u32) } else { 0 };
        let forbidden =
            if random.random_range(0..8u32) == 0 { 1 << random.random_range(0..3u32) } else { 0 };
        Self {
            need: [size, size * per_core, random.random_range(0..4) * 10],
            required,
            forbidden,
            zone: (random.random_range(0..3u32) == 0).then(|| random.random_range(0..3)),
            policy: [
                Policy::BestFit,
                Policy::LifetimeFit,
                Policy::LifetimeFit,
                Policy::BestFitSum,
                Policy::Spread,
            ][random.random_range(0..5usize)],
            tenant: (random.random_range(0..4u32) > 0).then(|| random.random_range(0..3)),
            together: (random.random_range(0..32u32) == 0).then(|| some(fleet, 4, random)),
            apart: if random.random_range(0..4u32) == 0 {
                some(fleet, 6, random)
            } else {
                BTreeSet::new()
            },
            together_zones: (random.random_range(0..24u32) == 0).then(|| random.random_range(1..8)),
            apart_zones: if random.random_range(0..8u32) == 0 {
                1 << random.random_range(0..3u8)
            } else {
                0
            },
            stay: Stay { seconds: span(random), sure: random.random_range(0..2u32) == 0 },
        }
    }

    fn request(&self) -> Request {
        Request {
            need: Resources::from_parts(self.need.map(|one| one as u32)),
            required: traits(self.required),
            forbidden: traits(self.forbidden),
            zone: self.zone.map(|zone| ZONES[usize::from(zone)].into()),
            exclude: BTreeSet::new(),
            filled: BTreeSet::new(),
            tenant: self.tenant.map(tenant),
            together: self.together.clone(),
            apart: self.apart.clone(),
            together_zones: self.together_zones.map(zones),
            apart_zones: zones(self.apart_zones),
            policy: self.policy,
            stay: Some(self.stay),
        }
    }

    fn suits(&self, host: &Host) -> bool {
        host.ready
            && self.required & !host.traits == 0
            && self.forbidden & host.traits == 0
            && self.zone.is_none_or(|zone| zone == host.zone)
            && (host.dedicated == 0
                || self.tenant.is_some_and(|bit| host.dedicated >> bit & 1 == 1))
            && self.together.as_ref().is_none_or(|together| together.contains(&host.id))
            && !self.apart.contains(&host.id)
            && self.together_zones.is_none_or(|zones| zones >> host.zone & 1 == 1)
            && self.apart_zones >> host.zone & 1 == 0
            && (0..3).all(|r| host.used[r] + self.need[r] <= host.limit[r])
    }

    /// The turn of a host as the definition of `lifetime_fit` has it, from two half octaves of 64 s: 0 for every host under the
    /// other policies.
    fn turn(&self, host: &Host) -> (u8, u32) {
        if self.policy != Policy::LifetimeFit {
            return (0, 0);
        }
        let Some(exit_s) = host.exit_s else { return (2, 0) };
        // Whole octaves, and whether more than a half of one is over.
        let class = |seconds: u64| {
            let octave = (seconds / 64 + 1).ilog2();
            let rest = seconds + 64 - (64 << octave);
            (2 * octave + u32::from(rest >= 32 << octave)).min(31)
        };
        let (own, theirs) = (class(self.stay.seconds), class(exit_s));
        if theirs < own {
            (1, own - theirs)
        } else {
            (0, if self.stay.sure { theirs - own } else { 0 })
        }
    }

    /// The score as a fraction, smaller being better: the largest, the sum or the negated smallest residual.
    fn score(&self, host: &Host) -> (i128, i128) {
        let mut score: Option<(i128, i128)> = None;
        for r in 0..3 {
            if host.limit[r] == 0 {
                continue;
            }
            let left = (host.limit[r] - host.used[r] - self.need[r]) as i128;
            let own =
                (if self.policy == Policy::Spread { -left } else { left }, host.limit[r] as i128);
            score = Some(match score {
                None => own,
                Some(so_far) if self.policy == Policy::BestFitSum => {
                    (so_far.0 * own.1 + own.0 * so_far.1, so_far.1 * own.1)
                }
                Some(so_far) if own.0 * so_far.1 > so_far.0 * own.1 => own,
                Some(so_far) => so_far,
            });
        }
        score.unwrap_or((0, 1))
    }
}

/// Plays arrivals and departures on a fleet, and judges every arrival; gives the number of refusals.
fn play(hosts: usize, decisions: usize, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet: Vec<_> = (0..hosts).map(|n| Host::random(n as u64, &mut random)).collect();
    let mut index = Index::from_hosts(fleet.iter().map(Host::view));
    let mut held: Vec<(usize, [u64; 3])> = Vec::new();
    let mut refused = 0;
    for decision in 0..decisions {
        let ask = Ask::random(&fleet, &mut random);
        let request = ask.request();
        let chosen = index.claim(&request, &mut RoundRobin::default()).ok();
        let chosen = chosen.and_then(|id| fleet.iter().position(|host| host.id == id));
        let suits = || fleet.iter().filter(|host| ask.suits(host));
        let turn = suits().map(|host| ask.turn(host)).min();
        let best = suits().filter(|host| Some(ask.turn(host)) == turn).map(|host| ask.score(host));
        let best = best.reduce(|a, b| if b.0 * a.1 < a.0 * b.1 { b } else { a });
        match (chosen, best) {
            (None, None) => refused += 1,
            (Some(at), Some(best)) => {
                assert!(ask.suits(&fleet[at]), "decision {decision}: the chosen host does not fit");
                assert_eq!(Some(ask.turn(&fleet[at])), turn, "decision {decision}: too early");
                let own = ask.score(&fleet[at]);
                assert!(
                    own.0 * best.1 == best.0 * own.1,
                    "decision {decision}: {own:?}, best is {best:?}"
                );
                (0..3).for_each(|r| fleet[at].used[r] += ask.need[r]);
                held.push((at, ask.need));
            }
            (chosen, best) => panic!("decision {decision}: index {chosen:?}, exhaustive {best:?}"),
        }
        // Fill and drain in long waves, so that hosts are seen empty, full and in between.
        let share = if (decision / (hosts * 8)).is_multiple_of(2) { 1 } else { 6 };
        let leaving =
            if chosen.is_none() { 4 } else { u32::from(random.random_range(0..8) < share) };
        for _ in 0..leaving.min(held.len() as u32) {
            let (at, need) = held.swap_remove(random.random_range(0..held.len()));
            (0..3).for_each(|r| fleet[at].used[r] -= need[r]);
            let need = Resources::from_parts(need.map(|one| one as u32));
            assert_eq!(index.give(fleet[at].id, need), Ok(()));
        }
        if random.random_range(0..200u32) == 0 {
            let at = random.random_range(0..hosts);
            fleet[at].ready ^= true;
            index.upsert(fleet[at].view());
        }
        if random.random_range(0..4u32) == 0 {
            let at = random.random_range(0..hosts);
            fleet[at].exit_s = (random.random_range(0..8u32) > 0).then(|| span(&mut random));
            assert_eq!(index.set_exit(fleet[at].id, fleet[at].view().exit), Ok(()));
        }
    }
    assert!(
        refused < decisions / 2,
        "{refused} of {decisions} were refused: too little was decided"
    );
    refused
}

#[test]
fn a_million_choices_have_the_score_of_an_exhaustive_search() {
    let small: usize = (0..14).map(|seed| play(8, 70_000, seed)).sum();
    let refused = small + play(200, 17_000, 14) + play(1500, 3_000, 15);
    assert!(refused < 400_000, "{refused} were refused: too little was decided");
    assert!(refused > 10_000, "{refused} were refused: the fleets were never full");
}
