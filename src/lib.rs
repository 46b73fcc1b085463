//! Pileus: a small cloud in one binary. The map of the house, in reading order.

#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::panic))]

/// HTTP in, HTTP out: routes, extractors, problem+json.
pub mod api;
/// The command line for people: client commands, and `up`.
pub mod cli;
/// Every setting, its flag, variable, file key and default.
pub mod config;
/// What things are: types and pure functions; no async, no I/O.
pub mod domain;
/// What a guest is given: the NoCloud seed.
pub mod guest;
/// The only room that knows libvirt.
pub mod hypervisor;
/// The best-fit core: which host takes an instance, and why not; pure.
pub mod placement;
/// Makes the world match the store.
pub mod reconcile;
/// One process: pool, schema, API and loops.
pub mod server;
/// What a caller may do: authorize, open the transaction, record the wish.
pub mod service;
/// The only room that speaks SQL.
pub mod store;
