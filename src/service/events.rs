//! The event feed: pages of it, and a follower that waits for what comes next.

use tokio::sync::watch;
use uuid::Uuid;

use super::App;
use super::auth::authenticate;
use super::authorize::authorize;
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Event;
use crate::domain::page::{Order, SeqPage};
use crate::domain::text::without_places;
use crate::store;
use crate::store::events::{Filter, Reach};

/// Events in a batch of a stream.
const BATCH: i64 = 100;

/// Which events a reader asks for, of those that it may see.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub resource: Option<Uuid>,
    pub kind: Option<String>,
    /// Every tenant's, and the cloud's own: for admins.
    pub all_tenants: bool,
}

impl Wanted {
    fn seen_by(&self, caller: &Caller) -> Result<Filter> {
        authorize(caller, "list_events")?;
        Ok(Filter {
            tenant: caller.listed(self.all_tenants)?,
            resource: self.resource,
            kind: self.kind.clone(),
        })
    }
}

pub async fn list(
    app: &App,
    caller: &Caller,
    wanted: &Wanted,
    page: &SeqPage,
) -> Result<(Vec<Event>, Option<String>)> {
    let filter = wanted.seen_by(caller)?;
    let rows = store::events::list(&mut *app.conn().await?, &filter, page).await?;
    let rows = rows.into_iter().map(|event| told(event, caller.admin)).collect();
    Ok(page.cut(rows, |event| event.seq))
}

/// As this reader sees it: which host it was, and where that keeps things, is for admins.
fn told(mut event: Event, admin: bool) -> Event {
    if !admin && let Some(detail) = event.detail.as_object_mut() {
        detail.remove("host_id");
        if let Some(serde_json::Value::String(error)) = detail.get_mut("error") {
            *error = without_places(error);
        }
    }
    event
}

/// A reader's place in the feed.
pub struct Follower {
    app: App,
    wanted: Wanted,
    filter: Filter,
    admin: bool,
    bearer: String,
    after: i64,
    newest: watch::Receiver<i64>,
}

/// Where a stream begins, and what it can no longer show.
pub struct Start {
    pub follower: Follower,
    /// Events up to this one were asked for and may have been removed by retention.
    pub forgotten: Option<i64>,
}

/// Begins to follow the feed after the event `after`; `None`: from now on. `pointer` names where `after` came from.
pub async fn follow(
    app: &App,
    caller: &Caller,
    bearer: String,
    wanted: Wanted,
    after: Option<i64>,
    pointer: &str,
) -> Result<Start> {
    let filter = wanted.seen_by(caller)?;
    // Before the look, so that nothing published in between is slept through.
    let newest = app.changes.newest();
    let Reach { last_seq, forgotten_seq } = store::events::reach(&mut *app.conn().await?).await?;
    let after = after.unwrap_or(last_seq);
    if !(0..=last_seq).contains(&after) {
        let detail = format!("there is no event {after}: the newest is {last_seq}");
        return Err(Error::field(pointer, detail));
    }
    let forgotten = (after < forgotten_seq).then_some(forgotten_seq);
    let follower =
        Follower { app: app.clone(), wanted, filter, admin: caller.admin, bearer, after, newest };
    Ok(Start { follower, forgotten })
}

impl Follower {
    /// The next events, in order; none if there are none yet.
    pub async fn read(&mut self) -> Result<Vec<Event>> {
        let reach = *self.newest.borrow_and_update();
        let page = SeqPage { limit: BATCH, order: Order::Asc, after: self.after, before: i64::MAX };
        let rows = store::events::list(&mut *self.app.conn().await?, &self.filter, &page).await?;
        let rows = rows.into_iter().map(|event| told(event, self.admin)).collect();
        let (rows, next) = page.cut(rows, |event| event.seq);
        let last = rows.last().map_or(self.after, |event| event.seq);
        // Where nothing is left up to the feed's reach, the next look need not go over it again.
        self.after = if next.is_some() { last } else { last.max(reach) };
        Ok(rows)
    }

    /// Waits until the feed has grown.
    pub async fn grown(&mut self) {
        if self.newest.changed().await.is_err() {
            // The process is ending; shutdown ends the stream.
            std::future::pending::<()>().await;
        }
    }

    /// Whether the reader still may: its token may have expired or been revoked, its role may have changed.
    pub async fn check(&mut self) -> Result<()> {
        let caller = authenticate(&self.app, &self.bearer).await?;
        self.filter = self.wanted.seen_by(&caller)?;
        self.admin = caller.admin;
        Ok(())
    }
}
