//! What is to be on a host and is not, or is not whole, while no instance asks for it: networks whose guests run on without them,
//! and base images, which the next guest would start from.

use std::collections::HashMap;

use super::inventory::Inventory;
use super::{Context, Trouble, host_images};
use crate::domain::error::Result;
use crate::domain::id::HostId;
use crate::store;
use crate::store::host_images::HostImage;
use crate::store::work::{self, Kind};

/// Once, by what a look found. `before`: the base images as they were noted before that look.
pub async fn all(
    ctx: &Context,
    host: HostId,
    before: &[HostImage],
    inventory: &Inventory,
) -> std::result::Result<(), Trouble> {
    // What cannot be mended keeps nothing else from it.
    let bases = bases(ctx, host, before, inventory).await;
    networks(ctx, host, inventory).await?;
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

/// Those that are gone, or have guests that do not hang on them, are put on the work list: a failure there has its account.
async fn networks(ctx: &Context, host: HostId, inventory: &Inventory) -> Result<()> {
    let active = inventory.networks.iter().filter(|network| network.active);
    let there: Vec<_> = active.filter_map(|network| network.ours).collect();
    let mut conn = ctx.conn().await?;
    for network in store::host_networks::on_host(&mut conn, host).await? {
        let why = match (there.contains(&network), inventory.cut_off.contains(&network)) {
            (true, false) => continue,
            (true, true) => "a guest does not hang on its network",
            (false, _) => "a network is gone",
        };
        tracing::warn!(%host, %network, "{why}: it is mended");
        work::hint(&mut conn, Kind::Network, network.0, ctx.clock.now()).await?;
    }
    ctx.changes.wake();
    Ok(())
}
