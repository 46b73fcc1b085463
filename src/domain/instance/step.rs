//! The decision: from the wish and one look at the world to at most one step. Pure, and every case written.

use chrono::TimeDelta;

use super::wish::{Wanted, Wish};
use crate::domain::clock::Time;

/// One look at the world of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Situation {
    /// It has no incarnation: no host owes it anything.
    Unplaced,
    /// Its host could not be asked. `gone`: for so long that a delete no longer waits for it.
    Unknown { gone: bool },
    /// A complete answer of the right host.
    Seen { domain: Domain, parts: Parts },
}

/// The domain of the instance's UUID on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    Absent,
    Running {
        boot: i64,
    },
    Paused {
        boot: i64,
    },
    /// On its way out: a transient domain leaves by itself, one that somebody has defined does not.
    Off,
    /// Ours, but of another incarnation.
    Stale,
    /// Not ours: never touched.
    Foreign,
    /// Of our UUID and our name, or with an address of ours, and without our stamp, which somebody took away: it is not touched, and
    /// holds what is ours.
    Unstamped,
}

/// What a start needs, as far as it was looked at: only where there is no domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// The base image is on the host.
    pub base: bool,
    pub disk: bool,
    pub seed: bool,
    /// It ran before on this host, so that its disk must be there.
    pub ran: bool,
}

/// At most one of these is taken a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The world is as wished.
    Rest,
    /// Ask the placer for a host.
    Place,
    /// Ask for the base image on the host, and wait for it.
    FetchBase,
    CreateDisk,
    WriteSeed,
    /// Networks, then the domain.
    Start,
    Pause,
    Resume,
    /// Press the ACPI button, and look again after the pause.
    Shutdown {
        again: TimeDelta,
    },
    PowerOff,
    /// Take away what is left of a domain that has ended: most go by themselves, but one that somebody has defined stays.
    TakeAway,
    /// Take everything of it from its host, then from the database.
    Remove,
    /// Take it from the database; its incarnation stays behind and kills the domain when the host is back.
    LeaveBehind,
    /// Nothing can be done before the world changes; look again then.
    Wait {
        why: &'static str,
        again: TimeDelta,
    },
    /// Only somebody's doing can help.
    Blocked {
        why: &'static str,
    },
}

/// How often the ACPI button is pressed: some guests miss the first while they boot.
const PRESS_EVERY: TimeDelta = TimeDelta::seconds(5);

/// What to do next.
pub fn next_step(wish: &Wish, situation: &Situation, now: Time) -> Step {
    match (wish.wanted, situation) {
        (Wanted::Running | Wanted::Paused, Situation::Unplaced) => Step::Place,
        // A stopped instance that never ran takes its place when it is started.
        (Wanted::Stopped, Situation::Unplaced) => Step::Rest,
        (Wanted::Deleted, Situation::Unplaced) => Step::Remove,

        (Wanted::Deleted, Situation::Unknown { gone: true }) => Step::LeaveBehind,
        (Wanted::Deleted, Situation::Unknown { gone: false })
        | (Wanted::Running | Wanted::Stopped | Wanted::Paused, Situation::Unknown { .. }) => {
            Step::Wait { why: "the host does not answer", again: TimeDelta::seconds(10) }
        }

        (Wanted::Running, Situation::Seen { domain, parts }) => match domain {
            Domain::Absent => start(*parts),
            Domain::Running { boot } if *boot >= wish.boot => Step::Rest,
            Domain::Paused { boot } if *boot >= wish.boot => Step::Resume,
            Domain::Running { .. } => bring_down(wish, now),
            Domain::Paused { .. } | Domain::Stale => Step::PowerOff,
            Domain::Off => Step::TakeAway,
            Domain::Foreign => foreign(),
            Domain::Unstamped => unstamped(),
        },
        (Wanted::Paused, Situation::Seen { domain, parts }) => match domain {
            Domain::Absent => start(*parts),
            Domain::Running { boot } if *boot >= wish.boot => Step::Pause,
            Domain::Paused { boot } if *boot >= wish.boot => Step::Rest,
            Domain::Running { .. } => bring_down(wish, now),
            Domain::Paused { .. } | Domain::Stale => Step::PowerOff,
            Domain::Off => Step::TakeAway,
            Domain::Foreign => foreign(),
            Domain::Unstamped => unstamped(),
        },
        (Wanted::Stopped, Situation::Seen { domain, .. }) => match domain {
            Domain::Absent | Domain::Foreign => Step::Rest,
            Domain::Running { .. } => bring_down(wish, now),
            // A paused guest hears no button.
            Domain::Paused { .. } if !wish.hard && now < wish.deadline() => Step::Resume,
            Domain::Paused { .. } | Domain::Stale => Step::PowerOff,
            Domain::Off => Step::TakeAway,
            Domain::Unstamped => unstamped(),
        },
        (Wanted::Deleted, Situation::Seen { domain, .. }) => match domain {
            // A foreign domain of our UUID is not ours to end; our own things go.
            Domain::Absent | Domain::Foreign => Step::Remove,
            // It runs on our disk, and with our addresses, which must not become somebody else's.
            Domain::Unstamped => unstamped(),
            Domain::Running { .. } | Domain::Paused { .. } | Domain::Off | Domain::Stale => {
                Step::PowerOff
            }
        },
    }
}

