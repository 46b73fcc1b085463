//! What volumes in our pools are called, and whose a name says that they are.

use super::id::IncarnationId;

/// The root disk of an incarnation.
pub fn disk_name(id: IncarnationId) -> String {
    format!("disk-{id}.qcow2")
}

/// Its seed.
pub fn seed_name(id: IncarnationId) -> String {
    format!("seed-{id}.iso")
}

/// What owns a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner<'a> {
    Incarnation(IncarnationId),
    /// A base image, by its SHA-256.
    Base(&'a str),
}

/// Who owns a volume of this name in our pool; `None`: the name is none of ours.
pub fn owner(name: &str) -> Option<Owner<'_>> {
    let incarnation =
        |prefix| name.strip_prefix(prefix).and_then(|rest: &str| rest.split_once('.'));
    match (incarnation("disk-"), incarnation("seed-")) {
        // Whatever stands behind: libvirt calls what it puts on top of a disk (an external snapshot) by the disk's name, too.
        (Some((id, _)), _) | (None, Some((id, "iso"))) => {
            return id.parse().ok().map(Owner::Incarnation);
        }
        (None, _) => {}
    }
    let sha256 = name.strip_prefix("base-")?.split_once('.')?.0;
    (sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()))
        .then_some(Owner::Base(sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_ours() {
        let id = IncarnationId(uuid::Uuid::now_v7());
        let base = "a".repeat(64);
        assert_eq!(owner(&disk_name(id)), Some(Owner::Incarnation(id)));
        assert_eq!(owner(&seed_name(id)), Some(Owner::Incarnation(id)));
        assert_eq!(owner(&format!("base-{base}.raw")), Some(Owner::Base(&base)));
        let snapshot = format!("disk-{id}.before-upgrade.1");
        assert_eq!(owner(&snapshot), Some(Owner::Incarnation(id)));
        for foreign in ["disk-x.qcow2", "notes.txt", "base-1.raw", &format!("seed-{id}.raw")] {
            assert!(owner(foreign).is_none(), "{foreign}");
        }
    }
}
