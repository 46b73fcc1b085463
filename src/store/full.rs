//! Whether the database lately refused to write, since its disk is full or it only lets itself be read: its reads go on then, so
//! that nothing but its writes tells.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const FULL: &str =
    "the database's disk is full: nothing can be stored until there is room on it again";
pub const READ_ONLY: &str = "the database lets itself only be read, as a standby does: nothing can be stored until it, or the server's address of it, is the primary's";

/// A cloud that is at work writes something more often than this; and for no longer it is called unfit after it is well again.
const LATELY: Duration = Duration::from_secs(20);

static LAST: Mutex<Option<(Instant, &str)>> = Mutex::new(None);

/// It said so now.
pub fn note(why: &'static str) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why));
}

/// What it said within the last 20 s.
pub fn lately() -> Option<&'static str> {
    let last = *LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.filter(|(at, _)| at.elapsed() < LATELY).map(|(_, why)| why)
}
