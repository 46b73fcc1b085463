//! What `/metrics` says: counters that the process keeps, and gauges that are read when somebody asks.
//!
//! Gauges go into a recorder of the scrape's own: a host that was removed is not told of again, and nobody writes what nobody reads.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Recorder, counter, gauge};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_util::MetricKindMask;
use nix::sys::statvfs::statvfs;
use sqlx::PgConnection;

use super::App;
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::metric::{self, Kind};
use crate::store::metrics::{self as counts, Backlog, HostLoad};
use crate::store::{self, work};

/// The database must answer a scrape within this.
const PATIENCE: Duration = Duration::from_secs(3);
/// A counter that nobody touched for so long is forgotten: hosts come and go.
const FORGET: Duration = Duration::from_hours(24);

/// What on a host may have no owner.
const ORPHANS: [&str; 4] = ["domain", "volume", "network", "console"];

static COUNTERS: OnceLock<PrometheusHandle> = OnceLock::new();

/// What this process counts from now on; before the first call counting costs nothing and keeps nothing.
pub fn counters() -> Result<&'static PrometheusHandle> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(counters) = COUNTERS.get() {
        return Ok(counters);
    }
    let idle = MetricKindMask::COUNTER | MetricKindMask::HISTOGRAM;
    let recorder = builder()?.idle_timeout(idle, Some(FORGET)).build_recorder();
    describe(&recorder);
    let handle = recorder.handle();
    // Fails only where somebody else installed one.
    metrics::set_global_recorder(recorder).map_err(|e| Error::Internal(anyhow::anyhow!("{e}")))?;
    tell_of_zeros();
    gauge!(metric::WORKERS_BUSY).set(0.0);
    Ok(COUNTERS.get_or_init(|| handle))
}

/// A counter that is first seen at 1 has not grown, as Prometheus counts: what alerts look at is there from the start, and is not
/// forgotten.
fn tell_of_zeros() {
    for kind in work::Kind::ALL.map(work::Kind::as_str) {
        counter!(metric::STALLS, "kind" => kind).increment(0);
    }
    for outcome in ["ok", "failed"] {
        counter!(metric::SWEEPS, "outcome" => outcome).increment(0);
    }
    for kind in ORPHANS {
        counter!(metric::SWEPT, "kind" => kind, "outcome" => "ok").increment(0);
    }
}

fn builder() -> Result<PrometheusBuilder> {
    metric::ALL.iter().try_fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Kind::Histogram(bounds) => builder
            .set_buckets_for_metric(Matcher::Full(metric.name.into()), bounds)
            .map_err(Error::internal),
        Kind::Counter | Kind::Gauge => Ok(builder),
    })
}

fn describe(recorder: &PrometheusRecorder) {
    for metric in metric::ALL {
        let (name, help) = (metric.name.into(), metric.help.into());
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
        }
    }
}

/// The whole text, in Prometheus' format. Where the database does not answer, what is read from it is missing, and
/// `pileus_database_up` says so.
pub async fn scrape(app: &App) -> Result<String> {
    let counters = counters()?;
    tell_of_zeros();
    let counted = counters.render();
    let read = match tokio::time::timeout(PATIENCE, Read::from(app)).await {
        Ok(read) => read,
        Err(elapsed) => Err(Error::internal(elapsed)),
    };
    if let Err(error) = &read {
        tracing::warn!(%error, "a scrape of the metrics could not read the database");
    }
    let recorder = builder()?.build_recorder();
    describe(&recorder);
    metrics::with_local_recorder(&recorder, || {
        of_process(app);
        gauge!(metric::DATABASE_UP).set(truth(read.is_ok()));
        if let Ok(read) = &read {
            read.tell(app.clock.now());
        }
    });
    Ok(counted + &recorder.handle().render())
}

/// What is known without asking anybody.
fn of_process(app: &App) {
    let schema = store::MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0).to_string();
    gauge!(metric::BUILD, "version" => env!("CARGO_PKG_VERSION"), "schema" => schema).set(1.0);
    gauge!(metric::STARTED).set(app.started().timestamp_micros() as f64 / 1e6);
    for (what, used, most) in app.limits().in_use() {
        gauge!(metric::IN_USE, "what" => what).set(used);
        gauge!(metric::LIMIT, "what" => what).set(most);
    }
    // It may not be there yet, and what cannot be asked is not told.
    if let Ok(found) = statvfs(&app.config.image_dir) {
        let bytes = |blocks: u64| blocks as f64 * found.fragment_size() as f64;
        gauge!(metric::IMAGE_STORE).set(bytes(found.blocks()));
        gauge!(metric::IMAGE_STORE_FREE).set(bytes(found.blocks_available()));
    }
    gauge!(metric::DATABASE_FULL).set(truth(store::full::lately() == Some(store::full::FULL)));
    gauge!(metric::WORKERS).set(app.config.reconcile_workers);
    gauge!(metric::POOL_LIMIT).set(app.config.database_pool);
    let (all, idle) = (app.db.size(), u32::try_from(app.db.num_idle()).unwrap_or(u32::MAX));
    gauge!(metric::POOL, "state" => "idle").set(idle);
    gauge!(metric::POOL, "state" => "used").set(all.saturating_sub(idle));
    let config = &app.config;
    for (task, on) in [
        ("pace", config.task_pace),
        ("placer", config.task_placer),
        ("watch", config.task_watch),
        ("sweep", config.task_sweeper),
        ("events", config.task_publisher),
        ("upkeep", config.task_upkeep),
        ("expiry", config.task_expiry),
    ] {
        gauge!(metric::TASK_ENABLED, "task" => task).set(truth(on));
    }
    for (task, age, longest) in app.beats().ages(app.clock.now()) {
        gauge!(metric::TASK_AGE, "task" => task).set(age);
        gauge!(metric::TASK_LONGEST, "task" => task).set(longest);
    }
    for (host, running, waiting) in app.hosts.loads() {
        let host = host.to_string();
        gauge!(metric::CALLS_RUNNING, "host" => host.clone()).set(size(running));
        gauge!(metric::CALLS_WAITING, "host" => host).set(size(waiting));
    }
}

