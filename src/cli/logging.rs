//! Where log lines go: standard error, as text for people or as JSON for machines. And traces, if somebody wants them.

use std::io::IsTerminal;

use anyhow::Result;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::DynFilterFn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::traces::Exporter;
use crate::config::{Config, LogFormat, Traces};

/// Sets the process's log and traces up, then says what the configuration had to warn of. The traces end with what is given.
pub fn init(config: &Config) -> Result<Option<Exporter>> {
    // PostgreSQL's notices ("already exists, skipping") are nobody's news, unless asked for.
    let filter = format!("sqlx::postgres::notice=warn,{}", config.log);
    let filter = EnvFilter::builder().parse(filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => {
            lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
    };
    let log = tracing_subscriber::registry();
    let exporter = Exporter::start(Traces::from_process())?;
    match &exporter {
        None => log.with(lines).with(filter).try_init()?,
        Some(exporter) => {
            // Requests, steps and calls to hosts, whatever the log leaves out. Asked anew for each span: between filters that are
            // asked once, tracing-subscriber 0.3 goes by what the thread was last asked about (sqlx asks, and then logs nothing).
            let wanted = |metadata: &Metadata<'_>| {
                metadata.target().starts_with("pileus") && *metadata.level() <= Level::INFO
            };
            let traces = tracing_opentelemetry::layer()
                .with_tracer(exporter.tracer())
                .with_location(false)
                .with_threads(false)
                .with_filter(DynFilterFn::new(move |metadata, _| wanted(metadata)));
            log.with(lines.with_filter(filter)).with(traces).try_init()?;
        }
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(exporter)
}
