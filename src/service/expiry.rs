//! Ends: instances and reservations whose time has come.

use chrono::TimeDelta;
use serde_json::json;

use super::App;
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::event::{Actor, NewEvent, Outcome, Subject};
use crate::domain::id::InstanceId;
use crate::domain::instance::Action;
use crate::store::work::{self, Asked, Kind};
use crate::store::{self, Tx};

/// Reservations that one transaction ends.
const BATCH: i64 = 100;

/// One round, in any number of processes; gives when the next end is, if one is known.
pub async fn run_once(app: &App) -> Result<Option<Time>> {
    let now = app.clock.now();
    for id in store::instances::expired(&mut *app.conn().await?, now, 1000).await? {
        // One that cannot be ended now holds up no other.
        if let Err(error) = delete(app, id, now).await {
            tracing::warn!(instance = %id, %error, "what has come to its time could not be deleted; trying again");
        }
    }
    let mut tx = store::begin(&app.db).await?;
    let over = store::reservations::over(&mut tx, now, BATCH).await?;
    for reservation in &over {
        store::reservations::end(&mut tx, reservation.id).await?;
        event(&mut tx, "reservation.expire", super::reservations::subject(reservation), now)
            .await?;
    }
    tx.commit().await?;
    if !over.is_empty() {
        store::queue::wake(&mut *app.conn().await?, now).await?;
        app.changes.wake();
    }
    store::instances::next_end(&mut *app.conn().await?, now).await
}

/// As a request would; whoever was faster has done it.
async fn delete(app: &App, id: InstanceId, now: Time) -> Result<()> {
    let mut tx = store::begin(&app.db).await?;
    // The item before the instance, as the reconciler's writes have it.
    work::lock(&mut tx, Kind::Instance, id.0).await?;
    let Some(record) = store::instances::lock(&mut tx, None, id).await? else { return Ok(()) };
    // Its end may have been moved meanwhile.
    if record.expires_at.is_none_or(|end| end > now) {
        return Ok(());
    }
    let Some(wish) = record.wish().after(Action::Delete, now)? else { return Ok(()) };
    store::instances::wish(&mut tx, id, &wish).await?;
    store::queue::leave(&mut tx, &[id]).await?;
    work::touch_afresh(&mut tx, Kind::Instance, id.0, now, &Asked::default()).await?;
    let subject = Subject {
        kind: "instance",
        id: id.0,
        name: record.name.to_string(),
        tenant: Some(record.tenant_id),
    };
    event(&mut tx, "instance.expire", subject, now).await?;
    tx.commit().await?;
    app.changes.changed(id.0);
    app.changes.wake();
    Ok(())
}

async fn event(tx: &mut Tx, kind: &'static str, subject: Subject, now: Time) -> Result<()> {
    let actor = Actor { name: "expiry".into(), ..Actor::default() };
    let event = NewEvent { kind, subject, actor, outcome: Outcome::Accepted, detail: json!({}) };
    store::events::insert(tx, &event, now).await
}

/// How long the loop may sleep: until the next end, and no longer than an end that is set meanwhile may be late.
pub fn pause(now: Time, next: Option<Time>) -> std::time::Duration {
    const LATE: TimeDelta = TimeDelta::seconds(5);
    let until = next.map_or(LATE, |next| (next - now).clamp(TimeDelta::milliseconds(20), LATE));
    until.to_std().unwrap_or_default()
}
