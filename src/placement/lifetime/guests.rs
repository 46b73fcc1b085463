//! Who is on which host and until when, kept as guests come, outlive what was thought of them, and go.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::learner::{Labels, Learner};
use super::{ExitClass, Stay, bucket};
use crate::domain::id::HostId;
use crate::placement::index::Index;

/// A host is held to be left when half of the guests like each of its own would have left.
const LIKELY: f32 = 0.5;
/// A guest is sought a host as if it stayed for so long, and so is one that outlived its guess: one that goes sooner leaves
/// room, one that stays longer holds a host.
const CAUTIOUS: f32 = 0.8;
/// A guest that is not expected to leave.
const NEVER: u64 = u64::MAX;

/// The guests of all hosts. Beside the index, whose hosts' exit classes it keeps; memory is bounded by the guests.
#[derive(Debug, Clone, Default)]
pub struct Guests {
    learner: Learner,
    present: HashMap<u64, Guest>,
    hosts: HashMap<HostId, Host>,
    /// When to look again at whom.
    due: BinaryHeap<Reverse<(u64, Due)>>,
}

#[derive(Debug, Clone)]
struct Guest {
    host: HostId,
    since_s: u64,
    exit_s: u64,
    sure: bool,
    labels: Labels,
    /// The bucket of age up to which the learner knows of it.
    noted: usize,
}

#[derive(Debug, Clone, Default)]
struct Host {
    /// When each guest is expected to leave.
    exits: BTreeSet<(u64, u64)>,
    class: ExitClass,
    /// When the class falls if nothing else happens.
    falls_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Guest(u64),
    Host(HostId),
}

impl Guests {
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// For how long a guest with these labels is to be thought to stay when a host is sought: until it is said to leave, in
    /// seconds on the clock (`u64::MAX`: not at all), or by what was learnt.
    pub fn stay(&self, labels: &Labels, leaves_s: Option<u64>, now_s: u64) -> Stay {
        match leaves_s {
            Some(leaves) => Stay { seconds: leaves.saturating_sub(now_s), sure: true },
            None => Stay { seconds: self.learner.remaining(labels, 0, CAUTIOUS), sure: false },
        }
    }

    /// A guest has come to a host. Its number is the caller's, one at a time.
    pub fn arrive(
        &mut self,
        index: &mut Index,
        guest: u64,
        host: HostId,
        labels: Labels,
        leaves_s: Option<u64>,
        now_s: u64,
    ) {
        self.forget(index, guest, now_s);
        let likely = || now_s.saturating_add(self.learner.remaining(&labels, 0, LIKELY).max(1));
        let exit_s = leaves_s.unwrap_or_else(likely);
        let new =
            Guest { host, since_s: now_s, exit_s, sure: leaves_s.is_some(), labels, noted: 0 };
        self.expect(guest, &new);
        self.present.insert(guest, new);
        self.classify(index, host, now_s);
    }

    /// A guest has left; what its stay was is learnt. Unknown ones are passed over.
    pub fn leave(&mut self, index: &mut Index, guest: u64, now_s: u64) {
        if let Some(gone) = self.present.get(&guest) {
            let age = bucket(now_s.saturating_sub(gone.since_s));
            self.learner.note(&gone.labels, gone.noted, age, true);
        }
        self.forget(index, guest, now_s);
    }

    /// In how long a host is expected to be left by all its guests, for one that is put into the index anew.
    pub fn class(&self, host: HostId) -> ExitClass {
        self.hosts.get(&host).map_or(ExitClass::NONE, |host| host.class)
    }

    /// Makes true what time has changed; before every decision, and as often as you like.
    pub fn advance(&mut self, index: &mut Index, now_s: u64) {
        while let Some(Reverse((at, due))) = self.due.peek().copied().filter(|d| d.0.0 <= now_s) {
            self.due.pop();
            match due {
                Due::Guest(guest) => self.outlived(index, guest, at, now_s),
                Due::Host(host) => {
                    if self.hosts.get(&host).is_some_and(|known| known.falls_s == at) {
                        self.classify(index, host, now_s);
                    }
                }
            }
        }
    }

    /// A guest is still there at the moment when it was expected to leave.
    fn outlived(&mut self, index: &mut Index, number: u64, at: u64, now_s: u64) {
        let Some(guest) = self.present.get_mut(&number).filter(|guest| guest.exit_s == at) else {
            return;
        };
        let lived_s = now_s.saturating_sub(guest.since_s);
        let age = bucket(lived_s);
        self.learner.note(&guest.labels, guest.noted, age, false);
        guest.noted = guest.noted.max(age);
        let more = self.learner.remaining(&guest.labels, lived_s, CAUTIOUS).max(1);
        guest.exit_s = now_s.saturating_add(more);
        let (host, moved) = (guest.host, guest.clone());
        if let Some(known) = self.hosts.get_mut(&host) {
            known.exits.remove(&(at, number));
        }
        self.expect(number, &moved);
        self.classify(index, host, now_s);
    }

    fn expect(&mut self, number: u64, guest: &Guest) {
        self.hosts.entry(guest.host).or_default().exits.insert((guest.exit_s, number));
        // Who said when it leaves and is late is expected at any time.
        if !guest.sure && guest.exit_s != NEVER {
            self.due.push(Reverse((guest.exit_s, Due::Guest(number))));
        }
    }

