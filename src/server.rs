//! The server: pool, schema, API and loops of one process, from start to clean end.

mod upkeep;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Config, Secret};
use crate::domain::clock::{Clock, Watch};
use crate::domain::compared::Compared;
use crate::domain::host::VirtType;
use crate::domain::id::HostId;
use crate::domain::password::Password;
use crate::hypervisor::{HostTarget, Hosts, Hypervisor, Libvirt, Signal};
use crate::reconcile::in_time;
use crate::reconcile::placer::Placer;
use crate::service::bootstrap::{self, Bootstrap, Bootstrapped};
use crate::service::{App, Parts, images};
use crate::store::changes::Changes;
use crate::{api, reconcile, service, store};

/// Signals of hosts that wait to be noted; more are dropped, and the next scan finds what they meant.
const SIGNALS: usize = 4096;
/// How long a start waits for the local host's first answer: a cold libvirt probes QEMU first.
const HOST_PATIENCE: Duration = Duration::from_secs(20);
/// How long the schema may take to be changed: a statement of it has 30 s.
const MIGRATION: Duration = Duration::from_mins(10);
/// How long the end waits for connections to the database that are still used.
const CLOSING: Duration = Duration::from_millis(500);
/// Name of the image that `up` offers.
const GUEST_IMAGE: &str = "pileus-guest";

/// The first admin's name, where nobody gave another.
const ADMIN: &str = "admin";

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
    /// What others have of the disk under our pools when the host is registered.
    pub reserved_disk_gib: i64,
}

/// The API's socket: asked for before anything else is started, so that a busy address is told at once.
pub async fn listen(config: &Config) -> Result<TcpListener> {
    TcpListener::bind(config.listen).await.with_context(|| {
        format!("{} cannot be listened on: choose another with --listen", config.listen)
    })
}

/// Serves on `listener` until `stop`, then ends what runs: waits and streams at once, requests and steps when they are done, all
/// of it within two thirds of the deadline. Callers bound it by the whole of it.
pub async fn run(
    config: Config,
    listener: TcpListener,
    database: PgConnectOptions,
    local: Option<Local>,
    stop: CancellationToken,
) -> Result<()> {
    let metrics = match config.metrics_listen {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("{address} cannot be listened on: choose another with --metrics-listen")
        })?),
        None => None,
    };
    let db = store::connect(database, config.database_pool)
        .await
        .context("the database cannot be reached")?;
    // A start that waits for an answer that will not come ends, and whoever runs the process starts it again.
    let patience = config.database_patience;
    if !in_time(patience, store::is_migrated(&db)).await? {
        in_time(MIGRATION, store::migrate(&db)).await.context("the schema was not changed")?;
    }
    // Leases and whatever else has a time are by the one clock that all processes share.
    let read = async { store::clock::read(&mut *store::acquire(&db).await?).await };
    let watch = Arc::new(Watch::new(&in_time(patience, read).await?));
    let clock = Clock::Database(Arc::clone(&watch));
    let proposed = local.as_ref().map_or_else(Uuid::new_v4, |local| local.cloud);
    let ensured = async {
        store::cloud::ensure(&mut *store::acquire(&db).await?, proposed, clock.now()).await
    };
    let cloud = in_time(patience, ensured).await?;
    let url = config.url();
    let changes = Changes::default();
    let (hosts, signals) = hosts();
    let app = App::new(Parts {
        db: db.clone(),
        config,
        clock,
        cloud,
        changes,
        hosts,
        compared: Compared::default(),
        shutdown: stop.clone(),
    });
    if let Some(listener) = metrics {
        // Before the first loop counts. It is answered until the runtime ends, and holds up nothing.
        service::metrics::counters()?;
        tokio::spawn(api::metrics::serve(listener, app.clone()));
    }
    let mut loops = loops(&app, signals).await?;
    loops.spawn(upkeep::follow_clock(app.clone(), watch));
    loops.spawn(upkeep::trim(app.clone()));
    match (&local, &app.config.admin_password) {
        (Some(local), _) => begin(&app, local).await?,
        (None, Some(password)) => {
            first_things(&app, ADMIN, password).await?;
        }
        (None, None) => {}
    }
    tracing::info!(url, %cloud, "serving");
    // The rest of the deadline is for what runs beside us, and for the end of the process itself.
    let patience = app.config.shutdown_deadline * 2 / 3;
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        served = serve(listener, app, loops, stop.clone()) => served?,
        () = late => tracing::warn!(?patience, "requests did not end in time; they are cut off"),
    }
    // A request that was cut off may hold its connection.
    let _ = tokio::time::timeout(CLOSING, db.close()).await;
    tracing::info!("ended");
    Ok(())
}

/// Answers requests while the loops run, until both have ended.
async fn serve(
    listener: TcpListener,
    app: App,
    mut loops: JoinSet<()>,
    stop: CancellationToken,
) -> Result<()> {
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
    served
}

/// What `pileus up` brings along becomes a cloud: admin, flavors, host, network, image. Done again at every start.
async fn begin(app: &App, local: &Local) -> Result<()> {
    let begun = first_things(app, &local.admin_user, &local.admin_password).await?;
    if let Some(host) = &local.host {
        let id = bootstrap::local_host(app, &host.uri, host.virt_type, host.reserved_disk_gib);
        let id = id.await?;
        if !bootstrap::host_answered(app, id, HOST_PATIENCE).await? {
            tracing::warn!(uri = host.uri, "libvirt does not answer yet: GET /v1/hosts says why");
        }
    }
    // A user's own libvirt may make no bridge: where there is no network, an instance begins without one, and runs.
    let session =
        |host: &LocalHost| host.uri.split('?').next().is_some_and(|uri| uri.ends_with("/session"));
    if !local.host.as_ref().is_some_and(session) {
        bootstrap::first_network(app, begun).await.context("the default network was not made")?;
    }
    match guest_image(&app.config) {
        Some(path) => {
            let image = images::ensure_public(app, begun.tenant, GUEST_IMAGE, &path).await;
            image.with_context(|| format!("the guest image {} was not taken", path.display()))?;
        }
        None => tracing::warn!(
            "there is no guest image: make guest builds one, --guest-image names one"
        ),
    }
    Ok(())
}

