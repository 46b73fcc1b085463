//! Bad weather: sudden deaths, broken networks, full disks, clocks that jump, hands on the host. All on the real binary,
//! PostgreSQL, libvirtd and QEMU; at the end of each the world is as wished, and an audit that shares no code with the server
//! finds nothing missing, doubled or left over.

#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "bytes of test data fit; seeds and lengths come from the environment"
)]

#[path = "../common/client.rs"]
mod client;
#[path = "../common/cloud.rs"]
mod cloud;
#[path = "../common/libvirtd.rs"]
mod libvirtd;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/process.rs"]
mod process;

mod audit;
mod bridges;
mod churn;
mod database;
mod fleet;
mod full;
mod hands;
mod network;
mod proxy;
mod replicas;
mod secrets;
mod soak;
