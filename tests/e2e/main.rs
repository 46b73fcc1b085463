//! The whole of it: the real binary over HTTP, a real PostgreSQL, real libvirtd and real QEMU guests, and what is left of them.

#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "bytes of test data fit; a seed comes from the environment"
)]

#[path = "../common/backup.rs"]
mod backup;
#[path = "../common/client.rs"]
mod client;
#[path = "../common/cloud.rs"]
mod cloud;
#[path = "../common/libvirtd.rs"]
mod libvirtd;
#[path = "../common/process.rs"]
mod process;

mod audit;
mod cloud_init;
mod debian;
mod dhcp;
mod images;
mod kill_nine;
mod main_job;
mod neighbours;
mod placing;
mod restore;
mod routes;
mod traces;
