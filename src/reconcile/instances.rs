//! Instances: one look at the host, one decision, at most one step.

use std::net::IpAddr;

use chrono::TimeDelta;
use serde_json::json;

use super::{Context, Outcome, Trouble, fault, host_images, host_networks};
use crate::domain::clock::Time;
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::{HostId, IncarnationId, InstanceId, NetworkId};
use crate::domain::instance::{Domain, Parts, Power, Situation, Step, Wanted, hostname, next_step};
use crate::guest::seed::{self, Seed, SeedNic};
use crate::hypervisor::{
    self as hv, DomainSeen, DomainSpec, Fault, FaultKind, Nic, Overlay, Stamp, Upload, VolumeFormat,
};
use crate::store::instances::{Observation, Record};
use crate::store::ports::PortView;
use crate::store::work::{self, Kind, Lease};
use crate::store::{self};

/// A guest that ends sooner than this after its start makes the next start wait longer.
const QUICK_EXIT: TimeDelta = TimeDelta::seconds(10);
/// Leases end on whole seconds of the host's clock.
const LEASE_SLACK: TimeDelta = TimeDelta::seconds(2);
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
    let sight = look(ctx, &record, &ports).await?;
    let now = ctx.clock.now();
    let step = next_step(&record.wish(), &sight.situation, now);
    let record = observe(ctx, lease, record, &sight, &step, now).await?;
    tracing::debug!(instance = %id, wanted = ?record.wanted, situation = ?sight.situation, ?step, "look");
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

/// What one look saw.
struct Sight {
    situation: Situation,
    agent: bool,
    addresses: Vec<IpAddr>,
}

impl Sight {
    fn of(situation: Situation) -> Self {
        Self { situation, agent: false, addresses: Vec::new() }
    }
}

