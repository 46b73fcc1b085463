//! The sweeper: what bears our stamp and has no owner is removed, late and little by little; what is not ours is reported.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::TimeDelta;
use metrics::counter;
use serde_json::json;

use super::context::in_time;
use super::images::{Images, Swept};
use super::inventory::{self, Inventory};
use super::{Context, Run, Trouble, hold, mend};
use crate::domain::beat::Beat;
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::{HostId, IncarnationId, InstanceId, NetworkId};
use crate::domain::metric;
use crate::domain::volume::{Owner, owner};
use crate::hypervisor::FaultKind;
use crate::store::hosts::Reached;
use crate::store::orphans::{Found, Orphan, Thing};
use crate::store::{self};

/// Most things not ours that are reported of one host: it may be busy with much that is none of our business.
const DRIFT_MAX: usize = 100;
/// An orphan must have been found by so many sweeps.
const SIGHTINGS: i64 = 2;

/// Sweeps every host and the image store now and then, until `shutdown`.
pub async fn run(Run { ctx, beats, shutdown }: Run) {
    let pause = ctx.config.sweep;
    let beat = beats.register("sweep", pause * 2 + Duration::from_secs(600), ctx.clock.now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        let swept = sweep_all(&ctx, &beat).await;
        let outcome = if swept.is_ok() { "ok" } else { "failed" };
        counter!(metric::SWEEPS, "outcome" => outcome).increment(1);
        if let Err(error) = swept {
            tracing::warn!(%error, "hosts could not be swept; trying again");
        }
        match in_time(ctx.config.database_patience * 2, sweep_images(&ctx)).await {
            Ok(swept) if swept == Swept::default() => {}
            Ok(swept) => tracing::info!(?swept, "the image store was swept"),
            Err(error) => {
                tracing::warn!(%error, "the image store could not be swept; trying again");
            }
        }
        beat.alive(ctx.clock.now());
    }
}

/// The image store, once.
pub async fn sweep_images(ctx: &Context) -> Result<Swept> {
    // Files without a row may be of images that this database does not know any more.
    match hold::everywhere(ctx).await? {
        Some(_) => Ok(Swept::default()),
        None => Images::of(ctx).sweep().await,
    }
}

async fn sweep_all(ctx: &Context, beat: &Beat) -> Result<()> {
    let hosts = async { store::hosts::all_reached(&mut *ctx.conn().await?).await };
    // Looks, and what is removed after them, which is little by little.
    let longest = ctx.config.host_call_deadline * 4 + ctx.config.database_patience * 2;
    let mut outcome = Ok(());
    for host in in_time(ctx.config.database_patience, hosts).await? {
        if host.health == "up" {
            // One that cannot be swept keeps nobody from sweeping the others.
            if let Err(error) = in_time(longest, sweep(ctx, &host)).await {
                tracing::warn!(host = %host.id, %error, "a host could not be swept; trying again");
                outcome = Err(error);
            }
            beat.alive(ctx.clock.now());
        }
    }
    outcome
}

/// One host, once.
pub async fn sweep(ctx: &Context, host: &Reached) -> Result<()> {
    let mut tx = store::begin_patiently(&ctx.db).await?;
    if !store::orphans::try_lock(&mut tx, host.id).await? {
        return Ok(());
    }
    let before = mend::Before::read(&mut tx, host.id).await?;
    // The host first, the database second: every effect has its row before it, so that what is found and has none then is an orphan.
    let inventory = match ctx.look(host.id, "list what the host has", inventory::look).await {
        Ok(inventory) => inventory,
        Err(fault) => {
            tracing::debug!(host = %host.id, %fault, "a host could not be swept");
            return Ok(());
        }
    };
    hold::compare(ctx, host.id, &inventory).await?;
    let owners = Owners::read(ctx, host.id, &inventory).await?;
    let found = owners.orphans(ctx, &inventory);
    let now = ctx.clock.now();
    store::orphans::note(&mut tx, host.id, &found, now).await?;
    let known = store::orphans::on_host(&mut tx, host.id).await?;
    tx.commit().await?;
    // One that leaves is not mended any more.
    let stays = host.removed_at.is_none();
    if stays && let Err(error) = mend::all(ctx, host.id, &before, &inventory).await {
        tracing::warn!(host = %host.id, %error, "what is missing on a host could not be brought back; trying again");
    }
    if hold::everywhere(ctx).await?.is_some() {
        // What was found is told as drift, and stays.
        return Ok(());
    }
    let grace = TimeDelta::from_std(ctx.config.sweep_grace).unwrap_or(TimeDelta::minutes(5));
    for orphan in due(&known, &inventory, ctx.config.sweep_share_percent, grace, now) {
        if remove(ctx, host, orphan).await? == Removal::Silent {
            break;
        }
    }
    Ok(())
}

