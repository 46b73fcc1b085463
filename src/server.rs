//! The server: pool, schema, API and loops of one process, from start to clean end.

use std::pin::pin;

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Config, Secret};
use crate::domain::clock::Clock;
use crate::domain::host::VirtType;
use crate::domain::password::Password;
use crate::service::bootstrap::{self, Bootstrap};
use crate::service::{App, Parts};
use crate::store::changes::Changes;
use crate::{api, reconcile, store};

/// What `pileus up` brings along beside the settings.
#[derive(Debug, Clone)]
pub struct Local {
    /// The id of a cloud that has none yet: it lies beside the database, so that our stamps on hosts are still known as
    /// ours when the database is made anew.
    pub cloud: Uuid,
    /// The bootstrap admin: made where there is none. A password that was changed since is left as it is.
    pub admin_user: String,
    pub admin_password: Secret,
    /// The local host, to be registered where it is missing; `None` with `--libvirt-uri none`.
    pub host: Option<LocalHost>,
}

#[derive(Debug, Clone)]
pub struct LocalHost {
    pub uri: String,
    pub virt_type: VirtType,
}

/// Serves until `stop`, then ends what runs. Callers bound the end by a deadline.
pub async fn run(
    config: Config,
    database: PgConnectOptions,
    local: Option<Local>,
    stop: CancellationToken,
) -> Result<()> {
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("{} cannot be listened on: choose another with --listen", config.listen)
    })?;
    let db = store::connect(database, config.database_pool)
        .await
        .context("the database cannot be reached")?;
    store::migrate(&db).await.context("the schema was not changed")?;
    let clock = Clock::System;
    let proposed = local.as_ref().map_or_else(Uuid::now_v7, |local| local.cloud);
    let cloud = store::cloud::ensure(&mut *db.acquire().await?, proposed, clock.now()).await?;
    let url = config.url();
    let changes = Changes::default();
    let app =
        App::new(Parts { db: db.clone(), config, clock, cloud, changes, shutdown: stop.clone() });
    if let Some(local) = &local {
        let wanted = Bootstrap {
            admin_user: local.admin_user.clone(),
            admin_password: Password::new(local.admin_password.expose()),
        };
        bootstrap::ensure(&app, &wanted).await.context("the cloud's first things were not made")?;
    }
    let mut loops = loops(&app);
    tracing::info!(url, %cloud, "serving");
    let mut serving = pin!(api::serve(listener, app));
    let served = tokio::select! {
        served = &mut serving => served.context("the API ended"),
        Some(ended) = loops.join_next() => match ended_early(ended, &stop) {
            // The loops may end before the last requests do.
            Ok(()) => serving.await.context("the API ended"),
            Err(e) => Err(e),
        },
    };
    // Also where something failed: what can end cleanly shall.
    stop.cancel();
    while let Some(ended) = loops.join_next().await {
        ended.context("a loop failed at its end")?;
    }
    db.close().await;
    served
}

/// What runs beside the API, each until `shutdown`.
fn loops(app: &App) -> JoinSet<()> {
    let mut loops = JoinSet::new();
    let (db, changes, clock) = (app.db.clone(), app.changes.clone(), app.clock.clone());
    let (beats, shutdown) = (app.beats().clone(), app.shutdown.clone());
    loops.spawn(reconcile::events::publish_forever(db, changes, clock, beats, shutdown));
    loops
}

/// A loop that ends while the server should run leaves a server that only seems to work: the process ends too, and
/// whoever runs it starts it again.
fn ended_early(ended: Result<(), JoinError>, stop: &CancellationToken) -> Result<()> {
    match ended {
        Ok(()) if stop.is_cancelled() => Ok(()),
        Ok(()) => bail!("a loop ended before its time"),
        Err(e) => Err(e).context("a loop failed"),
    }
}
