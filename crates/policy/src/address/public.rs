//! Which addresses are on the public internet (IANA's special-purpose address registries).

use super::{always_refused, readings};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 blocks that are not on the public internet, except those that are always refused.
const NOT_PUBLIC_V4: [Ipv4Net; 11] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 88, 99, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
];

/// The IPv6 blocks of the public internet: global unicast, and NAT64 towards it.
const PUBLIC_V6: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
];

/// Blocks within these that are not public: protocol assignments (Teredo among them),
/// documentation, 6to4.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// Whether `addr`, and every address that it carries, is on the public internet.
pub fn is_public(addr: IpAddr) -> bool {
    // All readings must be public: an IPv6 address may carry a private IPv4 address.
    always_refused(addr).is_none()
        && readings(addr).all(|reading| match reading {
            IpAddr::V4(addr) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&addr)),
            IpAddr::V6(addr) => {
                PUBLIC_V6.iter().any(|net| net.contains(&addr))
                    && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&addr))
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_is_what_the_internet_routes() {
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(addr(text)), "{text}");
        }
        for text in [
            "10.0.0.1",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "192.0.0.8",
            "192.88.99.1",
            "169.254.1.1",
            "0.1.2.3",
            "::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "2001:db8::1",
            "3fff::1",
            "2001:2::1",
            "2002:808:808::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::808:808",
            "::ffff:10.0.0.1",
            "::8.8.8.8",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(addr(text)), "{text}");
        }
    }
}
