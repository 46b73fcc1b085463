//! Placement asked by a request: what would be chosen now and what would do otherwise, and a claim for who does not wait.

mod account;
mod line;
mod query;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::authorize::authorize;
use super::quota::Adding;
use super::{App, Write, images};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::{Actor, NewEvent, Outcome};
use crate::domain::id::HostId;
use crate::domain::instance::Unplaced;
use crate::domain::policy::Policy;
use crate::placement::{self, Explanation, Index, Kept, Request, Resources, RoundRobin, WouldFit};
use crate::store;
use crate::store::incarnations::Claim;
use crate::store::reservations::Slot;
pub use account::explain;
use account::{explain_within, refusal, seen};
use line::Line;
use query::asked;
pub use query::{PlacementQuery, fits, offered, traits};

/// How often a claim is tried on another host when others take the room between look and claim.
const TRIES: usize = 8;

/// What placement answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementAnswer {
    /// Whether a host has room for it now, and the tenant's quota too.
    pub fits: bool,
    /// How many instances of all tenants wait for room.
    #[schema(minimum = 0, example = 0)]
    pub waiting: i64,
    /// Need and have, by class of hosts; host names are shown to admins only.
    pub placement: Explanation,
}

/// Which host would be chosen now, or why none, and single changes that would do: of the flavor, the hosts or the quota. Changes
/// nothing.
pub async fn ask(app: &App, caller: &Caller, query: &PlacementQuery) -> Result<PlacementAnswer> {
    authorize(caller, "explain_placement")?;
    query.check(app.clock.now())?;
    let tenant = caller.tenant()?;
    let mut conn = app.conn().await?;
    offered(&mut conn, query.zone.as_deref(), &query.required_traits).await?;
    let flavor = match &query.flavor {
        Some(named) => {
            let found = store::flavors::find(&mut conn, named).await?;
            Some(found.ok_or_else(|| Error::absent("/flavor", "flavor", named))?)
        }
        None => None,
    };
    let image = match &query.image {
        Some(named) => Some(images::choose(&mut conn, tenant, "/image", named).await?),
        None => None,
    };
    let group_id = match &query.group {
        Some(named) => {
            let found = store::groups::find(&mut conn, tenant, named).await?;
            Some(found.ok_or_else(|| Error::absent("/group", "group", named))?.id)
        }
        None => None,
    };
    let reservation = match &query.reservation {
        Some(named) => {
            let found = store::reservations::find(&mut conn, tenant, named).await?;
            Some(found.ok_or_else(|| Error::absent("/reservation", "reservation", named))?)
        }
        None => None,
    };
    let who =
        asked(tenant, query, flavor.as_ref(), image.as_ref(), group_id, reservation.as_ref())?;
    let quota = store::tenants::quota(&mut conn, tenant).await?;
    let quota = quota.ok_or_else(|| Error::not_found("tenant", tenant))?;
    let used = store::tenants::usage(&mut conn, tenant).await?;
    let over = |need| quota.over(&used, &adding(need));
    let mut placement =
        explain_within(app, caller, &mut conn, &who, |need| over(need).is_empty()).await?;
    let over = over(who.reservation_id.is_none().then_some(placement.need));
    let has_room = placement.chosen.is_some();
    let fits = has_room && over.is_empty();
    // Where a host has room and one quota is in the way, that alone would do; else it is said beside the rest.
    let alone = has_room && over.len() == 1;
    if let [(quota, to)] = over[..]
        && alone
    {
        placement.offer(WouldFit::QuotaRaised { quota: quota.into(), to });
    }
    if has_room && over.len() > 1 {
        let all: Vec<_> = over.iter().map(|(quota, to)| format!("{quota} {to}")).collect();
        let all = all.join(", ");
        placement.summary =
            format!("a host has room, and quotas are in the way, which would have to be: {all}");
    } else if !alone {
        for (quota, to) in &over {
            let too =
                format!("; the quota of {quota} is in the way, too: it would have to be {to}");
            placement.summary.push_str(&too);
        }
    }
    let waiting = store::queue::length(&mut conn).await?;
    Ok(PlacementAnswer { fits, waiting, placement })
}

/// What one more of this size would add to the use; none: in a slot of a reservation, which is counted already, whoever has it.
fn adding(need: Option<Resources>) -> Adding {
    let [vcpus, memory_mib, disk_gib] = need.unwrap_or_default().parts().map(i64::from);
    Adding { instances: 1, vcpus, memory_mib, disk_gib, ..Adding::default() }
}

