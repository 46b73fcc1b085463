//! Time as an argument: the system's clock, the database's, and one that a test turns by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// UTC time in whole microseconds, which is what PostgreSQL keeps.
pub type Time = DateTime<Utc>;

/// Where the time comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// The database's, carried on by a monotonic watch: one time for all processes, whatever their machines' clocks do.
    Database(Arc<Watch>),
    /// Microseconds since 1970, set by a test.
    Manual(Arc<AtomicI64>),
}

/// What another clock showed when this one was begun, and how long ago that is.
#[derive(Debug)]
pub struct Watch {
    begun: Instant,
    /// Since 1970.
    micros: AtomicI64,
}

/// Another clock, read: it showed `time` at `at`, give or take `error`.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub time: Time,
    pub at: Instant,
    pub error: Duration,
}

impl Watch {
    pub fn new(reading: &Reading) -> Self {
        let watch = Self { begun: reading.at, micros: AtomicI64::new(0) };
        watch.micros.store(reading.time.timestamp_micros(), Ordering::SeqCst);
        watch
    }

    fn at(&self, at: Instant) -> Time {
        let micros = |passed: Duration| i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
        let passed = micros(at.saturating_duration_since(self.begun))
            - micros(self.begun.saturating_duration_since(at));
        let now = self.micros.load(Ordering::SeqCst).saturating_add(passed);
        DateTime::from_timestamp_micros(now).unwrap_or_default()
    }

    /// Follows the other clock; gives by how much it had gone another way, zero where that is within the reading's error.
    pub fn follow(&self, reading: &Reading) -> TimeDelta {
        let off = reading.time - self.at(reading.at);
        if off.abs().to_std().unwrap_or_default() <= reading.error {
            return TimeDelta::zero();
        }
        self.micros.fetch_add(off.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        off
    }
}

impl Clock {
    pub fn manual(start: Time) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.timestamp_micros())))
    }

    pub fn now(&self) -> Time {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
            Self::System => Utc::now().trunc_subsecs(6),
            Self::Database(watch) => watch.at(Instant::now()),
            Self::Manual(micros) => {
                DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst)).unwrap_or_default()
            }
        }
    }

    /// Moves a manual clock; does nothing to the others.
    pub fn advance(&self, by: TimeDelta) {
        if let Self::Manual(micros) = self {
            micros.fetch_add(by.num_microseconds().unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_follows_the_clock_it_was_set_by_and_not_the_readings_noise() {
        let at = Instant::now();
        let time = DateTime::from_timestamp_micros(1_800_000_000_000_000).unwrap();
        let error = Duration::from_millis(5);
        let watch = Watch::new(&Reading { time, at, error });
        let later = at + Duration::from_secs(60);
        assert_eq!(watch.at(later) - time, TimeDelta::seconds(60));
        let read = |milliseconds: i64| Reading {
            time: time + TimeDelta::seconds(60) + TimeDelta::milliseconds(milliseconds),
            at: later,
            error,
        };
        assert_eq!(watch.follow(&read(-5)), TimeDelta::zero());
        assert_eq!(watch.at(later) - time, TimeDelta::seconds(60));
        for jump in [3_600_000, -3_600_000] {
            let before = watch.at(later);
            let reading =
                Reading { time: before + TimeDelta::milliseconds(jump), at: later, error };
            assert_eq!(watch.follow(&reading), TimeDelta::milliseconds(jump));
            assert_eq!(watch.at(later), reading.time);
        }
    }
}
