//! Every domain of a host in two calls: what a running one is was read once, and stays what it is for as long as it runs, unless
//! somebody takes its stamp away: each is read anew now and then.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::domains::{glance, halt, power, present};
use super::fault::during;
use super::ffi;
use crate::hypervisor::{DomainSeen, Fault, Power};

/// By UUID and libvirt's number of the running domain, which no later one on this host gets before the host's reboot: that
/// takes all connections with it, and with the first new one everything is read anew.
#[derive(Default)]
pub struct Known(Mutex<State>);

/// One in so many lists reads a domain anew.
const ANEW: u64 = 16;

#[derive(Default)]
struct State {
    /// How many connections had been opened when these were read.
    opened: u64,
    /// Lists so far.
    lists: u64,
    domains: HashMap<(Uuid, u32), DomainSeen>,
}

impl Known {
    /// Every domain, active or not. `opened`: how many connections to the host were opened so far.
    pub fn list(&self, conn: &Connect, opened: u64) -> Result<Vec<DomainSeen>, Fault> {
        let list = |flags| conn.list_all_domains(flags).map_err(during("list the host's domains"));
        // All of them first: one that changes in between is asked by itself, and none is missed.
        let all = list(0)?;
        let running = list(sys::VIR_CONNECT_LIST_DOMAINS_RUNNING)?;
        let running: HashSet<_> = running.iter().filter_map(key).collect();
        let (mut known, lists) = self.take(opened);
        let mut seen = Vec::with_capacity(all.len());
        let mut kept = HashMap::with_capacity(all.len());
        for domain in &all {
            let key = key(domain);
            let before = key.and_then(|key| known.remove(&key)).filter(|seen| {
                let (_, turn) = seen.id.0.as_u64_pair();
                turn % ANEW != lists % ANEW
            });
            let now = match (before, key) {
                (Some(before), Some(key)) => again(domain, before, running.contains(&key))?,
                (Some(_) | None, None) | (None, Some(_)) => glance(domain)?,
            };
            let Some(now) = now else { continue };
            if let Some(key) = key {
                kept.insert(key, now.clone());
            }
            seen.push(now);
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { opened, lists: lists + 1, domains: kept };
        Ok(seen)
    }

    /// What was read over the connections that are still the same, and how many lists there were. Another call that runs meanwhile
    /// reads all by itself.
    fn take(&self, opened: u64) -> (HashMap<(Uuid, u32), DomainSeen>, u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut state.domains);
        (if state.opened == opened { known } else { HashMap::new() }, state.lists)
    }
}

/// `None` for one that does not run, which has no number.
fn key(domain: &Domain) -> Option<(Uuid, u32)> {
    Some((domain.uuid().ok()?, domain.id()?))
}

/// A domain that was seen before. `None`: it went away while it was looked at.
fn again(domain: &Domain, before: DomainSeen, runs: bool) -> Result<Option<DomainSeen>, Fault> {
    if runs {
        return Ok(Some(DomainSeen { power: Power::Running, halt: None, ..before }));
    }
    let state = present("read a domain's state", ffi::state(domain))?;
    Ok(state.map(|state| DomainSeen { power: power(state.0), halt: halt(state), ..before }))
}
