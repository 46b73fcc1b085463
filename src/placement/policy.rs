//! How placement prefers one host that fits over another: exact scores, no floating point.

use std::cmp::{Ordering, Reverse};

use serde::{Deserialize, Serialize};

use super::resources::Resources;
use crate::domain::id::HostId;
pub use crate::domain::policy::Policy;

impl Policy {
    /// How good a host is for this need, which must fit; smaller is better. Equal for all under round robin.
    pub(super) fn rank(self, limit: Resources, free: Resources, need: Resources) -> Rank {
        let (limit, free, need) = (limit.parts(), free.parts(), need.parts());
        let left = |r: usize| free[r].saturating_sub(need[r]);
        match self {
            Self::BestFit | Self::LifetimeFit => {
                let mut parts = std::array::from_fn(|r| Share::new(left(r), limit[r], 0));
                parts.sort_unstable_by(|a, b| b.cmp(a));
                Rank::Least(parts)
            }
            Self::Spread => {
                let mut parts = std::array::from_fn(|r| Share::new(left(r), limit[r], 1));
                parts.sort_unstable();
                Rank::Most(Reverse(parts))
            }
            Self::BestFitSum => Rank::Sum(Sum::of(std::array::from_fn(left), limit)),
            Self::RoundRobin => Rank::Any,
        }
    }
}

/// Where round robin stands: the host chosen last. Kept by the caller; the other policies leave it alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundRobin {
    pub last: Option<HostId>,
}

/// The score of a host under one policy; smaller is better. Ranks of different policies must not be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Residuals from the largest to the smallest.
    Least([Share; 3]),
    /// Residuals from the smallest to the largest; more is better.
    Most(Reverse<[Share; 3]>),
    Sum(Sum),
    Any,
}

impl Rank {
    /// For people and plots only: decisions compare the exact form.
    pub(super) fn score(self) -> Option<f64> {
        match self {
            Self::Least([worst, ..]) | Self::Most(Reverse([worst, ..])) => Some(worst.to_f64()),
            Self::Sum(sum) => Some(sum.to_f64()),
            Self::Any => None,
        }
    }
}

/// A fraction of a limit, compared exactly by cross-multiplication.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) num: u32,
    pub(super) den: u32,
}

impl Share {
    /// `without` (0 or 1) stands for the share of a resource whose limit is 0.
    pub(super) fn new(num: u32, den: u32, without: u32) -> Self {
        if den == 0 { Self { num: without, den: 1 } } else { Self { num, den } }
    }

    fn to_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (u64::from(self.num), u64::from(other.num));
        (a * u64::from(other.den)).cmp(&(b * u64::from(self.den)))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Share {}

/// A sum of three fractions over their common denominator; both sides are below 2^98.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    num: u128,
    den: u128,
}

impl Sum {
    fn of(left: [u32; 3], limit: [u32; 3]) -> Self {
        let d = limit.map(|l| u128::from(l.max(1)));
        let n = left.map(u128::from);
        let num = n[0] * d[1] * d[2] + n[1] * d[0] * d[2] + n[2] * d[0] * d[1];
        Self { num, den: d[0] * d[1] * d[2] }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown to people, never compared")]
    fn to_f64(self) -> f64 {
        self.num as f64 / self.den as f64
    }
}

impl Ord for Sum {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.den == other.den {
            return self.num.cmp(&other.num);
        }
        wide_mul(self.num, other.den).cmp(&wide_mul(other.num, self.den))
    }
}

impl PartialOrd for Sum {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sum {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Sum {}

/// The 256-bit product of two numbers, as its high and low halves.
fn wide_mul(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = (1 << 64) - 1;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (high, low) = (a1 * b1, a0 * b0);
    // Each middle term and carry is below 2^128 because every factor is below 2^64.
    let middle = a1 * b0 + (low >> 64);
    let (middle, carry) = (a0 * b1 + (middle & LOW), middle >> 64);
    (high + carry + (middle >> 64), (middle << 64) | (low & LOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::UnknownPolicy;

    #[test]
    fn every_policy_is_read_back_from_its_name() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            let json = serde_json::to_value(policy).unwrap();
            assert_eq!(json, serde_json::json!(policy.as_str()));
        }
        assert_eq!("BestFit".parse::<Policy>(), Err(UnknownPolicy));
    }

    #[test]
    fn fractions_that_floats_cannot_tell_apart_are_ordered() {
        let (a, b) =
            (Share::new(u32::MAX - 2, u32::MAX - 1, 0), Share::new(u32::MAX - 1, u32::MAX, 0));
        assert!(a < b);
        let near = |left| Sum::of([left, left, left], [u32::MAX, u32::MAX, u32::MAX - 1]);
        assert!(near(u32::MAX - 3) < near(u32::MAX - 2));
        let other = Sum::of([u32::MAX - 3; 3], [u32::MAX - 1; 3]);
        assert!(near(u32::MAX - 3) < other);
    }

    #[test]
    fn the_wide_product_keeps_every_bit() {
        let max = u128::MAX;
        assert_eq!(wide_mul(max, max), (max - 1, 1));
        assert_eq!(wide_mul(1 << 127, 2), (1, 0));
        assert_eq!(wide_mul((1 << 64) + 3, (1 << 64) + 5), (1, (8 << 64) + 15));
    }

    #[test]
    fn a_resource_that_a_host_does_not_have_does_not_count() {
        let (diskless, with_disk) = (Resources::new(8, 8, 0), Resources::new(8, 8, 8));
        let need = Resources::new(4, 4, 0);
        for policy in [Policy::BestFit, Policy::Spread] {
            let rank = policy.rank(diskless, diskless, need);
            assert_eq!(rank.score(), Some(0.5), "{policy}");
        }
        let full_disk = Policy::Spread.rank(with_disk, diskless, need);
        assert_eq!(full_disk.score(), Some(0.0));
    }
}
