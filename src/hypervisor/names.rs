//! What our things are called on a host: names carry the random front of the cloud's id, so that two clouds can share a host.

use uuid::Uuid;

use crate::domain::id::{IncarnationId, InstanceId, NetworkId};

/// Largest name of a network interface on Linux is 15 bytes; ours has 14, or 15 with one digit behind.
const BRIDGE_DIGITS: usize = 12;
/// Bridges that a network may have on a host, of which it has one.
pub const BRIDGES: u8 = 4;

fn prefix(cloud: Uuid) -> String {
    let mut digits = cloud.simple().to_string();
    digits.truncate(8);
    format!("pileus-{digits}")
}

/// `pileus-<cloud8>-<instance id>`
pub fn domain(cloud: Uuid, id: InstanceId) -> String {
    format!("{}-{id}", prefix(cloud))
}

/// `pileus-<cloud8>-<network id>`
pub fn network(cloud: Uuid, id: NetworkId) -> String {
    format!("{}-{id}", prefix(cloud))
}

/// The network whose name for this cloud is `name`.
pub fn network_id(cloud: Uuid, name: &str) -> Option<NetworkId> {
    name.strip_prefix(&prefix(cloud))?.strip_prefix('-')?.parse().ok()
}

/// `pl` and the last 12 hex digits of the network's id: the random end of a UUIDv7. The `other` ones, from 1 up to
/// `BRIDGES - 1`, which have their number behind, are for a host where something lies on the first.
pub fn bridge(id: NetworkId, other: u8) -> String {
    let digits = id.0.simple().to_string();
    let first = format!("pl{}", &digits[digits.len() - BRIDGE_DIGITS..]);
    if other == 0 { first } else { format!("{first}{other}") }
}

/// Whether an interface of this name is the bridge of a network of some Pileus.
pub fn is_bridge(interface: &str) -> bool {
    interface.strip_prefix("pl").is_some_and(|digits| {
        let lengths = BRIDGE_DIGITS..=BRIDGE_DIGITS + 1;
        lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Pool of disks, seeds and base images.
pub fn disk_pool(cloud: Uuid) -> String {
    prefix(cloud)
}

/// Pool of console logs.
pub fn console_pool(cloud: Uuid) -> String {
    format!("{}-consoles", prefix(cloud))
}

/// A pool's UUID follows from its name, so that defining it twice is the same as once.
pub fn pool_uuid(cloud: Uuid, pool: &str) -> Uuid {
    Uuid::new_v5(&cloud, pool.as_bytes())
}

/// `<incarnation>.log`; a rotated part has `.0` (the newest), `.1`, … behind it.
pub fn console_log(incarnation: IncarnationId) -> String {
    format!("{incarnation}.log")
}

/// The incarnation whose console log, or a rotated part of it, is the file `name`.
pub fn console_incarnation(name: &str) -> Option<IncarnationId> {
    let (id, rest) = name.split_once(".log")?;
    let part = rest.strip_prefix('.').is_some_and(|n| n.parse::<u32>().is_ok());
    if rest.is_empty() || part { id.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_cloud_and_its_id() {
        let (cloud, other) = (Uuid::from_u128(0xabcd_ef01 << 96), Uuid::from_u128(7));
        let id = NetworkId(Uuid::now_v7());
        let name = network(cloud, id);
        assert!(name.starts_with("pileus-abcdef01-"), "{name}");
        assert_eq!(network_id(cloud, &name), Some(id));
        assert_eq!(network_id(other, &name), None);
        assert_eq!(network_id(cloud, "default"), None);
    }

    #[test]
    fn a_bridge_name_fits_an_interface() {
        let id = NetworkId(Uuid::from_u128(0x1234_5678_9abc));
        assert_eq!(bridge(id, 0), "pl123456789abc");
        assert_eq!(bridge(id, BRIDGES - 1), "pl123456789abc3");
        for name in (0..BRIDGES).map(|other| bridge(id, other)) {
            assert!(name.len() <= 15 && is_bridge(&name), "{name}");
        }
        assert!(!is_bridge("pl0") && !is_bridge("plough-the-sea"));
    }

    #[test]
    fn a_rotated_log_belongs_to_its_incarnation() {
        let id = IncarnationId(Uuid::now_v7());
        assert_eq!(console_incarnation(&console_log(id)), Some(id));
        assert_eq!(console_incarnation(&format!("{id}.log.2")), Some(id));
        assert_eq!(console_incarnation(&format!("{id}.log.gz")), None);
        assert_eq!(console_incarnation("notes.log"), None);
    }
}
