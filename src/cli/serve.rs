//! `pileus serve`: the server alone; database and hosts are somebody else's.

use anyhow::{Context, Result, bail, ensure};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Flags};

pub async fn run(flags: Flags) -> Result<()> {
    let config = Config::from_process(&flags)?;
    let _traces = super::logging::init(&config)?;
    super::limits::set(config.max_connections)?;
    let database = database(&config)?;
    let stop = CancellationToken::new();
    super::signals::stop_at(stop.clone(), config.shutdown_deadline)?;
    let listener = crate::server::listen(&config).await?;
    crate::server::run(config, listener, database, None, stop).await
}

/// How to connect to the database of the settings.
pub fn database(config: &Config) -> Result<PgConnectOptions> {
    let Some(url) = &config.database_url else {
        bail!(
            "there is no database: set DATABASE_URL, or give --database-url postgres://user:password@host/database"
        );
    };
    let source = config.source("database_url");
    let wanted = || {
        format!(
            "`database_url` ({source}) is no PostgreSQL URL: give postgres://user:password@host/database"
        )
    };
    // sqlx takes any scheme. What is said must not repeat the URL: a password is in it.
    let url = url.expose();
    ensure!(url.starts_with("postgres://") || url.starts_with("postgresql://"), wanted());
    url.parse().with_context(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_will_not_do_is_refused_without_telling_its_password() {
        for url in ["mysql://u:geheim@h/x", "geheim", "postgres://u:geheim@h:notaport/x"] {
            let config = Config::load(&Flags::default().set("database_url", url), []).unwrap();
            let error = format!("{:#}", database(&config).unwrap_err());
            assert!(error.contains("flag --database-url"), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
