//! The simulator: replays a trace over a fleet under a policy, and measures how many hosts it keeps busy.

mod bound;
mod fleet;
mod generate;
mod rule;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use serde::Serialize;
use uuid::Uuid;

use super::host::{HostState, HostView, Request};
use super::index::Index;
use super::lifetime::{ExitClass, Guests, Labels, longest_first};
use super::policy::RoundRobin;
use super::resources::Resources;
use super::trace::Vm;
use crate::domain::id::HostId;

use bound::Bound;
pub use fleet::{Fleet, FleetError, HOSTS_MAX};
pub use generate::generate;
pub use rule::{Lifetimes, Rule, UnknownLifetimes};

/// Points of a series that is drawn.
const POINTS: u64 = 400;

/// How a trace went under one rule. Means are over time, from the first arrival to the last; VMs that stay beyond that count
/// until then, in the hosts as in the bound. Where all arrive at once there is no such time, and means and shares are NaN, which is
/// null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub rule: Rule,
    pub placed: u64,
    /// Found no host, and went away.
    pub refused: u64,
    pub mean_hosts: f64,
    pub peak_hosts: u32,
    /// The fewest hosts that have what the VMs at each moment take, were they divisible: no placement can do with less.
    pub mean_bound: f64,
    /// `mean_hosts / mean_bound`: 1 is perfect.
    pub packing: f64,
    /// The same over the second half of the time, when the first, empty hours no longer tell.
    pub packing_late: f64,
    /// Free vCPUs of hosts that are in use and have not the memory for the smallest VM, as a share of all vCPUs of hosts in
    /// use; memory likewise.
    pub stranded_vcpus: f64,
    pub stranded_memory: f64,
    /// Seconds, hosts in use, bound.
    pub series: Vec<(u64, u32, u32)>,
}

/// Replays the trace, which is in the order of arrival. VMs that leave at a moment make room for those that arrive then.
pub fn replay(fleet: &Fleet, trace: &[Vm], rule: impl Into<Rule>) -> Outcome {
    Replay::new(fleet, trace, rule.into()).run(trace)
}

struct Host {
    limit: Resources,
    used: Resources,
    guests: u32,
}

struct Replay {
    rule: Rule,
    index: Index,
    guests: Guests,
    hosts: Vec<Host>,
    bound: Bound,
    /// The smallest VM's vCPUs and memory.
    least: Resources,
    /// What is true now.
    now: u64,
    half: u64,
    demand: [u64; 2],
    busy: Busy,
    /// Sums over time.
    sums: Sums,
    late: [f64; 2],
    placed: u64,
    refused: u64,
    peak_hosts: u32,
    series: Vec<(u64, u32, u32)>,
    every_s: u64,
}

/// Of the hosts in use.
#[derive(Debug, Clone, Copy, Default)]
struct Busy {
    hosts: u32,
    vcpus: u64,
    memory_mib: u64,
    stranded_vcpus: u64,
    stranded_memory_mib: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    seconds: f64,
    hosts: f64,
    bound: f64,
    vcpus: f64,
    memory_mib: f64,
    stranded_vcpus: f64,
    stranded_memory_mib: f64,
}

impl Replay {
    fn new(fleet: &Fleet, trace: &[Vm], rule: Rule) -> Self {
        let limits: Vec<_> = fleet.limits().collect();
        let view = |(number, limit): (usize, &Resources)| HostView {
            id: host_id(number),
            name: String::new(),
            limit: *limit,
            used: Resources::ZERO,
            traits: std::collections::BTreeSet::new(),
            zone: None,
            state: HostState::Ready,
            dedicated: std::collections::BTreeSet::new(),
            exit: ExitClass::NONE,
        };
        let least = trace.iter().map(|vm| vm.need).reduce(Resources::min).unwrap_or_default();
        let (first, last) =
            (trace.first().map_or(0, |vm| vm.arrival_s), trace.last().map_or(0, |vm| vm.arrival_s));
        let host = |limit: &Resources| Host { limit: *limit, used: Resources::ZERO, guests: 0 };
        Self {
            rule,
            guests: Guests::default(),
            index: Index::from_hosts(limits.iter().enumerate().map(view)),
            hosts: limits.iter().map(host).collect(),
            bound: Bound::new(&limits),
            least,
            now: first,
            half: first.midpoint(last),
            demand: [0; 2],
            busy: Busy::default(),
            sums: Sums::default(),
            late: [0.0; 2],
            placed: 0,
            refused: 0,
            peak_hosts: 0,
            series: Vec::new(),
            every_s: ((last - first) / POINTS).max(1),
        }
    }

