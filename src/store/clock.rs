//! The database's clock, which all processes on it share.

use std::time::Instant;

use sqlx::PgConnection;

use crate::domain::clock::{Reading, Time};
use crate::domain::error::Result;

/// Reads it: it showed that time somewhere between question and answer.
pub async fn read(conn: &mut PgConnection) -> Result<Reading> {
    let asked = Instant::now();
    let time: Time = sqlx::query_scalar("select clock_timestamp()").fetch_one(conn).await?;
    let error = asked.elapsed() / 2;
    Ok(Reading { time, at: asked + error, error })
}
