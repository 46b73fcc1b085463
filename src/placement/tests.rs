//! Properties of placement against an independent, naive model.

#[cfg(test)]
mod cases;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use uuid::Uuid;

use super::{ExitClass, HostState, HostView, Index, Policy, Request, Resources, RoundRobin, Stay};
use crate::domain::id::HostId;

const TRAITS: [&str; 3] = ["gpu", "nvme", "sev"];

fn id(n: u64) -> HostId {
    HostId(Uuid::from_u64_pair(0, n))
}

/// Few distinct amounts, so that ties and exact fits are common; now and then the extremes.
fn amount() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..10u32, 2 => 0..300u32, 1 => (u32::MAX - 2)..=u32::MAX]
}

fn resources() -> impl Strategy<Value = Resources> {
    (amount(), amount(), amount()).prop_map(|(v, m, d)| Resources::new(v, m, d))
}

fn traits() -> impl Strategy<Value = BTreeSet<String>> {
    subsequence(TRAITS.to_vec(), 0..=2)
        .prop_map(|some| some.into_iter().map(str::to_owned).collect())
}

fn zone() -> impl Strategy<Value = Option<String>> {
    select(vec![None, Some("a".to_owned()), Some("b".to_owned())])
}

fn state() -> impl Strategy<Value = HostState> {
    prop_oneof![
        6 => Just(HostState::Ready),
        1 => Just(HostState::Disabled),
        1 => Just(HostState::Unreachable),
    ]
}

fn host() -> impl Strategy<Value = HostView> {
    // Like hosts are common in a fleet, and free amounts that a shrunk host no longer has are not.
    let limit =
        prop_oneof![select(vec![Resources::new(8, 8, 8), Resources::new(9, 7, 0)]), resources()];
    let amounts = (limit, resources(), any::<bool>());
    (0..40u64, amounts, traits(), zone(), state(), exit()).prop_map(
        |(n, (limit, used, over), traits, zone, state, exit)| {
            let used = if over { used } else { used.min(limit) };
            let name = format!("node-{n}");
            HostView {
                id: id(n),
                name,
                limit,
                used,
                traits,
                zone,
                dedicated: BTreeSet::new(),
                state,
                exit,
            }
        },
    )
}

fn exit() -> impl Strategy<Value = ExitClass> {
    let known = select(vec![0, 300, 3600, 4000, 90_000, u64::MAX]).prop_map(ExitClass::of);
    prop_oneof![1 => Just(ExitClass::NONE), 3 => known]
}

fn stay() -> impl Strategy<Value = Option<Stay>> {
    let seconds = select(vec![0, 200, 3600, 50_000, u64::MAX]);
    prop::option::of((seconds, any::<bool>()).prop_map(|(seconds, sure)| Stay { seconds, sure }))
}

fn request() -> impl Strategy<Value = Request> {
    let exclude = prop::collection::btree_set((0..40u64).prop_map(id), 0..4);
    let policy = (select(Policy::ALL.to_vec()), stay());
    (resources(), traits(), traits(), zone(), exclude, policy).prop_map(
        |(need, required, forbidden, zone, exclude, (policy, stay))| {
            let forbidden = forbidden.difference(&required).cloned().collect();
            Request { need, required, forbidden, zone, exclude, policy, stay, ..Request::default() }
        },
    )
}

fn ratio() -> impl Strategy<Value = f64> {
    select(vec![0.0, 1e-9, 0.5, 1.0, 16.0, 1e9])
}

fn real() -> impl Strategy<Value = Resources> {
    let amount = || select(vec![0, 1, 64, 262_144, u32::MAX]);
    (amount(), amount(), amount()).prop_map(|(v, m, d)| Resources::new(v, m, d))
}

#[derive(Debug, Clone)]
enum Op {
    Upsert(HostView),
    Remove(HostId),
    SetUsed(HostId, Resources),
    SetExit(HostId, ExitClass),
    Claim(Request),
    /// Gives back the n-th claim that is still held.
    Release(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => host().prop_map(Op::Upsert),
        1 => (0..40u64).prop_map(|n| Op::Remove(id(n))),
        1 => (0..40u64, resources()).prop_map(|(n, used)| Op::SetUsed(id(n), used)),
        1 => (0..40u64, exit()).prop_map(|(n, exit)| Op::SetExit(id(n), exit)),
        6 => request().prop_map(Op::Claim),
        3 => (0..64usize).prop_map(Op::Release),
    ]
}

/// The model: signed arithmetic over a plain map, written from the definition of each policy.
fn feasible(host: &HostView, request: &Request) -> bool {
    let sides = host.limit.parts().into_iter().zip(host.used.parts()).zip(request.need.parts());
    let room = sides
        .into_iter()
        .all(|((limit, used), need)| i64::from(limit) - i64::from(used) >= i64::from(need));
    room && host.state == HostState::Ready
        && (request.zone.is_none() || request.zone == host.zone)
        && request.required.iter().all(|wanted| host.traits.contains(wanted))
        && !request.forbidden.iter().any(|unwanted| host.traits.contains(unwanted))
        && !request.exclude.contains(&host.id)
}

