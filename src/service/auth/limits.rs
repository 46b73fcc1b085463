//! How often a login may be tried: per user name and per client address.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::domain::clock::Clock;
use crate::domain::error::Result;
use crate::service::rates::{self, Ticks};

/// Keys are hashed, with a secret of this process, to 16 bits: memory is bounded whatever is tried, and nobody can aim at the
/// bucket of another.
type Limiter = rates::Limiter<u16>;

pub struct Limits {
    names: Limiter,
    addresses: Limiter,
    secret: RandomState,
    ticks: Ticks,
}

impl Limits {
    pub fn new(per_minute: u32, clock: &Clock) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
        let ticks = Ticks::new(clock);
        let limiter = || RateLimiter::new(quota, DashMapStateStore::default(), ticks.clone());
        Self {
            names: limiter(),
            addresses: limiter(),
            secret: RandomState::new(),
            ticks: ticks.clone(),
        }
    }

    /// Counts an attempt of `user` from `peer`. The address first: one that is over its limit must not use up the limit of a
    /// user's name, which would lock the user out.
    pub fn attempt(&self, user: &str, peer: Option<IpAddr>) -> Result<()> {
        self.check(&self.addresses, &peer.map(block), "from this address")?;
        self.check(&self.names, &user, "for this user")
    }

    fn check(&self, limiter: &Limiter, key: &impl std::hash::Hash, what: &str) -> Result<()> {
        let key = (self.secret.hash_one(key) & 0xffff) as u16;
        rates::take(limiter, &key, &self.ticks, || {
            format!("too many logins {what}: wait for Retry-After")
        })
    }

    /// Drops what has recovered.
    pub fn forget(&self) {
        self.names.retain_recent();
        self.addresses.retain_recent();
    }
}

/// A client's address; of IPv6 the /64, which is what one customer is given.
fn block(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => std::net::Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, TimeDelta};

    use super::*;
    use crate::domain::error::Error;

    fn manual() -> Clock {
        Clock::manual(DateTime::from_timestamp_micros(1_800_000_000_000_000).unwrap())
    }

    fn address(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn attempts_over_the_limit_wait_as_long_as_they_are_told() {
        let clock = manual();
        let limits = Limits::new(3, &clock);
        for _ in 0..3 {
            limits.attempt("anne", address("192.0.2.1")).expect("within the limit");
        }
        let refused = limits.attempt("anne", address("192.0.2.1"));
        let Err(Error::TooManyRequests { retry_after, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(retry_after, Duration::from_secs(20));
        clock.advance(TimeDelta::seconds(19));
        assert!(limits.attempt("anne", address("192.0.2.1")).is_err());
        clock.advance(TimeDelta::seconds(1));
        assert!(limits.attempt("anne", address("192.0.2.1")).is_ok());
    }

    #[test]
    fn an_address_over_its_limit_uses_up_nobodys_name() {
        let limits = Limits::new(2, &manual());
        for user in ["a", "b"] {
            limits.attempt(user, address("192.0.2.1")).expect("within the limit");
        }
        for _ in 0..9 {
            assert!(limits.attempt("anne", address("192.0.2.1")).is_err());
        }
        assert!(limits.attempt("anne", address("192.0.2.2")).is_ok());
    }

    #[test]
    fn a_name_is_limited_from_whatever_address_and_a_64_is_one_address() {
        let limits = Limits::new(2, &manual());
        for i in 1..=2 {
            limits.attempt("anne", address(&format!("192.0.2.{i}"))).expect("within the limit");
        }
        assert!(limits.attempt("anne", address("192.0.2.3")).is_err());
        let v6 = |host| address(&format!("2001:db8::{host}"));
        assert!(limits.attempt("b", v6(1)).is_ok() && limits.attempt("c", v6(2)).is_ok());
        assert!(limits.attempt("d", v6(3)).is_err());
        assert!(limits.attempt("d", address("2001:db8:0:1::1")).is_ok());
    }
}
