//! Which server, and as whom: flags and variables, a login that was kept, or the admin of this machine's own cloud.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::http::Http;
use crate::config::{Config, Flags, Secret};
use crate::domain::clock::Clock;

const DEFAULT_URL: &str = "http://127.0.0.1:7460";

// Without any of these: the login that `pileus login` kept, else the admin of this machine's own cloud.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Where the cloud is
    #[arg(long, env = "PILEUS_URL")]
    pub url: Option<String>,
    /// An API token or a JWT
    #[arg(long, env = "PILEUS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Log in as this file says: url, user and password, such as `up` writes
    #[arg(long, value_name = "FILE")]
    admin_json: Option<PathBuf>,
    /// How results are printed
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[arg(long, env = "XDG_CONFIG_HOME", hide = true)]
    xdg_config_home: Option<PathBuf>,
    #[arg(long, env = "HOME", hide = true)]
    home: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A login that is kept, in a file that its owner alone can read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    pub url: String,
    pub token: String,
    /// None: it does not end.
    pub expires_at: Option<DateTime<Utc>>,
    pub user: String,
    pub tenant: Option<String>,
    /// Set where it is an API token, which a logout revokes.
    #[serde(default)]
    pub token_id: Option<String>,
}

/// What `admin.json` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Admin {
    pub url: String,
    pub user: String,
    pub password: String,
}

impl Connection {
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }

    /// The first of: the token given; the file given; the login kept for this server; the admin of the local `up`.
    pub async fn open(&self) -> Result<Http> {
        let url = || self.url.clone().unwrap_or_else(|| DEFAULT_URL.into());
        if let Some(token) = &self.token {
            return Http::new(&url(), Some(token));
        }
        if let Some(path) = &self.admin_json {
            return self.as_admin(path).await;
        }
        let kept = self.kept()?.filter(|kept| self.url.as_ref().is_none_or(|url| *url == kept.url));
        if let Some(kept) = &kept
            && kept.is_good()
        {
            return Http::new(&kept.url, Some(&kept.token));
        }
        let local = local_admin();
        if let Some(path) = local.filter(|_| self.url.is_none()) {
            return self.as_admin(&path).await;
        }
        let why = if kept.is_some() { "the login has ended" } else { "nobody is logged in" };
        Err(Failure::new(
            Failure::NOT_ALLOWED,
            format!("{why}: run `pileus login`, or set PILEUS_URL and PILEUS_TOKEN"),
        )
        .into())
    }

    /// Logs in as the file says. The token is kept for the next commands, since logins are few by design.
    async fn as_admin(&self, path: &Path) -> Result<Http> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let admin: Admin = serde_json::from_str(&text)
            .with_context(|| format!("{} holds no url, user and password", path.display()))?;
        let url = self.url.clone().unwrap_or_else(|| admin.url.clone());
        let session = self.directory().map(|dir| dir.join("admin-session.json"));
        if let Ok(session) = &session
            && let Some(kept) = read(session)?.filter(|kept| kept.url == url && kept.is_good())
        {
            let http = Http::new(&url, Some(&kept.token))?;
            // The cloud may have been made anew under the same URL.
            if http.get("/v1/auth/whoami").await.is_ok() {
                return Ok(http);
            }
        }
        let login = Http::new(&url, None)?;
        let kept = login.login(&admin.user, &Secret::new(admin.password), None).await;
        let kept = kept.with_context(|| {
            format!(
                "the login of {} was not taken; where its password was changed since, run `pileus login`",
                path.display()
            )
        })?;
        if let Ok(session) = &session {
            write(session, &kept)?;
        }
        Http::new(&url, Some(&kept.token))
    }

    /// The login that was kept.
    pub fn kept(&self) -> Result<Option<Kept>> {
        read(&self.file()?)
    }

    pub fn keep(&self, kept: &Kept) -> Result<PathBuf> {
        let path = self.file()?;
        write(&path, kept)?;
        Ok(path)
    }

    pub fn forget(&self) -> Result<()> {
        let path = self.file()?;
        std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))
    }

    /// Where a login is to go.
    pub fn login_url(&self) -> String {
        self.url.clone().unwrap_or_else(|| DEFAULT_URL.into())
    }

    fn file(&self) -> Result<PathBuf> {
        Ok(self.directory()?.join("login.json"))
    }

    fn directory(&self) -> Result<PathBuf> {
        let home = || self.home.as_ref().map(|home| home.join(".config"));
        let config = self.xdg_config_home.clone().filter(|dir| dir.is_absolute()).or_else(home);
        Ok(config.context("a login has no place to be kept: set HOME")?.join("pileus"))
    }
}

impl Kept {
    /// Whether it is good for some time yet.
    fn is_good(&self) -> bool {
        self.expires_at.is_none_or(|end| end > Clock::System.now() + chrono::TimeDelta::seconds(10))
    }
}

/// The file that the local `up` writes, if we may read it.
fn local_admin() -> Option<PathBuf> {
    // Settings that cannot be used are the server's matter.
    let config = Config::from_process(&Flags::default()).ok()?;
    let path = config.state_dir.join("admin.json");
    std::fs::File::open(&path).is_ok().then_some(path)
}

fn read(path: &Path) -> Result<Option<Kept>> {
    match std::fs::read(path) {
        Ok(text) => {
            let kept = serde_json::from_slice(&text);
            Ok(Some(kept.with_context(|| format!("{} is damaged: remove it", path.display()))?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Replaces the file as a whole, so that no other command reads half of it.
fn write(path: &Path, kept: &Kept) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(kept)?)?;
        std::fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