    fn forget(&mut self, index: &mut Index, number: u64, now_s: u64) {
        let Some(guest) = self.present.remove(&number) else { return };
        if let Some(host) = self.hosts.get_mut(&guest.host) {
            host.exits.remove(&(guest.exit_s, number));
        }
        self.classify(index, guest.host, now_s);
        if self.hosts.get(&guest.host).is_some_and(|host| host.exits.is_empty()) {
            self.hosts.remove(&guest.host);
        }
        // What is due for nobody any more is dropped before it outweighs the rest.
        if self.due.len() > 4 * (self.present.len() + self.hosts.len()) + 1024 {
            let (present, hosts) = (&self.present, &self.hosts);
            self.due.retain(|Reverse((at, due))| match due {
                Due::Guest(guest) => present.get(guest).is_some_and(|known| known.exit_s == *at),
                Due::Host(host) => hosts.get(host).is_some_and(|known| known.falls_s == *at),
            });
        }
    }

    /// Brings a host's class up to date, here and in the index.
    fn classify(&mut self, index: &mut Index, id: HostId, now_s: u64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let exit = host.exits.last().map(|(exit, _)| exit.saturating_sub(now_s));
        let class = exit.map_or(ExitClass::NONE, ExitClass::of);
        if class != host.class {
            host.class = class;
            // A host that the index no longer has needs no class.
            let _ = index.set_exit(id, class);
        }
        let exit_s = host.exits.last().map_or(NEVER, |(exit, _)| *exit);
        let falls_s = match class.least() {
            0 => NEVER,
            _ if exit_s == NEVER => NEVER,
            least => exit_s.saturating_sub(least).saturating_add(1),
        };
        if falls_s != host.falls_s {
            host.falls_s = falls_s;
            if falls_s != NEVER {
                self.due.push(Reverse((falls_s, Due::Host(id))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::placement::{HostState, HostView, Resources};

    fn host(n: u64) -> HostId {
        HostId(Uuid::from_u64_pair(0, n))
    }

    fn index() -> Index {
        Index::from_hosts((0..4).map(|n| HostView {
            id: host(n),
            name: String::new(),
            limit: Resources::new(64, 64, 0),
            used: Resources::ZERO,
            traits: BTreeSet::new(),
            zone: None,
            state: HostState::Ready,
            dedicated: BTreeSet::new(),
            exit: ExitClass::NONE,
        }))
    }

    fn class(index: &Index, n: u64) -> ExitClass {
        index.host(host(n)).unwrap().exit
    }

    #[test]
    fn a_host_is_left_with_its_last_guest_and_comes_nearer_to_that_as_time_passes() {
        let (mut index, mut guests, none) = (index(), Guests::default(), Labels::default());
        guests.arrive(&mut index, 1, host(0), none, Some(1000), 0);
        guests.arrive(&mut index, 2, host(0), none, Some(90_000), 0);
        assert_eq!(class(&index, 0), ExitClass::of(90_000));
        guests.advance(&mut index, 80_000);
        assert_eq!(class(&index, 0), ExitClass::of(10_000));
        guests.leave(&mut index, 2, 80_000);
        assert_eq!(class(&index, 0), ExitClass::of(0), "the other is late");
        guests.leave(&mut index, 1, 80_000);
        assert_eq!(class(&index, 0), ExitClass::NONE);
        assert!(guests.hosts.is_empty() && guests.present.is_empty());
    }

    #[test]
    fn a_guest_that_outlives_its_guess_is_thought_to_stay_for_longer() {
        let (mut index, mut guests) = (index(), Guests::default());
        let labels = Labels::default().with("ci");
        for n in 0..200 {
            guests.arrive(&mut index, n, host(1), labels, None, n * 1000);
            guests.leave(&mut index, n, n * 1000 + 600);
        }
        let start = 1_000_000;
        guests.arrive(&mut index, 999, host(0), labels, None, start);
        let first = class(&index, 0);
        assert!(first < ExitClass::of(3600), "{first:?}");
        guests.advance(&mut index, start + 40_000);
        assert!(class(&index, 0) > first, "still there after eleven hours");
        assert!(guests.learner().remaining(&labels, 40_000, 0.5) > 3600);
    }

    proptest! {
        /// Guests come, go and are late in any order: each host's class is always that of the latest exit on it, and neither
        /// memory nor work is left behind.
        #[test]
        fn every_class_is_that_of_the_latest_exit(
            ops in prop::collection::vec((0..12u64, 0..5u64, prop::option::of(0..50_000u64), 0..9000u64), 1..120),
        ) {
            let (mut index, mut guests) = (index(), Guests::default());
            let (mut now, mut there) = (0, BTreeMap::new());
            for (guest, to, stay, wait) in ops {
                now += wait;
                guests.advance(&mut index, now);
                if there.remove(&guest).is_some() {
                    guests.leave(&mut index, guest, now);
                } else {
                    let labels = Labels::default().with(&to.to_string());
                    guests.arrive(&mut index, guest, host(to), labels, stay.map(|s| now + s), now);
                    there.insert(guest, to);
                }
                for n in 0..4 {
                    let exits = guests.present.values().filter(|guest| guest.host == host(n));
                    let latest = exits.map(|guest| guest.exit_s.saturating_sub(now)).max();
                    prop_assert_eq!(class(&index, n), latest.map_or(ExitClass::NONE, ExitClass::of));
                }
                prop_assert_eq!(guests.present.len(), there.len());
                prop_assert!(guests.present.values().all(|guest| guest.sure || guest.exit_s > now));
                prop_assert!(guests.due.len() <= 4 * 17 + 1024);
            }
            guests.advance(&mut index, u64::MAX);
        }
    }
}
