//! Where the bytes of an upload are gathered: a file that is gone unless it is kept, hashed while it is written.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use nix::sys::statvfs::statvfs;
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;
use uuid::Uuid;

use crate::domain::checksum::Checksum;
use crate::domain::error::{Error, Result};
use crate::domain::qcow2;

/// Chunks that wait for the disk; a chunk is what one read of the connection gave, at most some 400 KiB.
const BUFFER: usize = 4;

/// Zeros are not written: the file has a hole there.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Makes the directory, for us alone, with what lies above it.
pub fn make_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::Internal(anyhow::Error::new(e).context(dir.display().to_string())))
}

/// A file in the scratch directory. It holds a lock, by which a sweep tells it from what a crash left; dropped, it is removed.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("upload-{}", Uuid::now_v7()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let scratch = Self { file, path, kept: false };
        scratch.file.lock()?;
        Ok(scratch)
    }

    /// Another descriptor of the file, for reading by a process of any user. (The directory is closed to all others.)
    pub fn reader(&self) -> io::Result<File> {
        self.file.set_permissions(Permissions::from_mode(0o644))?;
        File::open(&self.path)
    }

    /// Puts the file at `target`, in place of what lies there, which may be damaged. Returns when a power loss cannot undo it.
    pub fn keep(mut self, target: &Path) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(0o600))?;
        std::fs::rename(&self.path, target)?;
        self.kept = true;
        let dir = target.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        File::open(dir)?.sync_all()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a scratch file is left for the sweep");
        }
    }
}

/// An upload that came to its end.
#[derive(Debug)]
pub struct Gathered {
    /// None where the bytes were only hashed.
    pub scratch: Option<Scratch>,
    /// Lower-case hex.
    pub sha256: String,
    pub size: u64,
    /// The first bytes, as many as a header may have.
    pub head: Vec<u8>,
}

enum Chunk {
    Data(Bytes),
    /// Without it, the upload was cut.
    End,
}

/// Where an upload is gathered.
#[derive(Debug, Clone)]
pub struct Place {
    pub dir: PathBuf,
    /// Bytes that are left free on its filesystem, but at most a tenth of that.
    pub spare: u64,
}

impl Place {
    /// An error of kind `StorageFull` where so many bytes more would take what is to be left free.
    fn room(&self, bytes: u64) -> io::Result<()> {
        let found = statvfs(&self.dir)?;
        let of = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        let spare = self.spare.min(of(found.blocks()) / 10);
        if of(found.blocks_available()) >= spare.saturating_add(bytes) {
            return Ok(());
        }
        Err(ErrorKind::StorageFull.into())
    }
}

/// Gathers `body` in a new file at `place`, or only hashes it where there is none. Memory is constant, hashing and writing are on
/// a thread of their own. A body that fails, or a caller that goes away, leaves nothing.
///
/// # Errors
/// The body's own; `TooLarge` beyond `limit` bytes; `Unavailable` where the disk is too full.
pub async fn gather<E: From<Error>>(
    place: Option<Place>,
    limit: u64,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Gathered, E> {
    let (chunks, receiver) = mpsc::channel(BUFFER);
    let writer = tokio::task::spawn_blocking(move || write(place.as_ref(), receiver));
    let mut body = std::pin::pin!(body);
    let mut size = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        size += chunk.len() as u64;
        if size > limit {
            return Err(too_large(limit).into());
        }
        if chunks.send(Chunk::Data(chunk)).await.is_err() {
            // The writer failed, and says why below.
            break;
        }
    }
    // The same.
    let _ = chunks.send(Chunk::End).await;
    let written = writer.await.map_err(Error::internal)?.map_err(disk)?;
    Ok(written)
}

pub fn too_large(limit: u64) -> Error {
    Error::TooLarge(format!(
        "an image may have up to {limit} bytes: send a smaller one, or have image_max_gib raised"
    ))
}

