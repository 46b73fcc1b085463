//! A strict reader of qcow2 headers: what may become an image, decided on bytes that a stranger sent.
//!
//! Layout and limits: QEMU's `docs/interop/qcow2.rst` and `block/qcow2.h`. Nothing here trusts an offset or a length: each is
//! held against the file before it is followed. What is refused is refused because the guest could otherwise read a file of its
//! host (backing and data files), or because QEMU would have to repair or guess.

/// "QFI\xfb".
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// How much of the file's beginning [`parse`] wants: the header and its extensions, which no writer makes larger.
pub const HEAD: usize = 64 * 1024;

/// What the header says of a file that was found sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes in a cluster: 512 to 2 MiB.
    pub cluster_size: u64,
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
}

/// Why the file is no image of ours; the text says what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error(
        "it does not begin with the qcow2 magic: create the image as raw, or convert it with qemu-img convert -O qcow2"
    )]
    NotQcow2,
    #[error("its header is cut off: send the whole file")]
    Truncated,
    #[error("it is qcow2 of version {0}: convert it with qemu-img convert -O qcow2 -o compat=1.1")]
    Version(u32),
    #[error(
        "it stands on a backing file, which would be a file of the host: flatten it with qemu-img convert -O qcow2"
    )]
    BackingFile,
    #[error(
        "its data lies in an external file, which would be a file of the host: flatten it with qemu-img convert -O qcow2"
    )]
    DataFile,
    #[error("it is encrypted: decrypt it with qemu-img convert")]
    Encrypted,
    #[error(
        "it is marked as not closed properly: repair it with qemu-img check -r all, or convert it anew"
    )]
    Dirty,
    #[error("it is marked as corrupt: repair it with qemu-img check -r all, or convert it anew")]
    Corrupt,
    #[error(
        "it has incompatible features that we do not know (bits {0:#x}): convert it with qemu-img convert -O qcow2"
    )]
    UnknownFeatures(u64),
    #[error("it holds {0} internal snapshots: a copy by qemu-img convert -O qcow2 has none")]
    Snapshots(u32),
    #[error("its virtual size is 0: make it with a size")]
    Empty,
    #[error(
        "its virtual size of {is} bytes is above the limit of {limit} bytes: shrink it with qemu-img resize --shrink"
    )]
    TooLarge { is: u64, limit: u64 },
    /// A field that no sound file has.
    #[error("its header is malformed ({0}): make it anew with qemu-img convert -O qcow2")]
    Malformed(&'static str),
}

// Bits of `incompatible_features`; 3 is the compression type, 4 are extended L2 entries.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | 1 << 3 | 1 << 4;

// Kinds of header extensions.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FULL_DISK_ENCRYPTION: u32 = 0x0537_be77;
const EXTERNAL_DATA_FILE: u32 = 0x4441_5441;

/// QEMU's own limits of the two tables, in bytes.
const L1_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_MAX: u64 = 8 << 20;

/// Reads the header in `head`, the first [`HEAD`] bytes of a file of `file_size` bytes (all of it, if it is shorter).
/// `limit` is the largest virtual size, in bytes. Never panics and never allocates, whatever the bytes.
///
/// # Errors
/// The first [`Fault`] found.
pub fn parse(head: &[u8], file_size: u64, limit: u64) -> Result<Header, Fault> {
    if head.get(..4).ok_or(Fault::NotQcow2)? != MAGIC {
        return Err(Fault::NotQcow2);
    }
    let version = u32_at(head, 4)?;
    if !(2..=3).contains(&version) {
        return Err(Fault::Version(version));
    }
    if u64_at(head, 8)? != 0 || u32_at(head, 16)? != 0 {
        return Err(Fault::BackingFile);
    }
    let cluster_bits = u32_at(head, 20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Fault::Malformed("a cluster must have 512 bytes to 2 MiB"));
    }
    let cluster_size = 1_u64 << cluster_bits;
    let virtual_size = u64_at(head, 24)?;
    if virtual_size == 0 {
        return Err(Fault::Empty);
    }
    if virtual_size > limit {
        return Err(Fault::TooLarge { is: virtual_size, limit });
    }
    if u32_at(head, 32)? != 0 {
        return Err(Fault::Encrypted);
    }
    let incompatible = if version == 3 { u64_at(head, 72)? } else { 0 };
    features(incompatible)?;
    let l2_entry = if incompatible & 1 << 4 == 0 { 8 } else { 16 };
    l1_table(head, file_size, cluster_size, virtual_size, l2_entry)?;
    refcount_table(head, file_size, cluster_size)?;
    let snapshots = u32_at(head, 60)?;
    if snapshots != 0 {
        return Err(Fault::Snapshots(snapshots));
    }
    let header_length = if version == 3 { version3(head, cluster_size)? } else { 72 };
    extensions(head, header_length, cluster_size.min(HEAD as u64))?;
    Ok(Header { version, cluster_size, virtual_size })
}

