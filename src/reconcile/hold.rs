//! The hold: while the world may be newer than the database, nothing is removed from it.
//!
//! A database that was restored from an older dump does not know what was made since, and would sweep it. What gives it away:
//! a host bears a higher number than its row has counted (see `store::generations`), or the database is not the one that was
//! served last. Then the hold begins, for all processes, until an admin has looked and ends it (`pileus admin resume`).
//! Nothing of this is written while all is well.

use chrono::TimeDelta;
use serde_json::json;

use super::inventory::{self, Inventory};
use super::{Context, Outcome, Trouble};
use crate::domain::error::Result;
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::HostId;
use crate::hypervisor::DomainSeen;
use crate::store::hosts::Reached;
use crate::store::{self};

/// How often what is held back is looked at again; the end of the hold makes it due at once.
const PAUSE: TimeDelta = TimeDelta::seconds(60);

/// Why nothing may be removed from the host now; `None`: it may.
pub async fn why(ctx: &Context, host: HostId) -> Result<Option<String>, Trouble> {
    if !ctx.compared.has(host) {
        let seen = ctx.host(host, "compare the host with the database", inventory::look).await?;
        compare(ctx, host, &seen).await?;
    }
    Ok(everywhere(ctx).await?)
}

/// Why nothing may be removed from anywhere.
pub async fn everywhere(ctx: &Context) -> Result<Option<String>> {
    Ok(store::cloud::held(&mut *ctx.conn().await?).await?.map(|held| held.reason))
}

/// What an item says that is held back. Tenants read it, too: the reason itself is the admins'.
pub fn wait() -> Outcome {
    Outcome::wait(PAUSE, "nothing is removed until an admin has said `pileus admin resume`")
}

/// The same of an instance that is older than the hold and has no place in this database.
pub fn wait_for_place() -> Outcome {
    let why = "it may run already where this database does not know of: it is placed when an admin has said `pileus admin resume`";
    Outcome::wait(PAUSE, why)
}

/// Compares all that the host has, which was listed before, with what its row has counted.
pub async fn compare(ctx: &Context, host: HostId, seen: &Inventory) -> Result<()> {
    judge(ctx, host, seen.newest(ctx.cloud)).await?;
    if ctx.compared.note(host) {
        // Who waits for a place could not have this host before.
        store::queue::wake(&mut *ctx.conn().await?, ctx.clock.now()).await?;
        ctx.changes.wake();
    }
    Ok(())
}

/// A heartbeat's part of it: all of the host at this process's first, then its domains, which are at hand.
pub async fn at_heartbeat(ctx: &Context, host: &Reached, domains: &[DomainSeen]) -> Result<()> {
    if !ctx.compared.has(host.id) {
        return match ctx.host(host.id, "compare the host with the database", inventory::look).await
        {
            Ok(seen) => compare(ctx, host.id, &seen).await,
            Err(fault) => {
                tracing::warn!(host = %host.id, %fault, "a host could not be compared with the database; trying again");
                Ok(())
            }
        };
    }
    let newest = inventory::newest_domain(domains, ctx.cloud);
    // The row was read after the domains were: what is higher is not of its claims.
    if newest > host.generation { judge(ctx, host.id, newest).await } else { Ok(()) }
}

async fn judge(ctx: &Context, host: HostId, newest: i64) -> Result<()> {
    let horizon = store::generations::horizon(&mut *ctx.conn().await?, host).await?;
    if newest <= horizon {
        return Ok(());
    }
    let mut tx = store::begin(&ctx.db).await?;
    store::generations::saw(&mut tx, host, newest).await?;
    let Some(reached) = store::hosts::reached(&mut tx, host).await? else { return Ok(()) };
    let reason = format!(
        "the database is older than the world: host {} has what its incarnation number {newest} made, and the database has counted to {horizon}",
        reached.name
    );
    begin(ctx, &mut tx, &reason, json!({ "host_id": host, "seen": newest, "known": horizon }))
        .await?;
    tx.commit().await?;
    Ok(())
}

/// At the start of a process: another database than the one that was served last is a copy, and may be an old one.
pub async fn at_start(ctx: &Context) -> Result<()> {
    let mut tx = store::begin(&ctx.db).await?;
    if let Some(moved) = store::cloud::note_database(&mut tx).await? {
        let reason = format!(
            "the database was restored, copied or upgraded: it was {}, and is {}",
            moved.from, moved.to
        );
        begin(ctx, &mut tx, &reason, json!({ "from": moved.from, "to": moved.to })).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// While it serves: a restore in place makes the tables anew. `before`: which they were when this process looked last.
pub async fn at_look(ctx: &Context, before: i64, now: i64) -> Result<()> {
    if before == now {
        return Ok(());
    }
    let mut tx = store::begin(&ctx.db).await?;
    let reason = "the database's tables were made anew while it was served, as when a dump is restored in place";
    begin(ctx, &mut tx, reason, json!({ "from": before, "to": now })).await?;
    tx.commit().await?;
    Ok(())
}

async fn begin(
    ctx: &Context,
    tx: &mut store::Tx,
    reason: &str,
    detail: serde_json::Value,
) -> Result<()> {
    if !store::cloud::hold(tx, reason, ctx.clock.now()).await? {
        return Ok(());
    }
    tracing::error!(
        reason,
        "nothing is removed from now on: look at `pileus admin drift`, then say `pileus admin resume`"
    );
    let subject = Subject { kind: "cloud", id: ctx.cloud, name: String::new(), tenant: None };
    let mut detail = detail;
    detail["reason"] = json!(reason);
    ctx.event(tx, "cloud.hold", subject, EventOutcome::Seen, detail).await
}
