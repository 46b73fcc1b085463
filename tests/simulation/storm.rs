//! One case from its first wish to the oracle's word.

mod weather;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pileus::domain::clock::Clock;
use pileus::domain::id::{HostId, InstanceId};
use pileus::domain::instance::{Action, Wanted};
use pileus::hypervisor::hosts::fake_target;
use pileus::hypervisor::{FakeHost, Hosts, Signal};
use pileus::reconcile::{self, Context, Parts, Turns, hosts, pace, placer::Placer, sweep};
use pileus::store;
use pileus::store::changes::Changes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::case::{Case, Job, TO_THE_END};
use crate::faults::Faults;
use crate::jobs::Worker;
use crate::lane::Lane;
use crate::oracle;

/// A wish that waits so long for another's lock has the others go on.
const PATIENCE: Duration = Duration::from_millis(40);
/// Rounds of look, work and sweep in which a healed world must come to its wishes. More than an hour and the longest backoff.
const ROUNDS: usize = 40;

pub struct Storm<'a> {
    pub lane: &'a Lane,
    pub clock: Clock,
    pub hosts: Vec<(HostId, Arc<FakeHost>)>,
    pub faults: Arc<Faults>,
    /// What was asked for last of each instance, as the answer said.
    pub wishes: Vec<Wish>,
    /// The events that there must be.
    pub accepted: Vec<(InstanceId, &'static str)>,
    /// Domains that somebody made, by host.
    pub foreign: BTreeSet<(usize, InstanceId)>,
    workers: Vec<Worker>,
    connections: Hosts,
    signals: mpsc::Receiver<(HostId, Signal)>,
}

#[derive(Debug, Clone)]
pub struct Wish {
    pub id: InstanceId,
    pub nics: usize,
    pub vcpus: i64,
    pub wanted: Wanted,
    pub boot: i64,
    pub revision: i64,
}

pub async fn run(lane: &Lane, case: &Case) -> Result<(), String> {
    let mut storm = Storm::begin(lane, case).await;
    for event in &case.events {
        storm.happen(event).await?;
        for (number, (_, host)) in storm.hosts.iter().enumerate() {
            storm.faults.inspect(number, &host.content());
        }
    }
    storm.heal().await?;
    storm.settle("after the storm").await?;
    if case.farewell {
        for index in 0..storm.wishes.len() {
            storm.wish(index, Action::Delete).await?;
        }
        storm.settle("after the farewell").await?;
        // Longer than any base image is kept.
        storm.clock.advance(TimeDelta::hours(2));
        storm.settle("long after the farewell").await?;
        oracle::nothing_is_left(&storm).await?;
    }
    if case.gentle {
        oracle::nothing_was_swept(&storm).await?;
    }
    lane.tally().await.map_err(|error| error.to_string())
}

impl<'a> Storm<'a> {
    async fn begin(lane: &'a Lane, case: &Case) -> Self {
        lane.reset().await;
        let clock = lane.clock();
        let faults = Arc::new(Faults::default());
        let mut fakes = Vec::new();
        for (number, vcpus) in case.hosts.iter().enumerate() {
            let id = HostId(Uuid::from_u128(number as u128 + 1));
            let host = FakeHost::new(lane.cloud, clock.clone()).resized(|facts| {
                facts.vcpus = *vcpus;
                facts.hostname = format!("host-{number}");
            });
            let host = Arc::new(host);
            oracle::furnish(&host);
            faults.haunt(number, &host);
            let target = fake_target(id);
            sqlx::query(
                "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health_since)
                 values ($1, $2, $3, $4, 'auto', 1, 1, 1, $5, $5)",
            )
            .bind(id)
            .bind(format!("host-{number}"))
            .bind(target.uri)
            .bind(target.pool_path)
            .bind(clock.now())
            .execute(&lane.app.db)
            .await
            .expect("a host");
            fakes.push((id, host));
        }
        let (connections, signals) = Hosts::fake(fakes.clone());
        let mut storm = Self {
            lane,
            clock,
            hosts: fakes,
            faults,
            wishes: Vec::new(),
            accepted: Vec::new(),
            foreign: BTreeSet::new(),
            workers: Vec::new(),
            connections,
            signals,
        };
        for _ in 0..case.workers {
            let worker = Worker::new(storm.process());
            storm.workers.push(worker);
        }
        let ctx = storm.workers[0].ctx.clone();
        for (id, _) in &storm.hosts {
            hosts::look(&ctx, *id).await.expect("a first look");
        }
        storm
    }

    /// A new process.
    fn process(&self) -> Context {
        Context::new(Parts {
            db: self.lane.db.clone(),
            config: self.lane.config.clone(),
            clock: self.clock.clone(),
            cloud: self.lane.cloud,
            changes: Changes::default(),
            hosts: self.connections.clone(),
            placer: Placer::default(),
            settling: Turns::default(),
            making: Turns::default(),
            compared: pileus::domain::compared::Compared::default(),
            owner: Uuid::new_v4(),
        })
    }

