//! The private PostgreSQL cluster of `pileus up`: found, initialised, started, adopted, restarted, stopped.

mod binaries;
mod cluster;
pub mod kept;
mod process;
#[cfg(test)]
mod tests;
pub mod throwaway;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use cluster::{Cluster, DATABASE};
use process::Postmaster;

/// A running private cluster: it is started again when it dies, until `stop`.
#[derive(Debug)]
pub struct Postgres {
    options: PgConnectOptions,
    url: String,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Postgres {
    /// Starts the cluster in `dir`, or adopts the server that a killed `pileus up` left behind there.
    ///
    /// The caller holds the lock of the state directory: two of these on one directory would fight.
    pub async fn start(dir: &Path, bin: Option<&Path>, connections: u32) -> Result<Self> {
        let cluster = Cluster::open(dir, bin, connections)?;
        cluster.init().await?;
        let postmaster = Postmaster::start_or_adopt(&cluster).await?;
        let socket_dir = postmaster.socket_dir().to_owned();
        let options = cluster.options(&socket_dir);
        cluster.create_database(&options, DATABASE).await?;
        let stop = CancellationToken::new();
        // Not a tracked task: it must outlive the server's tasks, which use the database to the end.
        let keeper = tokio::spawn(keep(cluster.clone(), postmaster, stop.clone()));
        Ok(Self {
            options: options.database(DATABASE),
            url: Cluster::url(&socket_dir),
            stop,
            keeper,
        })
    }

    /// How to connect to the database `pileus`.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The same as a URL, for `database_url` and for `psql`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends the server by a fast shutdown, an immediate one after 5 s; returns when it is gone.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.keeper.await.context("the keeper of PostgreSQL failed")
    }
}

/// Starts the server again whenever it ends on its own, with a growing pause; ends it when asked.
async fn keep(cluster: Cluster, mut postmaster: Postmaster, stop: CancellationToken) {
    const LONGEST_PAUSE: Duration = Duration::from_secs(10);
    let mut pause = Duration::ZERO;
    loop {
        let born = tokio::time::Instant::now();
        tokio::select! {
            () = stop.cancelled() => return postmaster.stop().await,
            () = postmaster.ended() => {}
        }
        if born.elapsed() > LONGEST_PAUSE {
            pause = Duration::ZERO;
        }
        tracing::error!(
            pid = postmaster.pid(),
            ?pause,
            "PostgreSQL ended on its own; it is started again"
        );
        postmaster = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).clamp(Duration::from_millis(250), LONGEST_PAUSE);
            match Postmaster::start_or_adopt(&cluster).await {
                Ok(postmaster) => break postmaster,
                Err(e) => tracing::error!("PostgreSQL did not start again: {e:#}"),
            }
        };
    }
}
