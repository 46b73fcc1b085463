//! Every domain of a host in two calls: what a running one is was read once, and stays what it is for as long as it runs, unless
//! somebody takes its stamp away: each is read anew now and then.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::domains::{glance, halt, power, present, stamped};
use super::fault::during;
use super::ffi;
use crate::hypervisor::{DomainSeen, Fault, Power};

/// By UUID and libvirt's number of the running domain, which no later one on this host gets before the host's reboot: that
/// takes all connections with it, and with the first new one everything is read anew.
#[derive(Default)]
pub struct Known(Mutex<State>);

/// One in so many lists reads a domain's stamp anew.
const ANEW: u64 = 16;

const NOT_RUNNING: u32 = sys::VIR_CONNECT_LIST_DOMAINS_PAUSED
    | sys::VIR_CONNECT_LIST_DOMAINS_SHUTOFF
    | sys::VIR_CONNECT_LIST_DOMAINS_OTHER;

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
        // Each is in one of the two, since every call about a domain costs.
        let others = list(NOT_RUNNING)?;
        let running = list(sys::VIR_CONNECT_LIST_DOMAINS_RUNNING)?;
        let (mut known, lists) = self.take(opened);
        // In their order: a list of what has not changed is the same list.
        let mut now = BTreeMap::new();
        let each = running.iter().map(|domain| (domain, true));
        for (domain, runs) in each.chain(others.iter().map(|domain| (domain, false))) {
            let uuid = domain.uuid().map_err(during("read a domain's UUID"))?;
            // In both: it was paused, and then it ran.
            if now.contains_key(&uuid) {
                continue;
            }
            // One that does not run has no number.
            let number = domain.id();
            let before = number.and_then(|number| known.remove(&(uuid, number)));
            let seen = match before {
                Some(before) => again(domain, before, runs, lists)?,
                None => glance(domain)?,
            };
            if let Some(seen) = seen {
                now.insert(uuid, (number, seen));
            }
        }
        // In none: it has ended, or it ran, and then was paused.
        let left = known.into_keys().map(|(uuid, _)| uuid);
        for uuid in left {
            if !now.contains_key(&uuid)
                && let Some(domain) = present("find a domain", conn.lookup_domain_by_uuid(uuid))?
                && let Some(seen) = glance(&domain)?
            {
                now.insert(uuid, (domain.id(), seen));
            }
        }
        let numbered =
            now.values().filter_map(|(number, seen)| Some((seen.id.0, (*number)?, seen)));
        let domains = numbered.map(|(uuid, number, seen)| ((uuid, number), seen.clone())).collect();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { opened, lists: lists + 1, domains };
        Ok(now.into_values().map(|(_, seen)| seen).collect())
    }

    /// What was read over the connections that are still the same, and how many lists there were. Another call that runs meanwhile
    /// reads all by itself.
    fn take(&self, opened: u64) -> (HashMap<(Uuid, u32), DomainSeen>, u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut state.domains);
        (if state.opened == opened { known } else { HashMap::new() }, state.lists)
    }
}

/// A domain that was seen before. `None`: it went away while it was looked at.
fn again(
    domain: &Domain,
    before: DomainSeen,
    runs: bool,
    lists: u64,
) -> Result<Option<DomainSeen>, Fault> {
    let before = if before.id.0.as_u64_pair().1 % ANEW == lists % ANEW {
        let Some(anew) = stamped(domain, before)? else { return Ok(None) };
        anew
    } else {
        before
    };
    if runs {
        return Ok(Some(DomainSeen { power: Power::Running, halt: None, ..before }));
    }
    let state = present("read a domain's state", ffi::state(domain))?;
    Ok(state.map(|state| DomainSeen { power: power(state.0), halt: halt(state), ..before }))
}
