//! The server process: told from a stale pid file, adopted, started, watched and stopped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{ConnectOptions, Connection};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, PORT};

/// Crash recovery after a long run may take its time; a server that says nothing at all is given up.
const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// A running PostgreSQL server: our child, or an orphan of a killed `pileus up`.
#[derive(Debug)]
pub struct Postmaster {
    pid: Pid,
    child: Option<Child>,
    data: PathBuf,
    socket_dir: PathBuf,
}

impl Postmaster {
    /// Returns when the server answers.
    pub async fn start_or_adopt(cluster: &Cluster) -> Result<Self> {
        let data = cluster.data().canonicalize()?;
        if let Some((pid, socket_dir)) = running(&data) {
            tracing::info!(pid = pid.as_raw(), "PostgreSQL of this state directory runs already");
            let mut adopted = Self { pid, child: None, data, socket_dir };
            adopted.answers(cluster).await?;
            return Ok(adopted);
        }
        // Backends of a killed server may live on for a moment; a new server must not start beside them.
        end_leftovers(&data).await?;
        match std::fs::remove_file(data.join("postmaster.pid")) {
            Ok(()) => tracing::warn!("PostgreSQL had not ended cleanly; it recovers now"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context("the stale postmaster.pid cannot be removed"),
        }
        let socket_dir = cluster.socket_dir()?;
        // No server runs on this directory, and its pid may be a zombie's or somebody else's by now: PostgreSQL, which goes
        // by the pid alone, would refuse to start.
        forget_socket(&socket_dir)?;
        let mut command = cluster.command("postgres");
        command.args(cluster.arguments(&socket_dir)).stdout(Stdio::null());
        // A file, not a pipe: an orphan must be able to go on writing.
        command.stderr(std::fs::File::create(start_log(cluster))?);
        let child =
            tokio::process::Command::from(command).spawn().context("postgres did not start")?;
        let pid = child.id().context("postgres ended at once")?;
        let pid = Pid::from_raw(i32::try_from(pid)?);
        let mut started = Self { pid, child: Some(child), data, socket_dir };
        if let Err(e) = started.answers(cluster).await {
            started.stop().await;
            return Err(e);
        }
        Ok(started)
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Waits until a connection can be had.
    async fn answers(&mut self, cluster: &Cluster) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        let options = cluster.options(&self.socket_dir);
        loop {
            let error = match options.connect().await {
                Ok(conn) => return Ok(conn.close().await?),
                Err(e) => e,
            };
            if !self.alive() {
                let said = std::fs::read_to_string(start_log(cluster)).unwrap_or_default();
                let log = self.data.join("log");
                bail!("PostgreSQL ended while it started; see {}: {}", log.display(), said.trim());
            }
            if Instant::now() > deadline {
                return Err(error).context("PostgreSQL does not answer on its socket");
            }
            sleep(LOOK).await;
        }
    }

    fn alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => is_server(self.pid, &self.data),
        }
    }

    /// Returns when the process is gone.
    pub async fn ended(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that somebody else reaped it, so it is gone too.
            let status = child.wait().await;
            tracing::debug!(?status, "PostgreSQL ended");
            return;
        }
        while is_server(self.pid, &self.data) {
            sleep(LOOK * 5).await;
        }
    }

    /// Fast shutdown: sessions are ended, everything is written. Immediate after the deadline: as safe as a crash.
    pub async fn stop(mut self) {
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
            if !self.alive() {
                return;
            }
            if let Err(e) = kill(self.pid, signal) {
                tracing::warn!(pid = self.pid(), %signal, "PostgreSQL cannot be signalled: {e}");
            }
            if tokio::time::timeout(STOP_DEADLINE, self.ended()).await.is_ok() {
                return;
            }
        }
    }
}

/// Removes what a killed server left of its socket.
fn forget_socket(socket_dir: &Path) -> Result<()> {
    for name in [format!(".s.PGSQL.{PORT}.lock"), format!(".s.PGSQL.{PORT}")] {
        let path = socket_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context(format!("the stale {} cannot be removed", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn start_log(cluster: &Cluster) -> PathBuf {
    cluster.dir.join("start.log")
}

/// The server that `postmaster.pid` names, if it truly is the server of this directory, and its socket's directory.
fn running(data: &Path) -> Option<(Pid, PathBuf)> {
    // Lines: pid, data directory, start time, port, socket directory, …
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = Pid::from_raw(lines.next()?.trim().parse().ok().filter(|pid| *pid > 1)?);
    let socket_dir = lines.nth(3)?;
    is_server(pid, data).then(|| (pid, socket_dir.into()))
}

/// A pid proves nothing, since another process may have got it: the server also works in its data directory.
fn is_server(pid: Pid, data: &Path) -> bool {
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}"));
    let is_postgres = |exe: &Path| {
        // After an upgrade of the package the link ends with " (deleted)".
        exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres"))
    };
    // A zombie has neither link.
    link("cwd").is_ok_and(|cwd| cwd == data) && link("exe").is_ok_and(|exe| is_postgres(&exe))
}

/// Ends the backends that a killed server left: without it they serve nobody, but hold its shared memory.
async fn end_leftovers(data: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        let leftovers = processes().filter(|pid| is_server(*pid, data)).collect::<Vec<_>>();
        if leftovers.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > 2 * STOP_DEADLINE {
            bail!("processes {leftovers:?} of the former PostgreSQL do not end: kill them");
        }
        let patient = begin.elapsed() < STOP_DEADLINE;
        let signal = if patient { Signal::SIGQUIT } else { Signal::SIGKILL };
        for pid in leftovers {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    tracing::warn!(%pid, "a left-over of PostgreSQL cannot be signalled: {e}");
                }
            }
        }
        sleep(LOOK).await;
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}
