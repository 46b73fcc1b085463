//! The publisher: gives committed events their number, and tells the streams how far the feed reaches.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::context::in_time;
use crate::domain::beat::Beats;
use crate::domain::clock::Clock;
use crate::domain::error::Result;
use crate::store;
use crate::store::changes::Changes;

/// How often the feed is looked at when nothing wakes us: other processes write and publish too.
const POLL: Duration = Duration::from_millis(500);

/// What comes so soon after the first goes in the same round: each waits for the disk.
const GATHER: Duration = Duration::from_millis(15);

/// A round may wait 10 s for a connection and 30 s for a statement.
const PATIENCE: Duration = Duration::from_secs(45);

/// Numbers what is committed, and tells the streams of this process, also of what another process numbered.
pub async fn publish_once(db: &PgPool, changes: &Changes) -> Result<()> {
    let last = store::events::publish(&mut *store::acquire(db).await?).await?;
    changes.published(last);
    Ok(())
}

/// Where this process is not to publish: tells its streams what others numbered, until `shutdown`.
pub async fn follow_forever(db: PgPool, changes: Changes, shutdown: CancellationToken) {
    let look = async || -> Result<()> {
        let (last, _) = store::metrics::feed(&mut *store::acquire(&db).await?).await?;
        changes.published(last);
        Ok(())
    };
    while !shutdown.is_cancelled() {
        if let Err(error) = in_time(PATIENCE, look()).await {
            tracing::warn!(%error, "the feed could not be looked at; trying again");
        }
        shutdown.run_until_cancelled(tokio::time::sleep(POLL)).await;
    }
}

/// The publisher's loop, until `shutdown`. A failure is logged and tried again at the next round.
pub async fn publish_forever(
    db: PgPool,
    changes: Changes,
    clock: Clock,
    beats: Beats,
    shutdown: CancellationToken,
) {
    // A round may wait 10 s for a connection and 30 s for a statement before it fails.
    let beat = beats.register("events", Duration::from_mins(1), clock.now());
    loop {
        // On shutdown too: what was written last is numbered before we go.
        if let Err(error) = in_time(PATIENCE, publish_once(&db, &changes)).await {
            tracing::warn!(%error, "events could not be published; trying again");
        }
        beat.alive(clock.now());
        if shutdown.is_cancelled() {
            return;
        }
        tokio::select! {
            () = async { changes.events().await; tokio::time::sleep(GATHER).await } => {}
            () = tokio::time::sleep(POLL) => {}
            () = shutdown.cancelled() => {}
        }
    }
}
