//! Incarnations that were left behind: when their host is back, its domain dies, its volumes go and the claim is given back.

use chrono::TimeDelta;
use serde_json::json;

use super::{Context, Outcome, Trouble, hold, host_images, host_networks, instances};
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::IncarnationId;
use crate::store::work::{self, Kind, Lease};
use crate::store::{self};

pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    let id = IncarnationId(lease.item);
    let fenced = store::incarnations::fenced(&mut *ctx.conn().await?, id).await?;
    let Some(fenced) = fenced else {
        work::remove(&mut *ctx.conn().await?, Kind::Fence, lease.item).await?;
        return Ok(Outcome::Gone);
    };
    let host = fenced.host_id;
    let reached = store::hosts::reached(&mut *ctx.conn().await?, host).await?;
    if reached.is_none_or(|reached| reached.health != "up") {
        // The watch touches this item when the host is back.
        return Ok(Outcome::wait(TimeDelta::seconds(60), "the host does not answer"));
    }
    if hold::why(ctx, host).await?.is_some() {
        return Ok(hold::wait());
    }
    let instance = fenced.instance_id;
    let cloud = ctx.cloud;
    ctx.host(host, "end a domain that was left behind", move |host| {
        match host.glance(instance)? {
            Some(seen) if seen.stamp.is_some_and(|s| s.cloud == cloud && s.incarnation == id) => {
                host.power_off(instance)
            }
            Some(_) | None => Ok(()),
        }
    })
    .await?;
    instances::clean_host(ctx, id, host).await?;
    let networks = store::host_networks::on_host(&mut *ctx.conn().await?, host).await?;
    for network in networks {
        host_networks::settle(ctx, host, network).await?;
    }
    let mut tx = ctx.write(lease).await?;
    store::incarnations::release(&mut tx, id).await?;
    host_images::users_left(&mut tx, host, ctx.clock.now()).await?;
    work::remove(&mut tx, Kind::Fence, lease.item).await?;
    let subject = Subject {
        kind: "instance",
        id: instance.0,
        name: String::new(),
        tenant: Some(fenced.tenant_id),
    };
    ctx.event(&mut tx, "instance.fenced", subject, EventOutcome::Done, json!({ "host_id": host }))
        .await?;
    tx.commit().await?;
    store::queue::wake(&mut *ctx.conn().await?, ctx.clock.now()).await?;
    ctx.changes.wake();
    Ok(Outcome::Gone)
}
