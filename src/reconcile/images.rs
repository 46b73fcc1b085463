//! Frees what deleted images leave: the image with its last instance, the bytes with their last image, files that nobody knows.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::PgPool;

use super::{Context, Outcome as Look, Trouble, hold};
use crate::domain::clock::Clock;
use crate::domain::error::{Error, Result};
use crate::domain::event::{Actor, NewEvent, Outcome, Subject};
use crate::domain::id::ImageId;
use crate::domain::image;
use crate::store;
use crate::store::work::{self, Kind, Lease};

/// What is younger than this is left alone: its maker may be between making and locking it, or between file and row.
const YOUNG: Duration = Duration::from_mins(1);

/// Where images are kept, and what says so.
#[derive(Debug, Clone)]
pub struct Images {
    pub db: PgPool,
    pub clock: Clock,
    /// `config.image_dir`.
    pub image_dir: PathBuf,
    /// `config.image_scratch_dir`.
    pub scratch_dir: PathBuf,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub images: u64,
    pub blobs: u64,
    /// Files without a row, and what crashes left of uploads.
    pub files: u64,
}

/// One look at a deleted image.
pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Look, Trouble> {
    let id = ImageId(lease.item);
    if hold::everywhere(ctx).await?.is_some() {
        return Ok(hold::wait());
    }
    let was_there = store::images::get(&mut *ctx.conn().await?, None, id).await?.is_some();
    Images::of(ctx).reconcile(id).await?;
    let mut tx = ctx.write(lease).await?;
    if store::images::get(&mut tx, None, id).await?.is_some() {
        return Ok(Look::rest());
    }
    if was_there {
        // It may have been deleted after its bytes were looked at: they would wait for the next full scan.
        return Ok(Look::Again);
    }
    work::remove(&mut tx, Kind::Image, id.0).await?;
    tx.commit().await?;
    ctx.changes.changed(id.0);
    Ok(Look::Gone)
}

impl Images {
    pub fn of(ctx: &Context) -> Self {
        Self {
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
            image_dir: ctx.config.image_dir.clone(),
            scratch_dir: ctx.config.image_scratch_dir.clone(),
        }
    }

    /// Looks at one image: deleted and used by nothing any more, it goes, and its bytes with it unless another image has the
    /// same. An image is looked at when it is deleted, and when an instance of it is forgotten. Safe to repeat, and safe without
    /// the item's lease: each step is under the locks of its rows.
    pub async fn reconcile(&self, id: ImageId) -> Result<()> {
        self.free_image(id).await?;
        self.free_blobs().await?;
        Ok(())
    }

    /// The slow full scan, which finds what signals missed.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        let forsaken = store::images::forsaken(&mut *store::acquire(&self.db).await?).await?;
        for id in forsaken {
            swept.images += u64::from(self.free_image(id).await?);
        }
        swept.blobs = self.free_blobs().await?;
        swept.files = self.free_files().await? + self.free_scratch().await?;
        Ok(swept)
    }

    async fn free_image(&self, id: ImageId) -> Result<bool> {
        let mut tx = store::begin(&self.db).await?;
        if !store::images::is_hidden(&mut tx, id).await? {
            return Ok(false);
        }
        let Some(image) = store::images::get(&mut tx, None, id).await? else { return Ok(false) };
        if !store::images::remove_unused(&mut tx, id).await? {
            return Ok(false);
        }
        let name = image.name.to_string();
        let event = NewEvent {
            kind: "image.delete",
            subject: Subject { kind: "image", id: id.0, name, tenant: image.tenant_id },
            actor: Actor { name: "reconciler".into(), ..Actor::default() },
            outcome: Outcome::Done,
            detail: serde_json::json!({}),
        };
        store::events::insert(&mut tx, &event, self.clock.now()).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Takes away the bytes that no image stands on; gives of how many blobs.
    async fn free_blobs(&self) -> Result<u64> {
        let (mut freed, mut after) = (0, String::new());
        loop {
            let sums =
                store::images::unused_blobs(&mut *store::acquire(&self.db).await?, &after).await?;
            let Some(last) = sums.last() else { return Ok(freed) };
            after.clone_from(last);
            for sum in &sums {
                freed += u64::from(self.free_blob(sum).await?);
            }
        }
    }

    /// File first, row second, under the blob's lock: an upload of the same bytes waits, and then puts its own file there. A row
    /// that copies on hosts hold stays until they are gone; they are looked at now.
    async fn free_blob(&self, sha256: &str) -> Result<bool> {
        let mut tx = store::begin(&self.db).await?;
        store::images::lock_blob(&mut tx, sha256).await?;
        if store::images::blob_is_used(&mut tx, sha256).await? {
            return Ok(false);
        }
        // A crash of the database must not bring back an image whose bytes are gone.
        store::flush::Flush::default().wait(&self.db).await?;
        unlink(image::path(&self.image_dir, sha256)).await?;
        let removed = store::images::remove_blob(&mut tx, sha256).await?;
        for copy in store::images::host_copies(&mut tx, sha256).await? {
            work::touch(&mut tx, Kind::HostImage, copy, self.clock.now()).await?;
        }
        tx.commit().await?;
        Ok(removed)
    }

    /// Files named like a checksum that no row names: a transaction was lost after its file was in place.
    async fn free_files(&self) -> Result<u64> {
        let dir = self.image_dir.clone();
        let is_sum = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let files = blocking(move || old_files(&dir)).await?;
        let mut freed = 0;
        for (path, name) in files.into_iter().filter(|(_, name)| is_sum(name)) {
            let mut tx = store::begin(&self.db).await?;
            store::images::lock_blob(&mut tx, &name).await?;
            if !store::images::blob_is_kept(&mut tx, &name).await? {
                unlink(path).await?;
                freed += 1;
            }
            tx.commit().await?;
        }
        Ok(freed)
    }

    /// What a crash left of uploads. A file in use is locked by its upload.
    async fn free_scratch(&self) -> Result<u64> {
        let dir = self.scratch_dir.clone();
        blocking(move || {
            let mut freed = 0;
            for (path, name) in old_files(&dir)? {
                if name.starts_with("upload-") && is_abandoned(&path)? {
                    freed += u64::from(remove(&path)?);
                }
            }
            Ok(freed)
        })
        .await
    }
}

/// The regular files of a directory that nobody has just made or written, with their names; none where there is no directory.
fn old_files(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // It went meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A file's times are the system's, whatever clock we are given.
        let age = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
        if let Ok(name) = entry.file_name().into_string()
            && metadata.is_file()
            && age >= YOUNG
        {
            files.push((entry.path(), name));
        }
    }
    Ok(files)
}

fn is_abandoned(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// `false`: it was gone already.
fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn unlink(path: PathBuf) -> Result<()> {
    blocking(move || remove(&path)).await.map(drop)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?.map_err(Error::internal)
}
