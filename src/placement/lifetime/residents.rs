//! Who is on which host and for how long, fed to what `lifetime_fit` learns from.

use std::collections::{HashMap, HashSet};

use super::{ExitClass, Guests, Labels, Stay};
use crate::domain::clock::Time;
use crate::domain::id::{HostId, IncarnationId};
use crate::domain::instance::{Guest, Unplaced};
use crate::placement::Index;

/// The guests of all hosts, as the incarnations tell.
#[derive(Default)]
pub struct Residents {
    guests: Guests,
    there: HashMap<HostId, HashSet<IncarnationId>>,
}

impl Residents {
    /// Takes in the guests that these hosts have now, oldest first; `None`: all hosts.
    pub fn refresh(
        &mut self,
        guests: Vec<Guest>,
        index: &mut Index,
        hosts: Option<&[HostId]>,
        now: Time,
    ) {
        let mut now_there: HashMap<HostId, HashSet<IncarnationId>> = HashMap::new();
        // Oldest first, so that those who have been there for long are known to have outlived the others.
        for guest in guests {
            now_there.entry(guest.host_id).or_default().insert(guest.id);
            let known = self.there.get(&guest.host_id);
            if known.is_none_or(|known| !known.contains(&guest.id)) {
                let leaves = guest.expires_at.map(seconds);
                let since = seconds(guest.created_at).min(seconds(now));
                let labels = labels(&guest);
                self.guests.arrive(index, number(guest.id), guest.host_id, labels, leaves, since);
            }
        }
        let looked_at: Vec<HostId> = match hosts {
            Some(hosts) => hosts.to_vec(),
            None => self.there.keys().copied().chain(now_there.keys().copied()).collect(),
        };
        for host in looked_at {
            let there = now_there.remove(&host).unwrap_or_default();
            for gone in self.there.remove(&host).unwrap_or_default() {
                if !there.contains(&gone) {
                    self.guests.leave(index, number(gone), seconds(now));
                }
            }
            if !there.is_empty() {
                self.there.insert(host, there);
            }
        }
        self.guests.advance(index, seconds(now));
    }

    /// For how long the instance is to be thought to stay.
    pub fn stay(&self, who: &Unplaced, now: Time) -> Stay {
        let labels = of(&who.flavor_name, &who.tenant_id.to_string(), &who.labels);
        self.guests.stay(&labels, who.expires_at.map(seconds), seconds(now))
    }

    /// In how long the host is expected to be left.
    pub fn exit(&self, host: HostId) -> ExitClass {
        self.guests.class(host)
    }
}

fn labels(guest: &Guest) -> Labels {
    let tenant = guest.tenant_id.to_string();
    of(guest.flavor_name.as_deref().unwrap_or_default(), &tenant, &guest.labels)
}

/// From the general to the particular: its flavor, its tenant, both, and its labels in that tenant.
fn of(flavor: &str, tenant: &str, labels: &str) -> Labels {
    Labels::default()
        .with(flavor)
        .with(tenant)
        .with(&format!("{tenant} {flavor}"))
        .with(&format!("{tenant} {flavor} {labels}"))
}

/// Two incarnations of one number would be taken for one guest, which spoils a guess.
fn number(id: IncarnationId) -> u64 {
    let (high, low) = id.0.as_u64_pair();
    high ^ low.rotate_left(32)
}

fn seconds(time: Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or(0)
}
