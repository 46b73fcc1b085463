//! A cluster's directory: who owns it, how it is initialised, where its socket lies, how one connects.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid, User};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use uuid::Uuid;

use super::binaries::Binaries;

/// The database that is ours, and the cluster's only role.
pub const DATABASE: &str = "pileus";
const ROLE: &str = "pileus";
pub(super) const PORT: u16 = 5432;
/// `sun_path` has 108 bytes, the last one zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// A private cluster; nothing of it need exist yet.
///
/// Safety of `trust`: the server listens on no network, only on a socket in a directory of mode 0700 that belongs to
/// the database's user. Whoever can connect could read the files of the cluster as well, so a password would
/// protect nothing more. Root may enter every directory, hence our own process may.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Holds `data`, the socket's directory and the log of the start. Absolute.
    pub dir: PathBuf,
    binaries: Binaries,
    user: Owner,
    connections: u32,
    /// Off only for throw-away clusters.
    durable: bool,
}

#[derive(Debug, Clone)]
struct Owner {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Cluster {
    /// Finds the binaries and the user; makes `dir`.
    pub fn open(dir: &Path, bin: Option<&Path>, connections: u32) -> Result<Self> {
        let dir = std::path::absolute(dir)?;
        let data = dir.join("data");
        let major = match std::fs::read_to_string(data.join("PG_VERSION")) {
            Ok(text) => Some(text.trim().parse().context("data/PG_VERSION has no number")?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).context(format!("{} cannot be read", data.display())),
        };
        let binaries = Binaries::find(bin, major)?;
        let user = owner(&data)?;
        let cluster = Self { dir, binaries, user, connections, durable: true };
        cluster.private_dir(&cluster.dir)?;
        cluster.check_reachable()?;
        Ok(cluster)
    }

    /// Without fsync and checksums: for data that goes with the process.
    pub(super) fn throwaway(mut self) -> Self {
        self.durable = false;
        self
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The user id that the server runs as.
    pub fn uid(&self) -> u32 {
        self.user.uid.as_raw()
    }

    /// Initialises `data` unless it is there.
    ///
    /// initdb works beside it and the result is renamed, so that `data` is whole or absent: what an interrupted
    /// initdb left is thrown away here.
    pub async fn init(&self) -> Result<()> {
        let data = self.data();
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        ensure!(
            !data.exists(),
            "{} exists and is no PostgreSQL cluster: move it away",
            data.display()
        );
        let unfinished = self.dir.join("data.unfinished");
        if unfinished.exists() {
            tracing::warn!("an interrupted initdb is done again");
            std::fs::remove_dir_all(&unfinished).context("what initdb left cannot be removed")?;
        }
        let mut command = self.command("initdb");
        command.arg("--pgdata").arg(&unfinished);
        // Locale C sorts by bytes: it exists everywhere, and no upgrade of the C library breaks an index.
        command.args([
            "--username",
            ROLE,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
        ]);
        command.arg(if self.durable { "--data-checksums" } else { "--no-sync" });
        let output = tokio::process::Command::from(command)
            .output()
            .await
            .context("initdb did not start")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("initdb failed in {}: {said}", self.dir.display());
        }
        std::fs::rename(&unfinished, &data)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        Ok(())
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.binaries.program(name)
    }

    /// A program of this PostgreSQL as the database's user, in its own process group (a terminal's Ctrl-C is ours to
    /// handle) and without our environment (a `PGPORT` of the user must not steer it).
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        self.as_user(&mut command);
        command
    }

    pub(super) fn as_user(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
        command.current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        if Uid::effective().is_root() {
            // The standard library drops root's other groups with this.
            command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
        }
    }

