//! A trace for those who have none: sizes, batches and lifetimes like those of a public cloud.
//!
//! The mix follows what is published of the Azure traces (Cortez et al., "Resource Central", SOSP 2017): most VMs are small,
//! most requests ask for one VM and a few for very many, most VMs live for less than an hour while the few that stay make most
//! of the load.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::placement::resources::Resources;
use crate::placement::trace::Vm;

/// vCPUs, memory in MiB, weight.
const FLAVORS: [(u32, u32, u32); 12] = [
    (1, 768, 4),
    (1, 1792, 30),
    (2, 3584, 22),
    (1, 2048, 8),
    (2, 4096, 8),
    (4, 7168, 11),
    (4, 8192, 3),
    (8, 14336, 6),
    (2, 14336, 3),
    (4, 28672, 2),
    (8, 57344, 1),
    (16, 114_688, 1),
];
/// Lifetimes in seconds from, to (log-uniform between), weight.
const LIFETIMES: [(f64, f64, u32); 5] = [
    (60.0, 900.0, 30),
    (900.0, 3600.0, 28),
    (3600.0, 14_400.0, 18),
    (14_400.0, 86_400.0, 14),
    (86_400.0, 864_000.0, 10),
];
/// Mean seconds between requests.
const PAUSE_S: f64 = 60.0;
/// Of a hundred lifetimes that reach beyond a day, so many do not end within the trace.
const STAYING_PERCENT: u32 = 30;

/// `vms` VMs, the same ones for the same seed.
pub fn generate(vms: usize, seed: u64) -> Vec<Vm> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut trace = Vec::with_capacity(vms);
    let (mut now, mut request) = (0.0_f64, 0);
    while trace.len() < vms {
        // A Poisson process, busier by day than by night.
        let daily = 1.0 + 0.5 * (now / 86_400.0 * std::f64::consts::TAU).sin();
        now += -PAUSE_S / daily * (1.0 - random.random::<f64>()).ln();
        let &(vcpus, memory_mib, _) = pick(&mut random, &FLAVORS, |flavor| flavor.2);
        for _ in 0..batch(&mut random).min(vms - trace.len()) {
            let lifetime_s = lifetime(&mut random);
            let need = Resources::new(vcpus, memory_mib, 0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "seconds of a trace"
            )]
            let arrival_s = now as u64;
            trace.push(Vm { arrival_s, lifetime_s, need, request });
        }
        request += 1;
    }
    trace
}

/// One VM mostly, and now and then dozens: a power law.
fn batch(random: &mut StdRng) -> usize {
    let chance = 1.0 - random.random::<f64>();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 200")]
    let size = chance.powf(-0.6).clamp(1.0, 200.0) as usize;
    size
}

fn lifetime(random: &mut StdRng) -> Option<u64> {
    let &(from, to, _) = pick(random, &LIFETIMES, |lifetime| lifetime.2);
    if to > 86_400.0 && random.random_range(0..100) < STAYING_PERCENT {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds of ten days"
    )]
    let seconds = (from * (to / from).powf(random.random::<f64>())) as u64;
    Some(seconds)
}

fn pick<'a, T>(random: &mut StdRng, of: &'a [T], weight: impl Fn(&T) -> u32) -> &'a T {
    let mut left = random.random_range(0..of.iter().map(&weight).sum::<u32>());
    for one in of {
        match left.checked_sub(weight(one)) {
            Some(less) => left = less,
            None => return one,
        }
    }
    &of[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_in_order_as_long_as_asked_and_the_same_for_its_seed() {
        let trace = generate(5000, 1);
        assert_eq!(trace.len(), 5000);
        assert!(trace.is_sorted_by_key(|vm| vm.arrival_s));
        assert_eq!(trace, generate(5000, 1));
        assert_ne!(trace, generate(5000, 2));
        let short = trace.iter().filter(|vm| vm.lifetime_s.is_some_and(|s| s < 3600)).count();
        assert!((2000..3500).contains(&short), "{short} of 5000 leave within the hour");
        assert!(trace.iter().filter(|vm| vm.request == trace[0].request).count() < 5000);
    }
}