    fn begin_job(&mut self, worker: usize, job: Job) {
        let ctx = self.workers[worker].ctx.clone();
        let host = |number: usize| self.hosts[number % self.hosts.len()].0;
        let future: crate::jobs::Job = match job {
            Job::Due { limit } => Box::pin(async move {
                pace::run_due(&ctx, limit).await.ok();
            }),
            Job::Look { host: number } => {
                let id = host(number);
                Box::pin(async move {
                    hosts::look(&ctx, id).await.ok();
                })
            }
            Job::Sweep { host: number } => {
                let id = host(number);
                Box::pin(async move { sweep_host(&ctx, id).await })
            }
        };
        self.workers[worker].begin(future);
    }

    /// Lets the worker's job end; where it waits for another's lock, the others go on meanwhile.
    async fn finish(&mut self, worker: usize) -> Result<(), String> {
        for _ in 0..200 {
            if self.workers[worker].go(TO_THE_END).await {
                return Ok(());
            }
            for other in &mut self.workers {
                other.go(200).await;
            }
        }
        Err("a reconciler's job does not end".into())
    }

    /// Does what a request does; where it waits for a reconciler's lock, the reconcilers go on meanwhile.
    async fn helped<T>(&mut self, op: impl Future<Output = T>) -> Result<T, String> {
        let mut op = std::pin::pin!(op);
        for _ in 0..200 {
            if let Ok(done) = tokio::time::timeout(PATIENCE, &mut op).await {
                return Ok(done);
            }
            for worker in &mut self.workers {
                worker.go(200).await;
            }
        }
        Err("a request does not end".into())
    }

    /// Signals come in, or are lost.
    async fn signal(&mut self, lost: bool) -> Result<(), String> {
        let (sender, receiver) = mpsc::channel(1024);
        while let Ok(signal) = self.signals.try_recv() {
            if !lost {
                sender.try_send(signal).map_err(|error| error.to_string())?;
            }
        }
        // The loop ends with its senders.
        drop(sender);
        let ctx = self.workers[0].ctx.clone();
        let woken = reconcile::wake_on_signals(ctx, receiver, CancellationToken::new());
        // Who is alone has nobody to wait for.
        self.helped(async move { tokio::time::timeout(Duration::from_secs(5), woken).await })
            .await?
            .map_err(|late| format!("signals are not taken in: {late}"))
    }

    /// All is well again; whoever was held up goes on to the end, late.
    async fn heal(&mut self) -> Result<(), String> {
        self.faults.heal();
        for (_, host) in &self.hosts {
            host.set_deaf(false);
            host.set_reachable(true);
        }
        for worker in 0..self.workers.len() {
            self.finish(worker).await?;
        }
        Ok(())
    }

    /// Turns the crank until the oracle is content, twice in a row; what it says last if it never is.
    async fn settle(&mut self, when: &str) -> Result<(), String> {
        let mut calm = 0;
        let mut complaints = String::new();
        for round in 0..ROUNDS {
            self.turn_all(calm == 0 && round > 0)
                .await
                .map_err(|error| format!("{when}: {error}"))?;
            match oracle::judge(self).await {
                Ok(()) if calm == 1 => return Ok(()),
                Ok(()) => calm += 1,
                Err(complaint) => {
                    if calm > 0 {
                        return Err(format!("{when}: it was well, and then: {complaint}"));
                    }
                    complaints = complaint;
                }
            }
            // Slowly at first: most of what waits waits for seconds.
            self.clock.advance(TimeDelta::seconds([2, 10, 35, 70][round.min(3)]));
            if round > 10 {
                self.clock.advance(TimeDelta::minutes(5));
            }
        }
        Err(format!("{when}: {complaints}"))
    }

    async fn turn_all(&mut self, sweep: bool) -> Result<(), String> {
        let ctx = self.workers[0].ctx.clone();
        for (id, _) in &self.hosts {
            hosts::look(&ctx, *id).await.map_err(|error| format!("look: {error:#}"))?;
        }
        for _ in 0..20 {
            if pace::run_due(&ctx, 100).await.map_err(|error| format!("due: {error:#}"))? == 0 {
                break;
            }
            self.clock.advance(TimeDelta::milliseconds(100));
        }
        if sweep {
            for (id, _) in &self.hosts {
                sweep_host(&ctx, *id).await;
            }
        }
        Ok(())
    }
}

async fn sweep_host(ctx: &Context, id: HostId) {
    let Ok(mut conn) = ctx.conn().await else { return };
    let reached = store::hosts::reached(&mut conn, id).await;
    drop(conn);
    // As the loop does it: a failure is for the next sweep.
    if let Ok(Some(host)) = reached
        && host.health == "up"
    {
        sweep::sweep(ctx, &host).await.ok();
    }
}
