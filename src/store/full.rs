//! Whether the database lately said that its disk is full: its reads go on then, so that nothing but its writes tells.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const SAID: &str =
    "the database's disk is full: nothing can be stored until there is room on it again";

/// A cloud that is at work writes something more often than this; and for no longer it is called unfit after there is room again.
const LATELY: Duration = Duration::from_secs(20);

static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// It said so now.
pub fn note() {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

/// Whether it said so within the last 20 s.
pub fn lately() -> bool {
    let last = *LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.is_some_and(|at| at.elapsed() < LATELY)
}
