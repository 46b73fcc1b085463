//! What a host on this machine routes: libvirt does not tell it, and only refuses a network that is in the way when it is made.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use ipnet::{IpNet, Ipv4Net};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::hypervisor::names;

/// Where a system libvirt of this machine listens, the modular daemon first.
const SOCKETS: [&str; 2] = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];
/// Bits of its column `Flags` (Linux, include/uapi/linux/route.h).
const UP: u32 = 0x1;
const GATEWAY: u32 = 0x2;
const REJECT: u32 = 0x200;
/// A route by way of a gateway counts only where it is as narrow as a network of ours: a VPN that takes all of 10.0.0.0/8
/// leaves room for more specific routes, an interface's own subnet does not.
const NARROW: u8 = 16;

/// Subnets that the host at `uri` reaches by interfaces which are no bridge of a Pileus. Nothing where it is not on this machine,
/// or cannot be read.
pub fn subnets(uri: &str) -> Vec<IpNet> {
    let table = sockets(uri).iter().find_map(|path| table(path));
    read(&table.unwrap_or_default())
}

/// Sockets that `uri` may mean, if it is a system libvirt on this machine.
fn sockets(uri: &str) -> Vec<&str> {
    let local = uri
        .strip_prefix("qemu:///system")
        .or_else(|| uri.strip_prefix("qemu+unix:///system"))
        .map(|query| query.trim_start_matches('?'));
    let named = local.and_then(|query| query.split('&').find_map(|p| p.strip_prefix("socket=")));
    match (local, named) {
        (None, _) => Vec::new(),
        (Some(_), Some(socket)) => vec![socket],
        (Some(_), None) => SOCKETS.to_vec(),
    }
}

/// The kernel's routes of the network namespace in which somebody listens on this socket.
fn table(socket: &str) -> Option<String> {
    let peer = getsockopt(&UnixStream::connect(socket).ok()?, PeerCredentials).ok()?;
    std::fs::read_to_string(format!("/proc/{}/net/route", peer.pid())).ok()
}

fn read(table: &str) -> Vec<IpNet> {
    let mut subnets: Vec<_> = table.lines().skip(1).filter_map(route).map(IpNet::V4).collect();
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`: numbers in hex, addresses in the machine's byte order.
fn route(line: &str) -> Option<Ipv4Net> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let [interface, destination, _, flags, _, _, _, mask, ..] = columns[..] else { return None };
    let number = |text| u32::from_str_radix(text, 16).ok();
    let address = |text| number(text).map(|n| Ipv4Addr::from(n.to_ne_bytes()));
    let (flags, subnet) =
        (number(flags)?, Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?);
    let counts = flags & UP != 0
        && flags & REJECT == 0
        && subnet.prefix_len() > 0
        && (flags & GATEWAY == 0 || subnet.prefix_len() >= NARROW);
    (counts && !names::is_bridge(interface)).then_some(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_subnets_and_narrow_routes_count_and_bridges_of_ours_do_not() {
        let hex = |address: &str| {
            let address: Ipv4Addr = address.parse().unwrap();
            format!("{:08X}", u32::from_ne_bytes(address.octets()))
        };
        let line = |interface: &str, to: &str, flags: &str, mask: &str| {
            let (to, mask) = (hex(to), hex(mask));
            format!("{interface}\t{to}\t00000000\t{flags}\t0\t0\t0\t{mask}\t0\t0\t0\n")
        };
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            line("eth0", "0.0.0.0", "0003", "0.0.0.0"),
            line("eth0", "10.70.3.0", "0001", "255.255.255.0"),
            line("tun0", "10.0.0.0", "0003", "255.0.0.0"),
            line("tun0", "10.71.0.0", "0003", "255.255.0.0"),
            line("tun0", "10.70.3.0", "0003", "255.255.255.0"),
            line("pl0123456789ab", "10.64.1.0", "0001", "255.255.255.0"),
            line("*", "10.72.0.0", "0201", "255.255.0.0"),
            "eth0 garbage\n".to_owned(),
        ];
        let found: Vec<_> = read(&table.concat()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.70.3.0/24", "10.71.0.0/16"]);
    }

    #[test]
    fn only_a_system_libvirt_on_this_machine_has_routes_to_read() {
        assert_eq!(sockets("qemu:///system"), SOCKETS);
        assert_eq!(sockets("qemu+unix:///system?mode=direct&socket=/run/x"), ["/run/x"]);
        for far in [
            "qemu+ssh://root@node7/system",
            "qemu+tcp://127.0.0.1/system",
            "qemu:///session",
            "test:///default",
        ] {
            assert!(sockets(far).is_empty(), "{far}");
        }
    }
}
