//! Heartbeats of the loops in this process: a loop that has not been round for too long is named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clock::Time;

/// The loops of a process; cheap to clone, all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Beats(Arc<Mutex<BTreeMap<&'static str, Pulse>>>);

#[derive(Debug, Clone, Copy)]
struct Pulse {
    last: Time,
    longest: Duration,
}

/// One loop's hold on its pulse. A loop that ends on purpose drops it, and is no longer asked for.
#[derive(Debug)]
pub struct Beat {
    beats: Beats,
    name: &'static str,
}

impl Beats {
    /// A loop called `name` begins; it will say that it lives at least every `longest`.
    pub fn register(&self, name: &'static str, longest: Duration, now: Time) -> Beat {
        self.with(|pulses| pulses.insert(name, Pulse { last: now, longest }));
        Beat { beats: self.clone(), name }
    }

    /// The loops that are silent for longer than they said.
    pub fn silent(&self, now: Time) -> Vec<&'static str> {
        self.with(|pulses| {
            let late = |pulse: &Pulse| (now - pulse.last).to_std().is_ok_and(|t| t > pulse.longest);
            pulses.iter().filter(|(_, pulse)| late(pulse)).map(|(name, _)| *name).collect()
        })
    }

    /// Each loop, for how long it has been silent, and for how long it may be.
    pub fn ages(&self, now: Time) -> Vec<(&'static str, Duration, Duration)> {
        let age = |pulse: &Pulse| (now - pulse.last).to_std().unwrap_or_default();
        self.with(|pulses| {
            pulses.iter().map(|(name, pulse)| (*name, age(pulse), pulse.longest)).collect()
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<&'static str, Pulse>) -> T) -> T {
        // A panic of another holder leaves at worst an old pulse.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Beat {
    /// The loop has been round.
    pub fn alive(&self, now: Time) {
        self.beats.with(|pulses| {
            if let Some(pulse) = pulses.get_mut(self.name) {
                pulse.last = now;
            }
        });
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        // A loop that panics must be missed, not forgotten.
        if !std::thread::panicking() {
            self.beats.with(|pulses| pulses.remove(self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn a_silent_loop_is_named_until_it_beats_again_or_ends() {
        let start = DateTime::from_timestamp(0, 0).expect("time");
        let late = start + TimeDelta::seconds(3);
        let beats = Beats::default();
        let slow = beats.register("slow", Duration::from_secs(2), start);
        let _patient = beats.register("patient", Duration::from_mins(1), start);
        assert!(beats.silent(start + TimeDelta::seconds(2)).is_empty());
        assert_eq!(beats.silent(late), ["slow"]);
        slow.alive(late);
        assert!(beats.silent(late).is_empty());
        drop(slow);
        assert!(beats.silent(late + TimeDelta::seconds(30)).is_empty());
    }

    #[test]
    fn a_loop_that_panicked_is_missed() {
        let start = DateTime::from_timestamp(0, 0).expect("time");
        let beats = Beats::default();
        let beat = beats.register("lost", Duration::from_secs(1), start);
        let thread = std::thread::spawn(move || {
            let _beat = beat;
            std::panic::resume_unwind(Box::new("the loop's fault"));
        });
        assert!(thread.join().is_err());
        assert_eq!(beats.silent(start + TimeDelta::seconds(2)), ["lost"]);
    }
}
