//! A system daemon that `up` runs because nobody else does: started, adopted after our own death, watched, ended.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::state::StateDir;

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// What is run, and how one knows that it runs.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub name: &'static str,
    pub program: PathBuf,
    /// Whoever answers here is the daemon, ours or the system's.
    pub socket: PathBuf,
}

/// A process that we started, in this life or in the last.
#[derive(Debug)]
struct Process {
    identity: Identity,
    child: Option<Child>,
}

/// A pid alone may have gone to another process; with the time of its start it has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    /// Clock ticks after the machine's start: field 22 of /proc/PID/stat.
    started: u64,
}

/// A daemon that is there: ours, or somebody else's.
#[derive(Debug)]
pub struct Running {
    daemon: Daemon,
    record: PathBuf,
    own: Option<Process>,
}

impl Daemon {
    /// Returns when the socket answers: at once where it does already.
    pub async fn ensure(&self, state: &StateDir) -> Result<Running> {
        let record = state.path(&format!("{}.json", self.name));
        let mut running = Running { daemon: self.clone(), record, own: None };
        if self.answers().await {
            running.own = running.recorded();
            let whose =
                if running.own.is_some() { "ours, of an earlier run" } else { "the system's" };
            tracing::info!(whose, "{} runs", self.name);
        } else {
            running.spawn(state).await?;
        }
        Ok(running)
    }

    async fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }
}

impl Running {
    async fn spawn(&mut self, state: &StateDir) -> Result<()> {
        let name = self.daemon.name;
        let log = state.path(&format!("{name}.log"));
        // In the foreground, our child; a process group of its own, so that a terminal's Ctrl-C is ours to handle.
        // Not a session of its own: see `reaper`.
        let mut command = Command::new(&self.daemon.program);
        if name == "libvirtd"
            && let Some(config) = steady_config()
        {
            state.write("libvirtd.conf", config.as_bytes())?;
            command.arg("--config").arg(state.path("libvirtd.conf"));
        }
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(&log)?);
        let mut command = tokio::process::Command::from(command);
        let mut child = command.spawn().with_context(|| format!("{name} did not start"))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        let deadline = Instant::now() + START_DEADLINE;
        if let Some(identity) = Identity::of(i32::try_from(pid)?) {
            // Written before it is of use: after our death in between, the next `up` knows it.
            state.write(&format!("{name}.json"), &serde_json::to_vec(&identity)?)?;
        }
        while !self.daemon.answers().await {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{name} ended ({status}) while it started: {}", last_lines(&said));
            }
            if Instant::now() > deadline {
                child.kill().await?;
                bail!(
                    "{name} does not answer at {}; see {}",
                    self.daemon.socket.display(),
                    log.display()
                );
            }
            sleep(LOOK).await;
        }
        // Another one may have been quicker; then ours ends by itself, and `ended` sees it.
        self.own = Identity::of(i32::try_from(pid)?)
            .map(|identity| Process { identity, child: Some(child) });
        tracing::info!(pid, "{name} started");
        Ok(())
    }

    /// The process of our last life, if it still runs.
    fn recorded(&self) -> Option<Process> {
        let identity: Identity = serde_json::from_slice(&std::fs::read(&self.record).ok()?).ok()?;
        (Identity::of(identity.pid)? == identity).then_some(Process { identity, child: None })
    }

    /// Starts it again whenever it is gone, until `stop`.
    pub async fn keep(mut self, state: &StateDir, stop: CancellationToken) -> Self {
        const LONGEST_PAUSE: Duration = Duration::from_secs(30);
        let mut pause = Duration::from_secs(1);
        loop {
            tokio::select! {
                () = stop.cancelled() => return self,
                () = self.ended() => {}
            }
            self.own = None;
            tracing::error!("{} is gone; it is started again", self.daemon.name);
            while !self.daemon.answers().await {
                match self.spawn(state).await {
                    Ok(()) => pause = Duration::from_secs(1),
                    Err(e) => tracing::error!("{e:#}"),
                }
                tokio::select! {
                    () = stop.cancelled() => return self,
                    () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                }
            }
        }
    }

    /// Returns when the process is gone, or, where it is not ours, when its socket no longer answers.
    async fn ended(&mut self) {
        match &mut self.own {
            Some(process) => process.ended().await,
            None => {
                while self.daemon.answers().await {
                    sleep(Duration::from_secs(2)).await;
                }
            }
        }
    }

    /// Ends it if it is ours.
    pub async fn stop(mut self) {
        let name = self.daemon.name;
        let Some(process) = &mut self.own else { return };
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Err(e) = kill(Pid::from_raw(process.identity.pid), signal) {
                tracing::warn!("{name} cannot be signalled: {e}");
            }
            if tokio::time::timeout(STOP_DEADLINE, process.ended()).await.is_ok() {
                tracing::info!("{name} ended");
                forget(&self.record);
                return;
            }
        }
        tracing::warn!("{name} does not end");
    }
}

impl Process {
    async fn ended(&mut self) {
        if let Some(child) = &mut self.child {
            let status = child.wait().await;
            tracing::debug!(?status, pid = self.identity.pid, "a daemon ended");
            return;
        }
        while Identity::of(self.identity.pid).as_ref() == Some(&self.identity) {
            sleep(LOOK).await;
        }
    }
}

impl Identity {
    /// Of a living process: a zombie has none.
    fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let started = fields.get(19)?.parse().ok()?;
        (*fields.first()? != "Z").then_some(Self { pid, started })
    }
}

fn forget(record: &Path) {
    if let Err(e) = std::fs::remove_file(record) {
        tracing::debug!("{}: {e}", record.display());
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

/// A host is its UUID. Where the firmware has none, libvirtd makes one up at each start; the machine's id is then steadier,
/// and the same for every cloud on this machine. `None`: the system's own configuration will do.
fn steady_config() -> Option<String> {
    if Path::new("/sys/class/dmi/id/product_uuid").exists() {
        return None;
    }
    let machine = std::fs::read_to_string("/etc/machine-id").ok()?;
    if machine.trim().len() != 32 {
        return None;
    }
    let system = std::fs::read_to_string("/etc/libvirt/libvirtd.conf").unwrap_or_default();
    let said = |line: &str| line.trim_start().starts_with("host_uuid");
    if system.lines().any(said) {
        return None;
    }
    Some(format!("{system}\nhost_uuid_source = \"machine-id\"\n"))
}
