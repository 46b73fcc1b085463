//! Signals of the hosts: each makes its instance due. Losing one costs time, never truth: the watch scans.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::context::in_time;
use crate::domain::error::Result;
use crate::domain::id::HostId;
use crate::hypervisor::Signal;
use crate::store::work::{self, Kind};
use crate::store::{self};

/// Most signals that one transaction turns into work.
const BATCH: usize = 256;

/// Runs until `shutdown`.
pub async fn wake(
    ctx: Context,
    mut signals: mpsc::Receiver<(HostId, Signal)>,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::new();
    while let Some(1..) = shutdown.run_until_cancelled(signals.recv_many(&mut batch, BATCH)).await {
        if let Err(error) = in_time(ctx.config.database_patience, touch(&ctx, &batch)).await {
            tracing::warn!(%error, "signals could not be noted; the next scan finds what they meant");
        }
        batch.clear();
    }
}

async fn touch(ctx: &Context, batch: &[(HostId, Signal)]) -> Result<()> {
    let now = ctx.clock.now();
    let mut tx = store::flush::begin_softly(&ctx.db).await?;
    for (host, signal) in batch {
        match signal {
            Signal::Domain(id) => {
                // A foreign domain's signal names no instance of ours, and makes no work.
                if store::instances::is_on_host(&mut tx, *id, *host).await? {
                    work::hint(&mut tx, Kind::Instance, id.0, now).await?;
                }
            }
            Signal::Connection => {
                for resting in store::instances::on_host(&mut tx, *host).await? {
                    work::touch(&mut tx, Kind::Instance, resting.id.0, now).await?;
                }
            }
        }
    }
    tx.commit().await?;
    ctx.changes.wake();
    Ok(())
}
