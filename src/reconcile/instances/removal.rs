//! The way out: everything from the host, then everything from the database, in one transaction.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Look, subject};
use crate::domain::event::Outcome as EventOutcome;
use crate::domain::id::{HostId, IncarnationId};
use crate::domain::volume::{disk_name, seed_name};
use crate::reconcile::{Context, Outcome, Trouble, fault, host_images, host_networks};
use crate::store;
use crate::store::work::{self, Kind};

/// Takes everything of the incarnation from its host. Every part may be gone already.
pub async fn clean_host(
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

impl Look<'_> {
    pub(super) async fn remove(
        &self,
        incarnation: IncarnationId,
        host: HostId,
    ) -> Result<Outcome, Trouble> {
        self.clean(incarnation, host).await?;
        self.forget(Some((incarnation, host))).await?;
        Ok(Outcome::Gone)
    }

    async fn clean(&self, incarnation: IncarnationId, host: HostId) -> Result<(), Trouble> {
        clean_host(self.ctx, incarnation, host).await?;
        for network in self.ports.iter().map(|p| p.network_id).collect::<BTreeSet<_>>() {
            host_networks::settle(self.ctx, host, network).await?;
        }
        fault::point("network_settled");
        Ok(())
    }

    /// The last transaction of a deletion: ports, addresses, claim, row and work, or none of them.
    pub(super) async fn forget(
        &self,
        placed: Option<(IncarnationId, HostId)>,
    ) -> Result<(), Trouble> {
        let now = self.ctx.clock.now();
        let mut tx = self.ctx.write(self.lease).await?;
        store::ports::release_of_instance(&mut tx, self.record.id, now).await?;
        if let Some((incarnation, host)) = placed {
            store::incarnations::release(&mut tx, incarnation).await?;
            host_images::user_left(&mut tx, host, self.record.image_id, now).await?;
        }
        self.finish(&mut tx, json!({})).await?;
        tx.commit().await?;
        // Who waited may have been in the way of others.
        if placed.is_some() || self.record.queued_at.is_some() {
            store::queue::wake(&mut *self.ctx.conn().await?, now).await?;
        }
        self.ctx.changes.changed(self.record.id.0);
        self.ctx.changes.wake();
        fault::point("forgotten");
        Ok(())
    }

    /// The tenant is done with it; the host is not: the incarnation stays as the record that cleans it when it is back.
    pub(super) async fn leave_behind(&self, incarnation: IncarnationId) -> Result<(), Trouble> {
        let now = self.ctx.clock.now();
        let mut tx = self.ctx.write(self.lease).await?;
        store::ports::release_of_instance(&mut tx, self.record.id, now).await?;
        store::incarnations::fence(&mut tx, incarnation, now).await?;
        work::touch(&mut tx, Kind::Fence, incarnation.0, now).await?;
        work::on_behalf(&mut tx, self.lease, Kind::Fence, incarnation.0).await?;
        self.finish(&mut tx, json!({ "left_behind": true, "host_id": self.record.host_id }))
            .await?;
        tx.commit().await?;
        self.ctx.changes.changed(self.record.id.0);
        self.ctx.changes.wake();
        Ok(())
    }

    async fn finish(&self, tx: &mut store::Tx, detail: serde_json::Value) -> Result<(), Trouble> {
        store::instances::forget(tx, self.record.id).await?;
        // A hidden image may have lost its last user.
        work::touch(tx, Kind::Image, self.record.image_id.0, self.ctx.clock.now()).await?;
        // Before the item goes, which knows the request.
        self.ctx
            .event(tx, "instance.delete", subject(self.record), EventOutcome::Done, detail)
            .await?;
        work::remove(tx, Kind::Instance, self.record.id.0).await?;
        Ok(())
    }
}
