//! A host that is to leave: what we made on it goes first, what a crash left there included.

use chrono::TimeDelta;
use serde_json::json;

use super::subject;
use crate::domain::event::Outcome as EventOutcome;
use crate::domain::id::HostId;
use crate::reconcile::{Context, Outcome, Trouble, hold, host_networks, sweep};
use crate::store::hosts::Reached;
use crate::store::work::{self, Kind, Lease};
use crate::store::{self, Tx};

const PAUSE: TimeDelta = TimeDelta::seconds(10);

pub async fn reconcile(ctx: &Context, lease: &Lease, host: &Reached) -> Result<Outcome, Trouble> {
    let id = HostId(lease.item);
    if hold::everywhere(ctx).await?.is_some() {
        return Ok(hold::wait());
    }
    if host.health != "up" && ctx.clock.now() - host.health_since >= ctx.gone_after() {
        return give_up(ctx, lease, host).await;
    }
    if hold::why(ctx, id).await?.is_some() {
        return Ok(hold::wait());
    }
    for network in store::host_networks::on_host(&mut *ctx.conn().await?, id).await? {
        host_networks::settle(ctx, id, network).await?;
    }
    for image in store::host_images::on_host(&mut *ctx.conn().await?, id).await? {
        let name = image.volume();
        ctx.host(id, "delete a base image", move |host| host.delete_volume(&name)).await?;
        let mut tx = ctx.write(lease).await?;
        store::host_images::remove_unused(&mut tx, image.id).await?;
        work::remove(&mut tx, Kind::HostImage, image.id).await?;
        tx.commit().await?;
    }
    let left = sweep::ours_without_owner(ctx, id).await?;
    if left > 0 {
        let reason = format!(
            "{left} things of this cloud on it have no owner, and go before it: the sweeper takes them away little by little, see GET /v1/drift?host_id={id}"
        );
        return Ok(Outcome::wait(PAUSE, reason));
    }
    // Nothing is placed on a host that leaves: what it carries only gets less.
    if store::incarnations::on_host(&mut *ctx.conn().await?, id).await?.is_empty() {
        ctx.confirm(lease).await?;
        ctx.host(id, "leave the host", |host| host.leave()).await?;
    }
    let tx = ctx.write(lease).await?;
    forget(ctx, lease, host, tx, json!({})).await
}

/// An admin removes a host that has not answered for long: nothing on it can be cleaned, and nobody waits for that.
async fn give_up(ctx: &Context, lease: &Lease, host: &Reached) -> Result<Outcome, Trouble> {
    let mut tx = ctx.write(lease).await?;
    store::hosts::give_up(&mut tx, host.id).await?;
    forget(ctx, lease, host, tx, json!({ "not_cleaned": host.health_reason })).await
}

async fn forget(
    ctx: &Context,
    lease: &Lease,
    host: &Reached,
    mut tx: Tx,
    detail: serde_json::Value,
) -> Result<Outcome, Trouble> {
    if !store::hosts::forget(&mut tx, host.id).await? {
        return Ok(Outcome::wait(PAUSE, "the host still carries incarnations"));
    }
    ctx.event(&mut tx, "host.delete", subject(host), EventOutcome::Done, detail).await?;
    work::remove(&mut tx, Kind::Host, lease.item).await?;
    tx.commit().await?;
    ctx.hosts.remove(host.id);
    ctx.changes.changed(host.id.0);
    Ok(Outcome::Gone)
}
