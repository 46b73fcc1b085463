//! What a case is made of: hosts, and events in an order that proptest chooses and shrinks.

use std::ops::RangeInclusive;

use pileus::domain::instance::Action;
use proptest::collection::vec;
use proptest::prelude::*;

/// What all cases of a lane have in common.
#[derive(Debug, Clone)]
pub struct Climate {
    pub hosts: RangeInclusive<usize>,
    pub workers: usize,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub workers: usize,
    /// The vCPUs of each: with few, instances wait.
    pub hosts: Vec<i32>,
    /// Nothing is lost and nobody dies or is held up: then no step may leave anything for the sweeper.
    pub gentle: bool,
    /// At the end everything is deleted, and nothing at all may be left.
    pub farewell: bool,
    pub events: Vec<Event>,
}

/// Indices are taken modulo what there is, so that a case stays valid while it shrinks.
#[derive(Debug, Clone)]
pub enum Event {
    Create {
        nics: usize,
        big: bool,
        image: usize,
        stopped: bool,
    },
    Wish {
        which: usize,
        action: Action,
    },
    /// A reconciler takes up a job, or goes on with the one that it has, for so many polls.
    Turn {
        worker: usize,
        job: Job,
        polls: u32,
    },
    /// The reconciler dies where it is, and another process takes its place.
    Crash {
        worker: usize,
    },
    Signals {
        lost: bool,
    },
    /// The `nth` call of this name from now on goes wrong.
    Fault {
        host: usize,
        call: &'static str,
        wrong: Wrong,
        nth: usize,
    },
    Unreachable {
        host: usize,
        until_noticed: bool,
    },
    Reachable {
        host: usize,
    },
    PowerCycle {
        host: usize,
    },
    Deaf {
        host: usize,
        deaf: bool,
    },
    Kill {
        which: usize,
    },
    PauseBehind {
        which: usize,
    },
    /// Somebody makes a domain of the instance's UUID.
    Foreign {
        which: usize,
        host: usize,
    },
    /// And takes it away again.
    NoForeign,
    Clock {
        seconds: i64,
    },
}

#[derive(Debug, Clone, Copy)]
pub enum Job {
    Due { limit: i64 },
    Look { host: usize },
    Sweep { host: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    LostRequest,
    LostReply,
    Transient,
    Permanent,
}

/// More polls than any job takes.
pub const TO_THE_END: u32 = u32::MAX;

const CALLS: &[&str] = &[
    "facts",
    "domain",
    "domains",
    "start",
    "start",
    "shutdown",
    "power_off",
    "pause",
    "resume",
    "volume",
    "volumes",
    "create_overlay",
    "upload",
    "upload:half",
    "delete_volume",
    "delete_volume",
    "ensure_network",
    "delete_network",
    "delete_console",
    "networks",
];

pub fn cases(climate: Climate) -> impl Strategy<Value = Case> {
    let Climate { hosts, workers } = climate;
    // Big instances take three vCPUs, small ones one.
    let gentle = proptest::bool::weighted(0.15);
    (vec(2..=6_i32, hosts), gentle, any::<bool>(), create(), vec(event(), 4..20)).prop_map(
        move |(hosts, gentle, farewell, first, mut events)| {
            // A case without an instance says nothing.
            events.insert(0, first);
            if gentle {
                events.retain_mut(Event::soften);
            }
            Case { workers, hosts, gentle, farewell, events }
        },
    )
}

impl Event {
    /// `false` if it has no place in a gentle case.
    fn soften(&mut self) -> bool {
        match self {
            Self::Turn { worker, polls, .. } => {
                (*worker, *polls) = (0, TO_THE_END);
                true
            }
            Self::Fault { .. } | Self::Crash { .. } | Self::Foreign { .. } => false,
            Self::Clock { seconds } => *seconds > 0,
            Self::Create { .. }
            | Self::Wish { .. }
            | Self::Signals { .. }
            | Self::Unreachable { .. }
            | Self::Reachable { .. }
            | Self::PowerCycle { .. }
            | Self::Deaf { .. }
            | Self::Kill { .. }
            | Self::PauseBehind { .. }
            | Self::NoForeign => true,
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let which = || 0..4_usize;
    let host = || 0..3_usize;
    prop_oneof![
        4 => create(),
        14 => (which(), action()).prop_map(|(which, action)| Event::Wish { which, action }),
        40 => turn(),
        // The most usual life, in one event.
        10 => (0..2_usize).prop_map(|worker| Event::Turn {
            worker,
            job: Job::Due { limit: 20 },
            polls: TO_THE_END,
        }),
        4 => (0..2_usize).prop_map(|worker| Event::Crash { worker }),
        3 => any::<bool>().prop_map(|lost| Event::Signals { lost }),
        20 => (host(), proptest::sample::select(CALLS), wrong(), 0..2_usize)
            .prop_map(|(host, call, wrong, nth)| Event::Fault { host, call, wrong, nth }),
        3 => (host(), any::<bool>())
            .prop_map(|(host, until_noticed)| Event::Unreachable { host, until_noticed }),
        2 => host().prop_map(|host| Event::Reachable { host }),
        2 => host().prop_map(|host| Event::PowerCycle { host }),
        1 => (host(), any::<bool>()).prop_map(|(host, deaf)| Event::Deaf { host, deaf }),
        3 => which().prop_map(|which| Event::Kill { which }),
        2 => which().prop_map(|which| Event::PauseBehind { which }),
        1 => (which(), host()).prop_map(|(which, host)| Event::Foreign { which, host }),
        1 => Just(Event::NoForeign),
        8 => clock().prop_map(|seconds| Event::Clock { seconds }),
    ]
}

fn create() -> impl Strategy<Value = Event> {
    (0..=2_usize, proptest::bool::weighted(0.3), 0..2_usize, proptest::bool::weighted(0.1))
        .prop_map(|(nics, big, image, stopped)| Event::Create { nics, big, image, stopped })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Start),
        2 => Just(Action::Stop { hard: false, grace_s: 20 }),
        2 => Just(Action::Stop { hard: true, grace_s: 0 }),
        1 => Just(Action::Reboot { hard: false, grace_s: 20 }),
        1 => Just(Action::Reboot { hard: true, grace_s: 0 }),
        2 => Just(Action::Pause),
        2 => Just(Action::Resume),
        4 => Just(Action::Delete),
    ]
}

fn turn() -> impl Strategy<Value = Event> {
    let job = prop_oneof![
        8 => (1..20_i64).prop_map(|limit| Job::Due { limit }),
        2 => (0..3_usize).prop_map(|host| Job::Look { host }),
        1 => (0..3_usize).prop_map(|host| Job::Sweep { host }),
    ];
    let polls = prop_oneof![1 => 1..40_u32, 2 => 40..300_u32, 3 => Just(TO_THE_END)];
    (0..2_usize, job, polls).prop_map(|(worker, job, polls)| Event::Turn { worker, job, polls })
}

fn wrong() -> impl Strategy<Value = Wrong> {
    prop_oneof![
        3 => Just(Wrong::LostRequest),
        4 => Just(Wrong::LostReply),
        2 => Just(Wrong::Transient),
        1 => Just(Wrong::Permanent),
    ]
}

fn clock() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 1..15_i64,
        3 => 30..70_i64,
        2 => 120..400_i64,
        1 => Just(3600_i64),
        1 => Just(-3600_i64),
    ]
}