fn features(incompatible: u64) -> Result<(), Fault> {
    let faults = [(DATA_FILE, Fault::DataFile), (CORRUPT, Fault::Corrupt), (DIRTY, Fault::Dirty)];
    for (bit, fault) in faults {
        if incompatible & bit != 0 {
            return Err(fault);
        }
    }
    match incompatible & !KNOWN {
        0 => Ok(()),
        unknown => Err(Fault::UnknownFeatures(unknown)),
    }
}

/// The L1 table must lie within the file and be long enough for the virtual size.
fn l1_table(
    head: &[u8],
    file_size: u64,
    cluster_size: u64,
    virtual_size: u64,
    l2_entry: u64,
) -> Result<(), Fault> {
    let entries = u64::from(u32_at(head, 36)?);
    let bytes = entries * 8;
    if bytes > L1_MAX {
        return Err(Fault::Malformed("the L1 table is longer than QEMU takes"));
    }
    let covered = cluster_size / l2_entry * cluster_size;
    if virtual_size.div_ceil(covered) > entries {
        return Err(Fault::Malformed("the L1 table is too short for the virtual size"));
    }
    within(u64_at(head, 40)?, bytes, file_size, cluster_size)
        .ok_or(Fault::Malformed("the L1 table does not lie within the file"))
}

fn refcount_table(head: &[u8], file_size: u64, cluster_size: u64) -> Result<(), Fault> {
    let bytes = u64::from(u32_at(head, 56)?) * cluster_size;
    if bytes == 0 || bytes > REFCOUNT_TABLE_MAX {
        return Err(Fault::Malformed("the refcount table is empty or longer than QEMU takes"));
    }
    within(u64_at(head, 48)?, bytes, file_size, cluster_size)
        .ok_or(Fault::Malformed("the refcount table does not lie within the file"))
}

/// Whether a table at `offset` is aligned, behind the header, and within the file.
fn within(offset: u64, bytes: u64, file_size: u64, cluster_size: u64) -> Option<()> {
    let end = offset.checked_add(bytes)?;
    (offset >= cluster_size && offset.is_multiple_of(cluster_size) && end <= file_size)
        .then_some(())
}

/// What only version 3 has; gives the header's length.
fn version3(head: &[u8], cluster_size: u64) -> Result<u64, Fault> {
    if u32_at(head, 96)? > 6 {
        return Err(Fault::Malformed("a refcount must have 1 to 64 bits"));
    }
    let length = u64::from(u32_at(head, 100)?);
    if length < 104 || !length.is_multiple_of(8) || length > cluster_size.min(HEAD as u64) {
        return Err(Fault::Malformed("the header's length is not one that QEMU writes"));
    }
    Ok(length)
}

/// Walks the extensions between the header and `end`: a list of kind, length and data, padded to 8 bytes, which ends with
/// kind 0.
fn extensions(head: &[u8], start: u64, end: u64) -> Result<(), Fault> {
    let mut at = start;
    // QEMU too takes a list that is ended by the room's end; fewer than 8 bytes are no extension.
    while at + 8 <= end {
        let kind = u32_at(head, at)?;
        let length = u64::from(u32_at(head, at + 4)?);
        match kind {
            END => return Ok(()),
            BACKING_FORMAT => return Err(Fault::BackingFile),
            EXTERNAL_DATA_FILE => return Err(Fault::DataFile),
            FULL_DISK_ENCRYPTION => return Err(Fault::Encrypted),
            // Feature names, bitmaps, and what later versions add: by the format's rule, ignored when unknown.
            _ => {}
        }
        if length > end - (at + 8) {
            return Err(Fault::Malformed("a header extension is longer than the header's cluster"));
        }
        at += 8 + length.next_multiple_of(8);
    }
    Ok(())
}

fn u32_at(head: &[u8], at: u64) -> Result<u32, Fault> {
    bytes_at(head, at).map(u32::from_be_bytes)
}

fn u64_at(head: &[u8], at: u64) -> Result<u64, Fault> {
    bytes_at(head, at).map(u64::from_be_bytes)
}

