//! `pileus up`: a whole cloud on this machine, in one process and one state directory.

mod daemon;
mod libvirt;
mod reaper;
mod state;

use std::sync::Arc;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::libvirt::Libvirt;
use self::state::StateDir;
use super::postgres::Postgres;
use crate::config::{Config, Flags};
use crate::server::{self, Local};

/// Connections beside the pool's: the maintenance of PostgreSQL itself, a person's psql, a second process that migrates.
const SPARE_CONNECTIONS: u32 = 30;

pub async fn run(flags: Flags) -> Result<()> {
    let config = Config::from_process(&flags)?;
    let _traces = super::logging::init(&config)?;
    super::limits::set(config.max_connections)?;
    let stop = CancellationToken::new();
    super::signals::stop_at(stop.clone(), config.shutdown_deadline)?;
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    let listener = server::listen(&config).await?;
    reaper::start()?;

    let parts = Parts::start(&config, &state).await?;
    let result = serve(config, listener, &state, &parts, stop).await;
    let ended = parts.stop().await;
    result.and(ended)
}

/// What runs beside the server, and is ended after it.
struct Parts {
    postgres: Option<Postgres>,
    libvirt: Option<Libvirt>,
}

impl Parts {
    async fn start(config: &Config, state: &Arc<StateDir>) -> Result<Self> {
        let libvirt = Libvirt::start(config, state).await?;
        let postgres = match config.database_url {
            Some(_) => None,
            None => {
                let connections = config.database_pool + SPARE_CONNECTIONS;
                let dir = state.path("postgres");
                match Postgres::start(&dir, config.postgres_bin.as_deref(), connections).await {
                    Ok(postgres) => Some(postgres),
                    Err(e) => {
                        let parts = Self { postgres: None, libvirt };
                        parts.stop().await?;
                        return Err(e);
                    }
                }
            }
        };
        Ok(Self { postgres, libvirt })
    }

    fn database(&self, config: &Config) -> Result<PgConnectOptions> {
        match &self.postgres {
            Some(postgres) => Ok(postgres.options().clone()),
            None => super::serve::database(config),
        }
    }

    async fn stop(self) -> Result<()> {
        let libvirt = async {
            if let Some(libvirt) = self.libvirt {
                libvirt.stop().await;
            }
        };
        let postgres = async {
            match self.postgres {
                Some(postgres) => postgres.stop().await,
                None => Ok(()),
            }
        };
        tokio::join!(libvirt, postgres).1
    }
}

/// Runs the server, which ends in time for the parts to end too.
async fn serve(
    config: Config,
    listener: TcpListener,
    state: &StateDir,
    parts: &Parts,
    stop: CancellationToken,
) -> Result<()> {
    let admin = state.admin(&config.url())?;
    let local = Local {
        cloud: state.cloud_id()?,
        admin_user: admin.user,
        admin_password: admin.password,
        host: parts.libvirt.as_ref().map(|libvirt| libvirt.host(&config)),
    };
    let database = parts.database(&config)?;
    server::run(config, listener, database, Some(local), stop).await.context("the server ended")
}
