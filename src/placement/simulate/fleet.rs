//! The hosts of a simulation: `64c256g:500` is 500 hosts of 64 vCPUs and 256 GiB; several kinds are parted by commas.

use std::str::FromStr;

use crate::placement::resources::Resources;

/// Most hosts of a simulation.
pub const HOSTS_MAX: u32 = 1_000_000;

/// Kinds of hosts, with how many there are of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet(Vec<(Resources, u32)>);

/// The text describes no fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?}: {detail}; write vCPUs, GiB and number as in 64c256g:500, several parted by commas"
)]
pub struct FleetError {
    part: String,
    detail: &'static str,
}

impl Fleet {
    /// The limit of each kind of host.
    pub fn kinds(&self) -> Vec<Resources> {
        self.0.iter().map(|(limit, _)| *limit).collect()
    }

    /// The limit of each host.
    pub fn limits(&self) -> impl Iterator<Item = Resources> {
        self.0.iter().flat_map(|(limit, count)| std::iter::repeat_n(*limit, *count as usize))
    }
}

impl FromStr for Fleet {
    type Err = FleetError;

    fn from_str(text: &str) -> Result<Self, FleetError> {
        let mut total = 0_u32;
        let kinds = text.split(',').map(|part| {
            let fault = |detail| FleetError { part: part.to_owned(), detail };
            let kind = kind(part.trim())
                .ok_or_else(|| fault("is no kind of host, or a number in it is too large"))?;
            let (limit, count) = kind;
            if limit.vcpus == 0 || limit.memory_mib == 0 || count == 0 {
                return Err(fault("has a zero"));
            }
            total = total.saturating_add(count);
            if total > HOSTS_MAX {
                return Err(fault("makes more than 1,000,000 hosts"));
            }
            Ok(kind)
        });
        kinds.collect::<Result<_, _>>().map(Self)
    }
}

fn kind(text: &str) -> Option<(Resources, u32)> {
    let (size, count) = text.split_once(':')?;
    let (vcpus, memory) = size.split_once('c')?;
    let gib: u32 = memory.strip_suffix('g')?.parse().ok()?;
    let limit = Resources::new(vcpus.parse().ok()?, gib.checked_mul(1024)?, 0);
    Some((limit, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_hosts_are_read_and_nonsense_is_refused_with_what_would_do() {
        let fleet: Fleet = "64c256g:2, 8c32g:1".parse().unwrap();
        let limits: Vec<_> = fleet.limits().map(|limit| (limit.vcpus, limit.memory_mib)).collect();
        assert_eq!(limits, [(64, 262_144), (64, 262_144), (8, 32_768)]);
        for text in [
            "",
            "64c256g",
            "64c256g:",
            "64c256:5",
            "c256g:5",
            "0c256g:5",
            "64c0g:5",
            "64c256g:0",
            "64c256g:5,",
            "-1c1g:1",
            "64c256g:1000001",
            "1c4294967295g:1",
            "64c256g:999999,1c1g:2",
            "٣c1g:1",
        ] {
            let error = text.parse::<Fleet>().unwrap_err().to_string();
            assert!(error.contains("64c256g:500"), "{text:?}: {error}");
        }
    }
}
