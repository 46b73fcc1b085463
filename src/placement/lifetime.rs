//! When guests and hosts are expected to be left, in classes that `lifetime_fit` searches in order.
//!
//! After NILAS ("LAVA: Lifetime-Aware VM Allocation with Learned Distributions and Adaptation to Mispredictions", Ling et
//! al., MLSys 2025) and Barbalho et al. ("Virtual Machine Allocation with Lifetime Predictions", MLSys 2023): a host is
//! left when the last of its guests is, so a guest goes where it does not lengthen that, and a guess is made anew when a
//! guest outlives it. Time is seconds since any moment, the same one in every call.

mod guests;
mod learner;
mod residents;

use std::cmp::Reverse;

pub use guests::Guests;
pub use learner::{Labels, Learner};
pub use residents::Residents;

/// Buckets of time spans, four an octave, from 0 s to 42 days and beyond.
const BUCKETS: usize = 64;
/// Spans much shorter than this are all alike.
const UNIT_S: u64 = 64;

/// The bucket of a span in seconds.
fn bucket(seconds: u64) -> usize {
    let from = seconds.saturating_add(UNIT_S);
    let octave = from.ilog2() - UNIT_S.ilog2();
    // The two bits below the highest part an octave in four.
    let quarter = (from >> (octave + UNIT_S.ilog2() - 2)) & 3;
    (octave as usize * 4 + usize::try_from(quarter).unwrap_or(0)).min(BUCKETS - 1)
}

/// The shortest span of a bucket, in seconds; the one past the last has one, too.
fn start(bucket: usize) -> u64 {
    ((4 + bucket as u64 % 4) << (bucket / 4 + UNIT_S.ilog2() as usize - 2)) - UNIT_S
}

/// In how long a host is expected to be left by all its guests: half an octave a class, 32 of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExitClass(u8);

impl ExitClass {
    /// Nobody is there, or nothing is known.
    pub const NONE: Self = Self(0);

    /// The class of a host that is left in so many seconds.
    pub fn of(seconds: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
        let class = (1 + bucket(seconds) / 2) as u8;
        Self(class)
    }

    #[cfg(test)]
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// The fewest seconds of the class.
    fn least(self) -> u64 {
        start(usize::from(self.0.saturating_sub(1)) * 2)
    }
}

/// For how long a guest is expected to stay from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    pub seconds: u64,
    /// Said by who asked for it, as against learnt from others.
    pub sure: bool,
}

/// Orders those who are placed together so that they pack best: who stays longest first, then the largest; the least comes first.
pub fn longest_first(stay: Stay, vcpus: i64, memory_mib: i64) -> impl Ord {
    Reverse((ExitClass::of(stay.seconds), vcpus, memory_mib))
}

impl Stay {
    /// In which turn hosts of a class are searched; best fit decides within a turn.
    ///
    /// First those that stay in use for as long as the guest anyway: by how much longer if its stay is sure, so that hosts
    /// are left by all guests at once; all together if it is a guess, since guesses are off by octaves and room on a
    /// fuller host is worth more than a finer one. Then those whose use it lengthens, by how much. Empty ones last.
    pub(super) fn turn(self, host: ExitClass) -> u8 {
        let own = ExitClass::of(self.seconds).0;
        match host.0.checked_sub(own) {
            _ if host == ExitClass::NONE => u8::MAX,
            Some(longer) => u8::from(self.sure) * longer,
            None => 64 + own - host.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_one_another_and_are_at_most_a_quarter_wide() {
        for number in 0..BUCKETS {
            let (from, to) = (start(number), start(number + 1));
            assert_eq!(bucket(from), number);
            assert_eq!(bucket(to - 1), number);
            assert!((to - from) * 4 <= from + UNIT_S);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!(start(BUCKETS) > 42 * 86_400);
    }

    #[test]
    fn a_class_begins_where_it_says() {
        for class in (1..=32).map(ExitClass) {
            assert_eq!(ExitClass::of(class.least()), class);
            assert!(class.least() == 0 || ExitClass::of(class.least() - 1) < class);
        }
    }

    #[test]
    fn a_sure_guest_goes_to_the_nearest_exit_and_a_guessed_one_to_any_that_is_later() {
        let order = |sure| {
            let stay = Stay { seconds: 3600, sure };
            let own = ExitClass::of(3600).0;
            let hosts = [own, own + 1, own + 9, own - 1, own - 9, 0];
            hosts.map(|host| stay.turn(ExitClass(host)))
        };
        assert!(order(true).is_sorted_by(|a, b| a < b), "{:?}", order(true));
        assert_eq!(order(false)[..3], [0; 3]);
        assert!(order(false)[2..].is_sorted_by(|a, b| a < b), "{:?}", order(false));
    }
}