/// What failed on the disk, in the words of the domain.
pub fn disk(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Unavailable {
            detail:
                "the image store has no room left: delete images, or try again when it was enlarged"
                    .into(),
            retry_after: Duration::from_mins(1),
        },
        _ => Error::internal(error),
    }
}

fn write(place: Option<&Place>, mut chunks: mpsc::Receiver<Chunk>) -> io::Result<Gathered> {
    let scratch = place.map(|place| Scratch::create(&place.dir)).transpose()?;
    let mut sum = Checksum::default();
    let mut head = Vec::new();
    let mut size = 0;
    loop {
        match chunks.blocking_recv() {
            None => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the upload was cut")),
            Some(Chunk::End) => break,
            Some(Chunk::Data(data)) => {
                if let Some(place) = place {
                    place.room(data.len() as u64)?;
                }
                sum.update(&data);
                head.extend_from_slice(&data[..data.len().min(qcow2::HEAD - head.len())]);
                for piece in data.chunks(ZEROS.len()) {
                    if let Some(scratch) = &scratch
                        && piece != &ZEROS[..piece.len()]
                    {
                        scratch.file.write_all_at(piece, size)?;
                    }
                    size += piece.len() as u64;
                }
            }
        }
    }
    if let Some(scratch) = &scratch {
        scratch.file.set_len(size)?;
        scratch.file.sync_all()?;
    }
    Ok(Gathered { scratch, sha256: sum.hex(), size, head })
}

/// Whether a rename from one to the other can work.
pub fn on_one_filesystem(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(a)?.dev() == std::fs::metadata(b)?.dev())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    type Body = Vec<Result<Bytes, Error>>;

    async fn gathered(dir: &Path, limit: u64, body: Body) -> Result<Gathered> {
        let place = Place { dir: dir.to_owned(), spare: 0 };
        gather(Some(place), limit, stream::iter(body)).await
    }

    fn left(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_kept_has_every_byte_and_its_sum() {
        let dir = tempfile::tempdir().unwrap();
        let parts = [b"ab".to_vec(), vec![0; 200_000], b"c".to_vec(), vec![0; 70_000]];
        let body = parts.iter().map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        let gathered = gathered(dir.path(), u64::MAX, body).await.unwrap();
        assert_eq!(gathered.size, 270_003);
        assert_eq!(gathered.head, parts.concat()[..qcow2::HEAD]);
        let target = dir.path().join(&gathered.sha256);
        gathered.scratch.unwrap().keep(&target).unwrap();
        let bytes = std::fs::read(&target).unwrap();
        assert!(bytes == parts.concat());
        assert_eq!(gathered.sha256, {
            let mut sum = Checksum::default();
            sum.update(&bytes);
            sum.hex()
        });
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
        assert_eq!(left(dir.path()), 1);
    }

    #[tokio::test]
    async fn a_body_that_fails_or_is_too_long_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cut = vec![Ok(Bytes::from_static(b"abc")), Err(Error::Forbidden("cut".into()))];
        assert!(matches!(gathered(dir.path(), 100, cut).await, Err(Error::Forbidden(_))));
        let long = vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"d"))];
        assert!(matches!(gathered(dir.path(), 3, long).await, Err(Error::TooLarge(_))));
        // The writer's thread removes the file after the caller has its error: wait for the file's end, not for a time.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while left(dir.path()) > 0 {
            assert!(std::time::Instant::now() < deadline, "a scratch file is left");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn bytes_that_lie_there_already_are_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        for _ in 0..2 {
            let body = vec![Ok(Bytes::from_static(b"abc"))];
            gathered(dir.path(), 100, body).await.unwrap().scratch.unwrap().keep(&target).unwrap();
            assert_eq!((left(dir.path()), std::fs::read(&target).unwrap()), (1, b"abc".to_vec()));
            std::fs::write(&target, b"xyz").unwrap();
        }
    }
}