fn bytes_at<const N: usize>(head: &[u8], at: u64) -> Result<[u8; N], Fault> {
    let at = usize::try_from(at).map_err(|_beyond: std::num::TryFromIntError| Fault::Truncated)?;
    head.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Fault::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 64 << 30;
    const FILE: u64 = 5 << 16;

    /// The header of an empty 10 GiB image, as `qemu-img create` writes it (version 3, clusters of 64 KiB).
    fn sound() -> Vec<u8> {
        let mut head = vec![0; HEAD];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &3_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &(10_u64 << 30).to_be_bytes());
        put(36, &20_u32.to_be_bytes());
        put(40, &(3_u64 << 16).to_be_bytes());
        put(48, &(1_u64 << 16).to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(96, &4_u32.to_be_bytes());
        put(100, &112_u32.to_be_bytes());
        // the table of feature names
        put(112, &0x6803_f857_u32.to_be_bytes());
        put(116, &144_u32.to_be_bytes());
        head
    }

    fn with(at: usize, bytes: &[u8]) -> Result<Header, Fault> {
        let mut head = sound();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&head, FILE, LIMIT)
    }

    #[test]
    fn a_sound_header_is_read() {
        let header = Header { version: 3, cluster_size: 65536, virtual_size: 10 << 30 };
        assert_eq!(parse(&sound(), FILE, LIMIT), Ok(header));
    }

    #[test]
    fn each_unsound_field_is_named() {
        assert_eq!(with(0, b"KDMV"), Err(Fault::NotQcow2));
        assert_eq!(with(4, &1_u32.to_be_bytes()), Err(Fault::Version(1)));
        assert_eq!(with(8, &200_u64.to_be_bytes()), Err(Fault::BackingFile));
        assert_eq!(with(16, &11_u32.to_be_bytes()), Err(Fault::BackingFile));
        assert_eq!(with(24, &0_u64.to_be_bytes()), Err(Fault::Empty));
        let huge = Fault::TooLarge { is: u64::MAX, limit: LIMIT };
        assert_eq!(with(24, &u64::MAX.to_be_bytes()), Err(huge));
        assert_eq!(with(32, &2_u32.to_be_bytes()), Err(Fault::Encrypted));
        assert_eq!(with(60, &1_u32.to_be_bytes()), Err(Fault::Snapshots(1)));
        assert_eq!(with(72, &1_u64.to_be_bytes()), Err(Fault::Dirty));
        assert_eq!(with(72, &2_u64.to_be_bytes()), Err(Fault::Corrupt));
        assert_eq!(with(72, &4_u64.to_be_bytes()), Err(Fault::DataFile));
        assert_eq!(with(72, &32_u64.to_be_bytes()), Err(Fault::UnknownFeatures(32)));
        for (kind, fault) in [
            (BACKING_FORMAT, Fault::BackingFile),
            (EXTERNAL_DATA_FILE, Fault::DataFile),
            (FULL_DISK_ENCRYPTION, Fault::Encrypted),
        ] {
            // behind the feature names, where a walk must come to
            assert_eq!(with(264, &kind.to_be_bytes()), Err(fault));
        }
        let malformed: [(usize, &[u8]); 12] = [
            (20, &8_u32.to_be_bytes()),
            (20, &22_u32.to_be_bytes()),
            (36, &19_u32.to_be_bytes()),
            (36, &u32::MAX.to_be_bytes()),
            (40, &(3_u64 << 16 | 1).to_be_bytes()),
            (40, &(5_u64 << 16).to_be_bytes()),
            (40, &0_u64.to_be_bytes()),
            (48, &(u64::MAX << 16).to_be_bytes()),
            (56, &0_u32.to_be_bytes()),
            (96, &7_u32.to_be_bytes()),
            (100, &103_u32.to_be_bytes()),
            (116, &u32::MAX.to_be_bytes()),
        ];
        for (at, bytes) in malformed {
            assert!(matches!(with(at, bytes), Err(Fault::Malformed(_))), "{at}: {bytes:?}");
        }
    }

    #[test]
    fn a_header_cut_at_any_byte_is_refused() {
        let head = sound();
        for length in 0..264 {
            assert!(parse(&head[..length], length as u64, LIMIT).is_err(), "{length}");
            // cut for us only, the file being whole
            assert!(parse(&head[..length], FILE, LIMIT).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head in prop::collection::vec(any::<u8>(), 0..600), size in any::<u64>()) {
            let _ = parse(&head, size, LIMIT);
        }

        #[test]
        fn a_mangled_header_is_refused_or_within_bounds(
            edits in prop::collection::vec((4..300_usize, any::<u8>()), 1..8),
            size in 0..(1_u64 << 22),
        ) {
            let mut head = sound();
            for (at, byte) in edits {
                head[at] = byte;
            }
            if let Ok(header) = parse(&head, size, LIMIT) {
                prop_assert!((1..=LIMIT).contains(&header.virtual_size));
                prop_assert!(header.cluster_size >= 512 && header.cluster_size <= 2 << 20);
                prop_assert!(size > header.cluster_size);
                prop_assert_eq!(&head[8..20], &[0; 12]);
            }
        }
    }
}
