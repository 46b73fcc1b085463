//! Networks: those that are to stay are mended on their hosts where a sweep found that they are not whole; those that were
//! wished away go from every host, and then with their addresses.

use chrono::TimeDelta;
use serde_json::json;

use super::{Context, Outcome, Trouble, hold, host_networks};
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::NetworkId;
use crate::domain::network::NetworkStatus;
use crate::store;
use crate::store::work::{self, Kind, Lease};

/// How often a host that does not answer is looked at again. Its return is noticed by its own reconcile, too.
const SILENT_PAUSE: TimeDelta = TimeDelta::seconds(60);

pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    let id = NetworkId(lease.item);
    let network = store::networks::get(&mut *ctx.conn().await?, None, id).await?;
    let Some(network) = network else {
        let mut tx = ctx.write(lease).await?;
        work::remove(&mut tx, Kind::Network, lease.item).await?;
        tx.commit().await?;
        return Ok(Outcome::Gone);
    };
    match network.status {
        NetworkStatus::Active => return mend(ctx, id).await,
        NetworkStatus::Deleting => {}
    }
    if hold::everywhere(ctx).await?.is_some() {
        return Ok(hold::wait());
    }
    // Not before it is certain that the network is to go.
    ctx.changes.durable(&ctx.db).await?;
    if let Some(wait) = leave_hosts(ctx, id).await? {
        return Ok(wait);
    }
    let mut tx = ctx.write(lease).await?;
    if !store::networks::remove(&mut tx, id).await? {
        // Somebody who did not know yet noted it on a host meanwhile.
        return Ok(Outcome::Again);
    }
    let subject = Subject {
        kind: "network",
        id: id.0,
        name: network.name.to_string(),
        tenant: Some(network.tenant_id),
    };
    let detail = json!({ "cidr": network.cidr });
    ctx.event(&mut tx, "network.delete", subject, EventOutcome::Done, detail).await?;
    work::remove(&mut tx, Kind::Network, lease.item).await?;
    tx.commit().await?;
    ctx.changes.changed(id.0);
    Ok(Outcome::Gone)
}

/// It was made on its hosts by the instances that need it. Where it is gone it is made again, and guests that do not hang on it
/// are put there; one host's trouble keeps none of the others from it. A host that does not answer is swept when it is back.
async fn mend(ctx: &Context, id: NetworkId) -> Result<Outcome, Trouble> {
    let mut outcome = Ok(Outcome::rest());
    for host in store::host_networks::hosts_of(&mut *ctx.conn().await?, id).await? {
        let reached = store::hosts::reached(&mut *ctx.conn().await?, host).await?;
        if reached.is_none_or(|reached| reached.health != "up") {
            continue;
        }
        let mended = async {
            host_networks::settle(ctx, host, id).await?;
            ctx.host(host, "put guests on their network", move |host| host.rejoin(id)).await?;
            Ok(())
        };
        if let Err(error) = mended.await {
            outcome = Err(error);
        }
    }
    outcome
}

/// Takes the network from every host that answers; one host's trouble keeps none of the others from being cleaned.
/// `Some`: hosts that do not answer may still have it.
async fn leave_hosts(ctx: &Context, id: NetworkId) -> Result<Option<Outcome>, Trouble> {
    let mut trouble = None;
    let mut silent = 0;
    for host in store::host_networks::hosts_of(&mut *ctx.conn().await?, id).await? {
        let reached = store::hosts::reached(&mut *ctx.conn().await?, host).await?;
        if reached.is_none_or(|reached| reached.health != "up") {
            silent += 1;
        } else if hold::why(ctx, host).await?.is_some() {
            return Ok(Some(hold::wait()));
        } else if let Err(error) = host_networks::settle(ctx, host, id).await {
            trouble.get_or_insert(error);
        }
    }
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    // Which hosts they are is the admins' business: tenants read this.
    let reason = format!("{silent} of its hosts do not answer, and may still have it");
    Ok((silent > 0).then(|| Outcome::wait(SILENT_PAUSE, reason)))
}

#[cfg(test)]
mod tests;
