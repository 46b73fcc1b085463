//! How much is worked on at a time: a counter for each kind of request, with the bounds of the configuration, of which no tenant
//! has more than its share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::config::Config;
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};

/// Most consoles that are read at a time.
const CONSOLES: u32 = 64;

/// What counts a request, and its tenant's share, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// The counters of one process.
#[derive(Debug)]
pub struct Limits {
    requests: Counter,
    waits: Counter,
    uploads: Counter,
    downloads: Counter,
    consoles: Counter,
    streams: Counter,
}

#[derive(Debug)]
struct Counter {
    free: Arc<Semaphore>,
    most: u32,
    /// Of them all, for one tenant.
    share: u32,
    held: Arc<Held>,
    what: &'static str,
}

/// How many each tenant has, of those that have one.
type Held = Mutex<HashMap<Uuid, u32>>;

/// One of a tenant's.
#[derive(Debug)]
pub struct Share {
    held: Arc<Held>,
    tenant: Uuid,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.tenant);
            }
        }
    }
}

/// Where a request that was counted before its caller was known keeps its tenant's share until it ends.
#[derive(Debug, Clone, Default)]
pub struct ShareOfWaits(Arc<Mutex<Option<Share>>>);

impl ShareOfWaits {
    pub fn fill(&self, share: Option<Share>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = share;
    }
}

impl Limits {
    pub fn new(config: &Config) -> Self {
        let counter = |most: u32, what| {
            let share = u64::from(most) * u64::from(config.tenant_share_percent);
            let share = u32::try_from(share.div_ceil(100)).unwrap_or(u32::MAX);
            Counter::new(most, share, what)
        };
        Self {
            requests: counter(config.max_requests, "requests"),
            waits: counter(config.max_waits, "waiting requests"),
            uploads: counter(config.max_uploads, "uploads"),
            downloads: counter(config.max_uploads, "downloads"),
            consoles: counter(CONSOLES, "readers of consoles"),
            streams: counter(config.max_streams, "event streams"),
        }
    }

    /// What it is, how much of it is worked on, and how much may be.
    pub fn in_use(&self) -> [(&'static str, u32, u32); 6] {
        [
            ("requests", &self.requests),
            ("waits", &self.waits),
            ("uploads", &self.uploads),
            ("downloads", &self.downloads),
            ("consoles", &self.consoles),
            ("streams", &self.streams),
        ]
        .map(|(what, counter)| (what, counter.in_use(), counter.most))
    }

    /// A request that neither waits, uploads nor streams; how often its tenant may ask is `Rates`' business. All fail with
    /// `Unavailable` where the limit is reached, and those with a caller with `TooManyRequests` where the tenant has its share.
    pub fn request(&self) -> Result<Permit> {
        self.requests.take(None)
    }

    /// One whose caller is not known yet: `share_of_waits` follows.
    pub fn wait(&self) -> Result<Permit> {
        self.waits.take(None)
    }

    /// `None`: the caller is held to no share.
    pub fn share_of_waits(&self, caller: &Caller) -> Result<Option<Share>> {
        self.waits.share_of(caller)
    }

    pub fn upload(&self, caller: &Caller) -> Result<Permit> {
        self.uploads.take(Some(caller))
    }

    pub fn download(&self, caller: &Caller) -> Result<Permit> {
        self.downloads.take(Some(caller))
    }

    /// Beside its place as a request: a console is read on a host, which may be slow.
    pub fn console(&self, caller: &Caller) -> Result<Permit> {
        self.consoles.take(Some(caller))
    }

    pub fn stream(&self, caller: &Caller) -> Result<Permit> {
        self.streams.take(Some(caller))
    }
}

impl Counter {
    fn new(most: u32, share: u32, what: &'static str) -> Self {
        let size = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(size)), most, share, held: Arc::default(), what }
    }

    fn in_use(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.most.saturating_sub(free)
    }

    fn take(&self, caller: Option<&Caller>) -> Result<Permit> {
        let place = self.free.clone().try_acquire_owned();
        let place = place.map_err(|_full_and_never_closed| Error::Unavailable {
            detail: format!(
                "this server works on {} {} at a time and has as many: try again in a moment",
                self.most, self.what
            ),
            retry_after: Duration::from_secs(1),
        })?;
        let share = caller.map_or(Ok(None), |caller| self.share_of(caller))?;
        Ok(Permit { _place: place, _share: share })
    }

    /// Admins of the cloud are held to none: they are who mends it.
    fn share_of(&self, caller: &Caller) -> Result<Option<Share>> {
        if caller.admin {
            return Ok(None);
        }
        let tenant = caller.tenant.map_or(caller.user.0, |tenant| tenant.0);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(tenant).or_default();
        if *count >= self.share {
            return Err(Error::TooManyRequests {
                detail: format!(
                    "your tenant has {} {} at this server, which is its share of {}: wait until one of them has ended",
                    self.share, self.what, self.most
                ),
                retry_after: Duration::from_secs(1),
            });
        }
        *count += 1;
        Ok(Some(Share { held: Arc::clone(&self.held), tenant }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn a_tenant_has_its_share_and_no_more_and_what_ends_is_given_back() {
        let flags = Flags::default().set("max_uploads", "5").set("tenant_share_percent", "50");
        let limits = Limits::new(&Config::load(&flags, []).unwrap());
        let (one, other) = (Caller::in_tenant(1, false), Caller::in_tenant(2, false));
        let held: Vec<_> = (0..3).map(|_| limits.upload(&one).unwrap()).collect();
        let refused = limits.upload(&one);
        let Err(Error::TooManyRequests { detail, .. }) = refused else { panic!("{refused:?}") };
        assert!(detail.contains("3 uploads") && detail.contains("share of 5"), "{detail}");
        assert_eq!(limits.in_use()[2], ("uploads", 3, 5), "what was refused holds nothing");
        let theirs = limits.upload(&other).unwrap();
        let admins = limits.upload(&Caller::in_tenant(1, true)).unwrap();
        assert!(matches!(limits.upload(&other), Err(Error::Unavailable { .. })));
        drop((held, theirs, admins));
        assert_eq!(limits.in_use()[2], ("uploads", 0, 5));
        assert!(limits.uploads.held.lock().unwrap().is_empty());
        drop(limits.upload(&one).unwrap());
    }
}