    fn run(mut self, trace: &[Vm]) -> Outcome {
        // When, which VM, which host.
        let mut departures: BinaryHeap<Reverse<(u64, usize, usize)>> = BinaryHeap::new();
        let mut cursor = RoundRobin::default();
        let mut first = 0;
        while let Some(vm) = trace.get(first) {
            while let Some(Reverse((at, of, host))) =
                departures.peek().copied().filter(|Reverse((at, ..))| *at <= vm.arrival_s)
            {
                departures.pop();
                self.advance(at);
                self.leave(host, of, trace[of].need);
            }
            self.advance(vm.arrival_s);
            self.guests.advance(&mut self.index, self.now);
            let together = trace[first..].iter().take(self.rule.pass.max(1));
            let count = together.take_while(|other| other.arrival_s == vm.arrival_s).count();
            for (number, request, labels) in self.pass(trace, first..first + count) {
                let Ok(id) = self.index.claim(&request, &mut cursor) else {
                    self.refused += 1;
                    continue;
                };
                let (vm, host) = (trace[number], host_number(id));
                self.arrive(host, vm.need);
                if self.rule.lifetimes.is_some() {
                    let (number, leaves) = (number as u64, self.leaves(&vm));
                    self.guests.arrive(&mut self.index, number, id, labels, leaves, self.now);
                }
                if let Some(lifetime_s) = vm.lifetime_s {
                    departures.push(Reverse((
                        vm.arrival_s.saturating_add(lifetime_s),
                        number,
                        host,
                    )));
                }
            }
            first += count;
        }
        self.outcome()
    }

    /// The requests of VMs that are placed together, in the order in which they are.
    fn pass(&self, trace: &[Vm], rows: Range<usize>) -> Vec<(usize, Request, Labels)> {
        let mut pass = Vec::with_capacity(rows.len());
        for number in rows {
            let vm = trace[number];
            let mut request = Request::new(vm.need, self.rule.policy);
            let mut labels = Labels::default();
            if self.rule.lifetimes.is_some() {
                if self.rule.lifetimes == Some(Lifetimes::Learnt) {
                    labels = rule::labels(trace, number);
                }
                request.stay = Some(self.guests.stay(&labels, self.leaves(&vm), self.now));
            }
            pass.push((number, request, labels));
        }
        if self.rule.lifetimes.is_some() && pass.len() > 1 {
            pass.sort_by_key(|(_, Request { need, stay, .. }, _)| {
                stay.map(|stay| longest_first(stay, need.vcpus.into(), need.memory_mib.into()))
            });
        }
        pass
    }

    /// When a VM says that it leaves, if it does.
    fn leaves(&self, vm: &Vm) -> Option<u64> {
        let given = self.rule.lifetimes == Some(Lifetimes::Given);
        let lifetime_s = vm.lifetime_s.unwrap_or(u64::MAX);
        given.then(|| vm.arrival_s.saturating_add(lifetime_s))
    }

    fn arrive(&mut self, host: usize, need: Resources) {
        self.placed += 1;
        self.demand[0] += u64::from(need.vcpus);
        self.demand[1] += u64::from(need.memory_mib);
        self.change(host, |host| {
            // The index has found the room.
            host.used = host.used.checked_add(need).unwrap_or(host.limit);
            host.guests += 1;
        });
        self.peak_hosts = self.peak_hosts.max(self.busy.hosts);
    }

    fn leave(&mut self, host: usize, vm: usize, need: Resources) {
        self.demand[0] -= u64::from(need.vcpus);
        self.demand[1] -= u64::from(need.memory_mib);
        self.change(host, |host| {
            host.used = host.used.saturating_sub(need);
            host.guests -= 1;
        });
        let given = self.index.give(host_id(host), need);
        debug_assert_eq!(given, Ok(()));
        self.guests.leave(&mut self.index, vm as u64, self.now);
    }

    fn change(&mut self, host: usize, change: impl FnOnce(&mut Host)) {
        let before = self.share(host);
        change(&mut self.hosts[host]);
        let after = self.share(host);
        let busy = &mut self.busy;
        let swap = |sum: &mut u64, before: u64, after: u64| *sum = *sum + after - before;
        busy.hosts = busy.hosts + after.hosts - before.hosts;
        swap(&mut busy.vcpus, before.vcpus, after.vcpus);
        swap(&mut busy.memory_mib, before.memory_mib, after.memory_mib);
        swap(&mut busy.stranded_vcpus, before.stranded_vcpus, after.stranded_vcpus);
        swap(&mut busy.stranded_memory_mib, before.stranded_memory_mib, after.stranded_memory_mib);
    }

    /// What one host adds to the sums.
    fn share(&self, host: usize) -> Busy {
        let Host { limit, used, guests } = &self.hosts[host];
        if *guests == 0 {
            return Busy::default();
        }
        let free = limit.saturating_sub(*used);
        let stranded =
            |of: u32, other: u32, least: u32| if other < least { u64::from(of) } else { 0 };
        Busy {
            hosts: 1,
            vcpus: limit.vcpus.into(),
            memory_mib: limit.memory_mib.into(),
            stranded_vcpus: stranded(free.vcpus, free.memory_mib, self.least.memory_mib),
            stranded_memory_mib: stranded(free.memory_mib, free.vcpus, self.least.vcpus),
        }
    }

