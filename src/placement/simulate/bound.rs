//! The fewest hosts that could carry a demand.

use crate::placement::resources::Resources;

/// Sums of the largest hosts' vCPUs and memory: the first, the first two, …
pub struct Bound {
    sums: [Vec<u64>; 2],
}

impl Bound {
    pub fn new(limits: &[Resources]) -> Self {
        let sums = [0, 1].map(|r| {
            let mut amounts: Vec<_> = limits.iter().map(|limit| limit.parts()[r]).collect();
            amounts.sort_unstable_by(|a, b| b.cmp(a));
            let sum = |sum: &mut u64, amount: u32| {
                *sum += u64::from(amount);
                Some(*sum)
            };
            amounts.into_iter().scan(0, sum).collect()
        });
        Self { sums }
    }

    /// How many of the largest hosts have these vCPUs and this memory in all.
    pub fn hosts(&self, demand: [u64; 2]) -> u32 {
        let least = |r: usize| match demand[r] {
            0 => 0,
            amount => self.sums[r].partition_point(|sum| *sum < amount) + 1,
        };
        u32::try_from(least(0).max(least(1))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_hosts_count_first_and_the_scarcer_resource_decides() {
        let bound = Bound::new(&[Resources::new(4, 8, 0), Resources::new(8, 2, 0)]);
        for (demand, hosts) in [([0, 0], 0), ([8, 8], 1), ([9, 1], 2), ([1, 9], 2), ([12, 10], 2)] {
            assert_eq!(bound.hosts(demand), hosts, "{demand:?}");
        }
    }
}
