//! What was read of the database a moment ago: spares the hot path a query, for a few seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use chrono::TimeDelta;

use crate::domain::clock::Time;

/// How long a row is believed: so long may another process go on after a user was disabled in this one.
const TTL: TimeDelta = TimeDelta::seconds(5);
const MOST: usize = 10_000;

pub struct Recent<K, V>(Mutex<HashMap<K, (Time, V)>>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub fn get(&self, key: &K, now: Time) -> Option<V> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (read_at, value) = map.get(key)?;
        fresh(*read_at, now).then(|| value.clone())
    }

    pub fn put(&self, key: K, value: V, now: Time) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MOST {
            map.retain(|_, (read_at, _)| fresh(*read_at, now));
        }
        if map.len() >= MOST {
            map.clear();
        }
        map.insert(key, (now, value));
    }

    /// Drops what a change has made wrong.
    pub fn forget(&self, wrong: impl Fn(&K, &V) -> bool) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|key, (_, value)| !wrong(key, value));
    }
}

/// A clock that was set back must not make an old row young.
fn fresh(read_at: Time, now: Time) -> bool {
    let age = now - read_at;
    age >= TimeDelta::zero() && age < TTL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_believed_for_five_seconds_and_there_are_never_more_than_ten_thousand() {
        let now = Time::from_timestamp_micros(1_800_000_000_000_000).unwrap();
        let recent = Recent::default();
        recent.put(0, "row", now);
        assert_eq!(recent.get(&0, now + TimeDelta::milliseconds(4999)), Some("row"));
        assert_eq!(recent.get(&0, now + TTL), None);
        assert_eq!(recent.get(&0, now - TimeDelta::seconds(1)), None);
        for key in 1..25_000 {
            recent.put(key, "row", now);
            assert!(recent.0.lock().unwrap().len() <= MOST);
        }
        recent.forget(|key, _| *key == 24_999);
        assert_eq!(recent.get(&24_999, now), None);
        assert_eq!(recent.get(&24_998, now), Some("row"));
    }
}
