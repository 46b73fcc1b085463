//! Which hosts this process has compared with the database.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::host::Candidate;
use super::id::HostId;

/// The hosts that this process has compared with the database since it started: before that, nothing is placed on or removed
/// from a host. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Compared(Arc<Mutex<HashSet<HostId>>>);

impl Compared {
    pub fn has(&self, host: HostId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&host)
    }

    /// The host as it may be placed on: closed until it was compared. A claim counts its host's row up, and would hide that the
    /// host had counted further.
    pub fn open(&self, host: Candidate) -> Candidate {
        if host.health != "up" || self.has(host.id) {
            return host;
        }
        Candidate { health: "unknown".into(), ..host }
    }

    /// Whether it is new.
    pub fn note(&self, host: HostId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host)
    }
}
