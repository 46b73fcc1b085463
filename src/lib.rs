//! Pileus: a small cloud in one binary. The map of the house, in reading order.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::panic))]

/// Every setting, its flag, variable, file key and default.
pub mod config;
/// What things are: types and pure functions; no async, no I/O.
pub mod domain;
/// The only room that knows libvirt.
pub mod hypervisor;
/// The best-fit core: which host takes an instance, and why not the others. Pure.
pub mod placement;
