//! Tests of `domain::subnet`.

use proptest::prelude::*;

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().expect("a CIDR")
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

#[test]
fn by_default_the_first_host_is_the_gateway_and_all_others_are_given_out() {
    let subnet = Subnet::new(net("10.1.2.0/24"), Wishes::default()).expect("subnet");
    assert_eq!(subnet.gateway, ip("10.1.2.1"));
    assert_eq!((subnet.range_start, subnet.range_end), (ip("10.1.2.2"), ip("10.1.2.254")));
    assert_eq!(subnet.capacity(), 253);
    let last = Wishes { gateway: Some(ip("10.1.2.254")), ..Wishes::default() };
    let subnet = Subnet::new(net("10.1.2.0/24"), last).expect("subnet");
    assert_eq!((subnet.range_start, subnet.range_end), (ip("10.1.2.1"), ip("10.1.2.253")));
    let middle = Wishes { gateway: Some(ip("10.1.2.9")), ..Wishes::default() };
    let subnet = Subnet::new(net("10.1.2.0/24"), middle).expect("subnet");
    assert_eq!(subnet.capacity(), 253);
    assert!(subnet.check_address("/address", ip("10.1.2.9").into()).is_err());
}

#[test]
fn a_gateway_or_range_outside_the_hosts_is_refused_by_name() {
    let wishes = |gateway, start, end| Wishes {
        gateway: Some(ip(gateway)),
        range_start: Some(ip(start)),
        range_end: Some(ip(end)),
    };
    for (wishes, pointers) in [
        (wishes("10.1.2.0", "10.1.2.2", "10.1.2.255"), vec!["/gateway", "/range_end"]),
        (wishes("10.1.2.1", "10.1.1.2", "10.1.2.9"), vec!["/range_start"]),
        (wishes("10.1.2.1", "10.1.2.9", "10.1.2.8"), vec!["/range_end"]),
        (wishes("10.1.2.9", "10.1.2.9", "10.1.2.9"), vec!["/range_end"]),
    ] {
        let Err(Error::Invalid(faults)) = Subnet::new(net("10.1.2.0/24"), wishes) else {
            panic!("{wishes:?} was taken")
        };
        assert_eq!(faults.iter().map(|f| f.pointer.as_str()).collect::<Vec<_>>(), pointers);
    }
}

#[test]
fn odd_cidrs_are_refused_with_what_would_do() {
    let odd = [
        ("", "10.1.2.0/24"),
        ("10.0.0.0", "10.1.2.0/24"),
        ("fd00::/64", "10.1.2.0/24"),
        ("10.0.0.0/8", "/16 to /29"),
        ("10.0.0.0/30", "/16 to /29"),
        ("10.0.0.5/24", "10.0.0.0/24 would do"),
        ("127.0.0.0/24", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.1.0.0/24", "multicast"),
        ("240.0.0.0/24", "reserved"),
        ("255.255.255.0/24", "reserved"),
        ("0.0.0.0/16", "10.0.0.0/8"),
    ];
    for (text, hint) in odd {
        let error = parse_cidr("/cidr", text, true).expect_err(text).to_string();
        assert!(error.starts_with("/cidr: ") && error.contains(hint), "{text}: {error}");
    }
    for text in ["10.0.0.0/16", "172.31.0.0/16", "192.168.0.0/29", "100.64.0.0/24"] {
        assert!(parse_cidr("/cidr", text, false).is_ok(), "{text}");
    }
    for text in ["8.8.8.0/24", "172.32.0.0/16", "192.169.0.0/24", "100.128.0.0/24"] {
        assert!(parse_cidr("/cidr", text, true).is_ok(), "{text}");
        let error = parse_cidr("/cidr", text, false).expect_err(text).to_string();
        assert!(error.contains("not private"), "{error}");
    }
}

proptest! {
    #[test]
    fn every_address_of_the_range_is_a_host_and_not_the_gateway(
        base in any::<u32>(), prefix in PREFIX, gateway in any::<u32>(), probe in any::<u32>(),
    ) {
        let cidr = Ipv4Net::new(Ipv4Addr::from(base), prefix).expect("net").trunc();
        let inside = |n: u32| Ipv4Addr::from(u32::from(cidr.network()) + n % (1 << (32 - prefix)));
        let wishes = Wishes { gateway: Some(inside(gateway)), ..Wishes::default() };
        let Ok(subnet) = Subnet::new(cidr, wishes) else {
            prop_assert!(inside(gateway) == cidr.network() || inside(gateway) == cidr.broadcast());
            return Ok(());
        };
        let probe = inside(probe);
        let given = subnet.check_address("", probe.into()).is_ok();
        let special = [cidr.network(), cidr.broadcast(), subnet.gateway].contains(&probe);
        prop_assert_eq!(given, !special);
        prop_assert_eq!(subnet.capacity(), (1 << (32 - prefix)) - 3);
    }

    #[test]
    fn a_chosen_cidr_is_in_the_pool_and_overlaps_nothing_and_one_is_found_if_there_is_one(
        prefix in 24_u8..=29, spread in any::<u64>(),
        taken in proptest::collection::vec((any::<u16>(), 20_u8..=32), 0..40),
    ) {
        let pool = net("10.7.0.0/22");
        // Around the pool: some before it, some after, some over it.
        let around = |(low, length): (u16, u8)| {
            let address = u32::from(ip("10.6.252.0")) + u32::from(low) % (3 << 10);
            Ipv4Net::new(Ipv4Addr::from(address), length).expect("net").trunc()
        };
        let taken: Vec<_> = taken.into_iter().map(around).collect();
        let overlaps = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
        let free = |cidr: &Ipv4Net| !taken.iter().any(|net| overlaps(net, cidr));
        match first_free(pool, prefix, spread, &taken) {
            Some(cidr) => {
                prop_assert!(pool.contains(&cidr) && cidr.prefix_len() == prefix);
                prop_assert_eq!(cidr, cidr.trunc());
                prop_assert!(free(&cidr));
            }
            None => prop_assert!(!pool.subnets(prefix).expect("subnets").any(|cidr| free(&cidr))),
        }
    }
}

#[test]
fn two_clouds_begin_their_search_at_different_places() {
    let pool = net("10.64.0.0/12");
    assert_eq!(first_free(pool, 24, 0, &[]), Some(net("10.64.0.0/24")));
    assert_eq!(first_free(pool, 24, 4095, &[]), Some(net("10.79.255.0/24")));
    assert_eq!(first_free(pool, 24, 4095, &[net("10.79.255.0/24")]), Some(net("10.64.0.0/24")));
}
