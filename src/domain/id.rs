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
    /// Our id of a host; the host's own UUID is `hosts.host_uuid`.
    HostId,
    /// An instance; also the libvirt UUID of its domain.
    InstanceId,
    /// One life of an instance on one host; owns the capacity claim and names the volumes.
    IncarnationId,
    EventId,
}
