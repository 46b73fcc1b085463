//! `pileus migrate`: brings the database to the schema of this version.

use anyhow::{Context, Result};

use crate::config::{Config, Flags};
use crate::store;

pub async fn run(flags: Flags) -> Result<()> {
    let config = Config::from_process(&flags)?;
    let _traces = super::logging::init(&config)?;
    let options = super::serve::database(&config)?;
    let pool = store::connect(options, 2).await.context("the database cannot be reached")?;
    store::migrate(&pool).await.context("the schema was not changed")?;
    pool.close().await;
    Ok(())
}
