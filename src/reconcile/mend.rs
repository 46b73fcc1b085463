//! What is to be on a host and is not, or is not whole, while no instance asks for it: networks whose guests run on without them,
//! and base images, which the next guest would start from.

use std::collections::HashMap;

use super::inventory::Inventory;
use super::{Context, Trouble, host_images, host_networks};
use crate::domain::id::HostId;
use crate::store;
use crate::store::host_images::HostImage;

/// Once, by what a look found. `before`: the base images as they were noted before that look.
pub async fn all(
    ctx: &Context,
    host: HostId,
    before: &[HostImage],
    inventory: &Inventory,
) -> Result<(), Trouble> {
    // What cannot be mended keeps nothing else from it.
    let bases = bases(ctx, host, before, inventory).await;
    bases.and(networks(ctx, host, inventory).await)
}

/// One that has the wrong length is uploaded anew. Guests that run on it keep the file that they have open.
async fn bases(
    ctx: &Context,
    host: HostId,
    before: &[HostImage],
    inventory: &Inventory,
) -> Result<(), Trouble> {
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

/// Made by whoever comes first.
async fn networks(ctx: &Context, host: HostId, inventory: &Inventory) -> Result<(), Trouble> {
    let active = inventory.networks.iter().filter(|network| network.active);
    let there: Vec<_> = active.filter_map(|network| network.ours).collect();
    let mut outcome = Ok(());
    for network in store::host_networks::on_host(&mut *ctx.conn().await?, host).await? {
        if there.contains(&network) {
            continue;
        }
        match host_networks::settle(ctx, host, network).await {
            Ok(()) => tracing::warn!(%host, %network, "a network was gone, and was made again"),
            Err(error) => {
                tracing::warn!(%host, %network, %error, "a network that is gone could not be made again");
                outcome = Err(error);
            }
        }
    }
    outcome
}
