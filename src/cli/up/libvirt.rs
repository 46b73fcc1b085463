//! The local libvirt of `pileus up`: the system's where it runs, else libvirtd and virtlogd as our children.
//!
//! Guests outlive both us and libvirtd: libvirt starts QEMU as a daemon of its own session, and libvirtd leaves its
//! guests alone when it ends; the next libvirtd finds them by their pid files. A service manager that runs `pileus up`
//! must kill the main process only (systemd: `KillMode=process`), not the whole control group.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;

use super::daemon::{Daemon, Running};
use super::state::StateDir;
use crate::config::Config;
use crate::server::LocalHost;

const SYSTEM: &str = "qemu:///system";
const SESSION: &str = "qemu:///session";
const RUN: &str = "/run/libvirt";
/// A running libvirtd answers at once; one that is just started probes QEMU first.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);
const INSTALL: &str = "`apt-get install libvirt-daemon-system qemu-system-x86 qemu-utils` installs it; \
    or name another with --libvirt-uri, or none with --libvirt-uri none";

/// The local libvirt, answering.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    stop: CancellationToken,
    /// libvirtd and virtlogd, where we look after them.
    keepers: Option<(JoinHandle<Running>, JoinHandle<Running>)>,
}

impl Libvirt {
    /// `None` where the settings want no local host.
    pub async fn start(config: &Config, state: &Arc<StateDir>) -> Result<Option<Self>> {
        virt::error::clear_error_callback();
        let root = Uid::effective().is_root();
        let uri = match config.libvirt_uri.as_str() {
            "none" => return Ok(None),
            "auto" if root => SYSTEM,
            "auto" => SESSION,
            uri => uri,
        };
        if uri.starts_with("test:") && !config.allow_test_hosts {
            bail!(
                "libvirt_uri is {uri}, libvirt's mock host, whose guests are records and never run: give a qemu URI, or set \
                 allow_test_hosts where that is what you want"
            );
        }
        let mut libvirt =
            Self { uri: uri.to_owned(), stop: CancellationToken::new(), keepers: None };
        if uri == SESSION {
            tracing::warn!(
                "without root the local host is {SESSION}: NAT networks and packet filters do not work there; instances \
                 without a network do"
            );
        }
        if root && uri == SYSTEM {
            libvirt.keep_daemons(state).await?;
        }
        if let Err(e) = probe(uri).await {
            libvirt.stop().await;
            return Err(e.context(format!("{uri} does not answer: {INSTALL}")));
        }
        Ok(Some(libvirt))
    }

    /// What the server registers.
    pub fn host(&self, config: &Config) -> LocalHost {
        LocalHost {
            uri: self.uri.clone(),
            virt_type: config.virt_type,
            reserved_disk_gib: taken_gib(&config.state_dir),
        }
    }

    async fn keep_daemons(&mut self, state: &Arc<StateDir>) -> Result<()> {
        let daemon = |name: &'static str, socket: &str| -> Result<Daemon> {
            Ok(Daemon { name, program: program(name)?, socket: Path::new(RUN).join(socket) })
        };
        let (libvirtd, virtlogd) =
            (daemon("libvirtd", "libvirt-sock")?, daemon("virtlogd", "virtlogd-sock")?);
        // virtlogd first: it holds the serial logs of the guests that libvirtd starts.
        let log = virtlogd.ensure(state).await?;
        let daemon = match libvirtd.ensure(state).await {
            Ok(daemon) => daemon,
            Err(e) => {
                log.stop().await;
                return Err(e);
            }
        };
        let keep = |running: Running| {
            let (state, stop) = (Arc::clone(state), self.stop.clone());
            tokio::spawn(async move { running.keep(&state, stop).await })
        };
        self.keepers = Some((keep(daemon), keep(log)));
        Ok(())
    }

    /// Ends the daemons that are ours. virtlogd stays while guests run: it writes their consoles, and they could not be
    /// connected to a new one; the next `up` finds it.
    pub async fn stop(self) {
        self.stop.cancel();
        let Some((libvirtd, virtlogd)) = self.keepers else { return };
        let guests = guests(&self.uri).await;
        match libvirtd.await {
            Ok(running) => running.stop().await,
            Err(e) => tracing::warn!("the keeper of libvirtd failed: {e}"),
        }
        match (virtlogd.await, guests) {
            (Ok(running), Ok(0)) => running.stop().await,
            (Ok(_), Ok(guests)) => tracing::info!(guests, "guests go on, and virtlogd with them"),
            (Ok(_), Err(e)) => tracing::warn!("virtlogd is left running, for guests may be: {e:#}"),
            (Err(e), _) => tracing::warn!("the keeper of virtlogd failed: {e}"),
        }
    }
}

/// What is taken of the file system of a directory, in GiB, rounded up; 0 where it cannot be read.
fn taken_gib(dir: &Path) -> i64 {
    statvfs(dir).map_or(0, |found| {
        let taken = found.blocks().saturating_sub(found.blocks_available());
        i64::try_from((taken * found.fragment_size()).div_ceil(1 << 30)).unwrap_or(i64::MAX)
    })
}

fn program(name: &str) -> Result<PathBuf> {
    let mut dirs = crate::config::search_path();
    dirs.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    match dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no {name}: {INSTALL}"),
    }
}

/// Whether libvirt answers.
async fn probe(uri: &str) -> Result<()> {
    ask(uri, Connect::is_alive).await.map(drop)
}

/// How many guests run there, ours or not.
async fn guests(uri: &str) -> Result<u32> {
    ask(uri, Connect::num_of_domains).await
}

/// One question on a connection of its own. The call blocks and may hang: then its thread is left behind.
async fn ask<T: Send + 'static>(
    uri: &str,
    question: impl FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
) -> Result<T> {
    let uri = uri.to_owned();
    let answer = tokio::task::spawn_blocking(move || question(&Connect::open(Some(&uri))?));
    let answer = tokio::time::timeout(PROBE_DEADLINE, answer).await;
    Ok(answer.context("it says nothing within 30 s")???)
}
