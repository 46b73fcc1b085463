//! What is to be on a host and is not, or is not whole, while no instance asks for it: networks whose guests run on without them,
//! and base images, which the next guest would start from.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::inventory::Inventory;
use super::{Context, Trouble, host_images};
use crate::domain::error::Result;
use crate::domain::id::{HostId, NetworkId};
use crate::hypervisor::DhcpHost;
use crate::store;
use crate::store::host_images::HostImage;
use crate::store::host_networks::Entry;
use crate::store::work::{self, Kind};

/// What was noted of a host before a look at it.
pub struct Before {
    bases: Vec<HostImage>,
    served: Vec<(NetworkId, Entry)>,
}

impl Before {
    pub async fn read(conn: &mut PgConnection, host: HostId) -> Result<Self> {
        let bases = store::host_images::on_host(conn, host).await?;
        let served = store::host_networks::served(conn, host).await?;
        Ok(Self { bases, served })
    }
}

/// Once, by what a look found.
pub async fn all(
    ctx: &Context,
    host: HostId,
    before: &Before,
    inventory: &Inventory,
) -> std::result::Result<(), Trouble> {
    // What cannot be mended keeps nothing else from it.
    let bases = bases(ctx, host, &before.bases, inventory).await;
    networks(ctx, host, &before.served, inventory).await?;
    bases
}

/// One that has the wrong length is uploaded anew. Guests that run on it keep the file that they have open.
async fn bases(
    ctx: &Context,
    host: HostId,
    before: &[HostImage],
    inventory: &Inventory,
) -> std::result::Result<(), Trouble> {
    let volumes = inventory.volumes.iter();
    let there: HashMap<_, _> = volumes.map(|seen| (seen.name.clone(), seen.file_bytes)).collect();
    let spoiled = before.iter().filter(|image| image.present);
    let spoiled = spoiled.filter(|image| match there.get(&image.volume()) {
        None => true,
        Some(None) => false,
        Some(Some(bytes)) => i64::try_from(*bytes) != Ok(image.size_bytes),
    });
    for image in spoiled {
        if host_images::lost(ctx, None, host, &image.sha256).await? {
            tracing::warn!(%host, volume = image.volume(), "a base image is damaged or gone, and is uploaded anew");
        }
    }
    Ok(())
}

/// Those that are gone, or have guests that do not hang on them or whom they do not serve, are put on the work list: a failure
/// there has its account.
async fn networks(
    ctx: &Context,
    host: HostId,
    before: &[(NetworkId, Entry)],
    inventory: &Inventory,
) -> Result<()> {
    let active = inventory.networks.iter().filter(|network| network.active);
    let there: HashMap<_, _> = active.filter_map(|seen| Some((seen.ours?, &seen.hosts))).collect();
    let mut conn = ctx.conn().await?;
    // Who came or went meanwhile is somebody else's business.
    let after = store::host_networks::served(&mut conn, host).await?;
    let after: HashSet<_> = after.into_iter().collect();
    let forgotten: HashSet<_> = before
        .iter()
        .filter(|served| after.contains(served))
        .filter(|(network, Entry { mac, address })| {
            let serves = |host: &DhcpHost| host.mac == *mac && host.address == *address;
            there.get(network).is_some_and(|hosts| !hosts.iter().any(serves))
        })
        .map(|(network, _)| *network)
        .collect();
    for network in store::host_networks::on_host(&mut conn, host).await? {
        let why = match there.contains_key(&network) {
            false => "a network is gone",
            true if inventory.cut_off.contains(&network) => "a guest does not hang on its network",
            true if forgotten.contains(&network) => "a network does not serve a guest of it",
            true => continue,
        };
        tracing::warn!(%host, %network, "{why}: it is mended");
        work::hint(&mut conn, Kind::Network, network.0, ctx.clock.now()).await?;
    }
    ctx.changes.wake();
    Ok(())
}