/// From no domain to one, a part at a time.
fn start(parts: Parts) -> Step {
    match parts {
        Parts { disk: true, seed: true, .. } => Step::Start,
        Parts { disk: true, seed: false, .. } => Step::WriteSeed,
        // To make a new, empty disk in its place would hide the loss, and spoil a pool that only is not mounted.
        Parts { disk: false, ran: true, .. } => Step::Blocked {
            why: "its disk is missing on the host: mount or restore the pool's directory, or delete the instance",
        },
        Parts { disk: false, ran: false, base: true, .. } => Step::CreateDisk,
        Parts { disk: false, ran: false, base: false, .. } => Step::FetchBase,
    }
}

fn bring_down(wish: &Wish, now: Time) -> Step {
    let left = wish.deadline() - now;
    if wish.hard || left <= TimeDelta::zero() {
        Step::PowerOff
    } else {
        Step::Shutdown { again: left.min(PRESS_EVERY) }
    }
}

fn foreign() -> Step {
    Step::Blocked {
        why: "a domain that Pileus did not make has this instance's UUID on the host: undefine it, or delete the instance",
    }
}

fn unstamped() -> Step {
    Step::Blocked {
        why: "somebody took Pileus' mark from this instance's domain on the host, so that Pileus may not touch it: destroy it there (virsh destroy), and this goes on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(wanted: Wanted) -> Wish {
        Wish {
            wanted,
            wanted_at: Time::default(),
            boot: 2,
            hard: false,
            grace: TimeDelta::seconds(12),
        }
    }

    fn seen(domain: Domain) -> Situation {
        Situation::Seen { domain, parts: Parts::default() }
    }

    #[test]
    fn a_start_takes_its_parts_in_order() {
        let mut parts = Parts::default();
        let step = |parts| {
            next_step(
                &wish(Wanted::Running),
                &Situation::Seen { domain: Domain::Absent, parts },
                Time::default(),
            )
        };
        assert_eq!(step(parts), Step::FetchBase);
        parts.base = true;
        assert_eq!(step(parts), Step::CreateDisk);
        parts.disk = true;
        assert_eq!(step(parts), Step::WriteSeed);
        parts.seed = true;
        assert_eq!(step(parts), Step::Start);
    }

    #[test]
    fn a_lost_disk_is_never_replaced_by_an_empty_one() {
        let parts = Parts { base: true, ran: true, ..Parts::default() };
        let situation = Situation::Seen { domain: Domain::Absent, parts };
        assert!(matches!(
            next_step(&wish(Wanted::Running), &situation, Time::default()),
            Step::Blocked { .. }
        ));
    }

    #[test]
    fn a_soft_stop_turns_hard_when_its_grace_is_over() {
        let stop = wish(Wanted::Stopped);
        let at = |s| {
            next_step(
                &stop,
                &seen(Domain::Running { boot: 2 }),
                Time::default() + TimeDelta::seconds(s),
            )
        };
        assert_eq!(at(0), Step::Shutdown { again: TimeDelta::seconds(5) });
        assert_eq!(at(10), Step::Shutdown { again: TimeDelta::seconds(2) });
        assert_eq!(at(12), Step::PowerOff);
    }

    #[test]
    fn a_foreign_domain_is_never_touched() {
        for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Paused, Wanted::Deleted] {
            let step = next_step(&wish(wanted), &seen(Domain::Foreign), Time::default());
            assert!(matches!(step, Step::Blocked { .. } | Step::Rest | Step::Remove), "{step:?}");
        }
    }

    #[test]
    fn a_domain_that_lost_its_stamp_blocks_whatever_is_wished() {
        for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Paused, Wanted::Deleted] {
            let step = next_step(&wish(wanted), &seen(Domain::Unstamped), Time::default());
            assert!(matches!(step, Step::Blocked { .. }), "{step:?}");
        }
    }

    #[test]
    fn an_unreachable_host_changes_nothing_until_it_counts_as_gone() {
        for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Paused, Wanted::Deleted] {
            let step =
                next_step(&wish(wanted), &Situation::Unknown { gone: false }, Time::default());
            assert!(matches!(step, Step::Wait { .. }), "{step:?}");
        }
        let step =
            next_step(&wish(Wanted::Deleted), &Situation::Unknown { gone: true }, Time::default());
        assert_eq!(step, Step::LeaveBehind);
    }
}
