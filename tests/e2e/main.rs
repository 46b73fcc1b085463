//! The whole of it: the real binary over HTTP, a real PostgreSQL, real libvirtd and real QEMU guests, and what is left of them.

#[path = "../common/client.rs"]
mod client;
#[path = "../common/libvirtd.rs"]
mod libvirtd;

mod audit;
mod cloud;
mod dhcp;
mod images;
mod kill_nine;
mod main_job;
mod neighbours;
