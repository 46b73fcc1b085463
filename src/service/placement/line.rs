//! The queue as a request that does not wait in it meets it: those who wait come first.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use sqlx::PgConnection;

use super::policy;
use crate::domain::error::Result;
use crate::domain::id::GroupId;
use crate::domain::instance::Unplaced;
use crate::domain::policy::Policy;
use crate::placement::{self, Index, Kept, Request, Residents, RoundRobin};
use crate::service::App;
use crate::store;
use crate::store::groups::Members;

/// Those first in the queue come first, as many as the placer takes at once.
const FIRST: i64 = 1000;

fn by_stay(app: &App, who: &Unplaced) -> bool {
    who.policy.unwrap_or(policy(app)) == Policy::LifetimeFit
}

/// Those who wait already and come first, with the groups of all.
pub struct Line {
    waiting: Vec<Unplaced>,
    groups: BTreeMap<GroupId, Members>,
    /// Where one of them is placed by how long guests stay. Read anew, so that it knows nothing of those who have left.
    residents: Option<Residents>,
}

impl Line {
    /// Locks the groups, its own too, in the order in which the placer does.
    pub async fn read(
        app: &App,
        conn: &mut PgConnection,
        who: &Unplaced,
        index: &mut Index,
    ) -> Result<Self> {
        let mut waiting = store::queue::waiting(conn, &[], FIRST).await?;
        // Who has a reservation takes nothing from others.
        waiting.retain(|other| other.reservation_id.is_none() && other.id != who.id);
        let all = waiting.iter().chain([who]).filter_map(|one| one.group_id);
        let groups: Vec<_> = all.collect::<BTreeSet<_>>().into_iter().collect();
        let groups = store::groups::hold(conn, &groups).await?;
        let mut residents = None;
        if waiting.iter().chain([who]).any(|one| by_stay(app, one)) {
            let guests = store::fleet::guests(conn, None).await?;
            let read = residents.insert(Residents::default());
            read.refresh(guests, index, None, app.clock.now());
        }
        Ok(Self { waiting, groups, residents })
    }

    pub fn wishes(&self, app: &App, who: &Unplaced, index: &Index) -> Result<Vec<Request>> {
        let members = who.group_id.and_then(|id| self.groups.get(&id));
        let members = members.map(|members| (&members.group, &members.on_hosts));
        let residents = self.residents.as_ref().filter(|_| by_stay(app, who));
        let stay = residents.map(|residents| residents.stay(who, app.clock.now()));
        placement::wishes(who, policy(app), members, stay, index)
    }

    /// Gives them their room in the index; gives the hosts that are kept for those who find none.
    pub fn serve(&mut self, app: &App, index: &mut Index) -> Result<Kept> {
        let hold = TimeDelta::from_std(app.config.queue_hold).unwrap_or(TimeDelta::MAX);
        let mut kept = Kept::in_turn(&self.waiting, app.clock.now(), hold);
        let mut cursor = RoundRobin::default();
        for other in &self.waiting {
            let wishes = self.wishes(app, other, index)?;
            let found = kept.serve(index, &mut cursor, wishes, other);
            if let (Ok(host), Some(members)) =
                (found, other.group_id.and_then(|id| self.groups.get_mut(&id)))
            {
                members.on_hosts.entry(host).or_default().add(other.size());
            }
        }
        Ok(kept)
    }
}
