//! A PostgreSQL that a test may kill: its own cluster, running among a libvirt host's processes, so that it ends with them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pileus::cli::postgres::Cluster;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::sleep;

use crate::libvirtd::Libvirtd;
use crate::process::Process;

const SOON: Duration = Duration::from_secs(60);

pub struct Postgres {
    host: Arc<Libvirtd>,
    cluster: Cluster,
    process: Option<Process>,
}

impl Postgres {
    /// A new cluster below the host's directory, running.
    pub async fn start(host: &Arc<Libvirtd>) -> Self {
        let cluster = Cluster::open(&host.path("postgres"), None, 100).expect("a cluster");
        cluster.init().await.expect("initdb");
        let mut postgres = Self { host: Arc::clone(host), cluster, process: None };
        postgres.start_again().await;
        postgres
    }

    pub fn options(&self) -> PgConnectOptions {
        self.cluster.options(&self.cluster.dir)
    }

    pub fn url(&self) -> String {
        let dir = self.cluster.dir.to_string_lossy().replace('/', "%2F");
        format!("postgres://pileus@{dir}:5432/postgres")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.cluster.dir.join(".s.PGSQL.5432")
    }

    pub async fn connect(&self) -> PgConnection {
        self.options().connect().await.expect("a connection")
    }

    /// Starts it unless it runs, and waits until it answers.
    pub async fn start_again(&mut self) {
        let end = Instant::now() + SOON;
        while self.options().connect().await.is_err() {
            if self.process.as_mut().is_none_or(|process| process.has_ended().is_some()) {
                // At once after a kill its orphans may still hold the memory: then this one gives up.
                self.process = Some(Process::spawn(self.command()));
            }
            assert!(Instant::now() < end, "PostgreSQL does not answer within {SOON:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kill -9` of the postmaster.
    pub async fn kill(&mut self) {
        let process = self.process.as_mut().expect("a postmaster");
        process.signal(Signal::SIGKILL);
        process.ended().await;
    }

    /// Ids of its backends, seen from here.
    pub fn backends(&self) -> Vec<i32> {
        let pid = self.process.as_ref().expect("a postmaster").pid();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let backend = |pid: &&str| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| line.contains("pileus postgres"))
        };
        children.split_whitespace().filter(backend).map(|pid| pid.parse().unwrap()).collect()
    }

    /// The same as a stop of the whole server's processes in their tracks; `false`: they go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.process.as_ref().expect("a postmaster").signal(signal);
        for pid in self.backends() {
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    fn command(&self) -> std::process::Command {
        let data = self.cluster.data();
        let gid = std::fs::metadata(&data).expect("a cluster").gid();
        let mut command = self.host.command_beside("setpriv");
        command.arg(format!("--reuid={}", self.cluster.uid())).arg(format!("--regid={gid}"));
        command.args(["--clear-groups", "--"]).arg(program());
        command.arg("-D").arg(&data);
        let sockets = format!("unix_socket_directories={}", self.cluster.dir.display());
        // Without fsync: the machine itself survives. What was committed must survive a kill, hence synchronous_commit.
        let settings = [
            "listen_addresses=",
            &sockets,
            "fsync=off",
            "synchronous_commit=on",
            "max_connections=100",
        ];
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let log = std::fs::File::options().append(true).create(true).open(self.log()).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    pub fn log(&self) -> PathBuf {
        self.host.path("postgres.log")
    }
}

fn program() -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL of the distribution")
        .map(|entry| entry.unwrap().path().join("bin/postgres"))
        .filter(|path| Path::is_file(path))
        .collect();
    found.sort();
    found.pop().expect("a postgres below /usr/lib/postgresql")
}
