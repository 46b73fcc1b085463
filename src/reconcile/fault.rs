//! Fault points: named places between two effects at which a test makes the process die, as by `kill -9`.

use std::sync::OnceLock;

static ARMED: OnceLock<String> = OnceLock::new();

/// Arms one point for this process (`PILEUS_FAULT_POINT`); the first call counts.
pub fn arm(name: &str) {
    // A second call is a mistake of the caller that changes nothing.
    let _ = ARMED.set(name.to_owned());
}

/// Dies here if this point is armed. Nothing is flushed, closed or dropped.
pub fn point(name: &'static str) {
    if ARMED.get().is_some_and(|armed| armed == name) {
        tracing::error!(point = name, "fault point: abort");
        std::process::abort();
    }
}

/// Every point, in the order in which a create and a delete meet them: a test dies at each.
pub const POINTS: &[&str] = &[
    "placed",
    "base_wanted",
    "base_uploading",
    "base_uploaded",
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
