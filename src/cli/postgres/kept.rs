//! What servers under test have written is kept until the run of all tests is over, and is then searched for secrets
//! (`scripts/secrets.sh`). Only where that run has made the place for it, beside its TMPDIR.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// `$TMPDIR.kept`, if it is there.
fn place() -> Option<PathBuf> {
    let mut name = std::env::temp_dir().into_os_string();
    name.push(".kept");
    Some(PathBuf::from(name)).filter(|dir| dir.is_dir())
}

/// Keeps a file that will be removed, also what is written into it from now on.
pub fn file(path: &Path) {
    if let Some(place) = place() {
        told(&place, path, link(&place, path));
    }
}

/// Keeps all files below, but those in which a secret is where it belongs.
pub fn tree(dir: &Path) {
    if let Some(place) = place() {
        told(&place, dir, walk(&place, dir));
    }
}

/// What could not be kept was not searched: whoever searches reads of it.
fn told(place: &Path, what: &Path, done: io::Result<()>) {
    let Err(error) = done else { return };
    let line = format!("{}: {error}\n", what.display());
    let file = fs::File::options().append(true).create(true).open(place.join("not-kept"));
    if let Err(worse) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        tracing::error!(%worse, line, "a file was not kept");
    }
}

fn walk(place: &Path, dir: &Path) -> io::Result<()> {
    // The database: user data, which guests are given again, hashes and keys are its to keep.
    if dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    for entry in there(fs::read_dir(dir))?.into_iter().flatten() {
        let (path, kind) = (entry.as_ref().map(fs::DirEntry::path), entry.as_ref());
        let (Ok(path), Ok(kind)) = (path, kind.map(fs::DirEntry::file_type)) else { continue };
        let Some(kind) = there(kind)? else { continue };
        if kind.is_dir() {
            walk(place, &path)?;
        } else if kind.is_file() {
            keep(place, &path)?;
        }
    }
    Ok(())
}

fn keep(place: &Path, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is = |start: &str, end: &str| name.starts_with(start) && name.ends_with(end);
    // A guest's seed is there to give it its user data; its disk, and what disks are made of, are the tenants'.
    let guests = is("seed-", ".iso") || is("disk-", ".qcow2") || is("base-", "");
    let image = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Of the database; for whoever runs `pileus up`, and nobody else may read it.
    let dump = name == "backup";
    // A filesystem that a test fills: a host's, or the database's.
    let filesystem = name == "disk.img";
    if guests || image || dump || filesystem {
        return Ok(());
    }
    if name != "admin.json" {
        return link(place, path);
    }
    // What it holds is looked for in all the others.
    let Some(text) = there(fs::read(path))? else { return Ok(()) };
    let account: serde_json::Value = serde_json::from_slice(&text).map_err(io::Error::other)?;
    let password = account["password"].as_str().filter(|word| !word.is_empty());
    let password = password.ok_or_else(|| io::Error::other("there is no password in it"))?;
    let words = fs::File::options().append(true).create(true).open(place.join("words"));
    words?.write_all(format!("{password}\n").as_bytes())
}

/// Another name for the same file, which keeps its own in the end.
fn link(place: &Path, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    there(fs::hard_link(path, place.join(format!("{}-{name}", Uuid::now_v7())))).map(drop)
}

/// It may have gone meanwhile.
fn there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
