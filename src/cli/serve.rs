//! `pileus serve`: the server alone; database and hosts are somebody else's.

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Flags};

pub async fn run(flags: Flags) -> Result<()> {
    let config = Config::from_process(&flags)?;
    super::logging::init(&config)?;
    let database = database(&config)?;
    let stop = CancellationToken::new();
    super::signals::stop_at(stop.clone(), config.shutdown_deadline)?;
    crate::server::run(config, database, None, stop).await
}

/// How to connect to the database of the settings.
pub fn database(config: &Config) -> Result<PgConnectOptions> {
    let Some(url) = &config.database_url else {
        bail!(
            "there is no database: set DATABASE_URL, or give --database-url postgres://user:password@host/database"
        );
    };
    // The error of a URL does not repeat it, so the password stays ours.
    let source = config.source("database_url");
    url.expose().parse().with_context(|| format!("`database_url` ({source}) is no PostgreSQL URL"))
}