/// An admin, a tenant, flavors.
async fn first_things(app: &App, admin: &str, password: &Secret) -> Result<Bootstrapped> {
    let wanted =
        Bootstrap { admin_user: admin.into(), admin_password: Password::new(password.expose()) };
    let ensured = in_time(app.config.database_patience, bootstrap::ensure(app, &wanted));
    ensured.await.context("the cloud's first things were not made")
}

/// The setting, or the first that is there of what `make guest` built beside this binary and what a package installed.
fn guest_image(config: &Config) -> Option<PathBuf> {
    if let Some(path) = &config.guest_image {
        return Some(path.clone());
    }
    let binary = std::env::current_exe().ok()?;
    let built = binary.parent()?.parent()?.join("guest/pileus-guest.qcow2");
    [built, "/usr/share/pileus/pileus-guest.qcow2".into()].into_iter().find(|path| path.is_file())
}

/// The hosts' handle, and where their signals come out.
fn hosts() -> (Hosts, mpsc::Receiver<(HostId, Signal)>) {
    let (sender, signals) = mpsc::channel(SIGNALS);
    let libvirt =
        |target: &HostTarget| Arc::new(Libvirt::new(target.clone())) as Arc<dyn Hypervisor>;
    (Hosts::new(Arc::new(libvirt), sender), signals)
}

/// What runs beside the API, each until `app.shutdown`. `signals` come from `app.hosts`.
pub async fn loops(app: &App, signals: mpsc::Receiver<(HostId, Signal)>) -> Result<JoinSet<()>> {
    if let Some(point) = &app.config.fault_point {
        reconcile::fault::arm(point);
    }
    let ctx = reconcile::Context::new(reconcile::Parts {
        db: app.db.clone(),
        config: app.config.clone(),
        clock: app.clock.clone(),
        cloud: app.cloud,
        changes: app.changes.clone(),
        hosts: app.hosts.clone(),
        placer: Placer::default(),
        settling: reconcile::Turns::default(),
        making: reconcile::Turns::default(),
        compared: app.compared.clone(),
        owner: Uuid::now_v7(),
    });
    in_time(app.config.database_patience, reconcile::hold::at_start(&ctx)).await?;
    // Before the first step: a host that nobody knows is as good as one that does not answer.
    in_time(app.config.database_patience, reconcile::hosts::connect(&ctx)).await?;
    let (beats, shutdown) = (app.beats().clone(), app.shutdown.clone());
    let mut loops = JoinSet::new();
    let (db, changes, clock) = (app.db.clone(), app.changes.clone(), app.clock.clone());
    let run = reconcile::Run { ctx: ctx.clone(), beats: beats.clone(), shutdown: shutdown.clone() };
    let config = &app.config;
    if config.task_publisher {
        let publish =
            reconcile::events::publish_forever(db, changes, clock, beats, shutdown.clone());
        loops.spawn(publish);
    } else {
        loops.spawn(reconcile::events::follow_forever(db, changes, shutdown.clone()));
    }
    loops.spawn(reconcile::hosts::run(run.clone()));
    if config.task_pace {
        loops.spawn(reconcile::pace::run(run.clone()));
    }
    if config.task_sweeper {
        loops.spawn(reconcile::sweep::run(run));
    }
    if config.task_upkeep {
        loops.spawn(upkeep::run(app.clone()));
    }
    if config.task_expiry {
        loops.spawn(upkeep::expire(app.clone()));
    }
    loops.spawn(reconcile::wake_on_signals(ctx, signals, shutdown));
    Ok(loops)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::postgres::throwaway;
    use crate::config::Flags;

    /// Serves on a new database until the user `admin` is there, or for `looks` looks; gives whether it is.
    async fn serve(settings: &[(&str, &str)]) -> bool {
        let database = throwaway::migrated(&store::MIGRATIONS).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let flags = settings
            .iter()
            .fold(Flags::default(), |flags, (key, text)| flags.set(key, *text))
            .set("listen", "127.0.0.1:0")
            .set("state_dir", state.path().to_string_lossy());
        let config = Config::load(&flags, []).unwrap();
        let stop = CancellationToken::new();
        let begun = config.admin_password.is_some();
        let listener = listen(&config).await.unwrap();
        let server = tokio::spawn(run(config, listener, database.clone(), None, stop.clone()));
        let db = store::connect(database, 2).await.unwrap();
        let mut found = false;
        while begun && !found && !server.is_finished() {
            let mut conn = db.acquire().await.unwrap();
            found = store::users::find_by_name(&mut conn, ADMIN).await.unwrap().is_some();
            tokio::task::yield_now().await;
        }
        stop.cancel();
        server.await.unwrap().unwrap();
        let mut conn = db.acquire().await.unwrap();
        found || store::users::find_by_name(&mut conn, ADMIN).await.unwrap().is_some()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn serve_makes_the_first_admin_only_with_a_password_from_its_settings() {
        assert!(serve(&[("admin_password", "correct horse battery staple")]).await);
        assert!(!serve(&[]).await);
    }
}
