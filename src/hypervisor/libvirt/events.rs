//! Watching a host: a thread with a connection of its own that passes on what libvirt tells, and reconnects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::connections::Opener;
use super::fault::during;
use super::ffi::{self, Event};
use crate::domain::id::InstanceId;
use crate::hypervisor::{Fault, Signal};

/// Events that may wait to be passed on; when there are more, everything is looked at instead.
const BACKLOG: usize = 1024;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How often the connection is looked at where nothing is heard: the close callback is not there for every driver, and
/// may be among the events that a full channel lost.
const CHECK: Duration = Duration::from_secs(5);

/// Ends its thread when dropped.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    wake: SyncSender<Event>,
}

impl Watcher {
    pub fn start(uri: String, sink: Arc<dyn Fn(Signal) + Send + Sync>) -> Result<Self, Fault> {
        let (wake, events) = sync_channel(BACKLOG);
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch {
            uri,
            sink,
            stop: Arc::clone(&stop),
            sender: wake.clone(),
            events,
            opener: Opener::default(),
        };
        thread::Builder::new()
            .name("libvirt-watch".into())
            .spawn(move || watch.run())
            .map_err(|e| Fault::transient(format!("start a thread to watch the host: {e}")))?;
        Ok(Self { stop, wake })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.try_send(Event::Closed);
    }
}

struct Watch {
    uri: String,
    sink: Arc<dyn Fn(Signal) + Send + Sync>,
    stop: Arc<AtomicBool>,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    opener: Opener,
}

impl Watch {
    fn run(self) {
        let mut retry = FIRST_RETRY;
        while !self.stopped() {
            match self.connection() {
                Ok(()) => retry = FIRST_RETRY,
                Err(fault) => tracing::debug!(uri = self.uri, %fault, "watch a host"),
            }
            if self.stopped() {
                break;
            }
            // Events of the lost connection are still in the channel, and mean nothing now.
            while let Ok(_stale) = self.events.try_recv() {}
            // Woken early only by the drop of the watcher.
            let _ = self.events.recv_timeout(retry);
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// One connection, from its opening to its loss.
    fn connection(&self) -> Result<(), Fault> {
        let conn = self.opener.open(&self.uri, None)?;
        let _registered = ffi::register(conn.clone(), &self.sender)
            .map_err(during("watch the host's domains"))?;
        // What happened before is not told again.
        (self.sink)(Signal::Connection);
        let mut heard = 0;
        while !self.stopped() {
            match self.events.recv_timeout(CHECK) {
                Ok(Event::Domain(id)) => {
                    (self.sink)(Signal::Domain(InstanceId(id)));
                    heard += 1;
                }
                Ok(Event::Closed) => break,
                Err(RecvTimeoutError::Timeout) => {
                    heard = 0;
                    if !matches!(conn.is_alive(), Ok(true)) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if heard >= BACKLOG {
                // So many without a pause: some may have found the channel full.
                heard = 0;
                (self.sink)(Signal::Connection);
            }
        }
        if !self.stopped() {
            (self.sink)(Signal::Connection);
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
