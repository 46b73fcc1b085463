//! The hosts and what is taken of them; chooses a host for a request.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::explain::{Class, Explanation, MAX_SAMPLE};
use super::host::{Constraints, HostView, Request};
use super::policy::{Policy, RoundRobin};
use super::resources::Resources;
use crate::domain::id::HostId;

/// No host can take the request; [`Index::explain`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no host can take the request")]
pub struct NoFit;

/// A delta that does not agree with what the index holds: reload the host with [`Index::upsert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("the index does not know host {0}")]
    UnknownHost(HostId),
    #[error("host {0} has no room left for this")]
    NoRoom(HostId),
    #[error("more would be given back than is taken on host {0}")]
    NotTaken(HostId),
}

/// The capacity index.
#[derive(Debug, Clone, Default)]
pub struct Index {
    hosts: BTreeMap<HostId, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    limit: Resources,
    used: Resources,
    constraints: Constraints,
}

impl Index {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Adds the host, or replaces everything known of it.
    pub fn upsert(&mut self, host: HostView) {
        let HostView { id, name, limit, used, traits, zone, state } = host;
        let constraints = Constraints { state, zone, traits };
        self.hosts.insert(id, Entry { name, limit, used, constraints });
    }

    /// Forgets the host; whether it was there.
    pub fn remove(&mut self, id: HostId) -> bool {
        self.hosts.remove(&id).is_some()
    }

    /// What is known of the host.
    pub fn host(&self, id: HostId) -> Option<HostView> {
        let Entry { name, limit, used, constraints } = self.hosts.get(&id)?.clone();
        let Constraints { state, zone, traits } = constraints;
        Some(HostView { id, name, limit, used, traits, zone, state })
    }

    /// Takes room on a host, whatever its state: its claim is already decided.
    ///
    /// # Errors
    /// The host is unknown, or it would carry more than its limit; then nothing changes.
    pub fn take(&mut self, id: HostId, amount: Resources) -> Result<(), IndexError> {
        let host = self.hosts.get_mut(&id).ok_or(IndexError::UnknownHost(id))?;
        let used = host.used.checked_add(amount).filter(|used| used.fits_in(host.limit));
        host.used = used.ok_or(IndexError::NoRoom(id))?;
        Ok(())
    }

    /// Gives room back.
    ///
    /// # Errors
    /// The host is unknown, or less is taken than would be given back; then nothing changes.
    pub fn give(&mut self, id: HostId, amount: Resources) -> Result<(), IndexError> {
        let host = self.hosts.get_mut(&id).ok_or(IndexError::UnknownHost(id))?;
        host.used = host.used.checked_sub(amount).ok_or(IndexError::NotTaken(id))?;
        Ok(())
    }

    /// Sets what is taken on a host, as the store has it; may exceed the limit.
    ///
    /// # Errors
    /// The host is unknown.
    pub fn set_used(&mut self, id: HostId, used: Resources) -> Result<(), IndexError> {
        self.hosts.get_mut(&id).ok_or(IndexError::UnknownHost(id))?.used = used;
        Ok(())
    }

    /// Chooses a host by the request's policy; ties go to the smallest id. Takes nothing.
    ///
    /// # Errors
    /// No host can take the request.
    pub fn place(&self, request: &Request, cursor: &mut RoundRobin) -> Result<HostId, NoFit> {
        let chosen = self.choose(request, cursor).ok_or(NoFit)?;
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

    /// Accounts for what [`Index::place`] would choose now. Changes nothing.
    pub fn explain(&self, request: &Request, cursor: &RoundRobin) -> Explanation {
        let chosen = self.choose(request, cursor).and_then(|id| {
            let host = self.hosts.get(&id)?;
            Some((id, host.name.as_str(), host.limit, host.free()))
        });
        Explanation::of(request, chosen, self.classes(request))
    }

    fn choose(&self, request: &Request, cursor: &RoundRobin) -> Option<HostId> {
        if request.policy == Policy::RoundRobin {
            let after = cursor.last.map_or(Bound::Unbounded, Bound::Excluded);
            let rest = self.hosts.range((after, Bound::Unbounded)).chain(&self.hosts);
            return rest.filter(|(id, host)| host.fits(**id, request)).map(|(id, _)| *id).next();
        }
        let fitting = self.hosts.iter().filter(|(id, host)| host.fits(**id, request));
        let ranked = fitting.map(|(id, host)| {
            let rank = request.policy.rank(host.limit, host.free(), request.need);
            (*id, rank)
        });
        ranked.min_by(|(a, x), (b, y)| x.cmp(y).then(a.cmp(b))).map(|(id, _)| id)
    }

    /// The hosts grouped by everything that placement sees.
    fn classes(&self, request: &Request) -> Vec<Class<'_>> {
        let mut classes = BTreeMap::new();
        for (id, host) in &self.hosts {
            let excluded = request.exclude.contains(id);
            let key = (&host.constraints, host.limit.parts(), host.used.parts(), excluded);
            let class = classes.entry(key).or_insert_with(|| Class {
                constraints: &host.constraints,
                limit: host.limit,
                used: host.used,
                excluded,
                hosts: 0,
                sample: Vec::new(),
            });
            class.hosts += 1;
            if class.sample.len() < MAX_SAMPLE {
                class.sample.push((*id, host.name.as_str()));
            }
        }
        classes.into_values().collect()
    }
}

impl Entry {
    fn free(&self) -> Resources {
        self.limit.saturating_sub(self.used)
    }

    fn fits(&self, id: HostId, request: &Request) -> bool {
        self.used.checked_add(request.need).is_some_and(|used| used.fits_in(self.limit))
            && self.constraints.admit(request)
            && !request.exclude.contains(&id)
    }
}
