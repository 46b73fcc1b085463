//! Fault points: named places between two effects at which a test makes the process die, as by `kill -9`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, raise};

static ARMED: OnceLock<String> = OnceLock::new();
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Arms one point for this process (`PILEUS_FAULT_POINT`); the first call counts.
pub fn arm(name: &str) {
    // A second call is a mistake of the caller that changes nothing.
    let _ = ARMED.set(name.to_owned());
}

/// Dies here if this point is armed. Nothing is flushed, closed or dropped. Armed as `stop:NAME` the whole process stands still
/// instead, once, until somebody sends SIGCONT.
pub fn point(name: &'static str) {
    let Some(armed) = ARMED.get() else { return };
    if armed == name {
        tracing::error!(point = name, "fault point: abort");
        std::process::abort();
    }
    if armed.strip_prefix("stop:") == Some(name) && !STOPPED.swap(true, Ordering::AcqRel) {
        tracing::error!(point = name, "fault point: stop");
        // Where it fails, a test waits in vain for the stop.
        let _ = raise(Signal::SIGSTOP);
        tracing::error!(point = name, "fault point: going on");
    }
}

/// Every point but those of `Context::effect`, which are named by what is about to be done, in the order in which a create and a delete meet them: a test dies at each.
pub const POINTS: &[&str] = &[
    "placed",
    "base_wanted",
    "base_uploading",
    "base_uploaded",
    "making",
    "disk_creating",
    "disk_created",
    "seed_writing",
    "seed_written",
    "network_noted",
    "network_made",
    "started",
    "start_observed",
    "powered_off",
    "disk_deleted",
    "seed_deleted",
    "console_deleted",
    "network_settled",
    "forgotten",
];
