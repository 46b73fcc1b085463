//! Reconcilers that go as far as they are told, stop anywhere, and may never come back.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use pileus::reconcile::Context;
use tokio::time::{Instant, sleep};

/// A job that nothing has woken for so long sleeps on a lock that another holds.
const STUCK: Duration = Duration::from_millis(40);

pub type Job = Pin<Box<dyn Future<Output = ()>>>;

/// One process.
pub struct Worker {
    pub ctx: Context,
    job: Option<Job>,
}

impl Worker {
    pub fn new(ctx: Context) -> Self {
        Self { ctx, job: None }
    }

    pub fn is_idle(&self) -> bool {
        self.job.is_none()
    }

    /// Takes the job up.
    pub fn begin(&mut self, job: Job) {
        self.job = Some(job);
    }

    /// Goes on for at most `polls` polls; `true` if nothing is left to do. Stops early where it sleeps on another's lock.
    pub async fn go(&mut self, polls: u32) -> bool {
        let Some(job) = &mut self.job else { return true };
        let mut left = polls;
        let mut idle = Box::pin(sleep(STUCK));
        let done = poll_fn(|cx| {
            if left == 0 || idle.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            left -= 1;
            match job.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending if left == 0 => Poll::Ready(false),
                Poll::Pending => {
                    idle.as_mut().reset(Instant::now() + STUCK);
                    // Registers the new deadline.
                    let _ = idle.as_mut().poll(cx);
                    Poll::Pending
                }
            }
        })
        .await;
        if done {
            self.job = None;
        }
        done
    }
}
