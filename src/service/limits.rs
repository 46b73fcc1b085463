//! How much is worked on at a time: a counter for each kind of request, with the bounds of the configuration.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::domain::error::{Error, Result};

/// What counts a request until it is dropped.
pub type Permit = OwnedSemaphorePermit;

/// The counters of one process.
#[derive(Debug)]
pub struct Limits {
    requests: Counter,
    waits: Counter,
    uploads: Counter,
    downloads: Counter,
    streams: Counter,
}

#[derive(Debug)]
struct Counter {
    free: Arc<Semaphore>,
    most: u32,
    what: &'static str,
}

impl Limits {
    pub fn new(config: &Config) -> Self {
        Self {
            requests: Counter::new(config.max_requests, "requests"),
            waits: Counter::new(config.max_waits, "waiting requests"),
            uploads: Counter::new(config.max_uploads, "uploads"),
            downloads: Counter::new(config.max_uploads, "downloads"),
            streams: Counter::new(config.max_streams, "event streams"),
        }
    }

    /// What it is, how much of it is worked on, and how much may be.
    pub fn in_use(&self) -> [(&'static str, u32, u32); 5] {
        [
            ("requests", &self.requests),
            ("waits", &self.waits),
            ("uploads", &self.uploads),
            ("downloads", &self.downloads),
            ("streams", &self.streams),
        ]
        .map(|(what, counter)| (what, counter.in_use(), counter.most))
    }

    /// A request that neither waits, uploads nor streams. All five fail with `Unavailable` where the limit is reached.
    pub fn request(&self) -> Result<Permit> {
        self.requests.take()
    }

    pub fn wait(&self) -> Result<Permit> {
        self.waits.take()
    }

    pub fn upload(&self) -> Result<Permit> {
        self.uploads.take()
    }

    pub fn download(&self) -> Result<Permit> {
        self.downloads.take()
    }

    pub fn stream(&self) -> Result<Permit> {
        self.streams.take()
    }
}

impl Counter {
    fn new(most: u32, what: &'static str) -> Self {
        let size = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(size)), most, what }
    }

    fn in_use(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.most.saturating_sub(free)
    }

    fn take(&self) -> Result<Permit> {
        self.free.clone().try_acquire_owned().map_err(|_full_and_never_closed| Error::Unavailable {
            detail: format!(
                "this server works on {} {} at a time and has as many: try again in a moment",
                self.most, self.what
            ),
            retry_after: Duration::from_secs(1),
        })
    }
}
