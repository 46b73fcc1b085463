//! Placement's account of one that may find no room, as its caller may see it.

use sqlx::PgConnection;

use super::line::Line;
use super::{admitted, index};
use crate::domain::caller::Caller;
use crate::domain::error::Result;
use crate::domain::instance::Unplaced;
use crate::placement::{self, Explanation, Index, Request, Resources, RoundRobin, WouldFit};
use crate::service::App;
use crate::store;

/// Placement's account of an instance, as the caller may see it: what would come of it now, those who wait already served first.
pub async fn explain(
    app: &App,
    caller: &Caller,
    conn: &mut PgConnection,
    who: &Unplaced,
) -> Result<Explanation> {
    explain_within(app, caller, conn, who, |_| true).await
}

/// The same, where there may be no quota for a size (none: in a slot): nothing is proposed that has none.
pub async fn explain_within(
    app: &App,
    caller: &Caller,
    conn: &mut PgConnection,
    who: &Unplaced,
    may_have: impl Fn(Option<Resources>) -> bool,
) -> Result<Explanation> {
    let mut index = index(app, conn).await?;
    let mut line = Line::read(app, conn, who, &mut index).await?;
    let wishes = line.wishes(app, who, &index)?;
    // Where none fits, what asks for the least lacks what is lacking.
    let least = &wishes[wishes.len() - 1];
    if let Some(id) = who.reservation_id {
        let free = store::reservations::free(conn, id).await?;
        let slot = admitted(&index, &wishes, &free);
        let summary = match slot {
            Some(_) => format!("it takes one of the {} free slots of its reservation", free.len()),
            None => placement::no_slot(free.len()),
        };
        let explanation = index.explain_slot(least, slot.map(|slot| slot.host_id));
        return Ok(Explanation { summary, ..seen(caller, explanation) });
    }
    let kept = line.serve(app, &mut index)?;
    let cursor = RoundRobin::default();
    let beside: Vec<_> = wishes.iter().map(|wish| kept.beside(wish, who)).collect();
    let fitting = beside.iter().find(|wish| index.place(wish, &mut cursor.clone()).is_ok());
    let wish = fitting.unwrap_or(&beside[beside.len() - 1]);
    if fitting.is_some() && may_have(Some(wish.need)) {
        return Ok(seen(caller, index.explain(wish, &cursor)));
    }
    refusal(caller, conn, &index, wish, &may_have).await
}

/// The account of one that finds no room, or no quota for what it needs, and what would do.
pub async fn refusal(
    caller: &Caller,
    conn: &mut PgConnection,
    index: &Index,
    wish: &Request,
    may_have: &impl Fn(Option<Resources>) -> bool,
) -> Result<Explanation> {
    let mut flavors = placement::sizes(store::flavors::first(conn).await?)?;
    flavors.retain(|flavor| may_have(Some(flavor.need)));
    let cursor = RoundRobin::default();
    let mut explanation = seen(caller, index.explain_among(wish, &cursor, &flavors));
    explanation.retain_changes(|change| match change {
        WouldFit::SmallerNeed { need } | WouldFit::OtherFlavor { need, .. } => {
            may_have(Some(*need))
        }
        _ => may_have(Some(wish.need)),
    });
    if may_have(None)
        && let Some(tenant) = wish.tenant
    {
        let slots = store::reservations::open(conn, &[tenant]).await?;
        if let Some(change) = index.in_reservation(wish, &slots) {
            explanation.offer(change);
        }
    }
    Ok(explanation)
}

/// As the caller may see it.
pub fn seen(caller: &Caller, explanation: Explanation) -> Explanation {
    if caller.admin { explanation } else { explanation.redacted() }
}
