//! News within this process: what changed (for waits), that there is work (for the pace loop), how far the feed reaches (for
//! streams).
//!
//! They only wake: whoever is woken looks at the database, and looks now and then without being woken too.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::{Notify, broadcast, watch};
use uuid::Uuid;

use super::flush::Flush;
use crate::domain::error::Result;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Changes {
    changed: broadcast::Sender<Uuid>,
    work: Arc<Notify>,
    events: Arc<Notify>,
    newest: watch::Sender<i64>,
    flush: Flush,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            changed: broadcast::Sender::new(1024),
            work: Arc::default(),
            events: Arc::default(),
            newest: watch::Sender::new(0),
            flush: Flush::default(),
        }
    }
}

impl Changes {
    /// A resource changed, and the transaction that changed it has committed.
    pub fn changed(&self, resource: Uuid) {
        // Nobody may be listening: that is no error.
        let _ = self.changed.send(resource);
        self.events.notify_one();
    }

    /// Returns when everything that was committed before the call is on the database's disk.
    pub async fn durable(&self, db: &PgPool) -> Result<()> {
        self.flush.wait(db).await
    }

    /// A receiver of changed ids. Lagging behind means: look at everything.
    pub fn subscribe(&self) -> broadcast::Receiver<Uuid> {
        self.changed.subscribe()
    }

    /// There is work that is due.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    pub async fn work(&self) {
        self.work.notified().await;
    }

    /// Events wait for their number.
    pub async fn events(&self) {
        self.events.notified().await;
    }

    /// The feed reaches to `seq` now, whichever process published it.
    pub fn published(&self, seq: i64) {
        self.newest.send_if_modified(|newest| {
            let newer = seq > *newest;
            *newest = seq.max(*newest);
            newer
        });
    }

    /// The number of the newest event that this process knows of; `changed()` waits for the next one.
    pub fn newest(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }
}