/// Residuals of the resources that the host has, all over one common denominator per pair of hosts:
/// `residual * all limits of both hosts`, in integers too wide to overflow.
fn residuals(host: &HostView, request: &Request) -> Vec<(i128, i128)> {
    (0..3)
        .filter(|r| host.limit.parts()[*r] > 0)
        .map(|r| {
            let limit = i128::from(host.limit.parts()[r]);
            let left =
                limit - i128::from(host.used.parts()[r]) - i128::from(request.need.parts()[r]);
            (left, limit)
        })
        .collect()
}

/// Whether a is better than b by the first criterion of the policy: the published score alone.
fn scores_better(a: &[(i128, i128)], b: &[(i128, i128)], policy: Policy) -> bool {
    let more = |x: (i128, i128), y: (i128, i128)| x.0 * y.1 > y.0 * x.1;
    let most = |all: &[(i128, i128)]| {
        all.iter().copied().fold((0, 1), |top, x| if more(x, top) { x } else { top })
    };
    let least = |all: &[(i128, i128)]| {
        all.iter().copied().fold((1, 1), |low, x| if more(low, x) { x } else { low })
    };
    match policy {
        Policy::BestFit | Policy::LifetimeFit => more(most(b), most(a)),
        Policy::Spread => more(least(a), least(b)),
        // 3 limits of 32 bits a side do not fit 128 bits twice over, so the sum is taken in small units.
        Policy::BestFitSum => {
            let sum = |all: &[(i128, i128)]| {
                all.iter().map(|(left, limit)| *left as f64 / *limit as f64).sum::<f64>()
            };
            sum(a) < sum(b) - 1e-9
        }
        Policy::RoundRobin => false,
    }
}

/// The kind of host, then how far its exit is from the guest's, as `lifetime_fit` prefers them.
fn turn(host: &HostView, request: &Request) -> (u8, i32) {
    let Some(stay) = request.stay.filter(|_| request.policy == Policy::LifetimeFit) else {
        return (0, 0);
    };
    let number = |class: ExitClass| i32::from(class.number());
    let later = number(host.exit) - number(ExitClass::of(stay.seconds));
    match later {
        _ if host.exit == ExitClass::NONE => (2, 0),
        0.. => (0, if stay.sure { later } else { 0 }),
        _ => (1, -later),
    }
}

/// The host that the model holds for right, unless several have the best score.
fn check_choice(
    hosts: &BTreeMap<HostId, HostView>,
    request: &Request,
    last: Option<HostId>,
    chosen: Option<HostId>,
) {
    let fitting: Vec<_> = hosts.values().filter(|host| feasible(host, request)).collect();
    let Some(chosen) = chosen else {
        assert!(fitting.is_empty(), "refused though {} fits", fitting[0].name);
        return;
    };
    let host = hosts.get(&chosen).expect("chose a host that is gone");
    assert!(feasible(host, request), "chose {} which does not fit", host.name);
    if request.policy == Policy::RoundRobin {
        let next = fitting.iter().map(|host| host.id).find(|id| Some(*id) > last);
        assert_eq!(Some(chosen), next.or(Some(fitting[0].id)));
        return;
    }
    let own = residuals(host, request);
    for other in fitting {
        let theirs = residuals(other, request);
        let (own_turn, their_turn) = (turn(host, request), turn(other, request));
        assert!(own_turn <= their_turn, "{} comes before {}", other.name, host.name);
        if own_turn < their_turn {
            continue;
        }
        assert!(
            !scores_better(&theirs, &own, request.policy),
            "{} is better than {}",
            other.name,
            host.name
        );
        if (other.limit, other.used) == (host.limit, host.used) {
            assert!(host.id <= other.id, "among equals the smallest id goes first");
        }
    }
}

/// Plays the operations and judges every choice; returns the choices.
fn play(ops: &[Op]) -> Vec<Option<HostId>> {
    let (mut index, mut model) = (Index::new(), BTreeMap::<HostId, HostView>::new());
    let (mut cursor, mut held, mut choices) = (RoundRobin::default(), Vec::new(), Vec::new());
    for op in ops {
        match op.clone() {
            Op::Upsert(host) => {
                held.retain(|(id, _)| *id != host.id);
                model.insert(host.id, host.clone());
                index.upsert(host);
            }
            Op::Remove(id) => {
                held.retain(|(of, _)| *of != id);
                assert_eq!(index.remove(id), model.remove(&id).is_some());
            }
            Op::SetUsed(id, used) => {
                held.retain(|(of, _)| *of != id);
                assert_eq!(index.set_used(id, used).is_ok(), model.contains_key(&id));
                model.entry(id).and_modify(|host| host.used = used);
            }
            Op::SetExit(id, exit) => {
                assert_eq!(index.set_exit(id, exit).is_ok(), model.contains_key(&id));
                model.entry(id).and_modify(|host| host.exit = exit);
            }
            Op::Claim(request) => {
                let last = cursor.last;
                let explained = index.explain(&request, &cursor);
                let chosen = index.claim(&request, &mut cursor).ok();
                check_choice(&model, &request, last, chosen);
                check_account(&explained, &model, &request, chosen);
                if let Some(id) = chosen {
                    let used = &mut model.get_mut(&id).unwrap().used;
                    *used = used.checked_add(request.need).unwrap();
                    held.push((id, request.need));
                }
                choices.push(chosen);
            }
            Op::Release(n) if !held.is_empty() => {
                let (id, need) = held.swap_remove(n % held.len());
                index.give(id, need).unwrap();
                let used = &mut model.get_mut(&id).unwrap().used;
                *used = used.checked_sub(need).unwrap();
            }
            Op::Release(_) => {}
        }
        for host in model.values() {
            assert_eq!(index.host(host.id).as_ref(), Some(host));
        }
        assert_eq!(index.len(), model.len());
    }
    choices
}

