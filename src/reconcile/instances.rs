//! Instances: one look at the host, one decision, at most one step.

mod build;
mod observe;
mod removal;
mod sight;

use chrono::TimeDelta;

use super::placer::Placed;
use super::{Context, Outcome, Trouble, fault, host_images};
use crate::domain::clock::Time;
use crate::domain::event::Subject;
use crate::domain::id::{IncarnationId, InstanceId};
use crate::domain::instance::{Power, Step, next_step};
use crate::hypervisor::Fault;
use crate::store;
use crate::store::instances::Record;
use crate::store::ports::PortView;
use crate::store::work::{self, Kind, Lease};

pub(super) use removal::{clean_host, wake_unplaced};

/// A guest that ends sooner than this after its start makes the next start wait longer.
const QUICK_EXIT: TimeDelta = TimeDelta::seconds(10);
/// For so long after a start its addresses and its agent are looked for.
const WATCH_ADDRESSES: TimeDelta = TimeDelta::minutes(10);
/// How often capacity is looked for when nobody says that some came free.
const PLACE_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// Volume names of an incarnation.
pub fn disk_name(id: IncarnationId) -> String {
    format!("disk-{id}.qcow2")
}

pub fn seed_name(id: IncarnationId) -> String {
    format!("seed-{id}.iso")
}

pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    let id = InstanceId(lease.item);
    let record = store::instances::get(&mut *ctx.conn().await?, None, id).await?;
    let Some(record) = record else {
        work::remove(&mut *ctx.conn().await?, Kind::Instance, lease.item).await?;
        return Ok(Outcome::Gone);
    };
    let ports = store::ports::of_instance(&mut *ctx.conn().await?, id).await?;
    let sight = sight::look(ctx, &record, &ports).await?;
    let now = ctx.clock.now();
    let step = next_step(&record.wish(), &sight.situation, now);
    let record = observe::observe(ctx, lease, record, &sight, &step, now).await?;
    tracing::debug!(wanted = ?record.wanted, situation = ?sight.situation, ?step, "look");
    Look { ctx, lease, record: &record, ports: &ports, now }.take(step).await
}

/// A look that is to be followed by a step.
struct Look<'a> {
    ctx: &'a Context,
    lease: &'a Lease,
    record: &'a Record,
    ports: &'a [PortView],
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
                Placed::NoRoom(summary) => Ok(Outcome::wait(PLACE_AGAIN, summary)),
                Placed::Lost => {
                    Ok(Outcome::Settled { next: Some(TimeDelta::milliseconds(100)), reason: None })
                }
            },
            (Step::Remove, None) => {
                self.forget(None).await?;
                Ok(Outcome::Gone)
            }
            (Step::Remove, Some((incarnation, host))) => {
                self.clean(incarnation, host).await?;
                self.forget(Some((incarnation, host))).await?;
                Ok(Outcome::Gone)
            }
            (Step::LeaveBehind, Some((incarnation, _))) => {
                self.leave_behind(incarnation).await?;
                Ok(Outcome::Gone)
            }
            (Step::FetchBase, Some((_, host))) => {
                host_images::want(self.ctx, self.lease, host, self.record.image_id).await
            }
            (Step::CreateDisk, Some((incarnation, host))) => {
                self.create_disk(incarnation, host).await?;
                Ok(Outcome::Again)
            }
            (Step::WriteSeed, Some((incarnation, host))) => {
                self.write_seed(incarnation, host).await?;
                Ok(Outcome::Again)
            }
            (Step::Start, Some((incarnation, host))) => self.start(incarnation, host).await,
            (Step::Pause, Some((_, host))) => {
                self.ctx.confirm(self.lease).await?;
                self.ctx.host(host, "pause", move |host| host.pause(id)).await?;
                Ok(Outcome::Again)
            }
            (Step::Resume, Some((_, host))) => {
                self.ctx.confirm(self.lease).await?;
                self.ctx.host(host, "resume", move |host| host.resume(id)).await?;
                Ok(Outcome::Again)
            }
            (Step::Shutdown { again }, Some((_, host))) => {
                self.ctx.confirm(self.lease).await?;
                self.ctx
                    .host(host, "press the power button", move |host| host.shutdown(id))
                    .await?;
                Ok(Outcome::wait(again, "the guest was asked to power off"))
            }
            (Step::PowerOff, Some((_, host))) => {
                self.ctx.confirm(self.lease).await?;
                self.ctx.host(host, "power off", move |host| host.power_off(id)).await?;
                fault::point("powered_off");
                Ok(Outcome::Again)
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
                | Step::PowerOff,
                None,
            ) => Ok(Outcome::Again),
        }
    }

    /// At rest, but for the young guest whose addresses and agent somebody may wait for.
    fn rest(&self) -> Outcome {
        let Some(start) =
            self.record.started_at.filter(|_| self.record.observed_power == Power::Running)
        else {
            return Outcome::rest();
        };
        let age = self.now - start;
        let complete =
            self.record.agent && self.ports.iter().all(|p| self.record.saw_address(p.address));
        Outcome::Settled {
            next: if complete || age >= WATCH_ADDRESSES {
                None
            } else if age < TimeDelta::seconds(30) {
                Some(TimeDelta::milliseconds(300))
            } else {
                Some((age / 20).max(TimeDelta::seconds(1)))
            },
            reason: None,
        }
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
