//! Groups: where the members are becomes where the next one may go.

use std::collections::{BTreeMap, BTreeSet};

use super::host::Request;
use super::index::Index;
use super::resources::Resources;
use crate::domain::group::{Group, GroupRule, GroupScope, Placed};
use crate::domain::id::HostId;

/// Most steps from the most wanted place to any place.
const STEPS: usize = 8;

impl Request {
    /// The requests to try in turn for the next member of a group, from the most wanted to the least. `members`: what of the group
    /// each host carries; those on hosts that the index does not know are nowhere.
    ///
    /// Of a hard group it is one: all places where members are, or none of them. Of a soft one they are first the places with the
    /// most members (for affinity) or the fewest (against it), and at last any place.
    pub fn for_group(
        &self,
        group: &Group,
        members: &BTreeMap<HostId, Placed>,
        index: &Index,
    ) -> Vec<Self> {
        match group.scope {
            GroupScope::Host => {
                let known = members.iter().filter_map(|(host, placed)| {
                    index.host(*host).map(|view| (*host, placed, view.limit))
                });
                let known: Vec<_> = known.collect();
                let bound = group.hard && group.rule == GroupRule::Affinity;
                let filled = known.iter().filter(|_| bound).filter(|(_, placed, limit)| {
                    let Placed { vcpus, memory_mib, disk_gib, .. } = **placed;
                    let with_all = Resources::from_signed(vcpus, memory_mib, disk_gib)
                        .ok()
                        .and_then(|taken| taken.checked_add(self.need));
                    with_all.is_none_or(|all| !all.fits_in(*limit))
                });
                let filled = filled.map(|(host, ..)| *host).collect();
                let counts: BTreeMap<_, _> =
                    known.iter().map(|(host, placed, _)| (*host, placed.members)).collect();
                Self { filled, ..self.clone() }.steps(group, &counts, |request, places, rule| {
                    match rule {
                        GroupRule::Affinity => request.together = Some(places),
                        GroupRule::AntiAffinity => request.apart = places,
                    }
                })
            }
            GroupScope::Zone => {
                let mut counts: BTreeMap<String, u32> = BTreeMap::new();
                for (host, placed) in members {
                    if let Some(zone) = index.zone(*host) {
                        let sum = counts.entry(zone.to_owned()).or_default();
                        *sum = sum.saturating_add(placed.members);
                    }
                }
                self.steps(group, &counts, |request, places, rule| match rule {
                    GroupRule::Affinity => request.together_zones = Some(places),
                    GroupRule::AntiAffinity => request.apart_zones = places,
                })
            }
        }
    }

