//! Who stands behind a proxy: `X-Forwarded-For` says what anybody likes, except for what our own proxies have added to it.

use std::net::IpAddr;

use ipnet::IpNet;

/// The nearest address that is no proxy of ours. The header's values (`said`) are read from the right: each proxy adds the
/// address that it was called from at the end.
pub fn client(socket: IpAddr, said: &[&str], trusted: &[IpNet]) -> IpAddr {
    let ours = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = socket.to_canonical();
    for entry in said.iter().rev().flat_map(|value| value.rsplit(',')) {
        if !ours(client) {
            break;
        }
        // What is no address ends the chain: the proxy that passed it on is as far as we know.
        let Some(before) = address(entry.trim()) else { break };
        client = before.to_canonical();
    }
    client
}

/// `192.0.2.1`, `2001:db8::1`, and both with a port, as some proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|socket: std::net::SocketAddr| socket.ip());
    text.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(socket: &str, said: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        client(socket.parse().unwrap(), said, &trusted).to_string()
    }

    #[test]
    fn a_stranger_may_say_what_it_likes() {
        assert_eq!(of("192.0.2.9", &["203.0.113.1"]), "192.0.2.9");
        assert_eq!(of("::ffff:192.0.2.9", &["10.0.0.1"]), "192.0.2.9");
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_of_ours_is_the_client() {
        assert_eq!(of("10.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1, 203.0.113.1, 10.2.2.2"]), "203.0.113.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "203.0.113.1,10.9.9.9"]), "203.0.113.1");
        assert_eq!(of("::ffff:10.0.0.1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(of("fd00::1", &["203.0.113.1:80"]), "203.0.113.1");
        assert_eq!(of("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn what_is_no_address_ends_the_chain() {
        for odd in ["", "unknown", "203.0.113.1, ", "203.0.113.1 198.51.100.1", "_hidden"] {
            assert_eq!(of("10.0.0.1", &[odd]), "10.0.0.1", "{odd:?}");
        }
        assert_eq!(of("10.0.0.1", &["203.0.113.1, x, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }
}
