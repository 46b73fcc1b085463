//! Where log lines go: standard error, as text for people or as JSON for machines.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Sets the process's log up, then says what the configuration had to warn of.
pub fn init(config: &Config) -> Result<()> {
    // PostgreSQL's notices ("already exists, skipping") are nobody's news, unless asked for.
    let filter = format!("sqlx::postgres::notice=warn,{}", config.log);
    let filter = EnvFilter::builder().parse(filter)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            log.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
        }
    };
    done.map_err(|e| anyhow!(e))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(())
}
