//! The state directory of `pileus up`: its lock, the cloud's id, the bootstrap admin.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::Secret;

/// How long the lock of a process may be held that is dying.
const DYING: Duration = Duration::from_secs(2);

/// A locked state directory; the lock goes with the process, however that ends.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    _lock: File,
}

/// What a script needs to log in.
#[derive(Debug)]
pub struct Admin {
    pub user: String,
    pub password: Secret,
}

/// The content of `admin.json`.
#[derive(Serialize, Deserialize)]
struct AdminFile {
    url: String,
    user: String,
    password: String,
}

impl StateDir {
    /// Makes the directory where it is missing, and locks it.
    ///
    /// Others may pass through (0711) but not list it: PostgreSQL and QEMU run as other users and have their directories
    /// below. What is secret has its own mode.
    pub fn open(dir: &Path) -> Result<Self> {
        let shown = dir.display();
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("{shown} cannot be made"))?;
        }
        match DirBuilder::new().mode(0o711).create(dir) {
            // The umask may have taken bits away.
            Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(0o711))?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("{shown} cannot be made")),
        }
        let found = std::fs::metadata(dir)?;
        ensure!(found.is_dir(), "{shown} is no directory: choose another with --state-dir");
        // In a directory that others own or write to, they could put their files in the place of ours.
        ensure!(
            found.uid() == Uid::effective().as_raw() && found.mode() & 0o022 == 0,
            "{shown} must belong to the user who runs `pileus up`, and nobody else may write to it: \
             change that, or choose another with --state-dir"
        );
        let dir = dir.canonicalize()?;
        Ok(Self { _lock: lock(&dir)?, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The id that our stamps on hosts bear: made once.
    pub fn cloud_id(&self) -> Result<Uuid> {
        let path = self.path("cloud-id");
        match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().with_context(|| {
                format!("{} holds no UUID: write the id of the cloud into it", path.display())
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // Its front is in the names of our things on a host: that of a UUIDv7 is the same for a minute.
                let id = Uuid::new_v4();
                self.write("cloud-id", format!("{id}\n").as_bytes())?;
                Ok(id)
            }
            Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// The bootstrap admin; the password is made once, the file follows `url`.
    pub fn admin(&self, url: &str) -> Result<Admin> {
        let path = self.path("admin.json");
        let found: Option<AdminFile> = match std::fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice(&text).with_context(|| {
                format!("{} is damaged: remove it, and a new password is made", path.display())
            })?),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
        };
        let (user, password) = match found {
            Some(file) => (file.user, file.password),
            None => ("admin".into(), new_password()),
        };
        let file = AdminFile { url: url.into(), user, password };
        self.write("admin.json", serde_json::to_string_pretty(&file)?.as_bytes())?;
        Ok(Admin { user: file.user, password: Secret::new(file.password) })
    }

    /// Replaces a file as a whole, readable by us alone: a crash leaves the old one or the new one.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, unfinished) = (self.path(name), self.path(&format!("{name}.unfinished")));
        let write = || -> std::io::Result<()> {
            match std::fs::remove_file(&unfinished) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// 192 bits of the system's randomness in 32 characters that need no quoting anywhere.
fn new_password() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    // One that was killed this moment still holds it.
    let patience = Instant::now() + DYING;
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(50));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "another `pileus up` (pid {}) runs on {}: stop it, or give this one its own --state-dir and --listen",
                holder.trim(),
                dir.display()
            );
        }
        Err(TryLockError::Error(e)) => {
            return Err(e).with_context(|| format!("{} cannot be locked", path.display()));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_directory_lets_others_through_and_its_secrets_nobody() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(&parent.path().join("a/b")).unwrap();
        assert_eq!(mode(&parent.path().join("a/b")), 0o711);
        state.admin("http://x").unwrap();
        state.cloud_id().unwrap();
        for secret in ["admin.json", "cloud-id", "lock"] {
            assert_eq!(mode(&state.path(secret)), 0o600, "{secret}");
        }
    }

    #[test]
    fn the_second_on_a_directory_is_refused_and_told_who_holds_it() {
        let parent = tempfile::tempdir().unwrap();
        let first = StateDir::open(&parent.path().join("state")).unwrap();
        let error = StateDir::open(&parent.path().join("state")).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        StateDir::open(&parent.path().join("other")).unwrap();
        drop(first);
        StateDir::open(&parent.path().join("state")).unwrap();
    }

    #[test]
    fn id_and_password_are_made_once_and_the_url_follows_the_setting() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        let (id, password) = {
            let state = StateDir::open(&dir).unwrap();
            (state.cloud_id().unwrap(), state.admin("http://old").unwrap().password)
        };
        assert_eq!(password.expose().len(), 32);
        let state = StateDir::open(&dir).unwrap();
        assert_eq!(state.cloud_id().unwrap(), id);
        assert_eq!(state.admin("http://new").unwrap().password, password);
        let file: AdminFile =
            serde_json::from_slice(&std::fs::read(state.path("admin.json")).unwrap()).unwrap();
        assert_eq!((file.url.as_str(), file.user.as_str()), ("http://new", "admin"));
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_file_and_stops_nobody() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(&parent.path().join("state")).unwrap();
        let password = state.admin("http://x").unwrap().password;
        std::fs::write(state.path("admin.json.unfinished"), "{\"url").unwrap();
        assert_eq!(state.admin("http://x").unwrap().password, password);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let error = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("nobody else may write"), "{error}");
    }
}
