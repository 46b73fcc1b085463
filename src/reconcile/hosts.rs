//! Hosts: a watch over each that notes its health, learns its capacity, and scans its domains for what signals missed.
//!
//! Every process watches every host for itself; only what changed is written, so that a quiet cloud writes nothing.

mod leave;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::context::in_time;
use super::{Context, Outcome, Run, Trouble, hold, inventory};
use crate::domain::error::{Error, Result};
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::{HostId, InstanceId};
use crate::domain::instance::{Power, Wanted};
use crate::hypervisor::{self as hv, DomainSeen, Fault, FaultKind, HostFacts, HostTarget};
use crate::store;
use crate::store::hosts::{Address, Reached, Totals};
use crate::store::instances::Resting;
use crate::store::work::{self, Kind, Lease};

/// How many claims each host that is up had counted when all were listed last, which spares each heartbeat the question.
type Counts = Arc<Mutex<HashMap<HostId, i64>>>;

/// Makes every host known to `hosts`, so that steps find them.
pub async fn connect(ctx: &Context) -> Result<Vec<Address>> {
    let all = store::hosts::addresses(&mut *ctx.conn().await?).await?;
    for host in &all {
        let (uri, pool_path) = (host.uri.clone(), host.pool_path.clone());
        ctx.hosts.set(host.id, target(ctx, uri, pool_path, host.host_uuid));
    }
    Ok(all)
}

