//! Every host behind one cheap handle: blocking host calls on a bounded set of threads a host, each with a deadline.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::fake::FakeHost;
use super::{Fault, FaultKind, HostTarget, Hypervisor, Signal};
use crate::domain::id::HostId;
use crate::domain::metric;

/// Calls of one host that run at a time. A hung one counts until its thread comes back, so that a host can never hold more
/// threads than this, however often it is asked.
pub const THREADS: usize = 8;
/// Uploads to one host that run at a time: they may take hours, and others need its threads and connections.
pub const UPLOADS: usize = 2;
/// Consoles of one host that are read at a time: readers are many, and leave threads to those who work there.
pub const CONSOLES: usize = 2;
/// Calls of one host that wait for a thread; more are turned away at once.
pub const WAITING: usize = 256;
/// Signals that wait in the channel of `Hosts::fake`.
const FAKE_SIGNALS: usize = 1024;

type Factory = Arc<dyn Fn(&HostTarget) -> Arc<dyn Hypervisor> + Send + Sync>;

/// Clones share everything.
#[derive(Clone)]
pub struct Hosts(Arc<Inner>);

struct Inner {
    factory: Factory,
    signals: mpsc::Sender<(HostId, Signal)>,
    hosts: Mutex<HashMap<HostId, Lane>>,
}

#[derive(Clone)]
struct Lane {
    target: HostTarget,
    hypervisor: Arc<dyn Hypervisor>,
    load: Load,
}

/// Outlives a change of the target: threads that hang at the old address still count.
#[derive(Clone)]
struct Load {
    threads: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    uploads: Arc<Semaphore>,
    consoles: Arc<Semaphore>,
    /// Whether it answered when it was asked last.
    answers: Arc<AtomicBool>,
}

impl Hosts {
    /// `factory` makes the hypervisor for a target and must not block. A signal that finds the channel full is dropped:
    /// signals only hasten what the full scan would find.
    pub fn new(factory: Factory, signals: mpsc::Sender<(HostId, Signal)>) -> Self {
        Self(Arc::new(Inner { factory, signals, hosts: Mutex::default() }))
    }

    /// Fakes, and where their signals come out.
    pub fn fake(
        fakes: impl IntoIterator<Item = (HostId, Arc<FakeHost>)>,
    ) -> (Self, mpsc::Receiver<(HostId, Signal)>) {
        let fakes: Vec<_> = fakes.into_iter().collect();
        let by_uri: HashMap<_, _> =
            fakes.iter().map(|(id, fake)| (fake_target(*id).uri, Arc::clone(fake))).collect();
        let (sender, receiver) = mpsc::channel(FAKE_SIGNALS);
        let factory: Factory = Arc::new(move |target| match by_uri.get(&target.uri) {
            Some(fake) => Arc::clone(fake) as Arc<dyn Hypervisor>,
            None => Arc::new(nobody()),
        });
        let hosts = Self::new(factory, sender);
        for (id, _) in fakes {
            hosts.set(id, fake_target(id));
        }
        (hosts, receiver)
    }

    /// Adds the host; replaces it where the target has changed. Subscribes to its signals in the background.
    pub fn set(&self, id: HostId, target: HostTarget) {
        let mut hosts = self.lock();
        let load = match hosts.get(&id) {
            Some(lane) if lane.target == target => return,
            Some(lane) => lane.load.clone(),
            None => Load {
                threads: Arc::new(Semaphore::new(THREADS)),
                waiting: Arc::new(AtomicUsize::new(0)),
                uploads: Arc::new(Semaphore::new(UPLOADS)),
                consoles: Arc::new(Semaphore::new(CONSOLES)),
                answers: Arc::new(AtomicBool::new(true)),
            },
        };
        let hypervisor = (self.0.factory)(&target);
        let lane = Lane { target, hypervisor: Arc::clone(&hypervisor), load };
        let old = hosts.insert(id, lane);
        drop(hosts);
        let signals = self.0.signals.clone();
        in_background("host-set", move || {
            // Dropping a host closes its connections, which may hang.
            drop(old);
            let sink = Arc::new(move |signal| {
                if let Err(error) = signals.try_send((id, signal)) {
                    tracing::debug!(host = %id, %error, "drop a signal");
                }
            });
            if let Err(fault) = hypervisor.subscribe(sink) {
                tracing::warn!(host = %id, %fault, "subscribe to a host's signals");
            }
        });
    }

    /// Forgets the host. Calls that run go on to their end.
    pub fn remove(&self, id: HostId) {
        let old = self.lock().remove(&id);
        in_background("host-remove", move || drop(old));
    }

    /// Each host, how many calls run on it, and how many wait for a thread.
    pub fn loads(&self) -> Vec<(HostId, usize, usize)> {
        let load = |load: &Load| {
            let running = THREADS.saturating_sub(load.threads.available_permits());
            (running, load.waiting.load(Ordering::Acquire))
        };
        let of = |(id, lane): (&HostId, &Lane)| {
            let (running, waiting) = load(&lane.load);
            (*id, running, waiting)
        };
        self.lock().iter().map(of).collect()
    }

    /// Leave to upload to the host, until it is dropped by whoever uploads. `None`: as many as may do so already.
    pub fn upload_turn(&self, host: HostId) -> Option<OwnedSemaphorePermit> {
        self.lane(host)?.load.uploads.try_acquire_owned().ok()
    }

