//! Makes the world match the store: loops that look, decide, take at most one step, and say when to look again.

mod context;
pub mod events;
pub mod fault;
mod fences;
pub mod hold;
mod host_images;
mod host_networks;
pub mod hosts;
pub mod images;
mod inventory;
mod instances;
mod mend;
mod networks;
pub mod pace;
pub mod placer;
mod seats;
mod signals;
pub mod sweep;
mod turns;
mod verified;

pub use context::{Context, Outcome, Parts, Run, Trouble, in_time};
pub use signals::wake as wake_on_signals;
pub use turns::Turns;

use crate::store::work::{Kind, Lease};

/// One look at one item.
pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    match lease.kind {
        Kind::Instance => instances::reconcile(ctx, lease).await,
        Kind::HostImage => host_images::reconcile(ctx, lease).await,
        Kind::Fence => fences::reconcile(ctx, lease).await,
        Kind::Host => hosts::reconcile(ctx, lease).await,
        Kind::Network => networks::reconcile(ctx, lease).await,
        Kind::Image => images::reconcile(ctx, lease).await,
    }
}
