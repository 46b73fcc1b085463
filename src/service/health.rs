//! Whether this process is fit for requests, and why not.

use std::time::Duration;

use super::App;
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::store;

/// The database must answer within this.
const PATIENCE: Duration = Duration::from_secs(1);

/// `Unavailable` with every reason, where there is one; else since when the cloud is held, if it is.
pub async fn ready(app: &App) -> Result<Option<Time>> {
    let mut faults = Vec::new();
    if app.shutdown.is_cancelled() {
        faults.push("this process is about to end".to_owned());
    }
    let silent = app.beats().silent(app.clock.now());
    if !silent.is_empty() {
        faults.push(format!("these loops have not been round lately: {}", silent.join(", ")));
    }
    let mut held = None;
    match tokio::time::timeout(PATIENCE, look(app)).await {
        Ok(Ok((true, since))) => held = since,
        Ok(Ok((false, _))) => faults
            .push("the database lacks migrations of this version: run `pileus migrate`".to_owned()),
        Ok(Err(error)) => {
            // Anyone may ask: the cause goes to the log.
            tracing::warn!(%error, "not ready: the database fails");
            faults.push("the database cannot be asked".to_owned());
        }
        Err(_late) => faults.push("the database does not answer within 1 s".to_owned()),
    }
    faults.extend(store::full::lately().map(str::to_owned));
    if faults.is_empty() {
        return Ok(held);
    }
    Err(Error::Unavailable { detail: faults.join("; "), retry_after: Duration::from_secs(1) })
}

/// Whether the schema is this binary's, and since when the cloud is held.
async fn look(app: &App) -> Result<(bool, Option<Time>)> {
    let mut conn = app.conn().await?;
    if !store::schema_is_current(&mut conn).await? {
        return Ok((false, None));
    }
    Ok((true, store::cloud::held(&mut conn).await?.map(|held| held.since)))
}