    /// Lets time pass with everything as it is.
    fn advance(&mut self, to: u64) {
        if to <= self.now {
            return;
        }
        let bound = self.bound.hosts(self.demand);
        if self.series.last().is_none_or(|(at, ..)| self.now >= at + self.every_s) {
            self.series.push((self.now, self.busy.hosts, bound));
        }
        let (seconds, busy) = ((to - self.now) as f64, &self.busy);
        let sums = &mut self.sums;
        sums.seconds += seconds;
        sums.hosts += seconds * f64::from(busy.hosts);
        sums.bound += seconds * f64::from(bound);
        if self.now >= self.half {
            self.late[0] += seconds * f64::from(busy.hosts);
            self.late[1] += seconds * f64::from(bound);
        }
        sums.vcpus += seconds * busy.vcpus as f64;
        sums.memory_mib += seconds * busy.memory_mib as f64;
        sums.stranded_vcpus += seconds * busy.stranded_vcpus as f64;
        sums.stranded_memory_mib += seconds * busy.stranded_memory_mib as f64;
        self.now = to;
    }

    fn outcome(self) -> Outcome {
        let sums = self.sums;
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { f64::NAN };
        Outcome {
            rule: self.rule,
            placed: self.placed,
            refused: self.refused,
            mean_hosts: ratio(sums.hosts, sums.seconds),
            peak_hosts: self.peak_hosts,
            mean_bound: ratio(sums.bound, sums.seconds),
            packing: ratio(sums.hosts, sums.bound),
            packing_late: ratio(self.late[0], self.late[1]),
            stranded_vcpus: ratio(sums.stranded_vcpus, sums.vcpus),
            stranded_memory: ratio(sums.stranded_memory_mib, sums.memory_mib),
            series: self.series,
        }
    }
}

fn host_id(number: usize) -> HostId {
    HostId(Uuid::from_u128(number as u128))
}

fn host_number(id: HostId) -> usize {
    usize::try_from(id.0.as_u128()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Policy;

    fn vm(arrival_s: u64, lifetime_s: Option<u64>, vcpus: u32, memory_mib: u32) -> Vm {
        Vm { arrival_s, lifetime_s, need: Resources::new(vcpus, memory_mib, 0), request: 0 }
    }

    #[test]
    fn means_are_over_time_and_who_leaves_makes_room_at_once() {
        let fleet: Fleet = "4c4g:2".parse().unwrap();
        let trace = [
            vm(0, Some(10), 4, 1024),
            vm(0, Some(5), 2, 4096),
            vm(5, None, 4, 1024),
            vm(6, None, 2, 1),
            vm(10, None, 2, 1),
        ];
        let outcome = replay(&fleet, &trace, Policy::BestFit);
        // Both hosts are full to 10 s; the fourth VM finds none, the last takes the place of the first.
        assert_eq!((outcome.placed, outcome.refused, outcome.peak_hosts), (4, 1, 2));
        assert!((outcome.mean_hosts - 2.0).abs() < 1e-9, "{outcome:?}");
        assert!((outcome.mean_bound - 2.0).abs() < 1e-9, "{outcome:?}");
        // Of 8 vCPUs two are stranded for half of the time, beside memory that is full.
        assert!((outcome.stranded_vcpus - 0.125).abs() < 1e-9, "{outcome:?}");
    }

    #[test]
    fn best_fit_keeps_fewer_hosts_than_spread_and_none_beats_the_bound() {
        let fleet: Fleet = "64c256g:200".parse().unwrap();
        let trace = generate(4000, 7);
        let packing = |policy| replay(&fleet, &trace, policy).packing;
        let (best, spread) = (packing(Policy::BestFit), packing(Policy::Spread));
        assert!(1.0 <= best && best < spread, "{best} {spread}");
        assert_eq!(
            replay(&fleet, &trace, Policy::BestFit),
            replay(&fleet, &trace, Policy::BestFit)
        );
    }

    #[test]
    fn who_says_when_it_leaves_is_packed_better_and_a_guess_costs_little() {
        let fleet: Fleet = "64c256g:200".parse().unwrap();
        let trace = generate(6000, 3);
        let rule = |lifetimes, pass| Rule { policy: Policy::LifetimeFit, lifetimes, pass };
        let best = replay(&fleet, &trace, Policy::BestFit);
        let learnt = replay(&fleet, &trace, rule(Some(Lifetimes::Learnt), 1));
        let given = replay(&fleet, &trace, rule(Some(Lifetimes::Given), 1));
        assert!(given.packing < best.packing, "{} {}", given.packing, best.packing);
        assert!(learnt.packing < best.packing * 1.02, "{} {}", learnt.packing, best.packing);
        for outcome in [&learnt, &given] {
            assert_eq!(outcome.placed, best.placed);
            assert!((outcome.mean_bound - best.mean_bound).abs() < 1e-9);
        }
        let passes = replay(&fleet, &trace, rule(Some(Lifetimes::Learnt), 1000));
        assert_eq!(passes.placed, best.placed);
        assert_eq!(learnt, replay(&fleet, &trace, rule(Some(Lifetimes::Learnt), 1)));
    }
}