    /// Waits for leave to read a console of the host, which is had until it is dropped.
    pub async fn console_turn(&self, host: HostId) -> Option<OwnedSemaphorePermit> {
        self.lane(host)?.load.consoles.acquire_owned().await.ok()
    }

    /// The hosts that are known here.
    pub fn ids(&self) -> Vec<HostId> {
        self.lock().keys().copied().collect()
    }

    /// Runs `f` on the host, which it changes: that is logged. `Unreachable` if the host is unknown, or if it has not answered
    /// within the deadline, which counts waiting for a thread too: then the call may yet take effect. `what` says for people
    /// what was tried.
    pub async fn call<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        deadline: Duration,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let span = tracing::info_span!("host_call", %host, call = what);
        async {
            let (outcome, ms) = self.measured(host, what, deadline, f).await;
            if outcome.is_ok() {
                tracing::info!(ms, "done on the host");
            }
            outcome
        }
        .instrument(span)
        .await
    }

    /// The same for what changes nothing there.
    pub async fn look<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        deadline: Duration,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let span = tracing::info_span!("host_call", %host, call = what);
        async {
            let (outcome, ms) = self.measured(host, what, deadline, f).await;
            if outcome.is_ok() {
                tracing::debug!(ms, "looked at the host");
            }
            outcome
        }
        .instrument(span)
        .await
    }

    /// Runs it, counts it, and tells of its failure. With how many milliseconds it took.
    async fn measured<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        deadline: Duration,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> (Result<T, Fault>, f64) {
        let begun = Instant::now();
        let outcome = self.run(host, what, deadline, f).await;
        let took = begun.elapsed();
        let label = host.to_string();
        histogram!(metric::CALL_SECONDS, "host" => label.clone(), "call" => what).record(took);
        let word = outcome.as_ref().map_or_else(|fault| fault.kind.as_str(), |_| "ok");
        counter!(metric::CALLS, "host" => label, "call" => what, "outcome" => word).increment(1);
        let ms = took.as_secs_f64() * 1000.0;
        let unreachable = matches!(&outcome, Err(fault) if fault.kind == FaultKind::Unreachable);
        let news = self.lane(host).is_some_and(|lane| {
            lane.load.answers.swap(!unreachable, Ordering::AcqRel) == unreachable
        });
        match &outcome {
            Ok(_) if news => tracing::info!("the host answers again"),
            Ok(_) => {}
            // Once: a host that is down is asked again and again.
            Err(fault) if unreachable && !news => tracing::debug!(ms, %fault, "the call failed"),
            Err(fault) => tracing::info!(ms, %fault, kind = word, "the call failed"),
        }
        (outcome, ms)
    }

    fn lane(&self, host: HostId) -> Option<Lane> {
        self.lock().get(&host).cloned()
    }

    async fn run<T: Send + 'static>(
        &self,
        host: HostId,
        what: &'static str,
        deadline: Duration,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let lane = self
            .lane(host)
            .ok_or_else(|| Fault::unreachable(format!("{what}: there is no host {host}")))?;
        let end = Instant::now() + deadline;
        let permit = lane.load.thread(what, deadline, end).await?;
        let (reply, answer) = oneshot::channel();
        let (hypervisor, span) = (lane.hypervisor, Span::current());
        let spawned = thread::Builder::new().name("host-call".into()).spawn(move || {
            // Nobody waits for it any more, and who comes next may have done it: the machine or this process stood still.
            if Instant::now() >= end {
                let _ = reply.send(Err(late(what, deadline)));
                return;
            }
            let outcome = span.in_scope(|| f(hypervisor.as_ref()));
            // Where nobody waits any more, the call was still made.
            let _ = reply.send(outcome);
            drop(hypervisor);
            drop(permit);
        });
        if let Err(error) = spawned {
            return Err(Fault::transient(format!("{what}: start a thread: {error}")));
        }
        match timeout_at(end, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_closed)) => {
                Err(Fault::unreachable(format!("{what}: the call ended in a panic: see the log")))
            }
            Err(_elapsed) => Err(late(what, deadline)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, Lane>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    async fn thread(
        &self,
        what: &str,
        deadline: Duration,
        end: Instant,
    ) -> Result<OwnedSemaphorePermit, Fault> {
        let _place = Place::take(&self.waiting).ok_or_else(|| {
            Fault::transient(format!("{what}: {WAITING} calls of this host are waiting already"))
        })?;
        match timeout_at(end, Arc::clone(&self.threads).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(closed)) => Err(Fault::transient(format!("{what}: {closed}"))),
            Err(_elapsed) => Err(late(what, deadline)),
        }
    }
}

fn late(what: &str, deadline: Duration) -> Fault {
    Fault::unreachable(format!(
        "{what}: the host did not answer within {} s",
        deadline.as_secs_f32()
    ))
}

/// A place in the queue, left when dropped: a caller that gives up leaves it too.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::AcqRel) < WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn in_background(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.into()).spawn(work) {
        tracing::warn!(%error, "start a thread");
    }
}

/// The target under which `Hosts::fake` knows the fake of this id.
pub fn fake_target(id: HostId) -> HostTarget {
    HostTarget {
        uri: format!("fake:///{id}"),
        pool_path: "/fake".into(),
        cloud: Uuid::nil(),
        expect: None,
    }
}

/// What answers at an address where no fake is.
fn nobody() -> FakeHost {
    let fake = FakeHost::new(Uuid::nil(), crate::domain::clock::Clock::System);
    fake.set_reachable(false);
    fake
}
