//! How often a tenant may ask: a bucket for each, so that one tenant's loop leaves room for the others.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use crate::config::Config;
use crate::domain::caller::Caller;
use crate::domain::clock::Clock;
use crate::domain::error::{Error, Result};

/// Rounds up to whole seconds.
const ALMOST: Duration = Duration::from_nanos(999_999_999);

/// The clock as governor wants it. A real one is read as a monotonic one: setting the date back must lock nobody out.
#[derive(Clone)]
pub struct Ticks {
    clock: Clock,
    start: Instant,
}

impl Ticks {
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), start: Instant::now() }
    }
}

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match &self.clock {
            Clock::System | Clock::Database(_) => self.start.elapsed().into(),
            Clock::Manual(_) => {
                let micros = u64::try_from(self.clock.now().timestamp_micros()).unwrap_or(0);
                Duration::from_micros(micros).into()
            }
        }
    }
}

/// A bucket a key.
pub type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, Ticks, NoOpMiddleware<Nanos>>;

/// Takes from the key's bucket; `detail` says what there is too much of.
pub fn take<K: Clone + Eq + std::hash::Hash>(
    limiter: &Limiter<K>,
    key: &K,
    ticks: &Ticks,
    detail: impl FnOnce() -> String,
) -> Result<()> {
    limiter.check_key(key).map_err(|until| Error::TooManyRequests {
        detail: detail(),
        // A part of a second more is a second more, or the client comes back too early.
        retry_after: Duration::from_secs(
            until.wait_time_from(ticks.now()).saturating_add(ALMOST).as_secs(),
        ),
    })
}

/// The buckets of one process. Keys are those of callers who are known, so that there are no more than tenants and users.
pub struct Rates {
    tenants: Limiter<Uuid>,
    ticks: Ticks,
    per_second: u32,
}

impl Rates {
    pub fn new(config: &Config, clock: &Clock) -> Self {
        let per_second = NonZeroU32::new(config.tenant_rate).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(config.tenant_burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let ticks = Ticks::new(clock);
        let tenants = RateLimiter::new(quota, DashMapStateStore::default(), ticks.clone());
        Self { tenants, ticks, per_second: per_second.get() }
    }

    /// Counts a request of the caller's tenant, or of the caller where that is in none. Admins of the cloud are not held off:
    /// they are who mends it.
    pub fn count(&self, caller: &Caller) -> Result<()> {
        if caller.admin {
            return Ok(());
        }
        let key = caller.tenant.map_or(caller.user.0, |tenant| tenant.0);
        take(&self.tenants, &key, &self.ticks, || {
            format!(
                "your tenant asks more than {} times a second: wait for Retry-After",
                self.per_second
            )
        })
    }

    /// Drops what has recovered.
    pub fn forget(&self) {
        self.tenants.retain_recent();
        self.tenants.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;
    use crate::config::Flags;

    #[test]
    fn a_tenant_over_its_rate_waits_and_no_other_does() {
        let flags = Flags::default().set("tenant_rate", "1").set("tenant_burst", "3");
        let config = Config::load(&flags, []).unwrap();
        let clock = Clock::manual(DateTime::from_timestamp_micros(1_800_000_000_000_000).unwrap());
        let rates = Rates::new(&config, &clock);
        for _ in 0..3 {
            rates.count(&Caller::in_tenant(1, false)).unwrap();
        }
        let refused = rates.count(&Caller::in_tenant(1, false));
        let Err(Error::TooManyRequests { retry_after, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(retry_after, Duration::from_secs(1));
        rates.count(&Caller::in_tenant(2, false)).unwrap();
        rates.count(&Caller::in_tenant(1, true)).unwrap();
        clock.advance(TimeDelta::seconds(1));
        rates.count(&Caller::in_tenant(1, false)).unwrap();
        assert!(rates.count(&Caller::in_tenant(1, false)).is_err());
    }
}
