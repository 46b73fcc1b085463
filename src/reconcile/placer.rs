//! The placer: gathers who waits for a host, decides on an index of all hosts, and claims, all in one transaction a batch.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use uuid::Uuid;

use super::{Context, Trouble};
use crate::domain::error::Result;
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::id::{HostId, InstanceId};
use crate::placement::{self, Policy, Request, Resources, RoundRobin};
use crate::store::incarnations::Unplaced;
use crate::store::{self};

/// Most instances that one transaction places.
const BATCH: usize = 1000;
/// Most hosts that are tried for one instance when others take the room between look and claim.
const TRIES: usize = 8;

const SWITCHED_OFF: &str = "no host is chosen now: placement is switched off (task_placer)";

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    On(HostId),
    /// No host has room; why, for the tenant.
    NoRoom(String),
    /// It does not want a host any more, or another placer has it.
    Lost,
}

/// Cheap to clone; all clones share the queue.
#[derive(Clone, Default)]
pub struct Placer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    queue: Mutex<Vec<(InstanceId, oneshot::Sender<Placed>)>>,
    /// Held by the one who works the queue off; what is queued meanwhile becomes the next batch.
    turn: AsyncMutex<RoundRobin>,
}

impl Placer {
    /// Places `id` together with whoever else waits at this moment.
    pub async fn place(&self, ctx: &Context, id: InstanceId) -> Result<Placed, Trouble> {
        if !ctx.config.task_placer {
            return Ok(Placed::NoRoom(SWITCHED_OFF.into()));
        }
        let (answer, mut answered) = oneshot::channel();
        self.lock().push((id, answer));
        let mut cursor = self.0.turn.lock().await;
        // Somebody's batch before ours may have held us.
        if let Ok(placed) = answered.try_recv() {
            return Ok(placed);
        }
        let batch: Vec<_> = {
            let mut queue = self.lock();
            let count = queue.len().min(BATCH);
            queue.drain(..count).collect()
        };
        let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
        let outcome = place_batch(ctx, &ids, &mut cursor).await?;
        for (id, answer) in batch {
            let placed = outcome
                .iter()
                .find(|(placed, _)| *placed == id)
                .map_or(Placed::Lost, |(_, p)| p.clone());
            // Its asker may have lost its lease and gone.
            let _ = answer.send(placed);
        }
        drop(cursor);
        Ok(answered.try_recv().unwrap_or(Placed::Lost))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(InstanceId, oneshot::Sender<Placed>)>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn place_batch(
    ctx: &Context,
    ids: &[InstanceId],
    cursor: &mut RoundRobin,
) -> Result<Vec<(InstanceId, Placed)>> {
    let policy = ctx.config.placement_policy.parse().unwrap_or(Policy::BestFit);
    let now = ctx.clock.now();
    let mut tx = store::begin(&ctx.db).await?;
    let waiting = store::incarnations::lock_unplaced(&mut tx, ids).await?;
    let mut candidates = store::hosts::candidates(&mut tx).await?;
    // A claim counts its host's row up, and would hide that the host had counted further.
    candidates.retain(|host| ctx.compared.has(host.id) || host.health != "up");
    let mut index = placement::index(&candidates);
    let mut outcome = Vec::with_capacity(waiting.len());
    for who in &waiting {
        let mut request = request(who, policy)?;
        let mut placed = None;
        for _ in 0..TRIES {
            let Ok(host) = index.claim(&request, cursor) else { break };
            let claimed =
                store::incarnations::claim(&mut tx, Uuid::new_v4(), who, host, now).await?;
            if claimed.is_some() {
                placed = Some(host);
                break;
            }
            // Another placer was faster.
            request.exclude.insert(host);
        }
        match placed {
            Some(host) => {
                let subject = Subject {
                    kind: "instance",
                    id: who.id.0,
                    name: String::new(),
                    tenant: Some(who.tenant_id),
                };
                ctx.event(&mut tx, "instance.placed", subject, EventOutcome::Done, json!({ "vcpus": who.vcpus, "memory_mib": who.memory_mib, "disk_gib": who.disk_gib })).await?;
                outcome.push((who.id, Placed::On(host)));
            }
            None => {
                let explanation = index.explain(&request, cursor).redacted();
                outcome.push((who.id, Placed::NoRoom(explanation.summary)));
            }
        }
    }
    tx.commit().await?;
    Ok(outcome)
}

/// The request of an instance.
pub fn request(who: &Unplaced, policy: Policy) -> Result<Request> {
    let need = Resources::from_signed(who.vcpus.into(), who.memory_mib, who.disk_gib)?;
    Ok(Request { required: who.traits.iter().cloned().collect(), ..Request::new(need, policy) })
}
