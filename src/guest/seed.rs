//! The NoCloud seed: an ISO 9660 image, labelled `cidata`, that tells a guest who it is.
//!
//! Format: cloud-init's NoCloud datasource and its network configuration version 2. The same input gives the same bytes.

use std::fmt::Write as _;
use std::io::Cursor;
use std::net::IpAddr;

use hadris_iso::joliet::JolietLevel;
use hadris_iso::read::PathSeparator;
use hadris_iso::rrip::RripOptions;
use hadris_iso::write::options::{BaseIsoLevel, CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{InputEntry, InputMetadata, InputTree, IsoImageWriter};

use crate::domain::error::{Error, Result};
use crate::domain::user_data::USER_DATA_MAX;

const SECTOR: usize = 2048;

/// What a guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The instance's id, the same at every boot: cloud-init runs user data once for each value.
    pub instance_id: String,
    /// A DNS label (`Name::hostname`).
    pub hostname: String,
    /// OpenSSH lines.
    pub public_keys: Vec<String>,
    /// Given verbatim, up to 64 KiB; may be empty.
    pub user_data: Vec<u8>,
    /// In the order of the interfaces: the first becomes `eth0`.
    pub nics: Vec<SeedNic>,
}

/// One interface: found by its MAC address, configured by DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedNic {
    pub mac: String,
    /// Name servers beside those that DHCP hands out; usually none.
    pub dns: Vec<IpAddr>,
}

/// The image's bytes: whole sectors of 2 KiB. Fails only if the user data is larger than its bound.
pub fn seed_iso(seed: &Seed) -> Result<Vec<u8>> {
    if seed.user_data.len() > USER_DATA_MAX {
        return Err(Error::TooLarge(format!(
            "user data may have up to {USER_DATA_MAX} bytes, has {}",
            seed.user_data.len()
        )));
    }
    let files = [
        ("meta-data", meta_data(seed).into_bytes()),
        ("network-config", network_config(seed).into_bytes()),
        ("user-data", seed.user_data.clone()),
        ("vendor-data", Vec::new()),
    ];
    // User data may hold secrets: for root's eyes only, where the guest mounts the seed.
    let metadata = InputMetadata { mode: Some(0o400), ..InputMetadata::default() };
    let room = files.iter().map(|(_, bytes)| bytes.len() + SECTOR).sum::<usize>();
    let entries = files
        .into_iter()
        .map(|(name, bytes)| InputEntry::file(name, bytes).with_metadata(metadata))
        .collect();
    let tree = InputTree::new(PathSeparator::ForwardSlash, entries);
    let cursor = Cursor::new(Vec::with_capacity(room + 64 * SECTOR));
    let written = IsoImageWriter::create(cursor, tree, options()).map_err(Error::internal)?;
    let mut image = written.into_inner();
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    set_dates(&mut image)?;
    Ok(image)
}

fn options() -> IsoFormatOptions {
    // Without time stamps of Rock Ridge's own, its readers take those of the directory records.
    let rock_ridge = RripOptions { preserve_timestamps: false, ..RripOptions::default() };
    IsoFormatOptions {
        volume_name: "cidata".into(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: SECTOR,
        path_separator: PathSeparator::ForwardSlash,
        strict_charset: false,
        features: CreationFeatures {
            filenames: BaseIsoLevel::Level1 { supports_lowercase: false, supports_rrip: true },
            joliet: Some(JolietLevel::Level3),
            rock_ridge: Some(rock_ridge),
            ..CreationFeatures::default()
        },
    }
}

fn meta_data(seed: &Seed) -> String {
    let mut text = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&seed.instance_id),
        quoted(&seed.hostname)
    );
    if !seed.public_keys.is_empty() {
        text.push_str("public-keys:\n");
        for key in &seed.public_keys {
            let _ = writeln!(text, "  - {}", quoted(key));
        }
    }
    text
}

fn network_config(seed: &Seed) -> String {
    // An empty mapping says "no interfaces"; a missing one would make cloud-init try DHCP on all of them.
    if seed.nics.is_empty() {
        return "version: 2\nethernets: {}\n".into();
    }
    let mut text = String::from("version: 2\nethernets:\n");
    for (i, nic) in seed.nics.iter().enumerate() {
        let mac = quoted(&nic.mac);
        let _ = write!(
            text,
            "  eth{i}:\n    match:\n      macaddress: {mac}\n    set-name: eth{i}\n    dhcp4: true\n"
        );
        if !nic.dns.is_empty() {
            text.push_str("    nameservers:\n      addresses:\n");
            for address in &nic.dns {
                let _ = writeln!(text, "        - \"{address}\"");
            }
        }
    }
    text
}

/// A YAML double-quoted scalar on one line. (JSON's strings are not quite: YAML readers refuse or fold some of what JSON
/// leaves as it is, such as U+007F, U+0085 and U+2028, and know no surrogate pairs.)
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            c if !c.is_ascii() && c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Sets every date in the image to 2000-01-01T00:00:00Z: the writer puts the current time there. Offsets: ECMA-119, 8.4 and 9.1.
fn set_dates(image: &mut [u8]) -> Result<()> {
    const LONG: &[u8; 17] = b"2000010100000000\0";
    const SHORT: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];
    let mut roots = Vec::new();
    for sector in 16.. {
        let descriptor = part_mut(image, sector * SECTOR, SECTOR)?;
        match descriptor[0] {
            // Primary and supplementary (Joliet): creation and modification, then the root directory's record.
            1 | 2 => {
                descriptor[813..830].copy_from_slice(LONG);
                descriptor[830..847].copy_from_slice(LONG);
                descriptor[156 + 18..156 + 25].copy_from_slice(&SHORT);
                roots.push((word(descriptor, 156 + 2), word(descriptor, 156 + 10)));
            }
            255 => break,
            _ => {}
        }
    }
    for (extent, length) in roots {
        let directory = part_mut(image, extent * SECTOR, length)?;
        let mut at = 0;
        while at < length {
            match usize::from(directory[at]) {
                // Records do not cross sectors: the rest of this one is empty.
                0 => at = (at + 1).next_multiple_of(SECTOR),
                size => {
                    let date = part_mut(directory, at + 18, SHORT.len())?;
                    date.copy_from_slice(&SHORT);
                    at += size;
                }
            }
        }
    }
    Ok(())
}

fn part_mut(image: &mut [u8], at: usize, length: usize) -> Result<&mut [u8]> {
    image.get_mut(at..at.saturating_add(length)).ok_or_else(|| {
        Error::Internal(anyhow::anyhow!("the seed image ends before byte {at} + {length}"))
    })
}

/// The little-endian half of a both-endian word.
fn word(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests;
