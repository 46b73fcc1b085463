//! Random wishes in a storm of lost requests, lost replies, crashes, dead hosts and clock jumps; when it is over, an oracle that
//! knows nothing of how the reconciler decides compares the whole world with the wishes.
//!
//! 1,000 cases by default, the same ones each time; `PILEUS_SIM_CASES=n` runs others, `PILEUS_SIM_SEED=n` chooses which.
//! A failure prints its seed and the shrunk case, and is kept in `tests/simulation/regressions` to be run first next time.

mod case;
mod faults;
mod jobs;
mod lane;
mod oracle;
mod storm;

use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestRng, TestRunner,
};

/// Cases in all; each lane is a test of its own, so that they use the cores there are.
const CASES: u32 = 1000;
const LANES: u32 = 4;

/// What must have happened in every lane, by the feed.
const WEATHER: &[&str] = &[
    "host.down",
    "host.up",
    "instance.delete",
    "instance.placed",
    "instance.settled",
    "reconcile.failed",
];

#[test]
fn a_storm_on_one_small_host_leaves_the_world_as_wished() {
    weather(0, case::Climate { hosts: 1..=1, workers: 1 });
}

#[test]
fn two_reconcilers_on_one_host_leave_the_world_as_wished() {
    weather(1, case::Climate { hosts: 1..=1, workers: 2 });
}

#[test]
fn a_storm_over_several_hosts_leaves_the_world_as_wished() {
    weather(2, case::Climate { hosts: 2..=3, workers: 1 });
}

#[test]
fn two_reconcilers_over_several_hosts_leave_the_world_as_wished() {
    weather(3, case::Climate { hosts: 2..=3, workers: 2 });
}

fn weather(number: u32, climate: case::Climate) {
    let asked = setting("PILEUS_SIM_CASES");
    let cases = asked.unwrap_or(CASES.into()).div_ceil(LANES.into());
    // More on demand is not more of the same.
    let seed = setting("PILEUS_SIM_SEED").unwrap_or(match asked {
        Some(_) => rand::random(),
        None => 7460,
    });
    println!("lane {number}: {cases} cases, PILEUS_SIM_SEED={seed}");
    let config = Config {
        cases: u32::try_from(cases).expect("fewer cases"),
        max_shrink_iters: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/simulation/regressions",
        ))),
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    // One thread: the order of things is the case's, as far as PostgreSQL leaves it to us.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let lane = runtime.block_on(lane::Lane::open());
    let outcome = TestRunner::new_with_rng(config, rng).run(&case::cases(climate), |case| {
        runtime.block_on(storm::run(&lane, &case)).map_err(TestCaseError::fail)
    });
    if let Err(failure) = outcome {
        panic!("lane {number}, PILEUS_SIM_SEED={seed}: {failure}");
    }
    let happened = lane.happened();
    println!("lane {number}: {happened:?}");
    if asked.is_none() {
        // A storm that spares everything proves nothing.
        for kind in WEATHER {
            assert!(happened.contains_key(*kind), "no {kind} in all cases: {happened:?}");
        }
    }
    assert_eq!(
        runtime.block_on(lane.deadlocks()),
        0,
        "lane {number}: transactions waited for each other"
    );
}

#[expect(clippy::disallowed_methods, reason = "a test's own knob, not the server's")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
