//! What goes wrong on a host: armed faults, and a look at the host before each call for what must never be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pileus::domain::id::{IncarnationId, InstanceId};
use pileus::hypervisor::fake::Content;
use pileus::hypervisor::{FakeHost, Fault, Inject};

use crate::case::Wrong;

/// Shared by the case and its hosts' hooks.
#[derive(Default)]
pub struct Faults(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    armed: Vec<Armed>,
    /// Set while the case itself calls a host.
    off: bool,
    /// Whose disks hold what guests wrote.
    ran: BTreeMap<IncarnationId, (usize, InstanceId)>,
    /// Their disks may go.
    deleted: BTreeSet<InstanceId>,
    violations: BTreeSet<String>,
}

struct Armed {
    host: usize,
    call: &'static str,
    wrong: Wrong,
    /// Calls of this name that still pass.
    pass: usize,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn arm(&self, host: usize, call: &'static str, wrong: Wrong, nth: usize) {
        self.lock().armed.push(Armed { host, call, wrong, pass: nth });
    }

    pub fn heal(&self) {
        self.lock().armed.clear();
    }

    /// Calls that the case makes itself pass.
    pub fn aside<T>(&self, call: impl FnOnce() -> T) -> T {
        self.lock().off = true;
        let outcome = call();
        self.lock().off = false;
        outcome
    }

    pub fn delete_asked(&self, id: InstanceId) {
        self.lock().deleted.insert(id);
    }

    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.iter().cloned().collect()
    }

    /// Sets the faults on a host.
    pub fn haunt(self: &Arc<Self>, number: usize, host: &Arc<FakeHost>) {
        let faults = Arc::clone(self);
        let watched = Arc::downgrade(host);
        host.inject(move |call| {
            if let Some(host) = watched.upgrade() {
                faults.inspect(number, &host.content());
            }
            faults.fate(number, call)
        });
    }

    fn fate(&self, host: usize, call: &str) -> Inject {
        let mut inner = self.lock();
        if inner.off {
            return Inject::Pass;
        }
        let met = inner.armed.iter().position(|armed| armed.host == host && armed.call == call);
        let Some(met) = met else { return Inject::Pass };
        if inner.armed[met].pass > 0 {
            inner.armed[met].pass -= 1;
            return Inject::Pass;
        }
        match inner.armed.swap_remove(met).wrong {
            Wrong::LostRequest => {
                Inject::FailBefore(Fault::unreachable(format!("{call}: the request was lost")))
            }
            Wrong::LostReply => {
                Inject::FailAfter(Fault::unreachable(format!("{call}: the reply was lost")))
            }
            Wrong::Transient => {
                Inject::FailBefore(Fault::transient(format!("{call}: not this time")))
            }
            Wrong::Permanent => Inject::FailBefore(Fault::permanent(format!("{call}: broken"))),
        }
    }

    /// What may not be at any moment, whoever is at work.
    pub fn inspect(&self, host: usize, content: &Content) {
        let mut inner = self.lock();
        let whole = |name: &str| content.volumes.get(name).is_some_and(|volume| volume.filled);
        let mut seen = Vec::new();
        for (id, domain) in &content.domains {
            let Some((spec, stamp)) = domain.spec.as_ref().zip(domain.seen.stamp) else { continue };
            inner.ran.insert(stamp.incarnation, (host, *id));
            let base = content.volumes.get(&spec.disk).and_then(|disk| disk.base.clone());
            for part in
                [Some(spec.disk.clone()), Some(spec.seed.clone()), base].into_iter().flatten()
            {
                if !whole(&part) {
                    seen.push(format!("{id} runs on host {host} without a whole {part}"));
                }
            }
        }
        for (incarnation, (at, id)) in &inner.ran {
            let disk = format!("disk-{incarnation}.qcow2");
            if *at == host && !inner.deleted.contains(id) && !content.volumes.contains_key(&disk) {
                seen.push(format!("{disk} of {id} is gone, with what its guest wrote"));
            }
        }
        inner.violations.extend(seen);
    }
}
