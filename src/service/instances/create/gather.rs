//! Creates that come while one like them is under way are gathered, and recorded together in one transaction: the tenant is locked
//! once for all of them, and each statement is sent once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Instrument;

use super::{Wish, at_once, together};
use crate::domain::error::{Error, Result};
use crate::domain::id::TenantId;
use crate::domain::instance::{Instance, NewInstance};
use crate::domain::text::Labels;
use crate::service::App;

/// Most that are recorded together: their locks are held for no longer than that takes.
const MOST: usize = 64;

/// What became of a wish; `None`: it is to be tried by itself, since it cannot be gathered, or one with which it was gathered
/// had a fault.
type Gathered = Option<Instance>;

/// A wish, and who waits for what becomes of it.
struct Waiting {
    wish: Wish,
    told: oneshot::Sender<Result<Gathered>>,
}

/// Those that wait, by what makes them alike. An entry is there while some are under way.
#[derive(Default)]
pub struct Gatherings(Mutex<HashMap<Alike, Vec<Waiting>>>);

impl Gatherings {
    fn lock(&self) -> MutexGuard<'_, HashMap<Alike, Vec<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tenant, and the request without what is each one's own.
type Alike = (TenantId, String);

fn alike(wish: &Wish) -> Result<Alike> {
    let NewInstance { image, flavor, networks, keypairs, wanted, policy, zone, .. } = &wish.new;
    let NewInstance { required_traits, forbidden_traits, group, reservation, .. } = &wish.new;
    let common = NewInstance {
        name: String::new(),
        image: image.clone(),
        flavor: flavor.clone(),
        networks: networks.clone(),
        keypairs: keypairs.clone(),
        user_data: None,
        labels: Labels::new(),
        wanted: *wanted,
        expires_at: None,
        policy: *policy,
        zone: zone.clone(),
        required_traits: required_traits.clone(),
        forbidden_traits: forbidden_traits.clone(),
        group: group.clone(),
        reservation: reservation.clone(),
        on_no_capacity: wish.new.on_no_capacity,
    };
    let text = serde_json::to_string(&common).map_err(Error::internal)?;
    Ok((wish.caller.tenant()?, text))
}

/// Returns when the instance is on the disk.
pub async fn create(app: &App, wish: Wish) -> Result<Gathered> {
    // Those that are placed at once see their group's members, and slots that others hold, each by itself.
    let apart = at_once(&wish) && (wish.new.group.is_some() || wish.new.reservation.is_some());
    if apart {
        return Ok(None);
    }
    let alike = alike(&wish)?;
    let (told, hears) = oneshot::channel();
    let waiting = Waiting { wish, told };
    let leads = {
        let mut all = app.gatherings().lock();
        match all.get_mut(&alike) {
            Some(queue) => {
                queue.push(waiting);
                None
            }
            None => {
                all.insert(alike.clone(), Vec::new());
                Some(waiting)
            }
        }
    };
    if let Some(first) = leads {
        // A task of its own: others count on it, also where the first one's client goes away.
        let turn = Turn { app: app.clone(), alike, over: false };
        tokio::spawn(turn.lead(first).in_current_span());
    }
    let gathered =
        hears.await.map_err(|_gone| Error::Internal(anyhow::anyhow!("a create was left")))??;
    if gathered.is_some() {
        app.changes.durable(&app.db).await?;
    }
    Ok(gathered)
}

/// Whoever records those that are alike, until none waits.
struct Turn {
    app: App,
    alike: Alike,
    /// Somebody else leads now, or will.
    over: bool,
}

impl Turn {
    async fn lead(mut self, first: Waiting) {
        let mut batch = vec![first];
        while !batch.is_empty() {
            record(&self.app, batch).await;
            batch = self.next();
        }
    }

    /// Those whose turn it is; none: the next one leads.
    fn next(&mut self) -> Vec<Waiting> {
        let mut all = self.app.gatherings().lock();
        let Some(queue) = all.get_mut(&self.alike) else { return Vec::new() };
        let count = queue.len().min(MOST);
        let batch: Vec<_> = queue.drain(..count).collect();
        if batch.is_empty() {
            all.remove(&self.alike);
            self.over = true;
        }
        batch
    }
}

impl Drop for Turn {
    /// After a fault of ours, nobody waits for a leader who is gone.
    fn drop(&mut self) {
        if !self.over {
            self.app.gatherings().lock().remove(&self.alike);
        }
    }
}

async fn record(app: &App, batch: Vec<Waiting>) {
    let (wishes, told): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.wish, waiting.told)).unzip();
    // No client's patience bounds this, and those behind it wait for it.
    let outcomes: Vec<_> = match timeout(app.config.request_timeout, together(app, &wishes)).await {
        Ok(Ok(Some(made))) => made.into_iter().map(|made| Ok(Some(made))).collect(),
        Ok(Err(error)) if wishes.len() == 1 => vec![Err(error)],
        Ok(Ok(None) | Err(_)) => wishes.iter().map(|_| Ok(None)).collect(),
        Err(_late) => wishes.iter().map(|_| Err(unanswered())).collect(),
    };
    for (told, outcome) in told.into_iter().zip(outcomes) {
        // Its client may have gone.
        let _ = told.send(outcome);
    }
}

/// Of whom nobody knows whether it was recorded.
fn unanswered() -> Error {
    Error::Unavailable {
        detail: "the database has not answered in time: see whether the instance was made, or ask again under the same Idempotency-Key".into(),
        retry_after: Duration::from_secs(1),
    }
}
