//! Choices on the index: which host, which of some, which if something left, and why.

use std::collections::BTreeSet;

use super::account::{Chosen, Explanation, NamedHost, WouldFit};
use super::explain::FlavorSize;
use super::host::Request;
use super::index::{ClassRow, Index, NoFit, number};
use super::policy::{Policy, RoundRobin};
use super::resources::Resources;
use super::shapes::{Admitted, Shape};
use super::{listing, search};
use crate::domain::id::HostId;
use crate::domain::reservation::OpenSlot;

impl Index {
    /// Chooses a host by the request's policy; ties go to the smallest id. Takes nothing.
    ///
    /// # Errors
    /// No host can take the request.
    pub fn place(&self, request: &Request, cursor: &mut RoundRobin) -> Result<HostId, NoFit> {
        let chosen = self.slots[self.choose(request, cursor).ok_or(NoFit)? as usize].id;
        if request.policy == Policy::RoundRobin {
            cursor.last = Some(chosen);
        }
        Ok(chosen)
    }

    /// Places the request and takes its room, so that the next request sees it taken.
    ///
    /// # Errors
    /// No host can take the request.
    pub fn claim(&mut self, request: &Request, cursor: &mut RoundRobin) -> Result<HostId, NoFit> {
        let chosen = self.place(request, cursor)?;
        // A host that was just chosen has the room.
        self.take(chosen, request.need).or(Err(NoFit))?;
        Ok(chosen)
    }

    /// [`Index::place`] for the first of the requests that fits; there is at least one.
    ///
    /// # Errors
    /// No host can take any of them.
    pub fn place_first(
        &self,
        requests: &[Request],
        cursor: &mut RoundRobin,
    ) -> Result<HostId, NoFit> {
        requests.iter().find_map(|request| self.place(request, cursor).ok()).ok_or(NoFit)
    }

    /// [`Index::claim`] for the first of the requests that fits.
    ///
    /// # Errors
    /// No host can take any of them.
    pub fn claim_first(
        &mut self,
        requests: &[Request],
        cursor: &mut RoundRobin,
    ) -> Result<HostId, NoFit> {
        requests.iter().find_map(|request| self.claim(request, cursor).ok()).ok_or(NoFit)
    }

    /// The first of these hosts that meets every constraint of the request, whatever its room.
    pub fn first_admitted(&self, request: &Request, hosts: &[HostId]) -> Option<usize> {
        let admitted = self.shapes.admitted(request);
        hosts.iter().position(|id| {
            let at = self.slots.binary_search_by_key(id, |slot| slot.id).ok();
            let class = at.map(|at| self.class_of(number(at)));
            let is_in = request.together.as_ref().is_none_or(|together| together.contains(id));
            is_in
                && !request.exclude.contains(id)
                && !request.apart.contains(id)
                && class.is_some_and(|class| self.is_admitted(&admitted, class))
        })
    }

    /// For a request that fits nowhere now: the host that could take it if nothing ran there, and that lacks the least of what
    /// it needs; ties go to the smallest id. What comes free there may be kept for it.
    pub fn would_take(&self, request: &Request) -> Option<HostId> {
        listing::classes(self, request)
            .into_iter()
            .filter(|class| class.could_take(request))
            .filter_map(|class| Some((class.shortfall(request), class.sample.first()?.0)))
            .min()
            .map(|(_, host)| host)
    }

    /// Accounts for what [`Index::place`] would choose now. Changes nothing.
    pub fn explain(&self, request: &Request, cursor: &RoundRobin) -> Explanation {
        self.explain_among(request, cursor, &[])
    }

    /// The same for one that takes the slot of a reservation on this host, or finds none.
    pub fn explain_slot(&self, request: &Request, host: Option<HostId>) -> Explanation {
        let chosen = host.and_then(|id| self.host(id)).map(|host| Chosen {
            free_after: host.free(),
            host: Some(NamedHost { id: host.id, name: host.name }),
            score: None,
        });
        let plain = self.explain(request, &RoundRobin::default());
        Explanation { chosen, would_fit_if: Vec::new(), ..plain }
    }

    /// The same, and which of these flavors would fit instead: given where no host has room, or where something else is in the way.
    pub fn explain_among(
        &self,
        request: &Request,
        cursor: &RoundRobin,
        flavors: &[FlavorSize],
    ) -> Explanation {
        let chosen = self.choose(request, cursor).map(|slot| {
            let (slot, class) = (&self.slots[slot as usize], self.class_of(slot));
            let limit = self.shapes.get(class.shape).limit;
            (slot.id, self.names.get(slot.name), limit, Resources::from_parts(class.free))
        });
        let flavor = self.smaller(request, flavors);
        Explanation::of(request, chosen, listing::classes(self, request), flavor)
    }

    /// The largest of the flavors that needs no more of anything than the request, and fits now.
    fn smaller<'a>(&self, request: &Request, flavors: &'a [FlavorSize]) -> Option<&'a FlavorSize> {
        let smaller = flavors
            .iter()
            .filter(|flavor| flavor.need != request.need && flavor.need.fits_in(request.need));
        let fits = smaller.filter(|flavor| {
            let required = request.required.union(&flavor.traits).cloned().collect();
            let other = Request { need: flavor.need, required, ..request.clone() };
            self.place(&other, &mut RoundRobin::default()).is_ok()
        });
        fits.max_by_key(|flavor| {
            let [vcpus, memory_mib, disk_gib] = flavor.need.parts();
            (u64::from(vcpus) * u64::from(memory_mib), disk_gib, std::cmp::Reverse(&flavor.name))
        })
    }

    /// Which of the tenant's reservations has one of these free slots that the request could take.
    pub fn in_reservation(&self, request: &Request, open: &[OpenSlot]) -> Option<WouldFit> {
        // What hosts are kept for others is their room, and a slot has its own.
        let request = &Request { exclude: BTreeSet::new(), ..request.clone() };
        let slot = open.iter().find(|slot| {
            let OpenSlot { vcpus, memory_mib, disk_gib, .. } = **slot;
            Resources::from_signed(vcpus, memory_mib, disk_gib)
                .is_ok_and(|size| request.need.fits_in(size))
                && request.tenant == Some(slot.tenant_id)
                && self.first_admitted(request, &[slot.host_id]).is_some()
        });
        slot.map(|slot| WouldFit::FromReservation { name: slot.reservation.to_string() })
    }

    /// Whether hosts of the class may be considered at all, whatever their room. Those above their limit may.
    fn is_admitted(&self, admitted: &Admitted, class: &ClassRow) -> bool {
        let shape = self.shapes.get(class.shape);
        admitted.has(&Shape { over: Resources::ZERO, ..*shape })
    }

    fn choose(&self, request: &Request, cursor: &RoundRobin) -> Option<u32> {
        if let Some(together) = &request.together {
            return search::among(self, request, &self.slots_of(together.iter()), cursor);
        }
        if request.policy != Policy::RoundRobin {
            return search::best(self, request);
        }
        let after =
            cursor.last.map_or(0, |last| self.slots.partition_point(|slot| slot.id <= last));
        let next = search::next(self, request, number(after));
        next.or_else(|| search::next(self, request, 0))
    }
}
