//! What every reconcile is given, and how it ends.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::Span;
use tracing::field::display;
use uuid::Uuid;

use super::fault;
use super::placer::Placer;
use super::seats;
use super::turns::Turns;
use crate::config::Config;
use crate::domain::beat::Beats;
use crate::domain::clock::Clock;
use crate::domain::clock::Time;
use crate::domain::compared::Compared;
use crate::domain::error::{Error, Result};
use crate::domain::event::{Actor, NewEvent, Outcome as EventOutcome, Subject};
use crate::domain::id::{HostId, NetworkId};
use crate::hypervisor::{Fault, Hosts, Hypervisor};
use crate::store::changes::Changes;
use crate::store::work::Lease;
use crate::store::{self, Tx};

/// What a loop's round gives, unless it takes longer than it may. A connection is had within 10 s and a statement done within
/// 30 s: what takes much longer waits for an answer that will not come, and the next round gets a connection that works.
pub async fn in_time<T>(longest: Duration, round: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || anyhow::anyhow!("the database has not answered within {} s", longest.as_secs());
    tokio::time::timeout(longest, round).await.unwrap_or_else(|_late| Err(late().into()))
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Parts>);

pub struct Parts {
    pub db: PgPool,
    pub config: Config,
    pub clock: Clock,
    pub cloud: Uuid,
    pub changes: Changes,
    pub hosts: Hosts,
    pub placer: Placer,
    /// Networks on hosts that are being settled: a long queue there must not hold every connection to the database.
    pub settling: Turns<(HostId, NetworkId)>,
    /// One of them at a time on each host: one that hangs holds one connection to the database.
    pub making: Turns<HostId>,
    /// The hosts that this process has compared with the database: see `hold`.
    pub compared: Compared,
    /// This process, as the leases name it.
    pub owner: Uuid,
}

/// What a loop runs with.
#[derive(Clone)]
pub struct Run {
    pub ctx: Context,
    pub beats: Beats,
    /// Cancelled when the loop is to end.
    pub shutdown: CancellationToken,
}

/// How a look at an item ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A step was taken: look again at once.
    Again,
    /// Nothing to do now.
    Settled {
        /// Look again after this long; `None`: only when touched.
        next: Option<TimeDelta>,
        /// What it waits for, for people.
        reason: Option<String>,
    },
    /// The item is no more, and neither is its work row.
    Gone,
}

impl Outcome {
    pub fn rest() -> Self {
        Self::Settled { next: None, reason: None }
    }

    pub fn wait(next: TimeDelta, reason: impl Into<String>) -> Self {
        Self::Settled { next: Some(next), reason: Some(reason.into()) }
    }
}

/// Why a look could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Host(#[from] Fault),
    #[error(transparent)]
    Store(Error),
    /// Another worker has the item: nothing may be written any more.
    #[error("the lease was lost")]
    LeaseLost,
    #[error("Pileus itself failed: its log says more; please report it")]
    Ours,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Conflict { code: "lease-lost", .. } => Self::LeaseLost,
            other => Self::Store(other),
        }
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

impl Trouble {
    /// The word that is stored beside the message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Host(fault) => fault.kind.as_str(),
            Self::Store(_) => "database",
            Self::LeaseLost => "lease_lost",
            Self::Ours => "internal",
        }
    }
}

impl Context {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub async fn conn(&self) -> Result<store::Conn> {
        store::acquire(&self.db).await
    }

    /// A transaction of the lease's holder: its first statement checks the epoch, and keeps others from taking the item.
    pub async fn write(&self, lease: &Lease) -> Result<Tx> {
        let mut tx = store::begin(&self.db).await?;
        store::work::guard(&mut tx, lease).await?;
        Ok(tx)
    }

    /// The same for what was only seen: a commit that does not wait for the disk.
    pub async fn note(&self, lease: &Lease) -> Result<Tx> {
        let mut tx = store::begin(&self.db).await?;
        store::work::guard_softly(&mut tx, lease).await?;
        Ok(tx)
    }

    /// The same, and until when the lease holds, by our own watch.
    pub async fn write_until(&self, lease: &Lease) -> Result<(Tx, Instant)> {
        let asked = Instant::now();
        let mut tx = store::begin(&self.db).await?;
        let until = store::work::guard(&mut tx, lease).await?;
        Ok((tx, self.watch(asked, until)))
    }

    fn watch(&self, asked: Instant, until: Option<Time>) -> Instant {
        let left = until.and_then(|until| (until - self.clock.now()).to_std().ok());
        // A clock that was set back must not make it longer.
        asked + left.unwrap_or_default().min(self.config.reconcile_lease)
    }

    /// Whether the lease still holds, asked right before an effect on a host; gives until when, by our own watch. What was
    /// wished is on the database's disk then, and no crash takes it back. A crash before may have: of what was read before this
    /// and is found again after it, that is certain.
    pub async fn confirm(&self, lease: &Lease) -> Result<Instant> {
        self.changes.durable(&self.db).await?;
        let asked = Instant::now();
        let until = store::work::guard(&mut *self.conn().await?, lease).await?;
        Ok(self.watch(asked, until))
    }

    /// A host call that changes something there, made only while the lease holds.
    pub async fn effect<T: Send + 'static>(
        &self,
        lease: &Lease,
        host: HostId,
        what: &'static str,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Trouble> {
        let until = self.confirm(lease).await?;
        self.effect_until(until, host, what, f).await
    }

    /// The same under a lease that was confirmed already: who is held up for longer must not touch what a successor made.
    pub async fn effect_until<T: Send + 'static>(
        &self,
        until: Instant,
        host: HostId,
        what: &'static str,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Trouble> {
        let done = self.host(host, what, move |host| {
            fault::point(what);
            if Instant::now() >= until {
                return Ok(None);
            }
            f(host).map(Some)
        });
        done.await?.ok_or(Trouble::LeaseLost)
    }

    /// A look at a host, with the usual deadline: it changes nothing there.
    pub async fn look<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        Span::current().record("host", display(host));
        seats::away(self.hosts.look(host, what, self.config.host_call_deadline, f)).await
    }

    /// A call that changes something on a host, with the usual deadline.
    pub async fn host<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.long_host_call(host, what, self.config.host_call_deadline, f).await
    }

    /// For how long a host must be silent before a delete no longer waits for it.
    pub fn gone_after(&self) -> TimeDelta {
        TimeDelta::from_std(self.config.host_gone_after).unwrap_or(TimeDelta::minutes(2))
    }

    /// An upload has as long as it makes progress; this bounds it all the same.
    pub async fn long_host_call<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        deadline: Duration,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        Span::current().record("host", display(host));
        seats::away(self.hosts.call(host, what, deadline, f)).await
    }

    /// Writes an event of ours into `tx`.
    pub async fn event(
        &self,
        tx: &mut Tx,
        kind: &'static str,
        subject: Subject,
        outcome: EventOutcome,
        detail: serde_json::Value,
    ) -> Result<()> {
        let actor = Actor { name: "reconciler".into(), ..Actor::default() };
        let event = NewEvent { kind, subject, actor, outcome, detail };
        store::events::insert(tx, &event, self.clock.now()).await
    }
}

impl Deref for Context {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
