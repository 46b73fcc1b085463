//! Placement's account of one that may find no room, as its caller may see it.

use sqlx::PgConnection;

use super::line::Line;
use super::{admitted, index};
use crate::domain::caller::Caller;
use crate::domain::error::Result;
use crate::domain::instance::Unplaced;
use crate::placement::{
    self, Explanation, Index, KEPT, Kept, Request, Resources, RoundRobin, WouldFit,
};
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
    let hosts = index.clone();
    let mut kept = line.serve(app, &mut index)?;
    let mut cursor = RoundRobin::default();
    let fitting = wishes.iter().find(|wish| hosts.place(wish, &mut cursor.clone()).is_ok());
    let (has_room, wish) = (fitting.is_some(), fitting.unwrap_or(least).clone());
    let refusal = Refusal { who, wish: &wish, hosts: &hosts, served: &index, kept: &kept };
    let mut explanation = refusal.account(caller, conn, &may_have).await?;
    let is_refused = kept.serve(&mut index, &mut cursor, wishes, who, false).is_err();
    if (is_refused || !may_have(Some(wish.need))) && may_have(None) {
        offer_slot(conn, &index, &wish, who, &mut explanation).await?;
    }
    Ok(if has_room && is_refused { refused_by(explanation, KEPT) } else { explanation })
}

/// One that may find no room, of what is known when that is accounted for.
pub struct Refusal<'a> {
    pub who: &'a Unplaced,
    pub wish: &'a Request,
    pub hosts: &'a Index,
    /// Those who wait already have theirs.
    pub served: &'a Index,
    pub kept: &'a Kept,
}

impl Refusal<'_> {
    /// Need and have of the hosts as they are, and what would do beside those who wait already.
    pub async fn account(
        &self,
        caller: &Caller,
        conn: &mut PgConnection,
        may_have: &impl Fn(Option<Resources>) -> bool,
    ) -> Result<Explanation> {
        let Self { who, wish, hosts, served, kept } = *self;
        let cursor = RoundRobin::default();
        let mut flavors = Vec::new();
        if hosts.place(wish, &mut cursor.clone()).is_err() || !may_have(Some(wish.need)) {
            flavors = placement::sizes(store::flavors::first(conn).await?)?;
            flavors.retain(|flavor| may_have(Some(flavor.need)));
            flavors.retain(|flavor| kept.lets(&flavor.instead(), wish, who, served));
        }
        let mut explanation = seen(caller, hosts.explain_among(wish, &cursor, &flavors));
        explanation.keep_changes(|change| match change {
            WouldFit::SmallerNeed { need } if !may_have(Some(*need)) => false,
            change => kept.lets(change, wish, who, served),
        });
        Ok(explanation)
    }
}

/// A slot of a reservation of its tenant's own may do.
pub async fn offer_slot(
    conn: &mut PgConnection,
    index: &Index,
    wish: &Request,
    who: &Unplaced,
    explanation: &mut Explanation,
) -> Result<()> {
    let slots = store::reservations::open(conn, &[who.tenant_id]).await?;
    if let Some(change) = index.in_reservation(wish, &slots) {
        explanation.offer(change);
    }
    Ok(())
}

/// As the caller may see it.
pub fn seen(caller: &Caller, explanation: Explanation) -> Explanation {
    if caller.admin { explanation } else { explanation.redacted() }
}

/// The account of one that is refused for another reason than hosts without room.
pub fn refused_by(explanation: Explanation, why: impl Into<String>) -> Explanation {
    Explanation { summary: why.into(), chosen: None, ..explanation }
}
