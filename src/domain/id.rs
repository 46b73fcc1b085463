//! Ids: one type a noun, so that a network's id cannot be passed where an instance's is due.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[derive(sqlx::Type, utoipa::ToSchema)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )+};
}

id! {
    /// A tenant: the unit of isolation and quota.
    TenantId,
    UserId,
    TokenId,
    FlavorId,
    KeypairId,
    ImageId,
    NetworkId,
    PortId,
    GroupId,
    AggregateId,
    ReservationId,
    /// Our id of a host; the host's own UUID is `hosts.host_uuid`.
    HostId,
    /// An instance; also the libvirt UUID of its domain.
    InstanceId,
    /// One life of an instance on one host; owns the capacity claim and names the volumes.
    IncarnationId,
    EventId,
}

/// Where a UUID's last group of digits begins in its text.
const LAST_GROUP: usize = 24;

impl IncarnationId {
    /// All of a new id but its last group, which is the number of its claim on its host, in hex: a UUIDv8, whose bits are ours
    /// to choose. `fresh` is random: ids that follow one another differ in their last group alone, and two hosts may be at the same
    /// number. The names of its volumes bear it too, and so tell how many claims the host had seen when they were made.
    pub fn front(fresh: Uuid) -> String {
        let mut text = fresh.to_string();
        text.replace_range(14..15, "8");
        text.truncate(LAST_GROUP);
        text
    }

    /// `None`: it was made before claims were counted.
    pub fn number(self) -> Option<i64> {
        let last = self.0.as_u128() & 0xffff_ffff_ffff;
        (self.0.get_version_num() == 8).then(|| i64::try_from(last).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnations_id_ends_in_its_number() {
        let id = |end: &str| -> IncarnationId {
            format!("{}{end}", IncarnationId::front(Uuid::new_v4())).parse().unwrap()
        };
        assert_eq!(id("000000000017").number(), Some(0x17));
        assert_ne!(id("000000000017"), id("000000000017"));
        assert_eq!(IncarnationId(Uuid::now_v7()).number(), None);
        assert_eq!(IncarnationId(Uuid::new_v4()).number(), None);
    }
}
