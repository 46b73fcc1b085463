//! Hosts that are kept for those who wait and find no room: what comes free there is not for those behind them.

use std::collections::BTreeSet;

use super::host::Request;
use super::index::{Index, NoFit};
use super::policy::RoundRobin;
use crate::domain::id::{HostId, TenantId};

/// Most hosts that are kept at a time.
const MOST: usize = 16;

/// One host a tenant at most, so that a tenant with many large requests does not stop a small cloud.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    hosts: BTreeSet<HostId>,
    tenants: BTreeSet<TenantId>,
}

impl Kept {
    /// Takes the room that the first of these wishes finds which finds any, on hosts that are kept for nobody. Where none does, the
    /// host that lacks the least for the last one, which asks for the least, is kept for a `patient` one: else a big one waits
    /// for ever while small ones come and go.
    ///
    /// # Errors
    /// No host has room that is not kept.
    pub fn serve(
        &mut self,
        index: &mut Index,
        cursor: &mut RoundRobin,
        mut wishes: Vec<Request>,
        tenant: TenantId,
        patient: bool,
    ) -> Result<HostId, NoFit> {
        for wish in &mut wishes {
            wish.exclude.extend(&self.hosts);
        }
        let found = index.claim_first(&wishes, cursor);
        if found.is_err()
            && patient
            && self.hosts.len() < MOST
            && !self.tenants.contains(&tenant)
            && let Some(host) = wishes.last().and_then(|wish| index.would_take(wish))
        {
            self.hosts.insert(host);
            self.tenants.insert(tenant);
        }
        found
    }
}
