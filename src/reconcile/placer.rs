//! The placer: gathers who waits for a host, decides on an index of all hosts, and claims, all in one transaction a batch.

mod batch;
mod room;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::{Context, Trouble};
use crate::domain::id::{HostId, InstanceId};
pub use room::Room;

/// Most instances that one transaction places.
const BATCH: usize = 1000;

const SWITCHED_OFF: &str = "no host is chosen now: placement is switched off (task_placer)";

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    On(HostId),
    /// No host has room: why, for the tenant, and how many wait with it, itself counted, before whoever comes next.
    NoRoom {
        summary: String,
        position: usize,
    },
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
    turn: AsyncMutex<Room>,
}

impl Placer {
    /// Places `id` together with whoever else waits at this moment, in this process or in the cloud's queue.
    pub async fn place(&self, ctx: &Context, id: InstanceId) -> Result<Placed, Trouble> {
        if !ctx.config.task_placer {
            return Ok(Placed::NoRoom { summary: SWITCHED_OFF.into(), position: 1 });
        }
        let (answer, mut answered) = oneshot::channel();
        self.lock().push((id, answer));
        let mut room = self.0.turn.lock().await;
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
        // On the heap, as its parts are: a batch is large, and the stack of who asks for it is not.
        let mut outcome = Box::pin(batch::place(ctx, &ids, &mut room)).await?;
        for (id, answer) in batch {
            // Its asker may have lost its lease and gone.
            let _ = answer.send(outcome.remove(&id).unwrap_or(Placed::Lost));
        }
        drop(room);
        Ok(answered.try_recv().unwrap_or(Placed::Lost))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(InstanceId, oneshot::Sender<Placed>)>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