    /// The arguments of `postgres`. What is given here beats `postgresql.conf`, which stays as initdb wrote it.
    pub(super) fn arguments(&self, socket_dir: &Path) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("port={PORT}"),
            format!("unix_socket_directories={}", quoted_list_item(&path(socket_dir))),
            "unix_socket_permissions=0700".into(),
            format!("max_connections={}", self.connections),
            "shared_buffers=64MB".into(),
            "max_wal_size=512MB".into(),
            "timezone=UTC".into(),
        ];
        if self.durable {
            // A week of logs, each day's file written over by that of the next week.
            settings.extend(
                [
                    "fsync=on",
                    "logging_collector=on",
                    "log_directory=log",
                    "log_filename=postgresql-%a.log",
                    "log_truncate_on_rotation=on",
                    "log_rotation_size=0",
                ]
                .map(Into::into),
            );
        } else {
            let fast =
                ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off"];
            settings.extend(fast.map(Into::into));
        }
        let mut arguments = vec!["-D".to_owned(), path(&self.data())];
        arguments.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
        arguments
    }

    /// Where the socket goes: in the cluster's directory, or in a private one of a short name where the path of a
    /// socket in there would be too long for the kernel.
    pub(super) fn socket_dir(&self) -> Result<PathBuf> {
        let inside = self.dir.join("run");
        let dir = if fits(&inside) { inside } else { self.short_dir() };
        self.private_dir(&dir)?;
        Ok(dir)
    }

    fn short_dir(&self) -> PathBuf {
        let run = Path::new("/run");
        let parent =
            if Uid::effective().is_root() && run.is_dir() { run } else { Path::new("/tmp") };
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, self.dir.as_os_str().as_encoded_bytes());
        parent.join(format!("pileus-{}", name.simple()))
    }

    /// Connects to the maintenance database; `.database(…)` chooses another.
    pub fn options(&self, socket_dir: &Path) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(socket_dir)
            .port(PORT)
            .username(ROLE)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging()
    }

    pub(super) fn url(socket_dir: &Path) -> String {
        let host = percent_encoded(&socket_dir.to_string_lossy());
        format!("postgres://{ROLE}@{host}:{PORT}/{DATABASE}")
    }

    /// Creates a database unless it is there.
    pub async fn create_database(&self, options: &PgConnectOptions, name: &str) -> Result<()> {
        let mut conn = options.connect().await?;
        let query = "select exists (select from pg_database where datname = $1)";
        let there: bool = sqlx::query_scalar(query).bind(name).fetch_one(&mut conn).await?;
        if !there {
            // A name cannot be a parameter; this one is ours.
            let create = AssertSqlSafe(format!("create database \"{name}\""));
            sqlx::raw_sql(create).execute(&mut conn).await?;
        }
        Ok(conn.close().await?)
    }

    /// Makes a directory that only the database's user may enter, or refuses one that is somebody else's.
    fn private_dir(&self, dir: &Path) -> Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) if Uid::effective().is_root() => {
                chown(dir, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw()))?;
            }
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).context(format!("{} cannot be made", dir.display())),
        }
        // Not `metadata`: a symbolic link that somebody laid in /tmp must not be followed.
        let found = std::fs::symlink_metadata(dir)?;
        ensure!(
            found.is_dir() && found.uid() == self.uid() && found.mode() & 0o077 == 0,
            "{} must be a directory of user {} with mode 0700: move it away or change it",
            dir.display(),
            self.user.name
        );
        Ok(())
    }

    /// As root the server runs as another user, who must be able to enter every directory on the way.
    fn check_reachable(&self) -> Result<()> {
        let real = self.dir.canonicalize()?;
        for ancestor in real.ancestors().skip(1) {
            let found = std::fs::metadata(ancestor)?;
            let bit = match () {
                () if found.uid() == self.uid() => 0o100,
                () if found.gid() == self.user.gid.as_raw() => 0o010,
                () => 0o001,
            };
            ensure!(
                self.user.uid.is_root() || found.mode() & bit != 0,
                "user {}, whom PostgreSQL runs as, cannot enter {}: `chmod o+x` it, or choose another --state-dir",
                self.user.name,
                ancestor.display()
            );
        }
        Ok(())
    }
}

/// PostgreSQL refuses to run as root: then it is the owner of an existing cluster, else `postgres`, else `nobody`.
fn owner(data: &Path) -> Result<Owner> {
    let of = |user: User| Owner { name: user.name, uid: user.uid, gid: user.gid };
    if !Uid::effective().is_root() {
        let uid = Uid::effective();
        let name = User::from_uid(uid)?.map_or_else(|| uid.to_string(), |user| user.name);
        return Ok(Owner { name, uid, gid: Gid::effective() });
    }
    if let Ok(found) = std::fs::metadata(data)
        && let Some(user) = User::from_uid(Uid::from_raw(found.uid()))?
        && !user.uid.is_root()
    {
        return Ok(of(user));
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(of(user));
        }
    }
    bail!(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody: add one"
    )
}

fn fits(socket_dir: &Path) -> bool {
    let file = format!("/.s.PGSQL.{PORT}");
    socket_dir.as_os_str().len() + file.len() <= LONGEST_SOCKET_PATH
}

/// The setting is a comma-separated list of quoted identifiers.
fn quoted_list_item(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
