//! Place and release on the index against one exhaustive best-fit scan of the same hosts in flat u16 arrays.
//!
//! `cargo bench --bench placement [-- HOSTS...]`: medians of one run, and the memory of the index a host.

#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pileus::domain::id::HostId;
use pileus::placement::{
    ExitClass, HostState, HostView, Index, Policy, Request, Resources, RoundRobin,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
#[expect(unsafe_code, reason = "counting an allocator's bytes means being one")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: [u16; 3] = [64, 1024, 2000];
/// Memory lies in the arrays in units of 256 MiB, so that 256 GiB fit u16.
const UNIT: u32 = 256;
/// vCPUs, units of memory, GiB of disk.
const FLAVORS: [[u16; 3]; 8] = [
    [1, 3, 10],
    [1, 7, 20],
    [2, 14, 20],
    [2, 16, 40],
    [4, 28, 80],
    [4, 64, 80],
    [8, 56, 160],
    [16, 224, 200],
];

/// What is free of every host.
struct Flat {
    free: [Vec<u16>; 3],
}

impl Flat {
    /// Hosts that were filled with random flavors up to a random share, from empty to full.
    fn random(hosts: usize, random: &mut StdRng) -> Self {
        let mut free = [const { Vec::new() }; 3];
        for _ in 0..hosts {
            let mut left = LIMIT;
            for _ in 0..random.random_range(0..40u32) {
                let flavor = FLAVORS[random.random_range(0..FLAVORS.len())];
                if (0..3).all(|r| flavor[r] <= left[r]) {
                    left = std::array::from_fn(|r| left[r] - flavor[r]);
                }
            }
            free.iter_mut().zip(left).for_each(|(all, one)| all.push(one));
        }
        Self { free }
    }

    /// The smallest maximum normalised residual over every host, in u16 lanes: residuals over limits of 64, 1024
    /// and 2000 are brought to 32ths of a thousandth by a multiplication that fits 16 bits.
    #[expect(clippy::many_single_char_names, reason = "one a resource, free and left")]
    #[expect(clippy::needless_bitwise_bool, reason = "lanes cannot be lazy")]
    fn scan(&self, need: [u16; 3]) -> u16 {
        let [v, m, d] = &self.free;
        let mut best = u16::MAX;
        for ((v, m), d) in v.iter().zip(m).zip(d) {
            let (a, b, c) =
                (v.wrapping_sub(need[0]), m.wrapping_sub(need[1]), d.wrapping_sub(need[2]));
            // What does not fit wraps around to more than any limit.
            let fits = (a <= LIMIT[0]) & (b <= LIMIT[1]) & (c <= LIMIT[2]);
            let score = a.wrapping_mul(500).max(b.wrapping_mul(31)).max(c.wrapping_mul(16));
            best = best.min(if fits { score } else { u16::MAX });
        }
        best
    }

    fn index(&self, sets: usize) -> Index {
        let hosts = self.free[0].len();
        Index::from_hosts((0..hosts).map(|host| {
            let used = std::array::from_fn(|r| LIMIT[r] - self.free[r][host]);
            HostView {
                id: HostId(Uuid::from_u64_pair(1, host as u64)),
                name: format!("node-{host:06}"),
                limit: resources(LIMIT),
                used: resources(used),
                traits: BTreeSet::from([rack(host % sets)]),
                zone: Some("a".into()),
                state: HostState::Ready,
                exit: ExitClass::NONE,
            }
        }))
    }
}

fn rack(number: usize) -> String {
    format!("rack-{number}")
}

fn resources(parts: [u16; 3]) -> Resources {
    Resources::new(parts[0].into(), u32::from(parts[1]) * UNIT, parts[2].into())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Microseconds of one place and release, the median over batches.
fn place_and_release(index: &mut Index, policy: Policy, racks: usize) -> f64 {
    const BATCH: usize = 64;
    let mut cursor = RoundRobin::default();
    let mut random = StdRng::seed_from_u64(7);
    let mut requests: Vec<_> = FLAVORS
        .iter()
        .enumerate()
        .map(|(at, flavor)| {
            let mut request = Request::new(resources(*flavor), policy);
            // Each asks for one rack, or any will do.
            request.required = (0..1).filter(|_| racks > 0).map(|_| rack(at % racks)).collect();
            request
        })
        .collect();
    let times = (0..301).map(|_| {
        for at in (1..requests.len()).rev() {
            requests.swap(at, random.random_range(0..=at));
        }
        let start = Instant::now();
        for at in 0..BATCH {
            let request = &requests[at % requests.len()];
            if let Ok(host) = index.claim(request, &mut cursor) {
                index.give(host, request.need).expect("what was claimed is given back");
            }
        }
        start.elapsed().as_secs_f64() * 1e6 / BATCH as f64
    });
    median(times.collect())
}

fn scan(flat: &Flat) -> f64 {
    let times = (0..201).map(|at| {
        let start = Instant::now();
        black_box(flat.scan(black_box(FLAVORS[at % FLAVORS.len()])));
        start.elapsed().as_secs_f64() * 1e6
    });
    median(times.collect())
}

/// Milliseconds of an account of a refusal.
fn explain(index: &Index) -> f64 {
    let request = Request::new(resources(LIMIT.map(|limit| limit + 1)), Policy::BestFit);
    let times = (0..11).map(|_| {
        let start = Instant::now();
        black_box(index.explain(&request, &RoundRobin::default()));
        start.elapsed().as_secs_f64() * 1e3
    });
    median(times.collect())
}

fn main() {
    let given: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if given.is_empty() { vec![1000, 10_000, 100_000, 1_000_000] } else { given };
    println!("us, medians; ratio: best_fit with one set of constraints / scan");
    println!(
        "{:>9} {:>9} {:>9} {:>7} {:>9} {:>6} {:>9} {:>6} {:>9} {:>9} {:>9} {:>7} {:>9} {:>10}",
        "hosts",
        "scan",
        "best_fit",
        "ratio",
        "8 any",
        "/1 set",
        "8 one",
        "/1 set",
        "sum",
        "spread",
        "robin",
        "B/host",
        "build ms",
        "explain ms"
    );
    for hosts in sizes {
        let flat = Flat::random(hosts, &mut StdRng::seed_from_u64(hosts as u64));
        let (before, start) = (ALLOCATED.load(Ordering::Relaxed), Instant::now());
        let mut index = flat.index(1);
        let built = start.elapsed().as_secs_f64() * 1e3;
        let bytes = (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / hosts as f64;
        let scan = scan(&flat);
        let [best, sum, spread, robin] =
            [Policy::BestFit, Policy::BestFitSum, Policy::Spread, Policy::RoundRobin]
                .map(|policy| place_and_release(&mut index, policy, 0));
        let explain = explain(&index);
        let mut racks = flat.index(8);
        let [any, one] =
            [0, 8].map(|racked| place_and_release(&mut racks, Policy::BestFit, racked));
        println!(
            "{hosts:>9} {scan:>9.2} {best:>9.2} {:>7.3} {any:>9.2} {:>6.2} {one:>9.2} {:>6.2} {sum:>9.2} {spread:>9.2} {robin:>9.2} {bytes:>7.1} {built:>9.1} {explain:>10.2}",
            best / scan,
            any / best,
            one / best
        );
    }
}