async fn look(ctx: &Context, record: &Record, ports: &[PortView]) -> Result<Sight, Trouble> {
    let Some((incarnation, host)) = record.incarnation_id.zip(record.host_id) else {
        return Ok(Sight::of(Situation::Unplaced));
    };
    // The watch found another host at this address, or none: what answers there is no answer of ours.
    let silent = record.host_health.as_deref() != Some("up");
    let id = record.id;
    let names = (disk_name(incarnation), seed_name(incarnation));
    let made = (record.disk_made, record.seed_made);
    let networks = networks_to_ask(ctx, record, ports);
    let asked = if silent {
        Err(Fault::unreachable(record.host_reason.clone().unwrap_or_default()))
    } else {
        ctx.host(host, "look at an instance", move |host| {
            let domain = host.domain(id)?;
            let volumes = match domain {
                Some(_) => (false, false),
                None => (
                    made.0 && host.volume(&names.0)?.is_some(),
                    made.1 && host.volume(&names.1)?.is_some(),
                ),
            };
            let mut leases = Vec::new();
            if domain.as_ref().is_some_and(|domain| domain.power == hv::Power::Running) {
                for network in networks {
                    leases.extend(host.leases(network)?);
                }
            }
            Ok((domain, volumes, leases))
        })
        .await
    };
    match asked {
        Ok((domain, (disk, seed), leases)) => {
            let agent = domain.as_ref().is_some_and(|domain| domain.agent);
            let domain = domain.map_or(Domain::Absent, |seen| judge(ctx, incarnation, &seen));
            let mut parts = Parts { base: false, disk, seed, ran: record.observed_boot.is_some() };
            if matches!(domain, Domain::Absent) && !disk {
                parts.base = host_images::is_present(ctx, host, record.image_id).await?;
            }
            let ours = |mac: &str, address: IpAddr| {
                ports.iter().any(|p| p.mac == mac && p.address == address)
            };
            // A lease is renewed at half its life, so that one which began before this power-on soon shows a later end.
            let fresh = |until: Time| {
                record.started_at.is_none_or(|start| until >= start + hv::DHCP_LEASE - LEASE_SLACK)
            };
            let addresses = leases
                .iter()
                .filter(|l| ours(&l.mac, l.address) && fresh(l.expires_at))
                .map(|l| l.address)
                .chain(
                    record
                        .seen_addresses
                        .iter()
                        .map(ipnet::IpNet::addr)
                        .filter(|_| same_boot(record, domain)),
                )
                .collect::<std::collections::BTreeSet<_>>();
            Ok(Sight {
                situation: Situation::Seen { domain, parts },
                agent,
                addresses: addresses.into_iter().collect(),
            })
        }
        Err(fault) if fault.kind == FaultKind::Unreachable => {
            let gone = silent
                && record
                    .host_since
                    .is_some_and(|since| ctx.clock.now() - since >= ctx.gone_after());
            Ok(Sight::of(Situation::Unknown { gone }))
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Networks whose leases still matter: those of addresses that the guest was not yet seen to hold.
fn networks_to_ask(ctx: &Context, record: &Record, ports: &[PortView]) -> Vec<NetworkId> {
    let young = record.started_at.is_some_and(|start| ctx.clock.now() - start < WATCH_ADDRESSES);
    if record.observed_power != Power::Running || !young {
        return Vec::new();
    }
    ports.iter().filter(|p| !record.saw_address(p.address)).map(|p| p.network_id).collect()
}

/// For so long after a start its addresses and its agent are looked for.
const WATCH_ADDRESSES: TimeDelta = TimeDelta::minutes(10);

fn same_boot(record: &Record, domain: Domain) -> bool {
    match domain {
        Domain::Running { boot } | Domain::Paused { boot } => {
            record.observed_boot == Some(boot) && record.started_at.is_some()
        }
        Domain::Absent | Domain::Off | Domain::Stale | Domain::Foreign => false,
    }
}

/// Whose the domain is, by its stamp.
fn judge(ctx: &Context, incarnation: IncarnationId, seen: &DomainSeen) -> Domain {
    match (&seen.stamp, seen.power) {
        (Some(stamp), _) if stamp.cloud != ctx.cloud => Domain::Foreign,
        (None, _) => Domain::Foreign,
        (Some(stamp), _) if stamp.incarnation != incarnation => Domain::Stale,
        (Some(stamp), hv::Power::Running) => Domain::Running { boot: stamp.boot },
        (Some(stamp), hv::Power::Paused) => Domain::Paused { boot: stamp.boot },
        (Some(_), hv::Power::Off) => Domain::Off,
    }
}

/// Stores what was seen, where it is new, and gives the record as it is then.
async fn observe(
    ctx: &Context,
    lease: &Lease,
    mut record: Record,
    sight: &Sight,
    step: &Step,
    now: Time,
) -> Result<Record, Trouble> {
    let (power, boot) = match &sight.situation {
        // Nothing was seen: nothing is written.
        Situation::Unknown { .. } => return Ok(record),
        Situation::Unplaced => (Power::None, None),
        Situation::Seen { domain, .. } => match *domain {
            Domain::Absent | Domain::Foreign => (Power::None, None),
            Domain::Running { boot } => (Power::Running, Some(boot)),
            Domain::Paused { boot } => (Power::Paused, Some(boot)),
            Domain::Off | Domain::Stale => (Power::Off, None),
        },
    };
    let on = |power| matches!(power, Power::Running | Power::Paused);
    let started_at = match (on(power), record.started_at) {
        (false, _) => None,
        (true, Some(start)) if record.observed_boot == boot => Some(start),
        (true, _) => Some(now),
    };
    let ended = on(record.observed_power)
        && !on(power)
        && record.wanted == Wanted::Running
        && record.observed_boot == Some(record.boot);
    let quick = record.started_at.is_some_and(|start| now - start < QUICK_EXIT);
    let quick_exits = match (ended, quick) {
        (true, true) => record.quick_exits + 1,
        (true, false) => 0,
        (false, _) if on(power) && started_at.is_some_and(|start| now - start >= QUICK_EXIT) => 0,
        (false, _) => record.quick_exits,
    };
    let seen = Observation {
        power,
        boot,
        agent: sight.agent,
        addresses: sight.addresses.clone(),
        matches: (*step == Step::Rest).then_some(record.revision),
        started_at,
        quick_exits,
    };
    let before = (
        record.observed_power,
        record.agent,
        record.seen_addresses.len(),
        record.observed_revision,
    );
    let after =
        (power, seen.agent, seen.addresses.len(), seen.matches.unwrap_or(record.observed_revision));
    let same = before == after
        && record.started_at == started_at
        && record.quick_exits == quick_exits
        && boot.is_none_or(|boot| record.observed_boot == Some(boot));
    if same {
        return Ok(record);
    }
    let mut tx = ctx.write(lease).await?;
    if store::instances::observe(&mut tx, record.id, &seen, now).await? {
        if before.0 != after.0 || before.1 != after.1 || before.2 != after.2 {
            let detail = json!({
                "power": { "from": before.0, "to": after.0 },
                "agent": after.1,
                "addresses": seen.addresses,
                "boot": boot,
            });
            ctx.event(&mut tx, "instance.observed", subject(&record), EventOutcome::Seen, detail)
                .await?;
        }
        if after.3 != before.3 {
            let detail = json!({ "wanted": record.wanted, "revision": record.revision });
            ctx.event(&mut tx, "instance.settled", subject(&record), EventOutcome::Done, detail)
                .await?;
        }
    }
    tx.commit().await?;
    ctx.changes.changed(record.id.0);
    if record.observed_boot != boot && boot.is_some() {
        fault::point("start_observed");
    }
    record.observed_power = power;
    record.observed_boot = boot.or(record.observed_boot);
    record.agent = seen.agent;
    record.seen_addresses = seen.addresses.iter().copied().map(ipnet::IpNet::from).collect();
    record.started_at = started_at;
    record.quick_exits = quick_exits;
    Ok(record)
}

impl Look<'_> {
    async fn take(&self, step: Step) -> Result<Outcome, Trouble> {
        let placed = self.record.incarnation_id.zip(self.record.host_id);
        let id = self.record.id;
        match (step, placed) {
            (Step::Rest, _) => self.rest(),
            (Step::Wait { why, again }, _) => Ok(Outcome::wait(again, why)),
            (Step::Blocked { why }, _) => Err(Fault::permanent(why).into()),
            (Step::Place, _) => match self.ctx.placer.place(self.ctx, id).await? {
                super::placer::Placed::On(_) => {
                    fault::point("placed");
                    Ok(Outcome::Again)
                }
                super::placer::Placed::NoRoom(summary) => Ok(Outcome::wait(PLACE_AGAIN, summary)),
                super::placer::Placed::Lost => {
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
                self.ctx.host(host, "pause", move |host| host.pause(id)).await?;
                Ok(Outcome::Again)
            }
            (Step::Resume, Some((_, host))) => {
                self.ctx.host(host, "resume", move |host| host.resume(id)).await?;
                Ok(Outcome::Again)
            }
            (Step::Shutdown { again }, Some((_, host))) => {
                self.ctx
                    .host(host, "press the power button", move |host| host.shutdown(id))
                    .await?;
                Ok(Outcome::wait(again, "the guest was asked to power off"))
            }
            (Step::PowerOff, Some((_, host))) => {
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
    fn rest(&self) -> Result<Outcome, Trouble> {
        let Some(start) =
            self.record.started_at.filter(|_| self.record.observed_power == Power::Running)
        else {
            return Ok(Outcome::rest());
        };
        let age = self.now - start;
        let complete =
            self.record.agent && self.ports.iter().all(|p| self.record.saw_address(p.address));
        Ok(Outcome::Settled {
            next: if complete || age >= WATCH_ADDRESSES {
                None
            } else if age < TimeDelta::seconds(30) {
                Some(TimeDelta::milliseconds(300))
            } else {
                Some((age / 20).max(TimeDelta::seconds(1)))
            },
            reason: None,
        })
    }

    async fn create_disk(&self, incarnation: IncarnationId, host: HostId) -> Result<(), Trouble> {
        let blob = host_images::blob(self.ctx, self.record.image_id).await?;
        let base = store::host_images::volume_name(&blob.sha256, blob.format);
        let overlay = Overlay {
            name: disk_name(incarnation),
            base: base.clone(),
            base_format: blob.format,
            capacity_bytes: u64::try_from(self.record.disk_gib).unwrap_or(0) << 30,
        };
        fault::point("disk_creating");
        let made = self
            .ctx
            .host(host, "create the disk", move |host| {
                // Not marked as made, so what is there was left half-made.
                host.delete_volume(&overlay.name)?;
                host.create_overlay(&overlay)
            })
            .await;
        if let Err(fault) = made {
            let there = self
                .ctx
                .host(host, "look for the base image", move |host| host.volume(&base))
                .await?;
            if there.is_none() {
                host_images::lost(self.ctx, host, &blob.sha256).await?;
            }
            return Err(fault.into());
        }
        fault::point("disk_created");
        let mut tx = self.ctx.write(self.lease).await?;
        store::incarnations::set_made(&mut tx, incarnation, true, self.record.seed_made).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn write_seed(&self, incarnation: IncarnationId, host: HostId) -> Result<(), Trouble> {
        let data =
            store::instances::seed_data(&mut *self.ctx.conn().await?, self.record.id).await?;
        let Some(data) = data else { return Ok(()) };
        let seed = Seed {
            instance_id: self.record.id.to_string(),
            hostname: hostname(&self.record.name, self.record.id),
            public_keys: data.ssh_keys,
            user_data: data.user_data.unwrap_or_default().into_bytes(),
            nics: self
                .ports
                .iter()
                .map(|p| SeedNic { mac: p.mac.clone(), dns: Vec::new() })
                .collect(),
        };
        let bytes = seed::seed_iso(&seed)
            .map_err(|error| Fault::permanent(format!("the seed cannot be written: {error}")))?;
        fault::point("seed_writing");
        let upload = Upload {
            name: seed_name(incarnation),
            format: VolumeFormat::Raw,
            length: bytes.len() as u64,
            virtual_bytes: bytes.len() as u64,
        };
        self.ctx
            .host(host, "write the seed", move |host| {
                host.upload(&upload, &mut bytes.as_slice(), &mut |_| true)
            })
            .await?;
        fault::point("seed_written");
        let mut tx = self.ctx.write(self.lease).await?;
        store::incarnations::set_made(&mut tx, incarnation, true, true).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn start(&self, incarnation: IncarnationId, host: HostId) -> Result<Outcome, Trouble> {
        if self.record.quick_exits > 0 && self.record.observed_boot == Some(self.record.boot) {
            let pause = self
                .ctx
                .config
                .backoff_min
                .saturating_mul(1 << self.record.quick_exits.clamp(0, 12))
                .min(self.ctx.config.backoff_max);
            let ready = self.record.observed_at.unwrap_or(self.now)
                + TimeDelta::from_std(pause).unwrap_or(TimeDelta::zero());
            if self.now < ready {
                let why = format!(
                    "the guest ended {} times within {} s of its start: starting again at {}",
                    self.record.quick_exits,
                    QUICK_EXIT.num_seconds(),
                    ready.to_rfc3339()
                );
                return Ok(Outcome::wait(ready - self.now, why));
            }
        }
        let networks: std::collections::BTreeSet<_> =
            self.ports.iter().map(|p| p.network_id).collect();
        for network in networks {
            host_networks::settle(self.ctx, host, network).await?;
            fault::point("network_made");
        }
        let reached = store::hosts::reached(&mut *self.ctx.conn().await?, host).await?;
        let Some(reached) = reached else { return Ok(Outcome::Again) };
        let spec = DomainSpec {
            stamp: Stamp {
                cloud: self.ctx.cloud,
                instance: self.record.id,
                incarnation,
                revision: self.record.revision,
                boot: self.record.boot,
            },
            title: self.record.name.to_string(),
            vcpus: self.record.vcpus,
            memory_mib: self.record.memory_mib,
            virt_type: reached.resolved_virt_type(),
            disk: disk_name(incarnation),
            seed: seed_name(incarnation),
            nics: self
                .ports
                .iter()
                .map(|p| Nic {
                    network: p.network_id,
                    mac: p.mac.clone(),
                    address: p.address,
                    port_security: p.port_security,
                })
                .collect(),
        };
        // Somebody may have changed the wish, or taken the item over, while networks were made.
        let mut tx = self.ctx.write(self.lease).await?;
        let current = store::instances::lock(&mut tx, None, self.record.id).await?;
        if current.is_none_or(|current| current.revision != self.record.revision) {
            return Ok(Outcome::Again);
        }
        drop(tx);
        self.ctx.host(host, "start", move |host| host.start(&spec)).await?;
        fault::point("started");
        Ok(Outcome::Again)
    }

    async fn clean(&self, incarnation: IncarnationId, host: HostId) -> Result<(), Trouble> {
        clean_host(self.ctx, incarnation, host).await?;
        for network in
            self.ports.iter().map(|p| p.network_id).collect::<std::collections::BTreeSet<_>>()
        {
            host_networks::settle(self.ctx, host, network).await?;
        }
        fault::point("network_settled");
        Ok(())
    }

    /// The last transaction of a deletion: ports, addresses, claim, row and work, or none of them.
    async fn forget(&self, placed: Option<(IncarnationId, HostId)>) -> Result<(), Trouble> {
        let now = self.ctx.clock.now();
        let mut tx = self.ctx.write(self.lease).await?;
        store::ports::release_of_instance(&mut tx, self.record.id, now).await?;
        if let Some((incarnation, host)) = placed {
            store::incarnations::release(&mut tx, incarnation).await?;
            host_images::user_left(&mut tx, host, self.record.image_id, now).await?;
            for id in store::instances::unplaced(&mut tx, 100).await? {
                work::touch(&mut tx, Kind::Instance, id.0, now).await?;
            }
        }
        self.finish(&mut tx, json!({})).await?;
        tx.commit().await?;
        self.ctx.changes.changed(self.record.id.0);
        self.ctx.changes.wake();
        fault::point("forgotten");
        Ok(())
    }

    /// The tenant is done with it; the host is not: the incarnation stays as the record that cleans it when it is back.
    async fn leave_behind(&self, incarnation: IncarnationId) -> Result<(), Trouble> {
        let now = self.ctx.clock.now();
        let mut tx = self.ctx.write(self.lease).await?;
        store::ports::release_of_instance(&mut tx, self.record.id, now).await?;
        store::incarnations::fence(&mut tx, incarnation, now).await?;
        work::touch(&mut tx, Kind::Fence, incarnation.0, now).await?;
        self.finish(&mut tx, json!({ "left_behind_on": self.record.host_id })).await?;
        tx.commit().await?;
        self.ctx.changes.changed(self.record.id.0);
        self.ctx.changes.wake();
        Ok(())
    }

    async fn finish(&self, tx: &mut store::Tx, detail: serde_json::Value) -> Result<(), Trouble> {
        store::instances::forget(tx, self.record.id).await?;
        // A hidden image may have lost its last user.
        work::touch(tx, Kind::Image, self.record.image_id.0, self.ctx.clock.now()).await?;
        work::remove(tx, Kind::Instance, self.record.id.0).await?;
        self.ctx
            .event(tx, "instance.delete", subject(self.record), EventOutcome::Done, detail)
            .await?;
        Ok(())
    }
}

/// Takes everything of the incarnation from its host. Every part may be gone already.
pub(super) async fn clean_host(
    ctx: &Context,
    incarnation: IncarnationId,
    host: HostId,
) -> Result<(), Trouble> {
    let (disk, seed) = (disk_name(incarnation), seed_name(incarnation));
    ctx.host(host, "delete the disk", move |host| host.delete_volume(&disk)).await?;
    fault::point("disk_deleted");
    ctx.host(host, "delete the seed", move |host| host.delete_volume(&seed)).await?;
    fault::point("seed_deleted");
    ctx.host(host, "delete the console log", move |host| host.delete_console(incarnation)).await?;
    fault::point("console_deleted");
    Ok(())
}

fn subject(record: &Record) -> Subject {
    Subject {
        kind: "instance",
        id: record.id.0,
        name: record.name.to_string(),
        tenant: Some(record.tenant_id),
    }
}