/// How many things on the host bear our stamp and are nobody's.
pub async fn ours_without_owner(
    ctx: &Context,
    host: HostId,
) -> std::result::Result<usize, Trouble> {
    let inventory = ctx.look(host, "list what the host has", inventory::look).await?;
    let found = Owners::read(ctx, host, &inventory).await?.orphans(ctx, &inventory);
    Ok(found.iter().filter(|found| found.ours).count())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// It is gone, or has an owner after all, or could not be removed and says why.
    Tried,
    /// The host did not answer: nobody need ask for the next one.
    Silent,
}

/// Who may own something on the host.
struct Owners {
    /// That a domain on this host may be of.
    domains: HashSet<(IncarnationId, InstanceId)>,
    /// That a file there may be of: wherever it lives, since hosts' directories may be one.
    ids: HashSet<IncarnationId>,
    bases: HashSet<String>,
    networks: HashSet<NetworkId>,
}

impl Owners {
    /// Of this host, and of every host that is not up: it may be this one under another name or identity.
    async fn read(ctx: &Context, host: HostId, inventory: &Inventory) -> Result<Self> {
        let mut conn = ctx.conn().await?;
        let claimed: Vec<_> = inventory.incarnations().collect();
        let among = store::incarnations::among(&mut conn, host, &claimed).await?;
        let ids = among.iter().map(|(id, ..)| *id).collect();
        let here = among.into_iter().filter(|(.., here)| *here);
        let domains = here.map(|(id, instance, _)| (id, instance)).collect();
        let (mut bases, mut networks) = (HashSet::new(), HashSet::new());
        for other in store::hosts::all_reached(&mut conn).await? {
            if other.id == host || other.health != "up" {
                let images = store::host_images::on_host(&mut conn, other.id).await?;
                bases.extend(images.iter().map(store::host_images::HostImage::volume));
                networks.extend(store::host_networks::on_host(&mut conn, other.id).await?);
            }
        }
        Ok(Self { domains, ids, bases, networks })
    }

    fn orphans(&self, ctx: &Context, inventory: &Inventory) -> Vec<Found> {
        let mut found = Vec::new();
        for domain in &inventory.domains {
            let ours = domain.stamp.filter(|stamp| stamp.cloud == ctx.cloud);
            if !ours.is_some_and(|stamp| self.domains.contains(&(stamp.incarnation, domain.id))) {
                found.push(Found {
                    kind: "domain",
                    name: domain.id.to_string(),
                    ours: ours.is_some(),
                });
            }
        }
        for volume in &inventory.volumes {
            let owned = match owner(&volume.name) {
                Some(Owner::Incarnation(id)) => self.ids.contains(&id),
                Some(Owner::Base(_)) => self.bases.contains(&volume.name),
                None => false,
            };
            if !owned {
                found.push(Found {
                    kind: "volume",
                    name: volume.name.clone(),
                    ours: owner(&volume.name).is_some(),
                });
            }
        }
        // Networks of others are the host's business: they are not even drift.
        for id in inventory
            .networks
            .iter()
            .filter_map(|network| network.ours)
            .filter(|id| !self.networks.contains(id))
        {
            found.push(Found { kind: "network", name: id.to_string(), ours: true });
        }
        for id in inventory.consoles.iter().filter(|id| !self.ids.contains(id)) {
            found.push(Found { kind: "console", name: id.to_string(), ours: true });
        }
        let (mut ours, mut drift): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.ours);
        drift.truncate(DRIFT_MAX);
        ours.append(&mut drift);
        ours
    }
}

/// Which orphans go now: ours, seen often and long enough, and no more than a share of what the host has of their kind.
fn due<'a>(
    known: &'a [Orphan],
    inventory: &Inventory,
    share_percent: u32,
    grace: TimeDelta,
    now: Time,
) -> Vec<&'a Orphan> {
    let all = |kind: &str| match kind {
        "domain" => inventory.domains.len(),
        "volume" => inventory.volumes.len(),
        "network" => inventory.networks.len(),
        _ => inventory.consoles.len(),
    };
    let ripe = |orphan: &&Orphan| {
        orphan.ours && orphan.sightings >= SIGHTINGS && now - orphan.first_seen_at >= grace
    };
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut due = Vec::new();
    for orphan in known.iter().filter(ripe) {
        let most = (all(&orphan.kind) * share_percent as usize / 100).max(1);
        let taken = taken.entry(orphan.kind.as_str()).or_default();
        if *taken < most {
            *taken += 1;
            due.push(orphan);
        }
    }
    due
}