/// Gives an instance that was just recorded a host and the claim there, in its own transaction.
///
/// # Errors
/// `NoCapacity` where no host has room, or only one that is kept for those who wait already.
pub async fn claim(app: &App, caller: &Caller, write: &mut Write, who: &Unplaced) -> Result<()> {
    let mut index = index(app, write.conn()).await?;
    let mut line = Line::read(app, write.conn(), who, &mut index).await?;
    let mut wishes = line.wishes(app, who, &index)?;
    let least = wishes[wishes.len() - 1].clone();
    let mut slots = match who.reservation_id {
        Some(id) => Some(store::reservations::wait_for_free(write.conn(), id).await?),
        None => None,
    };
    let mut kept = if slots.is_none() { line.serve(app, &mut index)? } else { Kept::default() };
    let mut too_late = false;
    for _ in 0..TRIES {
        let found = if let Some(free) = &mut slots {
            let slot = admitted(&index, &wishes, free).cloned();
            free.retain(|other| slot.as_ref().is_none_or(|slot| slot.id != other.id));
            slot.map(|slot| (slot.host_id, Some(slot.id)))
        } else {
            let mut cursor = *app.round_robin();
            let host = kept.serve(&mut index, &mut cursor, wishes.clone(), who);
            *app.round_robin() = cursor;
            host.ok().map(|host| (host, None))
        };
        too_late = found.is_some();
        let Some((host, slot)) = found else { break };
        let claim = Claim::of(who, host, slot, index.zone(host));
        let now = write.now;
        let made =
            store::incarnations::claim(write.conn(), &[(Uuid::new_v4(), claim)], now).await?;
        if !made.is_empty() {
            return write.done("instance.placed", who.subject(), json!(who.size())).await;
        }
        // Somebody else was faster.
        for wish in &mut wishes {
            wish.exclude.insert(host);
        }
    }
    if too_late {
        return Err(outrun());
    }
    let explanation = if let Some(free) = &slots {
        let summary = placement::no_slot(free.len());
        Explanation { summary, ..seen(caller, index.explain_slot(&least, None)) }
    } else {
        let wish = kept.beside(&least, who);
        refusal(caller, write.conn(), &index, &wish, &|_| true).await?
    };
    Err(no_capacity(explanation.summary.clone(), &explanation))
}

/// The same for several who are alike and have neither group nor reservation: the hosts and the line are read once.
/// `false` where one of them found no room, or came too late for it: each is to be tried by itself, and told why.
pub async fn claim_all(app: &App, write: &mut Write, all: &[(Actor, Unplaced)]) -> Result<bool> {
    let Some((_, first)) = all.first() else { return Ok(true) };
    let mut index = index(app, write.conn()).await?;
    let mut line = Line::read(app, write.conn(), first, &mut index).await?;
    let mut kept = line.serve(app, &mut index)?;
    let mut cursor = *app.round_robin();
    let mut claims = Vec::with_capacity(all.len());
    for (_, who) in all {
        let wishes = line.wishes(app, who, &index)?;
        let found = kept.serve(&mut index, &mut cursor, wishes, who);
        let Ok(host) = found else { return Ok(false) };
        claims.push((Uuid::new_v4(), Claim::of(who, host, None, index.zone(host))));
    }
    let now = write.now;
    if store::incarnations::claim(write.conn(), &claims, now).await?.len() < claims.len() {
        return Ok(false);
    }
    *app.round_robin() = cursor;
    let placed = all.iter().map(|(actor, who)| NewEvent {
        kind: "instance.placed",
        subject: who.subject(),
        actor: actor.clone(),
        outcome: Outcome::Done,
        detail: json!(who.size()),
    });
    store::events::insert_all(write.conn(), &placed.collect::<Vec<_>>(), now).await?;
    Ok(true)
}

/// Of who found room, and was too late for it, each time.
pub(super) fn outrun() -> Error {
    Error::Unavailable {
        detail: "others took the room that was found, again and again: try again".into(),
        retry_after: std::time::Duration::from_secs(1),
    }
}

fn no_capacity(detail: String, explanation: &Explanation) -> Error {
    Error::NoCapacity { detail, explanation: json!(explanation) }
}

/// The first of these slots that one of the wishes may have.
fn admitted<'a>(index: &Index, wishes: &[Request], free: &'a [Slot]) -> Option<&'a Slot> {
    let hosts: Vec<_> = free.iter().map(|slot| slot.host_id).collect();
    wishes.iter().find_map(|wish| index.first_admitted(wish, &hosts)).map(|at| &free[at])
}

fn policy(app: &App) -> Policy {
    app.config.placement_policy.parse().unwrap_or_default()
}

/// The index of all hosts as they may be placed on.
async fn index(app: &App, conn: &mut PgConnection) -> Result<Index> {
    let hosts = store::fleet::all(conn).await?.into_iter();
    let hosts: Vec<_> = hosts.map(|host| app.compared.open(host)).collect();
    Ok(placement::index(&hosts))
}

/// Hosts for so many of one size, as one that is named twice takes two.
///
/// # Errors
/// `NoCapacity` where there are not so many.
pub(super) async fn spread_over(
    app: &App,
    caller: &Caller,
    conn: &mut PgConnection,
    who: &Unplaced,
    count: i64,
) -> Result<Vec<HostId>> {
    let mut index = index(app, conn).await?;
    let mut cursor = RoundRobin::default();
    let mut chosen = Vec::new();
    let mut line = Line::read(app, conn, who, &mut index).await?;
    let wishes = line.wishes(app, who, &index)?;
    let mut kept = line.serve(app, &mut index)?;
    for _ in 0..count {
        let found = kept.serve(&mut index, &mut cursor, wishes.clone(), who);
        let Ok(host) = found else {
            let wish = kept.beside(&wishes[0], who);
            let explanation = seen(caller, index.explain(&wish, &cursor));
            let detail = format!(
                "there is room for {} of {count} slots: reserve fewer, or smaller ones; for the next, {}",
                chosen.len(),
                explanation.summary,
            );
            return Err(no_capacity(detail, &explanation));
        };
        chosen.push(host);
    }
    Ok(chosen)
}
