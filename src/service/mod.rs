//! What a caller may do: authorize, count the quota, open the transaction, record the wish.

pub mod aggregates;
pub mod auth;
pub mod authorize;
pub mod bootstrap;
pub mod cloud;
pub mod events;
pub mod expiry;
pub mod flavors;
pub mod fsck;
pub mod health;
pub mod groups;
pub mod hosts;
pub mod instances;
pub mod images;
pub mod keypairs;
pub mod limits;
pub mod memberships;
pub mod metrics;
pub mod networks;
pub mod placement;
pub mod ports;
pub mod quota;
mod rates;
pub mod reservations;
pub mod stalled;
pub mod tenants;
pub mod tokens;
pub mod upkeep;
pub mod users;
mod write;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use write::{Begin, Write, asked, fingerprint};

use crate::config::Config;
use crate::domain::beat::Beats;
use crate::domain::clock::{Clock, Time};
use crate::domain::compared::Compared;
use crate::domain::error::Result;
use crate::hypervisor::Hosts;
use crate::placement::RoundRobin;
use crate::store;
use crate::store::changes::Changes;
use limits::Limits;

/// What every service function is given; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    parts: Parts,
    limits: Limits,
    rates: rates::Rates,
    beats: Beats,
    auth: auth::Auth,
    started: Time,
    round_robin: Mutex<RoundRobin>,
    gatherings: instances::Gatherings,
}

pub struct Parts {
    pub db: PgPool,
    pub config: Config,
    pub clock: Clock,
    /// Our id in every stamp.
    pub cloud: Uuid,
    pub changes: Changes,
    /// For what looks and talks but changes nothing that is stored: consoles, agents.
    pub hosts: Hosts,
    /// The hosts that may be placed on: the reconciler notes them.
    pub compared: Compared,
    /// Cancelled when the process is to end: waits and streams end then.
    pub shutdown: CancellationToken,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        let limits = Limits::new(&parts.config);
        let rates = rates::Rates::new(&parts.config, &parts.clock);
        let auth = auth::Auth::new(&parts.config, &parts.clock);
        let started = parts.clock.now();
        let (beats, round_robin) = (Beats::default(), Mutex::default());
        let gatherings = instances::Gatherings::default();
        Self(Arc::new(Inner {
            parts,
            limits,
            rates,
            beats,
            auth,
            started,
            round_robin,
            gatherings,
        }))
    }

    /// How much this process works on at a time.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// How often each tenant may ask this process.
    pub fn rates(&self) -> &rates::Rates {
        &self.0.rates
    }

    /// The loops of this process: each registers and says that it lives, or `/readyz` names it.
    pub fn beats(&self) -> &Beats {
        &self.0.beats
    }

    /// Where round robin stands, for those who are placed by their own request.
    fn round_robin(&self) -> MutexGuard<'_, RoundRobin> {
        self.0.round_robin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates that are recorded together.
    fn gatherings(&self) -> &instances::Gatherings {
        &self.0.gatherings
    }

    /// When this process began to serve.
    pub fn started(&self) -> Time {
        self.0.started
    }

    /// What authentication keeps in memory.
    fn auth(&self) -> &auth::Auth {
        &self.0.auth
    }

    /// For how long a released address rests before it is given out again.
    pub fn quarantine(&self) -> TimeDelta {
        TimeDelta::from_std(self.config.address_quarantine).unwrap_or(TimeDelta::minutes(5))
    }

    /// A connection for reading.
    pub async fn conn(&self) -> Result<store::Conn> {
        store::acquire(&self.db).await
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}
