//! Waiting for an instance: answers as soon as the goal holds, and at the timeout with what there is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{App, Caller};
use crate::domain::error::{Error, Result};
use crate::domain::id::InstanceId;
use crate::domain::instance::{Instance, Status};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Its domain runs, in the power-on that is wished for.
    Running,
    /// The guest holds every address that it was given; `ip` is the same.
    #[serde(alias = "ip")]
    Address,
    /// The guest agent's channel is connected.
    Agent,
    /// cloud-init has finished, well or with errors: `cloud_init` of the instance says which.
    CloudInit,
    Paused,
    Stopped,
    /// Nothing of it is left.
    Deleted,
    /// The world matches the wish, whatever that is.
    Settled,
}

/// Waits until `goal` holds, for `timeout` at most, which is cut to the setting's: what it waits for has been wished already, so
/// that an error would come too late. Gives the instance as it is then, or as it was last where it is gone.
pub async fn wait(
    app: &App,
    caller: &Caller,
    instance: Instance,
    goal: Goal,
    timeout: Duration,
) -> Result<Instance> {
    let end = Instant::now() + timeout.min(app.config.wait_max);
    // Before the first look, so that no change falls between look and wait.
    let mut changes = app.changes.subscribe();
    let id = instance.id;
    let mut last = instance;
    loop {
        let look = tokio::time::timeout(app.config.request_timeout, super::read(app, caller, id));
        match look.await.unwrap_or_else(|_late| Err(silent())) {
            Ok(now) => last = now,
            // It was there when the request came.
            Err(Error::NotFound { .. }) => return Ok(gone(last)),
            // What was asked for is recorded already: an error would tell that it is not.
            Err(error) => {
                tracing::warn!(instance = %id, %error, "a wait cannot look; trying again");
            }
        }
        if holds(goal, &last) || Instant::now() >= end || app.shutdown.is_cancelled() {
            return Ok(last);
        }
        // Another process may make the change: it is looked for now and then.
        let pause = (Instant::now() + Duration::from_millis(500)).min(end);
        let news = async {
            loop {
                match changes.recv().await {
                    Ok(changed) if changed != id.0 => {}
                    Ok(_) | Err(_) => return,
                }
            }
        };
        tokio::select! {
            _ = timeout_at(pause, news) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}

/// The same for an instance that is only known by its id.
pub async fn waited(
    app: &App,
    caller: &Caller,
    id: InstanceId,
    goal: Goal,
    timeout: Duration,
) -> Result<Instance> {
    let instance = super::get(app, caller, id).await?;
    wait(app, caller, instance, goal, timeout).await
}

fn holds(goal: Goal, instance: &Instance) -> bool {
    let running = instance.status == Status::Running;
    match goal {
        Goal::Running => running,
        Goal::Address => running && instance.interfaces.iter().all(|interface| interface.seen),
        Goal::Agent => running && instance.agent,
        Goal::CloudInit => running && instance.cloud_init.is_some(),
        Goal::Paused => instance.status == Status::Paused,
        Goal::Stopped => instance.status == Status::Stopped,
        Goal::Deleted => false,
        Goal::Settled => instance.observed_revision == instance.revision,
    }
}

fn silent() -> Error {
    let detail = "the database does not answer: ask again".to_owned();
    Error::Unavailable { detail, retry_after: Duration::from_secs(1) }
}

/// The last that was seen of it, as a deletion that is complete.
fn gone(last: Instance) -> Instance {
    Instance {
        status: Status::Deleted,
        reason: None,
        agent: false,
        cloud_init: None,
        next_attempt_at: None,
        ..last
    }
}
