//! News within this process: what changed (for waits and streams) and that there is work (for the pace loop).
//!
//! Both only wake: whoever is woken looks at the database, and looks now and then without being woken too.

use std::sync::Arc;

use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Changes {
    changed: broadcast::Sender<Uuid>,
    work: Arc<Notify>,
    events: Arc<Notify>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { changed: broadcast::Sender::new(1024), work: Arc::default(), events: Arc::default() }
    }
}

impl Changes {
    /// A resource changed, and the transaction that changed it has committed.
    pub fn changed(&self, resource: Uuid) {
        // Nobody may be listening: that is no error.
        let _ = self.changed.send(resource);
        self.events.notify_one();
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
}
