//! Reservations: capacity that a tenant holds for a while.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::quota::{self, Adding};
use super::{App, Begin, Write, placement};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::ReservationId;
use crate::domain::instance::Unplaced;
use crate::domain::page::Page;
use crate::domain::reservation::{NewReservation, Reservation, ReservationPatch};
use crate::store;
use crate::store::reservations::Insert;

/// How often room is looked for when others take it between look and claim.
const TRIES: usize = 8;
/// Most reservations of a tenant.
const RESERVATIONS_MAX: usize = 1000;

/// All its slots at once, or none.
pub async fn create(app: &App, caller: &Caller, new: &NewReservation) -> Result<Reservation> {
    authorize(caller, "create_reservation")?;
    let tenant = caller.tenant()?;
    let mut write = match app.begin(caller, "create_reservation", new).await? {
        Begin::Replay(reservation) => return Ok(reservation),
        Begin::Fresh(write) => write,
    };
    // Not before: what was made once may have come to its end when it is sent again.
    let name = new.check(write.now)?;
    let flavor = store::flavors::find(write.conn(), &new.flavor).await?;
    let flavor = flavor.ok_or_else(|| Error::absent("/flavor", "flavor", &new.flavor))?;
    placement::offered(write.conn(), new.zone.as_deref(), &[]).await?;
    let adding = Adding {
        vcpus: new.slots * i64::from(flavor.vcpus),
        memory_mib: new.slots * flavor.memory_mib,
        disk_gib: new.slots * flavor.disk_gib,
        ..Adding::default()
    };
    // The tenant before the hosts, as an instance that does not wait has it.
    quota::check(&mut write, tenant, adding).await?;
    let most = Page { limit: 1000, after: Uuid::nil() };
    let there = store::reservations::list(write.conn(), Some(tenant), &most, None).await?;
    if there.len() >= RESERVATIONS_MAX {
        return Err(Error::QuotaExceeded(format!(
            "a tenant may have {RESERVATIONS_MAX} reservations: delete some"
        )));
    }
    let (id, now) = (ReservationId(Uuid::now_v7()), write.now);
    let row = Insert { id, tenant, name: &name, flavor: &flavor, new, created_by: caller.user };
    store::reservations::insert(write.conn(), &row, now).await?;
    take(app, caller, &mut write, &row).await?;
    let reservation = store::reservations::get(write.conn(), None, id).await?;
    let reservation = reservation.ok_or_else(|| Error::not_found("reservation", id))?;
    write.done("reservation.create", subject(&reservation), json!(new)).await?;
    write.commit(&reservation).await?;
    Ok(reservation)
}

async fn take(app: &App, caller: &Caller, write: &mut Write, row: &Insert<'_>) -> Result<()> {
    let who = Unplaced {
        zone: row.new.zone.clone(),
        expires_at: Some(row.new.expires_at),
        ..Unplaced::of_flavor(row.tenant, row.flavor)
    };
    let mut missing = row.new.slots;
    for _ in 0..TRIES {
        let chosen = placement::spread_over(app, caller, write.conn(), &who, missing).await?;
        let made = store::reservations::take_slots(
            write.conn(),
            row.id,
            row.flavor,
            who.zone.as_deref(),
            &chosen,
        )
        .await?;
        missing -= i64::try_from(made).unwrap_or(missing);
        if missing == 0 {
            return Ok(());
        }
    }
    Err(placement::outrun())
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
    all_tenants: bool,
) -> Result<(Vec<Reservation>, Option<String>)> {
    authorize(caller, "list_reservations")?;
    let scope = caller.listed(all_tenants)?;
    let rows = store::reservations::list(&mut *app.conn().await?, scope, page, name).await?;
    Ok(page.cut(rows, |reservation| reservation.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: ReservationId) -> Result<Reservation> {
    authorize(caller, "get_reservation")?;
    let found = store::reservations::get(&mut *app.conn().await?, caller.scope(), id).await?;
    found.ok_or_else(|| Error::not_found("reservation", id))
}

/// Moves its end.
pub async fn update(
    app: &App,
    caller: &Caller,
    id: ReservationId,
    patch: &ReservationPatch,
    if_match: Option<i64>,
) -> Result<Reservation> {
    authorize(caller, "update_reservation")?;
    let mut write = match app.begin(caller, "update_reservation", &(id, patch)).await? {
        Begin::Replay(reservation) => return Ok(reservation),
        Begin::Fresh(write) => write,
    };
    patch.check(write.now)?;
    locked(&mut write, caller, id, if_match).await?;
    store::reservations::set_end(write.conn(), id, patch.expires_at).await?;
    let reservation = store::reservations::get(write.conn(), None, id).await?;
    let reservation = reservation.ok_or_else(|| Error::not_found("reservation", id))?;
    write.done("reservation.update", subject(&reservation), json!(patch)).await?;
    write.commit(&reservation).await?;
    Ok(reservation)
}

/// Ends it now: its free slots are anybody's, and what instances have stays theirs.
pub async fn delete(
    app: &App,
    caller: &Caller,
    id: ReservationId,
    if_match: Option<i64>,
) -> Result<()> {
    authorize(caller, "delete_reservation")?;
    let mut write = match app.begin(caller, "delete_reservation", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let reservation = locked(&mut write, caller, id, if_match).await?;
    store::reservations::end(write.conn(), id).await?;
    write.wake_queue();
    write.done("reservation.delete", subject(&reservation), json!({})).await?;
    write.commit(&()).await
}

async fn locked(
    write: &mut Write,
    caller: &Caller,
    id: ReservationId,
    if_match: Option<i64>,
) -> Result<Reservation> {
    let found = store::reservations::get_locked(write.conn(), caller.scope(), id).await?;
    let found = found.ok_or_else(|| Error::not_found("reservation", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, found.revision))?;
    Ok(found)
}

pub(super) fn subject(reservation: &Reservation) -> Subject {
    Subject {
        kind: "reservation",
        id: reservation.id.0,
        name: reservation.name.to_string(),
        tenant: Some(reservation.tenant_id),
    }
}
