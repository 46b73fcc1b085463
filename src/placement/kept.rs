//! Hosts that are kept for those who wait and find no room: what comes free there is not for those behind them.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::host::Request;
use super::index::{Index, NoFit};
use super::policy::RoundRobin;
use crate::domain::clock::Time;
use crate::domain::id::{HostId, InstanceId, TenantId};
use crate::domain::instance::Unplaced;

/// Most hosts that are kept at a time.
const MOST: usize = 16;

/// One host a tenant at most, so that a tenant with many large requests does not stop a small cloud.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Each with the instance that it is kept for.
    hosts: BTreeMap<HostId, InstanceId>,
    /// From whom on, of those of a tenant who find no room, the first has a host kept; none: whoever comes. A tenant that has
    /// had its host, or not its turn, is not here.
    turns: BTreeMap<TenantId, Option<InstanceId>>,
}

impl Kept {
    /// For those who wait, in their order. For as long as `hold` the first of a tenant has its turn, then for as long none has, then
    /// the second, and so on in a circle. Not for ever, since who can never be served would stop all; and again and
    /// again, since a big one would never be served else; and each of a tenant's, since the first may be one that never can.
    pub fn in_turn<'a>(
        line: impl IntoIterator<Item = &'a Unplaced>,
        now: Time,
        hold: TimeDelta,
    ) -> Self {
        let mut of_tenants: BTreeMap<TenantId, Vec<&Unplaced>> = BTreeMap::new();
        // Who has a reservation waits for a slot.
        for who in line.into_iter().filter(|who| who.reservation_id.is_none()) {
            of_tenants.entry(who.tenant_id).or_default().push(who);
        }
        let mut turns = BTreeMap::new();
        for (tenant, all) in of_tenants {
            let waited = all[0].queued_at.map_or(TimeDelta::zero(), |since| now - since);
            // Who has just come may find room yet.
            let known = all.iter().filter(|who| who.queued_at.is_some()).count().max(1);
            let turn = waited.num_milliseconds().checked_div(hold.num_milliseconds());
            let turn = turn.and_then(|turn| usize::try_from(turn).ok());
            if let Some(turn) = turn.filter(|turn| turn % 2 == 0) {
                turns.insert(tenant, Some(all[turn / 2 % known].id));
            }
        }
        Self { turns, ..Self::default() }
    }

    /// Takes the room that the first of these wishes finds which finds any, on hosts that are kept for nobody. Where none does, the
    /// host that lacks the least for the last one, which asks for the least, is kept for one whose turn it is: else a big one
    /// waits for ever while small ones come and go. None where its own group is in the way, for what they have they may have
    /// for as long as they live.
    ///
    /// # Errors
    /// No host has room that is not kept.
    pub fn serve(
        &mut self,
        index: &mut Index,
        cursor: &mut RoundRobin,
        mut wishes: Vec<Request>,
        who: &Unplaced,
    ) -> Result<HostId, NoFit> {
        for wish in &mut wishes {
            wish.exclude.extend(self.hosts.keys());
        }
        let found = index.claim_first(&wishes, cursor);
        let Some(turn) = self.turns.get_mut(&who.tenant_id) else { return found };
        *turn = turn.filter(|first| *first != who.id);
        if found.is_err()
            && turn.is_none()
            && self.hosts.len() < MOST
            && let Some(host) = wishes.pop().and_then(|mut wish| {
                wish.exclude.extend(std::mem::take(&mut wish.filled));
                index.would_take(&wish)
            })
        {
            self.hosts.insert(host, who.id);
            self.turns.remove(&who.tenant_id);
        }
        found
    }

    /// The wish as it is beside the hosts that are kept for others than `who`.
    #[must_use]
    pub fn beside(&self, wish: &Request, who: &Unplaced) -> Request {
        let mut wish = wish.clone();
        let others = self.hosts.iter().filter(|(_, of)| **of != who.id);
        wish.exclude.extend(others.map(|(host, _)| host));
        wish
    }
}