fn check_account(
    account: &super::Explanation,
    hosts: &BTreeMap<HostId, HostView>,
    request: &Request,
    chosen: Option<HostId>,
) {
    let told = account.chosen.as_ref().and_then(|chosen| chosen.host.as_ref());
    assert_eq!(told.map(|host| host.id), chosen);
    assert_eq!(account.hosts, hosts.len() as u64);
    let fitting = hosts.values().filter(|host| feasible(host, request)).count();
    assert_eq!(account.fitting, fitting as u64);
    for class in &account.classes {
        let fits = feasible(&hosts[&class.sample[0].id], request);
        assert_eq!(class.refused_by.is_empty(), fits);
    }
    for change in &account.would_fit_if {
        if let super::WouldFit::SmallerNeed { need } = change {
            let smaller = Request { need: *need, ..request.clone() };
            assert!(hosts.values().any(|host| feasible(host, &smaller)), "{need} does not fit");
        }
    }
    let secret = serde_json::to_string(&account.clone().redacted()).unwrap();
    assert!(!secret.contains("node-") && !secret.contains(&id(0).to_string()[..24]), "{secret}");
    assert!(account.summary.len() < 600, "{}", account.summary);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_choice_is_feasible_and_no_feasible_host_scores_better(ops in prop::collection::vec(op(), 1..60)) {
        play(&ops);
    }

    #[test]
    fn the_same_operations_lead_to_the_same_choices(ops in prop::collection::vec(op(), 1..30)) {
        prop_assert_eq!(play(&ops), play(&ops));
    }

    /// Ratios from nothing to a thousand million on hosts from nothing to the largest, each host shrunk below what it carries and
    /// grown again: whatever is asked, the choices are those of the model, and what is taken can be given back.
    #[test]
    fn no_ratio_and_no_shrinking_host_overflows(
        hosts in prop::collection::vec((real(), ratio(), ratio()), 1..8),
        asks in prop::collection::vec((request(), 0..8u64, ratio()), 1..20),
    ) {
        let limited = |real: Resources, ratio: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            Resources::from_parts(real.parts().map(|one| (f64::from(one) * ratio) as u32))
        };
        let mut ops = Vec::new();
        for (n, (real, first, second)) in (0..).zip(&hosts) {
            let host = plain(n, limited(*real, *first), Resources::ZERO);
            ops.push(Op::Upsert(host.clone()));
            ops.extend(asks.iter().take(4).map(|(ask, ..)| Op::Claim(ask.clone())));
            // It carries what the first ratio let it.
            ops.push(Op::Upsert(HostView { limit: limited(*real, *second), used: host.limit, ..host }));
        }
        for (ask, host, ratio) in asks {
            ops.push(Op::Claim(ask));
            ops.push(Op::SetUsed(id(host), limited(Resources::new(u32::MAX, 1, 9), ratio)));
            ops.push(Op::Release(usize::try_from(host).unwrap_or(0)));
        }
        play(&ops);
    }

    #[test]
    fn the_order_of_arrival_of_hosts_does_not_matter(hosts in prop::collection::vec(host(), 1..30), request in request()) {
        let unique: BTreeMap<_, _> = hosts.into_iter().map(|host| (host.id, host)).collect();
        let (mut there, mut back) = (Index::new(), Index::new());
        unique.values().cloned().for_each(|host| there.upsert(host));
        unique.values().rev().cloned().for_each(|host| back.upsert(host));
        let cursor = RoundRobin { last: Some(id(20)) };
        prop_assert_eq!(there.place(&request, &mut cursor.clone()), back.place(&request, &mut cursor.clone()));
        prop_assert_eq!(there.explain(&request, &cursor), back.explain(&request, &cursor));
    }
}

fn plain(n: u64, limit: Resources, used: Resources) -> HostView {
    HostView {
        id: id(n),
        name: format!("node-{n}"),
        limit,
        used,
        traits: BTreeSet::new(),
        zone: None,
        state: HostState::Ready,
        dedicated: BTreeSet::new(),
        exit: ExitClass::NONE,
    }
}

fn index(hosts: impl IntoIterator<Item = HostView>) -> Index {
    let mut index = Index::new();
    hosts.into_iter().for_each(|host| index.upsert(host));
    index
}