    fn steps<P: Ord + Clone>(
        &self,
        group: &Group,
        counts: &BTreeMap<P, u32>,
        set: impl Fn(&mut Self, BTreeSet<P>, GroupRule),
    ) -> Vec<Self> {
        if counts.is_empty() {
            return vec![self.clone()];
        }
        let step = |keep: &dyn Fn(u32) -> bool| {
            let places = counts.iter().filter(|(_, count)| keep(**count));
            let mut request = self.clone();
            set(&mut request, places.map(|(place, _)| place.clone()).collect(), group.rule);
            request
        };
        if group.hard {
            return vec![step(&|_| true)];
        }
        // How many members a place may have: against one another none, then as few as there are; together as many as there are.
        let distinct: BTreeSet<u32> = counts.values().copied().collect();
        let mut steps: Vec<_> = match group.rule {
            GroupRule::Affinity => {
                let most = distinct.iter().rev().take(STEPS);
                most.map(|least| step(&|count| count >= *least)).collect()
            }
            GroupRule::AntiAffinity => {
                let least = distinct.iter().take(STEPS);
                least.map(|few| step(&|count| count >= *few)).collect()
            }
        };
        steps.push(self.clone());
        steps
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::{GroupId, TenantId};
    use crate::domain::instance::Size;
    use crate::domain::text::Name;
    use crate::placement::{ExitClass, HostState, HostView, NoFit, Policy, Resources, RoundRobin};

    fn host(n: u64) -> HostId {
        HostId(Uuid::from_u64_pair(0, n))
    }

    const ONE: Size = Size { vcpus: 1, memory_mib: 0, disk_gib: 0 };

    /// Six hosts of 8 vCPUs, two in each of three zones; the first has the least room.
    fn index() -> Index {
        Index::from_hosts((0..6).map(|n| HostView {
            id: host(n),
            name: format!("node-{n}"),
            limit: Resources::new(8, 8, 8),
            used: Resources::new(if n == 0 { 4 } else { 0 }, 0, 0),
            traits: BTreeSet::new(),
            zone: Some(["a", "b", "c"][usize::try_from(n / 2).unwrap()].into()),
            dedicated: BTreeSet::new(),
            state: HostState::Ready,
            exit: ExitClass::NONE,
        }))
    }

    fn group(rule: GroupRule, scope: GroupScope, hard: bool) -> Group {
        Group {
            id: GroupId(Uuid::nil()),
            tenant_id: TenantId(Uuid::nil()),
            name: Name::parse("", "g").unwrap(),
            rule,
            scope,
            hard,
            instances: 0,
            created_by: None,
            created_at: DateTime::default(),
            revision: 1,
        }
    }

    /// Places members of 1 vCPU one by one; gives the hosts' numbers.
    fn place(group: &Group, count: usize) -> Vec<Option<u64>> {
        let (mut index, mut members) = (index(), BTreeMap::new());
        let request = Request::new(Resources::new(1, 1, 1), Policy::BestFit);
        let one = |_| {
            let wishes = request.for_group(group, &members, &index);
            let chosen = index.claim_first(&wishes, &mut RoundRobin::default()).ok()?;
            members.entry(chosen).or_insert_with(Placed::default).add(ONE);
            Some(chosen.0.as_u64_pair().1)
        };
        (0..count).map(one).collect()
    }

    fn zones(hosts: &[Option<u64>]) -> Vec<Option<u64>> {
        hosts.iter().map(|host| host.map(|host| host / 2)).collect()
    }

    #[test]
    fn members_of_a_hard_group_never_share_and_one_too_many_finds_no_place() {
        let apart = place(&group(GroupRule::AntiAffinity, GroupScope::Host, true), 7);
        assert_eq!(apart, [Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), None]);
        let apart = zones(&place(&group(GroupRule::AntiAffinity, GroupScope::Zone, true), 4));
        assert_eq!(apart, [Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn members_of_a_soft_group_share_as_evenly_as_can_be() {
        let apart = place(&group(GroupRule::AntiAffinity, GroupScope::Host, false), 13);
        for host in 0..6 {
            let on = apart.iter().filter(|at| **at == Some(host)).count();
            assert!((2..=3).contains(&on), "{apart:?}");
        }
        let apart = zones(&place(&group(GroupRule::AntiAffinity, GroupScope::Zone, false), 6));
        for zone in 0..3 {
            assert_eq!(apart.iter().filter(|at| **at == Some(zone)).count(), 2, "{apart:?}");
        }
    }

    #[test]
    fn members_that_are_to_be_together_are_until_there_is_no_room() {
        let hard = place(&group(GroupRule::Affinity, GroupScope::Host, true), 5);
        assert_eq!(hard, [Some(0), Some(0), Some(0), Some(0), None]);
        let soft = place(&group(GroupRule::Affinity, GroupScope::Host, false), 6);
        assert_eq!(soft, [Some(0), Some(0), Some(0), Some(0), Some(1), Some(1)]);
        let zone = zones(&place(&group(GroupRule::Affinity, GroupScope::Zone, true), 13));
        assert!(zone[..12].iter().all(|at| *at == Some(0)), "{zone:?}");
        assert_eq!(zone[12], None);
    }

    #[test]
    fn members_on_hosts_that_are_gone_bind_nobody() {
        let mut index = index();
        let members = BTreeMap::from([(host(99), Placed { members: 3, ..Placed::default() })]);
        let request = Request::new(Resources::new(1, 1, 1), Policy::Spread);
        for rule in [GroupRule::Affinity, GroupRule::AntiAffinity] {
            for scope in [GroupScope::Host, GroupScope::Zone] {
                let wishes = request.for_group(&group(rule, scope, true), &members, &index);
                assert_eq!(wishes, std::slice::from_ref(&request));
                assert!(index.claim_first(&wishes, &mut RoundRobin::default()).is_ok());
            }
        }
        let nowhere = Request { together: Some(BTreeSet::new()), ..request };
        assert_eq!(index.claim_first(&[nowhere], &mut RoundRobin::default()), Err(NoFit));
    }

    #[test]
    fn a_host_that_the_group_itself_fills_is_told_from_one_that_others_fill() {
        let index = index();
        let request = Request::new(Resources::new(4, 1, 1), Policy::BestFit);
        for (taken, filled) in [(1, false), (4, false), (5, true)] {
            let mut placed = Placed::default();
            placed.add(Size { vcpus: taken, ..ONE });
            let members = [(host(0), placed)].into();
            let group = group(GroupRule::Affinity, GroupScope::Host, true);
            let wishes = request.for_group(&group, &members, &index);
            assert_eq!(wishes[0].filled.contains(&host(0)), filled, "{taken} of 8");
        }
    }
}
