//! What must be forgotten now and then: answers kept for keys, old events, ended tokens, old signing keys.

use std::time::Duration;

use chrono::TimeDelta;

use super::{App, auth};
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::store;

/// An ended API token is shown for so long, that people see why their program was refused.
const ENDED_TOKENS: TimeDelta = TimeDelta::days(30);

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub idempotency_keys: u64,
    pub events: u64,
    pub tokens: u64,
}

/// One round: the server's loop calls it every few minutes, in any number of processes. It removes a thousand rows a transaction until nothing is
/// left to remove.
pub async fn run_once(app: &App) -> Result<Forgotten> {
    let now = app.clock.now();
    auth::rotate_keys(app).await?;
    app.auth().limits.forget();
    app.rates().forget();
    let keys = before(now, app.config.idempotency_ttl);
    let events = before(now, app.config.event_retention);
    let mut done = Forgotten::default();
    // A connection a batch: others get theirs in between.
    while store::idempotency::forget(&mut *app.conn().await?, keys)
        .await
        .map(|n| add(&mut done.idempotency_keys, n))?
    {}
    while store::events::forget(&mut *app.conn().await?, events)
        .await
        .map(|n| add(&mut done.events, n))?
    {}
    let ended = now - ENDED_TOKENS;
    while store::tokens::forget(&mut *app.conn().await?, ended)
        .await
        .map(|n| add(&mut done.tokens, n))?
    {}
    Ok(done)
}

/// Whether to go on.
fn add(sum: &mut u64, removed: u64) -> bool {
    *sum += removed;
    removed > 0
}

fn before(now: Time, age: Duration) -> Time {
    now - TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX)
}
