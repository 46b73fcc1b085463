//! The best-fit core: which host takes an instance, and why not the others. Pure, exact, deterministic.
//!
//! [`Index`] is built from the store's hosts at start and kept by deltas; it only proposes: the claim in
//! PostgreSQL decides. [`Index::place`] chooses, [`Index::take`] and [`Index::give`] keep count,
//! [`Index::explain`] accounts for a choice or a refusal.

mod account;
mod candidate;
mod choose;
#[cfg(test)]
mod exhaustive;
mod explain;
mod groups;
mod host;
mod index;
mod kept;
mod lifetime;
mod listing;
mod members;
mod names;
mod policy;
mod resources;
mod search;
mod shapes;
pub mod simulate;
mod summary;
#[cfg(test)]
mod tests;
pub mod trace;
mod tree;

pub use crate::domain::policy::UnknownPolicy;
pub use account::{Chosen, Explanation, HostClass, NamedHost, Refusal, Shortage, WouldFit};
pub use candidate::{index, no_slot, request, sizes, view, wishes};
pub use explain::{FlavorSize, MAX_CLASSES};
pub use host::{HostState, HostView, Request};
pub use index::{Index, IndexError, NoFit};
pub use kept::Kept;
pub use lifetime::{ExitClass, Guests, Labels, Learner, Residents, Stay, longest_first};
pub use policy::{Policy, RoundRobin};
pub use resources::Resources;
