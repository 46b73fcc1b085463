//! The hypervisor's contract, held by the fake, by libvirt's mock host, and by real libvirtd with QEMU.

#![allow(clippy::cast_possible_truncation, reason = "sizes of test data fit everything")]

#[path = "../common/libvirtd.rs"]
mod libvirtd;

mod conformance;
mod guest;
mod mock;
mod real;
mod world;
