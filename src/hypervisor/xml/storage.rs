//! Storage XML: directory pools and the volumes in them.

use serde::Serialize;
use uuid::Uuid;

use super::{Size, child, child_text, parse, write};
use crate::hypervisor::{Fault, VolumeFormat};

/// QEMU runs as a user of its own and must reach a file whose name it was told; listing the directory is not for it.
const TRAVERSABLE: &str = "0711";

pub fn pool(name: &str, uuid: Uuid, path: &str) -> Result<String, Fault> {
    let permissions = Permissions { mode: TRAVERSABLE };
    write("pool", &Pool { kind: "dir", name, uuid, target: PoolTarget { path, permissions } })
}

/// Directory of a pool.
pub fn pool_path(text: &str) -> Result<Option<String>, Fault> {
    let document = parse(text)?;
    let target = child(document.root_element(), "target");
    Ok(target.and_then(|t| child_text(t, "path")).map(str::to_owned))
}

/// A volume of `capacity` bytes. With a base it takes no room before it is written, without one all of it from the start:
/// libvirt 11.3 dies of an upload that meets a full disk, where making the volume only fails.
pub fn volume(
    name: &str,
    format: VolumeFormat,
    capacity: u64,
    base: Option<(&str, VolumeFormat)>,
) -> Result<String, Fault> {
    write(
        "volume",
        &Volume {
            name,
            capacity: Size { unit: "bytes", value: capacity },
            allocation: Size { unit: "bytes", value: if base.is_some() { 0 } else { capacity } },
            target: VolumeTarget { format: format.into() },
            backing: base.map(|(path, format)| Backing { path, format: format.into() }),
        },
    )
}

/// What a volume's XML tells.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    /// libvirt's word for it, e.g. `qcow2`, `raw`, `iso`.
    pub format: String,
    pub base: Option<(String, String)>,
}

pub fn read(text: &str) -> Result<Seen, Fault> {
    let document = parse(text)?;
    let root = document.root_element();
    let part = |name| {
        let node = child(root, name)?;
        let format = child(node, "format").and_then(|f| f.attribute("type")).unwrap_or_default();
        Some((child_text(node, "path")?.to_owned(), format.to_owned()))
    };
    let (path, format) =
        part("target").ok_or_else(|| Fault::permanent("read libvirt's volume: it has no path"))?;
    Ok(Seen { path, format, base: part("backingStore") })
}

#[derive(Serialize)]
struct Pool<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: &'a str,
    uuid: Uuid,
    target: PoolTarget<'a>,
}

#[derive(Serialize)]
struct PoolTarget<'a> {
    path: &'a str,
    permissions: Permissions,
}

#[derive(Serialize)]
struct Permissions {
    mode: &'static str,
}

#[derive(Serialize)]
struct Volume<'a> {
    name: &'a str,
    capacity: Size,
    allocation: Size,
    target: VolumeTarget,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    backing: Option<Backing<'a>>,
}

#[derive(Serialize)]
struct VolumeTarget {
    format: Format,
}

#[derive(Serialize)]
struct Backing<'a> {
    path: &'a str,
    format: Format,
}

#[derive(Serialize)]
struct Format {
    #[serde(rename = "@type")]
    kind: &'static str,
}

impl From<VolumeFormat> for Format {
    fn from(format: VolumeFormat) -> Self {
        Self { kind: format.as_str() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_read_as_it_was_written() {
        let base = Some(("/p/a&b", VolumeFormat::Raw));
        let text = volume("disk", VolumeFormat::Qcow2, 7, base).unwrap();
        assert!(text.contains("<allocation unit=\"bytes\">0</allocation>"), "{text}");
        let text = text.replace("<target>", "<target><path>/p/disk</path>");
        let seen = read(&text).unwrap();
        assert_eq!((seen.path.as_str(), seen.format.as_str()), ("/p/disk", "qcow2"));
        assert_eq!(seen.base, Some(("/p/a&b".into(), "raw".into())));
    }
}
