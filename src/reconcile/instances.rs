//! Instances: one look at the host, one decision, at most one step.

mod build;
mod observe;
mod removal;
mod sight;

use build::Missing;
use chrono::TimeDelta;

use super::placer::Placed;
use super::{Context, Outcome, Trouble, fault, hold, host_images};
use crate::domain::clock::Time;
use crate::domain::event::Subject;
use crate::domain::id::{HostId, InstanceId};
use crate::domain::instance::{Domain, Power, Situation, Step, Wanted, next_step};
use crate::hypervisor::{Fault, Halt};
use crate::store;
use crate::store::instances::Record;
use crate::store::ports::PortView;
use crate::store::work::{self, Kind, Lease};

pub(super) use removal::clean_host;

/// A guest that ends sooner than this after its start makes the next start wait longer.
const QUICK_EXIT: TimeDelta = TimeDelta::seconds(10);
/// For so long after a start its addresses and its agent are looked for.
const WATCH_ADDRESSES: TimeDelta = TimeDelta::minutes(10);
/// And its cloud-init, which may install half a distribution, for so long.
const WATCH_CLOUD_INIT: TimeDelta = TimeDelta::hours(1);
/// How often capacity is looked for when nobody says that some came free.
const PLACE_AGAIN: TimeDelta = TimeDelta::seconds(5);
/// The same of those further behind, whom the first ones' looks place, too.
const PLACE_LATER: TimeDelta = TimeDelta::seconds(60);
/// So many are the first.
const FIRST: usize = 8;

pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    let id = InstanceId(lease.item);
    let mut conn = ctx.conn().await?;
    let record = store::instances::get(&mut conn, None, id).await?;
    let Some(record) = record else {
        work::remove(&mut conn, Kind::Instance, lease.item).await?;
        return Ok(Outcome::Gone);
    };
    let ports = store::ports::of_instance(&mut conn, id).await?;
    drop(conn);
    let sight = sight::look(ctx, &record, &ports).await?;
    let now = ctx.clock.now();
    let step = next_step(&record.wish(), &sight.situation, now);
    let record = observe::observe(ctx, lease, record, &sight, &step, now).await?;
    tracing::debug!(wanted = ?record.wanted, situation = ?sight.situation, ?step, "look");
    if let Some(host) = record.host_id
        && ends_what_is_newer(&record, &step, &sight.situation)
        && hold::why(ctx, host).await?.is_some()
    {
        return Ok(hold::wait());
    }
    let (silent, halt) = (sight.agent_silent, sight.halt);
    if halt == Some(Halt::Silent) {
        // Whatever it is asked for, the answer would be waited for.
        return Err(halted(Halt::Silent).into());
    }
    Look { ctx, lease, record: &record, ports: &ports, silent, halt, now }.take(step).await
}

/// Whether the step would end a guest that this database may be too old to know: one of another incarnation, or of a later
/// power-on than the wish. A deletion ends whatever power-on there is.
fn ends_what_is_newer(record: &Record, step: &Step, situation: &Situation) -> bool {
    let ends = matches!(step, Step::PowerOff | Step::Shutdown { .. });
    let newer = match situation {
        Situation::Seen { domain: Domain::Stale, .. } => true,
        Situation::Seen { domain: Domain::Running { boot } | Domain::Paused { boot }, .. } => {
            *boot > record.boot && record.wanted != Wanted::Deleted
        }
        Situation::Seen {
            domain: Domain::Absent | Domain::Off | Domain::Foreign | Domain::Unstamped,
            ..
        }
        | Situation::Unplaced
        | Situation::Unknown { .. } => false,
    };
    ends && newer
}

/// A look that is to be followed by a step.
struct Look<'a> {
    ctx: &'a Context,
    lease: &'a Lease,
    record: &'a Record,
    ports: &'a [PortView],
    /// Whether the guest agent let us wait in vain.
    silent: bool,
    /// Why the hypervisor has paused the guest by itself.
    halt: Option<Halt>,
    now: Time,
}

