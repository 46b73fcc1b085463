//! By what a trace is placed: a policy, what it is told of lifetimes, and how many VMs it sees at once.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::placement::lifetime::Labels;
use crate::placement::policy::Policy;
use crate::placement::trace::Vm;

/// What `lifetime_fit` knows of how long a VM will stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetimes {
    /// The trace's own lifetime, as if each request said when it ends. Who is still there at the trace's end said "never".
    Given,
    /// What those that came before have shown, by size and by the request's other VMs.
    Learnt,
}

/// The text names no source of lifetimes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be given or learnt")]
pub struct UnknownLifetimes;

impl FromStr for Lifetimes {
    type Err = UnknownLifetimes;

    fn from_str(text: &str) -> Result<Self, UnknownLifetimes> {
        match text {
            "given" => Ok(Self::Given),
            "learnt" => Ok(Self::Learnt),
            _ => Err(UnknownLifetimes),
        }
    }
}

/// How a trace is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub policy: Policy,
    /// Of `lifetime_fit` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetimes: Option<Lifetimes>,
    /// So many VMs that arrive in the same second are placed in one pass: under `lifetime_fit` those expected to stay longest
    /// first, then the largest. With 1 they are placed in the order of the trace.
    pub pass: usize,
}

impl Rule {
    /// The rules of a policy, one for each source of lifetimes if it uses them.
    pub fn all(policy: Policy, lifetimes: Option<Lifetimes>, pass: usize) -> Vec<Self> {
        let sources = match (policy, lifetimes) {
            (Policy::LifetimeFit, None) => vec![Some(Lifetimes::Learnt), Some(Lifetimes::Given)],
            (Policy::LifetimeFit, some) => vec![some],
            (Policy::BestFit | Policy::BestFitSum | Policy::Spread | Policy::RoundRobin, _) => {
                vec![None]
            }
        };
        sources.into_iter().map(|lifetimes| Self { policy, lifetimes, pass }).collect()
    }
}

impl From<Policy> for Rule {
    fn from(policy: Policy) -> Self {
        let lifetimes = (policy == Policy::LifetimeFit).then_some(Lifetimes::Learnt);
        Self { policy, lifetimes, pass: 1 }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lifetimes {
            Some(Lifetimes::Given) => write!(f, "{} (given)", self.policy),
            Some(Lifetimes::Learnt) => write!(f, "{} (learnt)", self.policy),
            None => self.policy.fmt(f),
        }
    }
}

/// What the request of the VM at `at` says of it, all of which is known when it arrives: its size, how many VMs were asked
/// for together, and of which sizes.
pub fn labels(trace: &[Vm], at: usize) -> Labels {
    let own = trace[at];
    let is_mate = |vm: &&Vm| (vm.request, vm.arrival_s) == (own.request, own.arrival_s);
    let before = trace[..at].iter().rev().take_while(is_mate);
    let mates = before.chain(trace[at..].iter().take_while(is_mate));
    let mut sizes: Vec<_> = mates.map(|vm| (vm.need.vcpus, vm.need.memory_mib)).collect();
    sizes.sort_unstable();
    let (count, size) = (sizes.len(), format!("{} {}", own.need.vcpus, own.need.memory_mib));
    let magnitude = count.ilog2();
    let all = sizes.chunk_by(|a, b| a == b).map(|same| (same[0], same.len()));
    let (kinds, exact): (Vec<_>, Vec<_>) = all.map(|(size, many)| (size, (size, many))).unzip();
    Labels::default()
        .with(&size)
        .with(&format!("{size} of {magnitude}"))
        .with(&format!("{size} of {magnitude} {kinds:?}"))
        .with(&format!("{size} of {exact:?}"))
        .one_of(count)
}
