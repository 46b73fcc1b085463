//! The queue for capacity: whose turn it is, fair between tenants.
//!
//! Start-time fair queuing (Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996), with a tenant as a flow and an
//! instance's size as its length: an instance's tag is where its tenant's line has come to, or what is being served where the
//! tenant has no line; the smallest tag is served first. So tenants take turns by size, a long line holds up its own tenant
//! alone, and within a tenant who came first is first. Everything follows from the tags of those that wait: nothing is kept.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::TenantId;

/// Where an instance stands that waits for room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueuePlace {
    /// How many are served before it, and itself. One behind it may go first where it takes nothing from it.
    #[schema(minimum = 1, example = 3)]
    pub position: i64,
    /// Since when no host has had room.
    pub since: DateTime<Utc>,
    /// Single changes each of which would let it fit, as placement saw it when it was looked at last; each with its `change`.
    #[schema(value_type = Vec<Object>, max_items = 8)]
    pub would_fit_if: Vec<serde_json::Value>,
}

/// How far the lines have come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backlog {
    /// The smallest tag of all that wait; 0 where none does.
    pub serving: f64,
    /// Where each waiting tenant's line ends: the tag and the size of its last.
    pub ends: HashMap<TenantId, f64>,
}

impl Backlog {
    /// The tag of one that comes now, which its tenant's line is then longer by.
    pub fn enter(&mut self, tenant: TenantId, size: f64) -> f64 {
        let end = self.ends.entry(tenant).or_insert(self.serving);
        let tag = end.max(self.serving);
        *end = tag + size;
        tag
    }
}

/// An instance's size: vCPUs, or quarters of 16 GiB where those are more.
pub fn size(vcpus: i32, memory_mib: i64) -> f64 {
    let memory = f64::from(i32::try_from(memory_mib / 4).unwrap_or(i32::MAX)) / 1024.0;
    f64::from(vcpus).max(memory)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tenant(n: u128) -> TenantId {
        TenantId(Uuid::from_u128(n))
    }

    #[test]
    fn a_long_line_of_one_tenant_does_not_hold_up_another() {
        let mut queue = Backlog::default();
        let first: Vec<_> = (0..100).map(|_| queue.enter(tenant(1), 2.0)).collect();
        assert!(first.is_sorted_by(|a, b| a < b), "who came first is first");
        // Some were served.
        queue.serving = first[10];
        let other = queue.enter(tenant(2), 8.0);
        let before = first[10..].iter().filter(|tag| **tag < other).count();
        assert_eq!(before, 0, "{other}");
        // By size: one of 8 stands for four of 2.
        let next = queue.enter(tenant(2), 1.0);
        assert_eq!(first[10..].iter().filter(|tag| **tag < next).count(), 4);
    }

    #[test]
    fn who_waits_alone_begins_where_the_queue_is_and_a_big_one_is_not_put_back_for_its_size() {
        let mut queue = Backlog { serving: 40.0, ends: HashMap::from([(tenant(1), 3.0)]) };
        assert_eq!((queue.enter(tenant(1), 512.0), queue.enter(tenant(3), 1.0)), (40.0, 40.0));
        let next = queue.enter(tenant(1), 1.0);
        assert_eq!((next, size(2, 4096), size(1, 65_536)), (552.0, 2.0, 16.0));
    }
}