/// Watches until `shutdown`: one task a host, as hosts come and go.
pub async fn run(Run { ctx, beats, shutdown }: Run) {
    let beat = beats.register("watch", Duration::from_secs(120), ctx.clock.now());
    let tasks = TaskTracker::new();
    let mut watched: HashMap<HostId, (CancellationToken, JoinHandle<()>)> = HashMap::new();
    let counts = Counts::default();
    let mut table = None;
    while !shutdown.is_cancelled() {
        match in_time(ctx.config.database_patience, connect(&ctx)).await {
            Ok(all) => {
                if let Some(now) = all.first().map(|host| host.of_table) {
                    match hold::at_look(&ctx, table.unwrap_or(now), now).await {
                        Ok(()) => table = Some(now),
                        Err(error) => {
                            tracing::warn!(%error, "the hold could not be begun; trying again");
                        }
                    }
                }
                let known: HashSet<_> = all.iter().map(|host| host.id).collect();
                let counted = all.iter().filter_map(|host| Some((host.id, host.counted?)));
                *lock(&counts) = counted.collect();
                watched.retain(|id, (end, task)| {
                    if !known.contains(id) {
                        end.cancel();
                        ctx.hosts.remove(*id);
                        return false;
                    }
                    let lives = !task.is_finished();
                    if !lives {
                        tracing::error!(host = %id, "the watch over a host ended by a fault of ours, and begins anew");
                    }
                    lives
                });
                // Steps need the hosts all the same.
                for id in known.into_iter().filter(|_| ctx.config.task_watch) {
                    watched.entry(id).or_insert_with(|| {
                        let end = shutdown.child_token();
                        let watch = watch(ctx.clone(), id, Arc::clone(&counts), end.clone());
                        (end, tasks.spawn(watch))
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "hosts could not be listed; trying again"),
        }
        beat.alive(ctx.clock.now());
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1).min(ctx.config.heartbeat)) => {}
            () = shutdown.cancelled() => {}
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn lock(counts: &Counts) -> MutexGuard<'_, HashMap<HostId, i64>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn target(ctx: &Context, uri: String, pool_path: String, expect: Option<Uuid>) -> HostTarget {
    HostTarget { uri, pool_path, cloud: ctx.cloud, expect }
}

/// One host until `end`: its domains at every heartbeat, all that it is now and then, and whenever something is amiss.
async fn watch(ctx: Context, id: HostId, counts: Counts, end: CancellationToken) {
    let scan = TimeDelta::from_std(ctx.config.reconcile_scan).unwrap_or(TimeDelta::minutes(1));
    // It asks the host three times at most.
    let longest = ctx.config.host_call_deadline * 3 + ctx.config.database_patience;
    let mut told = None;
    let mut still = None;
    loop {
        let now = ctx.clock.now();
        let fresh = told.is_some_and(|at| now >= at && now - at < scan);
        let looked = in_time(longest, async {
            let counted = lock(&counts).get(&id).copied();
            if !(fresh && glance(&ctx, id, counted, &mut still).await?) {
                look(&ctx, id).await?;
                (told, still) = (Some(now), None);
            }
            Ok(())
        });
        // A host that hangs holds up no end: nothing is half-written by a look that is left.
        let Some(looked) = end.run_until_cancelled(looked).await else { return };
        if let Err(error) = looked {
            tracing::warn!(host = %id, %error, "a host's health could not be noted; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(ctx.config.heartbeat) => {}
            () = end.cancelled() => return,
        }
    }
}

/// A heartbeat: the domains alone, over connections that know whose they are. `false`: there is more to be asked, or to be
/// said of the host. `counted`: how many claims it had counted a moment ago; `None`: it was not up. `still`: what the domains were
/// when all of the host's instances were at rest and as they should be; while they are the same, the instances are not read again
/// before the next look.
async fn glance(
    ctx: &Context,
    id: HostId,
    counted: Option<i64>,
    still: &mut Option<u64>,
) -> Result<bool> {
    let Ok(domains) = ctx.look(id, "list a host's domains", |host| host.domains()).await else {
        return Ok(false);
    };
    let newest = inventory::newest_domain(&domains, ctx.cloud);
    if counted.is_none_or(|counted| newest > counted) {
        // Read after the domains were: what is higher is not of its claims.
        let counted = store::hosts::generation_if_up(&mut *ctx.conn().await?, id).await?;
        if counted.is_none_or(|counted| newest > counted) {
            return Ok(false);
        }
    }
    let print = fingerprint(&domains);
    if *still != Some(print) {
        *still = scan(ctx, id, &domains).await?.then_some(print);
    }
    Ok(true)
}

fn fingerprint(domains: &[DomainSeen]) -> u64 {
    let mut hasher = DefaultHasher::new();
    domains.hash(&mut hasher);
    hasher.finish()
}

/// Everything: facts, then a scan.
pub async fn look(ctx: &Context, id: HostId) -> Result<()> {
    let mut asked = ask(ctx, id).await;
    if matches!(&asked, Err(fault) if fault.kind == FaultKind::Transient) {
        // The host answers, and something was in the way for a moment: that is no reason to call it down.
        asked = ask(ctx, id).await;
    }
    let host = store::hosts::reached(&mut *ctx.conn().await?, id).await?;
    let Some(host) = host else { return Ok(()) };
    match asked.and_then(|(facts, domains)| same_host(&host, &facts).map(|()| (facts, domains))) {
        Ok((facts, domains)) => {
            hold::at_heartbeat(ctx, &host, &domains).await?;
            match note_up(ctx, &host, &facts).await {
                // Registered twice: the second row says so, rather than nothing.
                Err(Error::Conflict { detail, .. }) => return note_down(ctx, &host, &detail).await,
                noted => noted?,
            }
            scan(ctx, id, &domains).await.map(drop)
        }
        Err(fault) => note_down(ctx, &host, &fault.message).await,
    }
}

async fn ask(
    ctx: &Context,
    id: HostId,
) -> std::result::Result<(HostFacts, Vec<DomainSeen>), Fault> {
    ctx.look(id, "ask a host for its facts", |host| Ok((host.facts()?, host.domains()?))).await
}

/// A host is its UUID, not its address.
fn same_host(host: &Reached, facts: &HostFacts) -> std::result::Result<(), Fault> {
    match host.host_uuid {
        Some(known) if known != facts.host_uuid => Err(Fault::conflict(format!(
            "another host answers at {}: {} instead of {known}; correct the URI; where it is the same machine, give its libvirtd a steady host_uuid in libvirtd.conf",
            host.uri, facts.host_uuid
        ))),
        Some(_) | None => Ok(()),
    }
}

async fn note_up(ctx: &Context, host: &Reached, facts: &HostFacts) -> Result<()> {
    let value = serde_json::to_value(facts).map_err(Error::internal)?;
    if host.health == "up" && host.facts.as_ref().is_some_and(|old| alike(old, &value)) {
        return Ok(());
    }
    let now = ctx.clock.now();
    let totals = Totals {
        vcpus: facts.vcpus.into(),
        memory_mib: facts.memory_mib,
        disk_gib: facts.disk_gib,
    };
    let mut tx = store::begin(&ctx.db).await?;
    store::hosts::observe(&mut tx, host.id, facts.host_uuid, &value, totals, now).await?;
    if host.health != "up" {
        let detail = json!({ "from": host.health, "host_uuid": facts.host_uuid });
        ctx.event(&mut tx, "host.up", subject(host), EventOutcome::Seen, detail).await?;
    }
    tx.commit().await?;
    // Each by itself, with no lock held: their workers hold them, and want this host's row. All of them look again by
    // themselves too, later.
    let mut conn = ctx.conn().await?;
    if host.health != "up" {
        // What could not be asked or reached waits for this.
        for resting in store::instances::on_host(&mut conn, host.id).await? {
            work::touch(&mut conn, Kind::Instance, resting.id.0, now).await?;
        }
        for fence in store::incarnations::fenced_on_host(&mut conn, host.id).await? {
            work::touch(&mut conn, Kind::Fence, fence.0, now).await?;
        }
        for image in store::host_images::on_host(&mut conn, host.id).await? {
            work::touch(&mut conn, Kind::HostImage, image.id, now).await?;
        }
    }
    // Perhaps there is more room than before.
    store::queue::wake(&mut conn, now).await?;
    drop(conn);
    ctx.changes.changed(host.id.0);
    ctx.changes.wake();
    Ok(())
}

/// Free space moves all the time: it is news when it has moved by a fiftieth of all there is.
fn alike(old: &serde_json::Value, new: &serde_json::Value) -> bool {
    let still = |facts: &serde_json::Value| {
        let mut facts = facts.clone();
        if let Some(map) = facts.as_object_mut() {
            map.remove("disk_free_gib");
        }
        facts
    };
    let free = |facts: &serde_json::Value| facts["disk_free_gib"].as_i64().unwrap_or(0);
    let moved = (free(old) - free(new)).abs();
    still(old) == still(new) && moved * 50 <= new["disk_gib"].as_i64().unwrap_or(0).max(50)
}

async fn note_down(ctx: &Context, host: &Reached, reason: &str) -> Result<()> {
    if host.health == "down" && host.health_reason == reason {
        return Ok(());
    }
    let mut tx = store::begin(&ctx.db).await?;
    store::hosts::set_down(&mut tx, host.id, reason, ctx.clock.now()).await?;
    if host.health != "down" {
        let detail = json!({ "from": host.health, "reason": reason });
        ctx.event(&mut tx, "host.down", subject(host), EventOutcome::Seen, detail).await?;
    }
    tx.commit().await?;
    ctx.changes.changed(host.id.0);
    Ok(())
}

/// Compares what the host has with what rests in the store, and touches what differs. Writes nothing where nothing does.
/// `true`: all rest, and are as they should be.
async fn scan(ctx: &Context, id: HostId, domains: &[DomainSeen]) -> Result<bool> {
    let by_id: HashMap<InstanceId, &DomainSeen> =
        domains.iter().map(|domain| (domain.id, domain)).collect();
    let rows = store::instances::on_host(&mut *ctx.conn().await?, id).await?;
    let strays: Vec<_> = rows
        .iter()
        .filter(|row| row.rests && !at_rest(row, by_id.get(&row.id).copied(), ctx.cloud))
        .collect();
    if strays.is_empty() {
        return Ok(rows.iter().all(|row| row.rests));
    }
    let now = ctx.clock.now();
    let mut conn = ctx.conn().await?;
    for row in strays {
        work::touch(&mut conn, Kind::Instance, row.id.0, now).await?;
    }
    ctx.changes.wake();
    Ok(false)
}

/// Whether the domain is as the wish and the last observation have it. One that is not ours is none to who wishes for none.
fn at_rest(row: &Resting, seen: Option<&DomainSeen>, cloud: Uuid) -> bool {
    let ours = |seen: &&DomainSeen| seen.stamp.is_some_and(|stamp| stamp.cloud == cloud);
    let seen = seen.filter(|seen| row.wanted != Wanted::Stopped || ours(seen));
    let power = match seen.map(|seen| (seen.power, seen.stamp)) {
        None => Power::None,
        Some((power, Some(stamp)))
            if stamp.incarnation == row.incarnation_id && stamp.boot >= row.boot =>
        {
            match power {
                hv::Power::Running => Power::Running,
                hv::Power::Paused => Power::Paused,
                hv::Power::Off => Power::Off,
            }
        }
        Some(_) => return false,
    };
    let wished = match row.wanted {
        Wanted::Running => Power::Running,
        Wanted::Paused => Power::Paused,
        Wanted::Stopped => Power::None,
        Wanted::Deleted => return false,
    };
    power == wished && row.observed_power == power
}

pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    let id = HostId(lease.item);
    let host = store::hosts::reached(&mut *ctx.conn().await?, id).await?;
    let Some(host) = host else {
        work::remove(&mut *ctx.conn().await?, Kind::Host, lease.item).await?;
        return Ok(Outcome::Gone);
    };
    if host.removed_at.is_none() {
        // A new or changed host: contact it now rather than at its next heartbeat.
        ctx.hosts.set(id, target(ctx, host.uri, host.pool_path, host.host_uuid));
        look(ctx, id).await?;
        return Ok(Outcome::rest());
    }
    leave::reconcile(ctx, lease, &host).await
}

fn subject(host: &Reached) -> Subject {
    Subject { kind: "host", id: host.id.0, name: host.name.clone(), tenant: None }
}
