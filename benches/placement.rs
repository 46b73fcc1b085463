//! The index against an exhaustive best-fit scan of the same hosts, in time, in memory and in instructions.
//!
//! `cargo bench --bench placement [-- HOSTS...]` prints a table in Markdown. Times are medians of one run. The scan goes over
//! flat u16 arrays, once; the seed form, a loop over structs, is compared in instructions, which callgrind counts where
//! valgrind is installed. Memory is all that the index has allocated after it was built, hosts' ids (16 bytes) and names
//! (12 bytes and their end) with it.

#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::process::Command;
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
                dedicated: BTreeSet::new(),
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

/// Hosts as a program would first write them down, and a scan over all of them.
struct Seed(Vec<SeedHost>);

struct SeedHost {
    id: HostId,
    #[expect(dead_code, reason = "lies between the amounts, as in such a program")]
    name: String,
    limit: Resources,
    used: Resources,
    ready: bool,
}

impl Seed {
    fn new(index: &Index) -> Self {
        let hosts = index.hosts().map(|HostView { id, name, limit, used, state, .. }| SeedHost {
            id,
            name,
            limit,
            used,
            ready: state == HostState::Ready,
        });
        Self(hosts.collect())
    }

    /// The smallest maximum normalised residual.
    fn place(&self, need: Resources) -> Option<HostId> {
        let need = need.parts();
        let mut best: Option<(f64, HostId)> = None;
        for host in self.0.iter().filter(|host| host.ready) {
            let (limit, used) = (host.limit.parts(), host.used.parts());
            if (0..3).any(|r| u64::from(used[r]) + u64::from(need[r]) > u64::from(limit[r])) {
                continue;
            }
            let left = |r: usize| f64::from(limit[r] - used[r] - need[r]) / f64::from(limit[r]);
            let score = left(0).max(left(1)).max(left(2));
            if best.is_none_or(|(so_far, _)| score < so_far) {
                best = Some((score, host.id));
            }
        }
        best.map(|(_, id)| id)
    }
}

/// Decisions without claims, for callgrind to count: `index` or `seed`, and how many.
fn decide(form: &str, decisions: usize) {
    let index = Flat::random(1000, &mut StdRng::seed_from_u64(1000)).index(1);
    let seed = Seed::new(&index);
    let requests = FLAVORS.map(|flavor| Request::new(resources(flavor), Policy::BestFit));
    let mut cursor = RoundRobin::default();
    for at in 0..decisions {
        let request = black_box(&requests[at % requests.len()]);
        if form == "seed" {
            black_box(seed.place(request.need));
        } else {
            black_box(index.place(request, &mut cursor).ok());
        }
    }
}

/// Instructions of one decision: the difference between many and none. None: there is no valgrind.
fn instructions(form: &str) -> Option<f64> {
    const DECISIONS: usize = 4000;
    let count = |decisions: usize| -> Option<f64> {
        let out = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args(["--decide", form, &decisions.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        text.split("Collected :").nth(1)?.split_whitespace().next()?.parse().ok()
    };
    Some((count(DECISIONS)? - count(0)?) / DECISIONS as f64)
}

/// Every host is emptied and filled to another one's level, in random order, so that the index has seen many classes.
fn churn(index: &mut Index, flat: &Flat) {
    let mut random = StdRng::seed_from_u64(3);
    let hosts = flat.free[0].len();
    for _ in 0..2 * hosts {
        let (host, like) = (random.random_range(0..hosts), random.random_range(0..hosts));
        let used = std::array::from_fn(|r| LIMIT[r] - flat.free[r][like]);
        let id = HostId(Uuid::from_u64_pair(1, host as u64));
        index.set_used(id, resources(used)).expect("the host is there");
    }
}

/// A row of the table: what, its value, and the value that is to be reached.
fn row(what: &str, value: f64, reach: f64) {
    let verdict = if value <= reach { "yes" } else { "no" };
    println!("| {what} | {value:.3} | ≤ {reach} | {verdict} |");
}

/// A row of a time that nothing is to be reached for.
fn time(what: &str, hosts: usize, value: f64, unit: &str) {
    println!("| {what} at {hosts} hosts | {value:.2} {unit} | | |");
}

/// Measures one size of fleet; `reach` is that of place and release against the scan, if there is one.
fn measure(hosts: usize, reach: Option<f64>) {
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
    churn(&mut index, &flat);
    let churned = (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / hosts as f64;
    // A third of the hosts in each of three exit classes.
    for host in 0..hosts {
        let exit = ExitClass::of([60, 7200, 500_000][host % 3]);
        index.set_exit(HostId(Uuid::from_u64_pair(1, host as u64)), exit).expect("is there");
    }
    let lifetime = place_and_release(&mut index, Policy::LifetimeFit, 0);
    drop(index);
    let mut racks = flat.index(8);
    let [any, one] = [0, 8].map(|racked| place_and_release(&mut racks, Policy::BestFit, racked));
    time("scan of flat arrays", hosts, scan, "µs");
    for (policy, value) in [
        ("best_fit", best),
        ("best_fit_sum", sum),
        ("spread", spread),
        ("round_robin", robin),
        ("lifetime_fit, three exit classes", lifetime),
    ] {
        time(&format!("place + release, {policy},"), hosts, value, "µs");
    }
    time("account of a refusal", hosts, explain, "ms");
    time("build", hosts, built, "ms");
    if let Some(reach) = reach {
        row(&format!("place + release ÷ scan at {hosts} hosts"), best / scan, reach);
        row(&format!("the same, lifetime_fit, at {hosts} hosts"), lifetime / scan, reach);
        row(&format!("8 sets of constraints, any will do, ÷ 1 at {hosts} hosts"), any / best, 2.0);
        row(&format!("8 sets of constraints, one asked, ÷ 1 at {hosts} hosts"), one / best, 2.0);
        row(&format!("bytes a host, ids and names with it, at {hosts} hosts"), bytes, 64.0);
        row(&format!("the same after {} changes", 2 * hosts), churned, 64.0);
    }
}

fn main() {
    let args: Vec<_> = std::env::args().collect();
    if let [_, option, form, decisions] = args.as_slice()
        && option == "--decide"
    {
        return decide(form, decisions.parse().unwrap_or(0));
    }
    let given: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if given.is_empty() { vec![1000, 10_000, 100_000, 1_000_000] } else { given };
    println!("| what | measured | reach | reached |\n| --- | --- | --- | --- |");
    for hosts in sizes {
        let reach = if hosts >= 1_000_000 { 0.02 } else { 0.05 };
        measure(hosts, (hosts >= 100_000).then_some(reach));
    }
    match (instructions("index"), instructions("seed")) {
        (Some(index), Some(seed)) => {
            println!(
                "| instructions a decision at 1000 hosts, index and seed | {index:.0}, {seed:.0} | | |"
            );
            row("best_fit, index ÷ seed form, at 1000 hosts", index / seed, 0.1);
        }
        _ => println!(
            "| best_fit, index ÷ seed form, at 1000 hosts | valgrind is not installed | ≤ 0.1 | |"
        ),
    }
}