/// The orphan as a thing that could have an owner; `None`: its name is none of ours after all.
fn thing(orphan: &Orphan) -> Option<Thing> {
    let name = orphan.name.as_str();
    match (orphan.kind.as_str(), owner(name)) {
        ("domain", _) => name.parse().ok().map(Thing::Domain),
        ("volume", Some(Owner::Incarnation(id))) => Some(Thing::OfIncarnation(id)),
        ("volume", Some(Owner::Base(sha256))) => Some(Thing::Base(sha256.to_owned())),
        ("volume", None) => None,
        ("network", _) => name.parse().ok().map(Thing::Network),
        (_, _) => name.parse().ok().map(Thing::OfIncarnation),
    }
}

async fn remove(ctx: &Context, host: &Reached, orphan: &Orphan) -> Result<Removal> {
    let Some(thing) = thing(orphan) else { return Ok(Removal::Tried) };
    let mut tx = store::begin_patiently(&ctx.db).await?;
    // Since the look somebody may have come to need it: asked again, with those who could come locked out.
    if !store::orphans::lock_out(&mut tx, host.id, &thing).await?
        || store::orphans::is_owned(&mut tx, host.id, &thing).await?
    {
        tracing::debug!(host = %host.id, kind = orphan.kind, name = orphan.name, "an orphan found an owner");
        return Ok(Removal::Tried);
    }
    let (kind, name) = (orphan.kind.clone(), orphan.name.clone());
    let removed = ctx
        .host(host.id, "remove an orphan", move |host| match kind.as_str() {
            "domain" => name.parse().map_or(Ok(()), |id| host.power_off(id)),
            "volume" => host.delete_volume(&name),
            "network" => name.parse().map_or(Ok(()), |id| host.delete_network(id)),
            _ => name.parse().map_or(Ok(()), |id| host.delete_console(id)),
        })
        .await;
    let subject = Subject { kind: "host", id: host.id.0, name: host.name.clone(), tenant: None };
    let (kind, name, since) = (&orphan.kind, &orphan.name, orphan.first_seen_at);
    let Err(fault) = removed else {
        counter!(metric::SWEPT, "kind" => kind.clone(), "outcome" => "ok").increment(1);
        tracing::info!(host = %host.id, kind, name, "an orphan was swept");
        let detail = json!({ "kind": kind, "name": name, "since": since, "error": null });
        ctx.event(&mut tx, "host.sweep", subject, EventOutcome::Done, detail).await?;
        tx.commit().await?;
        return Ok(Removal::Tried);
    };
    counter!(metric::SWEPT, "kind" => kind.clone(), "outcome" => fault.kind.as_str()).increment(1);
    tracing::warn!(host = %host.id, kind, name, %fault, "an orphan could not be swept");
    store::orphans::note_failure(&mut tx, host.id, orphan, &fault.message, ctx.clock.now()).await?;
    // Once, not at every attempt: the account tells of the others.
    if orphan.last_error.as_ref() != Some(&fault.message) {
        let detail = json!({ "kind": kind, "name": name, "since": since, "error": fault.message });
        ctx.event(&mut tx, "host.sweep", subject, EventOutcome::Failed, detail).await?;
    }
    tx.commit().await?;
    Ok(match fault.kind {
        FaultKind::Unreachable => Removal::Silent,
        FaultKind::Transient | FaultKind::Permanent | FaultKind::Conflict => Removal::Tried,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::VolumeSeen;

    fn orphan(name: &str, ours: bool, sightings: i64, since: Time) -> Orphan {
        Orphan {
            kind: "volume".into(),
            name: name.into(),
            ours,
            first_seen_at: since,
            last_seen_at: since,
            sightings,
            tried_at: None,
            last_error: None,
        }
    }

    #[test]
    fn only_what_is_ours_ripe_and_within_the_share_goes() {
        let start = Time::default();
        let now = start + TimeDelta::minutes(10);
        let volumes = (0..20)
            .map(|i| VolumeSeen { name: i.to_string(), capacity_bytes: 1, file_bytes: None })
            .collect();
        let inventory = Inventory {
            domains: vec![],
            volumes,
            networks: vec![],
            cut_off: vec![],
            consoles: vec![],
        };
        let known = [
            orphan("foreign", false, 9, start),
            orphan("young", true, 9, now),
            orphan("seen once", true, 1, start),
            orphan("a", true, 2, start),
            orphan("b", true, 2, start),
            orphan("c", true, 2, start),
        ];
        let names: Vec<_> = due(&known, &inventory, 10, TimeDelta::minutes(5), now)
            .iter()
            .map(|o| o.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
