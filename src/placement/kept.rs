//! Hosts that are kept for those who wait and find no room: what comes free there is not for those behind them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::account::WouldFit;
use super::host::Request;
use super::index::{Index, NoFit};
use super::policy::RoundRobin;
use crate::domain::id::{HostId, InstanceId, TenantId};
use crate::domain::instance::Unplaced;

/// Most hosts that are kept at a time.
const MOST: usize = 16;

/// One host a tenant at most, so that a tenant with many large requests does not stop a small cloud.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Each with the instance that it is kept for.
    hosts: BTreeMap<HostId, InstanceId>,
    tenants: BTreeSet<TenantId>,
}

/// Whether a host is kept for one that has waited for so long: for as long as `hold`, then as long not, and so on. Not for ever,
/// since who can never be served would stop all; and again and again, since a big one would never be served else.
pub fn is_patient(waited: TimeDelta, hold: TimeDelta) -> bool {
    let turns = waited.num_milliseconds().checked_div(hold.num_milliseconds());
    turns.is_some_and(|turns| turns % 2 == 0)
}

impl Kept {
    /// Takes the room that the first of these wishes finds which finds any, on hosts that are kept for nobody. Where none does, the
    /// host that lacks the least for the last one, which asks for the least, is kept for a `patient` one: else a big one waits
    /// for ever while small ones come and go. None is kept for one that has to be where its own group is: what it lacks, they may
    /// have for as long as they live.
    ///
    /// # Errors
    /// No host has room that is not kept.
    pub fn serve(
        &mut self,
        index: &mut Index,
        cursor: &mut RoundRobin,
        mut wishes: Vec<Request>,
        who: &Unplaced,
        patient: bool,
    ) -> Result<HostId, NoFit> {
        for wish in &mut wishes {
            wish.exclude.extend(self.hosts.keys());
        }
        let found = index.claim_first(&wishes, cursor);
        if found.is_err()
            && patient
            && self.hosts.len() < MOST
            && !self.tenants.contains(&who.tenant_id)
            && let Some(host) = wishes
                .last()
                .filter(|wish| wish.together.is_none())
                .and_then(|wish| index.would_take(wish))
        {
            self.hosts.insert(host, who.id);
            self.tenants.insert(who.tenant_id);
        }
        found
    }

    /// Whether a host is kept for this one.
    pub fn is_for(&self, who: &Unplaced) -> bool {
        self.hosts.values().any(|of| *of == who.id)
    }

    /// Whether the change would do for this wish of an instance, which fits nowhere now, beside the hosts that are kept for others.
    /// Of those that change no host's room, nor what is kept.
    pub fn lets(&self, change: &WouldFit, wish: &Request, who: &Unplaced, index: &Index) -> bool {
        let mut wish = wish.clone();
        match change {
            WouldFit::SmallerNeed { need } | WouldFit::OtherFlavor { need, .. } => {
                wish.need = *need;
            }
            WouldFit::OtherZone { zone, .. } => wish.zone.clone_from(zone),
            WouldFit::NotRequired { traits, .. } => {
                wish.required.retain(|one| !traits.contains(one));
            }
            WouldFit::NotForbidden { traits, .. } => {
                wish.forbidden.retain(|one| !traits.contains(one));
            }
            WouldFit::GroupSoft { .. }
            | WouldFit::HostAdded { .. }
            | WouldFit::FromReservation { .. }
            | WouldFit::Freed { .. }
            | WouldFit::HostReady { .. }
            | WouldFit::QuotaRaised { .. } => return true,
        }
        let others = self.hosts.iter().filter(|(_, of)| **of != who.id);
        wish.exclude.extend(others.map(|(host, _)| host));
        index.place(&wish, &mut RoundRobin::default()).is_ok()
    }
}
