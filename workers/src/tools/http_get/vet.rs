//! Which addresses the world is made of. Pure.
//!
//! What is not known to be public is refused, so a range assigned tomorrow is refused until somebody allows it. An
//! IPv6 address that carries an IPv4 address is judged by the one it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address no tool may reach, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {why}; only public addresses may be reached")]
pub struct Blocked {
    pub address: IpAddr,
    pub why: &'static str,
}

pub fn vet(address: IpAddr) -> Result<(), Blocked> {
    let found = match address {
        IpAddr::V4(v4) => blocked_v4(v4),
        IpAddr::V6(v6) => blocked_v6(v6),
    };
    found.map_or(Ok(()), |why| Err(Blocked { address, why }))
}

fn blocked_v4(address: Ipv4Addr) -> Option<&'static str> {
    let why = match address.octets() {
        [0, ..] => "unspecified",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "shared by a carrier's customers (CGNAT)",
        [127, ..] => "this machine's own (loopback)",
        // Where clouds keep the credentials of their machines.
        [169, 254, ..] => "link-local",
        [192, 0, 0, _] | [192, 88, 99, _] => "reserved for protocols",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "reserved for documentation",
        [198, 18..=19, ..] => "reserved for benchmarks",
        [224..=239, ..] => "multicast",
        [240..=255, ..] => "reserved",
        _ => return None,
    };
    Some(why)
}

fn blocked_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    let carried = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("this machine's own (loopback)"),
        // Mapped, and NAT64's well-known prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => blocked_v4(carried(high, low)),
        // Compatible: nobody uses it any more but who wants to get past a filter.
        [0, 0, 0, 0, 0, 0, high, low] => Some(blocked_v4(carried(high, low)).unwrap_or("reserved")),
        // 6to4.
        [0x2002, high, low, ..] => blocked_v4(carried(high, low)),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("reserved for documentation"),
        // Teredo among them, which carries an address too, and hides it.
        [0x2001, 0..=0x01ff, ..] => Some("reserved for protocols"),
        [0x2000..=0x3fff, ..] => None,
        [0xfc00..=0xfdff, ..] => Some("private (unique local)"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("private (site-local)"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        _ => Some("reserved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: Option<&str>) {
        let address: IpAddr = address.parse().unwrap_or_else(|_| panic!("{address} is no address"));
        let found = vet(address).err().map(|blocked| blocked.why);
        match expected {
            None => assert_eq!(found, None, "{address}"),
            Some(word) => assert!(
                found.is_some_and(|why| why.contains(word)),
                "{address}: {found:?}, not {word}"
            ),
        }
    }

    #[test]
    fn every_special_range_is_blocked_from_its_first_to_its_last_address() {
        let ranges = [
            ("0.0.0.0", "0.255.255.255", "unspecified"),
            ("10.0.0.0", "10.255.255.255", "private"),
            ("100.64.0.0", "100.127.255.255", "CGNAT"),
            ("127.0.0.0", "127.255.255.255", "loopback"),
            ("169.254.0.0", "169.254.255.255", "link-local"),
            ("172.16.0.0", "172.31.255.255", "private"),
            ("192.0.0.0", "192.0.0.255", "protocols"),
            ("192.0.2.0", "192.0.2.255", "documentation"),
            ("192.88.99.0", "192.88.99.255", "protocols"),
            ("192.168.0.0", "192.168.255.255", "private"),
            ("198.18.0.0", "198.19.255.255", "benchmarks"),
            ("198.51.100.0", "198.51.100.255", "documentation"),
            ("203.0.113.0", "203.0.113.255", "documentation"),
            ("224.0.0.0", "239.255.255.255", "multicast"),
            ("240.0.0.0", "255.255.255.255", "reserved"),
            ("::", "::", "unspecified"),
            ("::1", "::1", "loopback"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("100::", "100::ffff:ffff:ffff:ffff", "reserved"),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "protocols"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "unique local"),
            ("fe00::", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
        ];
        for (first, last, word) in ranges {
            check(first, Some(word));
            check(last, Some(word));
        }
    }

    #[test]
    fn the_neighbours_of_special_ranges_are_public() {
        let public = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "8.8.8.8",
            "2000::",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::",
            "2606:4700::1111",
            "3fff:1000::",
            "3ffe::1",
        ];
        for address in public {
            check(address, None);
        }
    }

    #[test]
    fn an_address_that_carries_another_is_judged_by_the_one_it_carries() {
        for (inner, word) in [
            ("127.0.0.1", "loopback"),
            ("10.1.2.3", "private"),
            ("169.254.169.254", "link-local"),
        ] {
            let v4: Ipv4Addr = inner.parse().expect(inner);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            check(&format!("::ffff:{inner}"), Some(word));
            check(&format!("::{inner}"), Some(word));
            check(&format!("64:ff9b::{inner}"), Some(word));
            check(&format!("2002:{high:x}:{low:x}::1"), Some(word));
        }
        for public in ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"] {
            check(public, None);
        }
        check("::8.8.8.8", Some("reserved"));
    }
}