impl Look<'_> {
    async fn take(&self, step: Step) -> Result<Outcome, Trouble> {
        let placed = self.record.incarnation_id.zip(self.record.host_id);
        let id = self.record.id;
        match (step, placed) {
            (Step::Rest, _) => Ok(self.rest()),
            (Step::Wait { why, again }, _) => Ok(Outcome::wait(again, why)),
            (Step::Blocked { why }, _) => Err(Fault::permanent(why).into()),
            (Step::Place, _) => match self.ctx.placer.place(self.ctx, id).await? {
                Placed::On(_) => {
                    fault::point("placed");
                    Ok(Outcome::Again)
                }
                Placed::NoRoom { summary, position } => {
                    let pause = if position <= FIRST { PLACE_AGAIN } else { PLACE_LATER };
                    Ok(Outcome::wait(pause, summary))
                }
                Placed::Lost if hold::everywhere(self.ctx).await?.is_some() => {
                    Ok(hold::wait_for_place())
                }
                Placed::Lost => {
                    Ok(Outcome::Settled { next: Some(TimeDelta::milliseconds(100)), reason: None })
                }
            },
            (Step::Remove, None) => {
                self.forget(None).await?;
                Ok(Outcome::Gone)
            }
            (Step::Remove, Some((incarnation, host))) => {
                self.ctx.confirm(self.lease).await?;
                self.remove(incarnation, host).await
            }
            (Step::LeaveBehind, Some((incarnation, _))) => {
                self.leave_behind(incarnation).await?;
                Ok(Outcome::Gone)
            }
            (Step::FetchBase, Some((_, host))) => {
                host_images::want(self.ctx, self.lease, host, self.record.image_id).await
            }
            (Step::CreateDisk, Some((incarnation, host))) => {
                self.make(incarnation, host, Missing { disk: true, seed: true }).await
            }
            (Step::WriteSeed, Some((incarnation, host))) => {
                self.make(incarnation, host, Missing { disk: false, seed: true }).await
            }
            (Step::Start, Some((incarnation, host))) => {
                self.make(incarnation, host, Missing { disk: false, seed: false }).await
            }
            (Step::Pause, Some((_, host))) => {
                self.ctx.effect(self.lease, host, "pause", move |host| host.pause(id)).await?;
                Ok(Outcome::Again)
            }
            (Step::Resume, Some((_, host))) => self.resume(host).await,
            (Step::Shutdown { again }, Some((_, host))) => {
                self.ctx
                    .effect(self.lease, host, "press the power button", move |host| {
                        host.shutdown(id)
                    })
                    .await?;
                Ok(Outcome::wait(again, "the guest was asked to power off"))
            }
            (Step::PowerOff, Some((incarnation, host))) => {
                self.ctx
                    .effect(self.lease, host, "power off", move |host| host.power_off(id))
                    .await?;
                fault::point("powered_off");
                if self.record.wanted == Wanted::Deleted {
                    // Which nothing takes back: the host has said that the domain is gone, and the rest follows.
                    return self.remove(incarnation, host).await;
                }
                Ok(Outcome::Again)
            }
            (Step::TakeAway, Some((_, host))) => {
                self.ctx
                    .effect(self.lease, host, "take away an ended domain", move |host| {
                        host.power_off(id)
                    })
                    .await?;
                Ok(Outcome::wait(TimeDelta::milliseconds(200), "the domain is ending"))
            }
            // `next_step` gives these to placed instances only.
            (
                Step::LeaveBehind
                | Step::FetchBase
                | Step::CreateDisk
                | Step::WriteSeed
                | Step::Start
                | Step::Pause
                | Step::Resume
                | Step::Shutdown { .. }
                | Step::PowerOff
                | Step::TakeAway,
                None,
            ) => Ok(Outcome::Again),
        }
    }

    async fn resume(&self, host: HostId) -> Result<Outcome, Trouble> {
        let id = self.record.id;
        if self.halt != Some(Halt::Crashed) {
            self.ctx.effect(self.lease, host, "resume", move |host| host.resume(id)).await?;
        }
        match self.halt {
            None => Ok(Outcome::Again),
            // It may run on, which the next look sees: until then it counts as failed.
            Some(halt) => Err(halted(halt).into()),
        }
    }

    /// At rest, but for the young guest whose addresses, agent and cloud-init somebody may wait for.
    fn rest(&self) -> Outcome {
        let Some(start) =
            self.record.started_at.filter(|_| self.record.observed_power == Power::Running)
        else {
            return Outcome::rest();
        };
        let age = self.now - start;
        let seldom = (age / 20).max(TimeDelta::seconds(1));
        let complete =
            self.record.agent && self.ports.iter().all(|p| self.record.saw_address(p.address));
        let next = if !complete && age < WATCH_ADDRESSES {
            let young = age < TimeDelta::seconds(30);
            Some(if young { TimeDelta::milliseconds(300) } else { seldom })
        } else if sight::may_tell_of_cloud_init(self.record, self.now) {
            // Asking an agent that does not answer costs a thread of the host for seconds.
            Some(if self.silent { (age / 4).max(TimeDelta::seconds(5)) } else { seldom })
        } else {
            None
        };
        Outcome::Settled { next, reason: None }
    }
}

/// A guest that its hypervisor paused was resumed, where that can be, and may be halted again. One whose hypervisor hangs is
/// looked at until it answers.
fn halted(halt: Halt) -> Fault {
    match halt {
        Halt::Disk => Fault::transient(
            "the guest was paused because its disk could not be written: the host's storage has no room; make room there, or delete instances of that host. Resumed now, to go on where there is room",
        ),
        Halt::Other => Fault::transient(
            "the guest was paused by its hypervisor, which does not say why; perhaps the host's storage has no room. Resumed now",
        ),
        Halt::Silent => Fault::transient(
            "the guest's hypervisor on the host (QEMU) does not answer: the storage below its disk may hang, or its process may be stopped. It goes on when that answers again; reboot or stop the instance with \"hard\": true to end it",
        ),
        Halt::Crashed => Fault::permanent(
            "the guest was paused because its machine crashed: reboot the instance with \"hard\": true",
        ),
    }
}

fn subject(record: &Record) -> Subject {
    Subject {
        kind: "instance",
        id: record.id.0,
        name: record.name.to_string(),
        tenant: Some(record.tenant_id),
    }
}