/// What the database knows.
struct Read {
    backlog: Vec<Backlog>,
    stalled: Vec<(String, i64)>,
    hosts: Vec<HostLoad>,
    instances: Vec<(String, String, i64)>,
    orphans: Vec<(String, bool, i64)>,
    feed: (i64, i64),
    waiting: (bool, i64, Option<Time>),
}

impl Read {
    async fn from(app: &App) -> Result<Self> {
        let conn: &mut PgConnection = &mut *app.conn().await?;
        Ok(Self {
            backlog: counts::backlog(conn, app.clock.now()).await?,
            stalled: counts::stalled(conn).await?,
            hosts: counts::hosts(conn).await?,
            instances: counts::instances(conn).await?,
            orphans: counts::orphans(conn).await?,
            feed: counts::feed(conn).await?,
            waiting: counts::waiting(conn).await?,
        })
    }

    fn tell(&self, now: Time) {
        self.work(now);
        self.hosts.iter().for_each(host);
        for (wanted, observed, count) in &self.instances {
            let labels = [("wanted", wanted.clone()), ("observed", observed.clone())];
            gauge!(metric::INSTANCES, &labels).set(number(*count));
        }
        for (kind, ours) in ORPHANS.iter().flat_map(|kind| [(*kind, true), (*kind, false)]) {
            let found = self.orphans.iter().find(|row| row.0 == kind && row.1 == ours);
            let count = found.map_or(0, |row| row.2);
            gauge!(metric::ORPHANS, "kind" => kind, "ours" => ours.to_string()).set(number(count));
        }
        let (held, queued, oldest) = self.waiting;
        gauge!(metric::HELD).set(truth(held));
        gauge!(metric::QUEUED).set(number(queued));
        let oldest = oldest.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
        gauge!(metric::QUEUED_OLDEST).set(oldest);
        let (last, waiting) = self.feed;
        counter!(metric::EVENTS).absolute(u64::try_from(last).unwrap_or(0));
        gauge!(metric::EVENTS_WAITING).set(number(waiting));
    }

    /// Every kind of ours, also where nothing of it is to do: a zero is news too.
    fn work(&self, now: Time) {
        for kind in work::Kind::ALL.map(work::Kind::as_str) {
            let row = self.backlog.iter().find(|row| row.kind == kind);
            let of = |part: fn(&Backlog) -> i64| number(row.map_or(0, part));
            gauge!(metric::WORK_DUE, "kind" => kind).set(of(|row| row.due));
            gauge!(metric::WORK_LEASED, "kind" => kind).set(of(|row| row.leased));
            gauge!(metric::WORK_SCHEDULED, "kind" => kind).set(of(|row| row.scheduled));
            gauge!(metric::WORK_FAILING, "kind" => kind).set(of(|row| row.failing));
            let oldest = row.and_then(|row| row.oldest_due_at).map(|due| now - due);
            let oldest = oldest.and_then(|age| age.to_std().ok()).unwrap_or_default();
            gauge!(metric::WORK_OLDEST, "kind" => kind).set(oldest);
            let stalled = self.stalled.iter().find(|(of, _)| of == kind);
            gauge!(metric::WORK_STALLED, "kind" => kind).set(number(stalled.map_or(0, |s| s.1)));
        }
    }
}

fn host(host: &HostLoad) {
    const MIB: i64 = 1 << 20;
    const GIB: i64 = 1 << 30;
    let labels = [("host", host.id.to_string()), ("name", host.name.clone())];
    let set = |name: &'static str, value: f64| gauge!(name, &labels).set(value);
    set(metric::HOST_UP, truth(host.up));
    set(metric::HOST_ENABLED, truth(host.enabled));
    set(metric::HOST_VCPUS, number(host.limit_vcpus));
    set(metric::HOST_VCPUS_USED, number(host.used_vcpus));
    set(metric::HOST_MEMORY, number(host.limit_memory_mib.saturating_mul(MIB)));
    set(metric::HOST_MEMORY_USED, number(host.used_memory_mib.saturating_mul(MIB)));
    set(metric::HOST_DISK, number(host.limit_disk_gib.saturating_mul(GIB)));
    set(metric::HOST_DISK_USED, number(host.used_disk_gib.saturating_mul(GIB)));
    for (name, gib) in
        [(metric::HOST_FILES, host.disk_gib), (metric::HOST_FILES_FREE, host.disk_free_gib)]
    {
        if let Some(gib) = gib {
            set(name, number(gib.saturating_mul(GIB)));
        }
    }
    set(metric::HOST_CLAIMS, number(host.claims));
    set(metric::HOST_FENCES, number(host.fences));
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn number(count: i64) -> f64 {
    count as f64
}

fn size(count: usize) -> f64 {
    count as f64
}
