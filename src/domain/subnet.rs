//! Subnets: which CIDRs a cloud may use, which addresses of one may be given out, and which CIDR is free.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::error::{Error, FieldError, Result};

/// Prefix lengths of networks: 65,533 addresses down to five.
pub const PREFIX: std::ops::RangeInclusive<u8> = 16..=29;

/// An IPv4 subnet, its gateway, and the range that addresses are chosen from. The gateway may lie in the range: it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub cidr: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub range_start: Ipv4Addr,
    pub range_end: Ipv4Addr,
}

/// What is asked for beside the CIDR.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    pub gateway: Option<Ipv4Addr>,
    pub range_start: Option<Ipv4Addr>,
    pub range_end: Option<Ipv4Addr>,
}

impl Subnet {
    /// The subnet of `cidr` with defaults where nothing is wished: the first host is the gateway, all others are the range.
    /// Errors name every field at fault.
    pub fn new(cidr: Ipv4Net, wishes: Wishes) -> Result<Self> {
        let (first, last) = hosts(cidr);
        let mut faults = Vec::new();
        let mut host = |pointer: &str, address: Ipv4Addr| {
            if !(first..=last).contains(&address) {
                let detail = format!("must be one of {first} to {last}, the hosts of {cidr}");
                faults.push(FieldError { pointer: pointer.into(), detail });
            }
            address
        };
        let gateway = host("/gateway", wishes.gateway.unwrap_or(first));
        let after = |a: Ipv4Addr, n: u32| Ipv4Addr::from(u32::from(a).saturating_add(n));
        let start = if gateway == first { after(first, 1) } else { first };
        let end = if gateway == last { Ipv4Addr::from(u32::from(last) - 1) } else { last };
        let range_start = host("/range_start", wishes.range_start.unwrap_or(start));
        let range_end = host("/range_end", wishes.range_end.unwrap_or(end));
        let subnet = Self { cidr, gateway, range_start, range_end };
        if faults.is_empty() && range_start > range_end {
            let detail = format!("must not be before range_start, which is {range_start}");
            faults.push(FieldError { pointer: "/range_end".into(), detail });
        }
        if faults.is_empty() && subnet.capacity() == 0 {
            let detail = "must leave an address beside the gateway: make the range longer".into();
            faults.push(FieldError { pointer: "/range_end".into(), detail });
        }
        if faults.is_empty() { Ok(subnet) } else { Err(Error::Invalid(faults)) }
    }

    /// How many addresses can be given out.
    pub fn capacity(&self) -> u32 {
        let range = u32::from(self.range_end) - u32::from(self.range_start) + 1;
        let gateway = (self.range_start..=self.range_end).contains(&self.gateway);
        range - u32::from(gateway)
    }

    /// Whether a port may have `address`; the error says what would do.
    pub fn check_address(&self, pointer: &str, address: IpAddr) -> Result<()> {
        let Self { cidr, gateway, range_start, range_end } = self;
        if address == IpAddr::V4(*gateway) {
            return Err(Error::field(
                pointer,
                format!("{gateway} is the network's gateway: choose another address"),
            ));
        }
        match address {
            IpAddr::V4(v4) if (*range_start..=*range_end).contains(&v4) => Ok(()),
            _ => {
                let detail =
                    format!("must lie in the range {range_start} to {range_end} of {cidr}");
                Err(Error::field(pointer, detail))
            }
        }
    }
}

/// A CIDR that a network may have. Only an `admin` may use addresses that belong to somebody on the Internet.
pub fn parse_cidr(pointer: &str, text: &str, admin: bool) -> Result<Ipv4Net> {
    let cidr: Ipv4Net = text.parse().map_err(|_not_a_cidr: ipnet::AddrParseError| {
        Error::field(pointer, "must be an IPv4 CIDR such as 10.1.2.0/24")
    })?;
    if !PREFIX.contains(&cidr.prefix_len()) {
        let (least, most) = (PREFIX.start(), PREFIX.end());
        let detail =
            format!("must have a prefix of /{least} to /{most}, has /{}", cidr.prefix_len());
        return Err(Error::field(pointer, detail));
    }
    if cidr != cidr.trunc() {
        let detail = format!("has bits set after its prefix: {} would do", cidr.trunc());
        return Err(Error::field(pointer, detail));
    }
    let never = [
        (0, 8, "this host"),
        (127 << 24, 8, "loopback"),
        (169 << 24 | 254 << 16, 16, "link-local"),
        (224 << 24, 4, "multicast"),
        (240 << 24, 4, "reserved"),
    ];
    for (base, prefix, what) in never {
        if within(cidr, base, prefix) {
            let detail =
                format!("{cidr} is in a range for {what} addresses: choose one in 10.0.0.0/8");
            return Err(Error::field(pointer, detail));
        }
    }
    let private =
        [(10 << 24, 8), (172 << 24 | 16 << 16, 12), (192 << 24 | 168 << 16, 16), (CGNAT, 10)];
    if !admin && !private.iter().any(|(base, prefix)| within(cidr, *base, *prefix)) {
        let detail = format!(
            "{cidr} is not private: choose one in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10, or ask an admin"
        );
        return Err(Error::field(pointer, detail));
    }
    Ok(cidr)
}

/// 100.64.0.0/10, shared address space (RFC 6598).
const CGNAT: u32 = 100 << 24 | 64 << 16;

/// All prefixes here are at least as long as those of the special ranges, so that a CIDR is wholly in one or wholly out.
fn within(cidr: Ipv4Net, base: u32, prefix: u32) -> bool {
    u32::from(cidr.network()) >> (32 - prefix) == base >> (32 - prefix)
}

/// The first and the last host: neither the network's own address nor the broadcast address.
fn hosts(cidr: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let (network, broadcast) = (u32::from(cidr.network()), u32::from(cidr.broadcast()));
    (Ipv4Addr::from(network + 1), Ipv4Addr::from(broadcast - 1))
}

/// A CIDR of length `prefix` in `pool` that overlaps none of `taken`; the search begins at a place given by `spread` and goes
/// round. `None`: there is none. Takes as long as `taken` is, however large the pool.
pub fn first_free(pool: Ipv4Net, prefix: u8, spread: u64, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let bits = prefix.checked_sub(pool.prefix_len())?;
    let count = 1_u64 << bits;
    let size = 1_u64 << (32 - prefix);
    let base = u64::from(u32::from(pool.network()));
    let last = u64::from(u32::from(pool.broadcast()));
    // Numbers of the candidates that each taken net covers.
    let mut covered: Vec<(u64, u64)> = taken
        .iter()
        .filter(|net| net.contains(&pool) || pool.contains(*net))
        .map(|net| {
            let from = u64::from(u32::from(net.network())).max(base);
            let to = u64::from(u32::from(net.broadcast())).min(last);
            ((from - base) / size, (to - base) / size)
        })
        .collect();
    covered.sort_unstable();
    let search = |mut at: u64, end: u64| {
        for (from, to) in &covered {
            if *from > at {
                break;
            }
            at = at.max(to + 1);
        }
        (at < end).then_some(at)
    };
    let start = spread % count;
    let number = search(start, count).or_else(|| search(0, start))?;
    let network = u32::try_from(base + number * size).ok()?;
    Ipv4Net::new(Ipv4Addr::from(network), prefix).ok()
}

#[cfg(test)]
mod tests;
