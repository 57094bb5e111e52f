//! Classes of addresses: always refused, loopback, public; also when an IPv6 address carries them.
//!
//! ```text
//! 64:ff9b::a9fe:a9fe --readings--> itself, 169.254.169.254 --> metadata: always refused
//! ```
//!
//! An IPv6 address that carries an IPv4 address may bring packets to it (a NAT64 gateway, a tunnel,
//! a dual-stack socket), so all of its [`readings`] are checked. IANA's special-purpose
//! registries name the blocks.

mod public;

pub use self::public::is_public;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why no rule can allow an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AlwaysRefused {
    /// A cloud's metadata service, which issues credentials: by address or by name.
    Metadata,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 0.0.0.0/8, ::.
    Unspecified,
    /// 255.255.255.255.
    Broadcast,
    /// 240.0.0.0/4.
    Reserved,
}

impl fmt::Display for AlwaysRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "cloud metadata",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
        })
    }
}

/// Metadata services over IPv4: most clouds, Alibaba, Azure's wire server, Oracle's older one.
pub(crate) const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Metadata services over IPv6 outside link-local: AWS (instances, and pods of EKS), Google,
/// Oracle, Scaleway, Akamai, Alibaba.
pub(crate) const METADATA_V6: [Ipv6Addr; 7] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

/// Names of metadata services, refused before they are resolved.
pub(crate) const METADATA_NAMES: [&str; 5] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
];

/// The most addresses that [`readings`] returns: itself, and two.
pub(crate) const READINGS_MAX: usize = 3;

/// Returns every address that `addr` may bring packets to, in canonical form, beginning with itself.
///
/// | form | read as |
/// | --- | --- |
/// | IPv4-mapped `::ffff:0:0/96` (RFC 4291) | only the IPv4 address, which a socket connects to |
/// | IPv4-compatible `::/96` without `::` and `::1` (RFC 4291), IPv4-translated `::ffff:0:0:0/96` (RFC 7915) | itself and its last 32 bits |
/// | NAT64 `64:ff9b::/96` (RFC 6052), `64:ff9b:1::/48` (RFC 8215) | itself and its last 32 bits; the latter also in RFC 6052's /64 layout |
/// | 6to4 `2002::/16` (RFC 3056) | itself and bits 16 to 47 |
/// | Teredo `2001::/32` (RFC 4380) | itself, the server, and the client (inverted) |
///
/// RFC 6052's /48 and /56 layouts end in 32 zero bits, so they are read as 0.0.0.0 and always refused.
/// A network's own NAT64 prefix cannot be known here.
pub(crate) fn readings(addr: IpAddr) -> impl Iterator<Item = IpAddr> {
    let addr = addr.to_canonical();
    let carried = match addr {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(addr) => carried(addr),
    };
    std::iter::once(addr).chain(carried.into_iter().flatten().map(IpAddr::V4))
}

/// Returns the IPv4 addresses inside an IPv6 address that is not IPv4-mapped.
fn carried(addr: Ipv6Addr) -> [Option<Ipv4Addr>; READINGS_MAX - 1] {
    let bytes = addr.octets();
    let at = |first: usize| {
        Ipv4Addr::new(
            bytes[first],
            bytes[first + 1],
            bytes[first + 2],
            bytes[first + 3],
        )
    };
    match addr.segments() {
        // `::` and `::1` have the form of an IPv4-compatible address, and are none.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        [0, 0, 0, 0, 0, 0, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [Some(at(12)), None],
        [0x64, 0xff9b, 1, ..] => {
            // In the /64 layout byte 8 and everything after the address are zero.
            let short = bytes[8] == 0 && bytes[13..] == [0, 0, 0];
            [Some(at(12)), short.then(|| at(9))]
        }
        [0x2002, ..] => [Some(at(2)), None],
        [0x2001, 0, ..] => [Some(at(4)), Some(Ipv4Addr::from_bits(!at(12).to_bits()))],
        _ => [None, None],
    }
}

/// Returns why `addr`, or an address that it carries, is refused regardless of the rules.
pub(crate) fn always_refused(addr: IpAddr) -> Option<AlwaysRefused> {
    readings(addr).find_map(|reading| match reading {
        IpAddr::V4(addr) => refused_v4(addr),
        IpAddr::V6(addr) => refused_v6(addr),
    })
}

fn refused_v4(addr: Ipv4Addr) -> Option<AlwaysRefused> {
    match addr.octets() {
        // Before the blocks, so that the reason names the service and not the block that contains it.
        _ if METADATA_V4.contains(&addr) => Some(AlwaysRefused::Metadata),
        [169, 254, ..] => Some(AlwaysRefused::LinkLocal),
        [224..=239, ..] => Some(AlwaysRefused::Multicast),
        [0, ..] => Some(AlwaysRefused::Unspecified),
        [255, 255, 255, 255] => Some(AlwaysRefused::Broadcast),
        [240..=255, ..] => Some(AlwaysRefused::Reserved),
        _ => None,
    }
}

fn refused_v6(addr: Ipv6Addr) -> Option<AlwaysRefused> {
    if METADATA_V6.contains(&addr) {
        Some(AlwaysRefused::Metadata)
    } else if addr.is_unicast_link_local() {
        Some(AlwaysRefused::LinkLocal)
    } else if addr.is_multicast() {
        Some(AlwaysRefused::Multicast)
    } else if addr.is_unspecified() {
        Some(AlwaysRefused::Unspecified)
    } else {
        None
    }
}

/// Whether a canonical name is one of [`METADATA_NAMES`].
pub(crate) fn is_metadata_name(name: &str) -> bool {
    METADATA_NAMES.contains(&name)
}

/// Whether `addr` is loopback, or carries it.
pub(crate) fn is_loopback(addr: IpAddr) -> bool {
    readings(addr).any(|reading| reading.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn readings_find_every_carried_address() {
        for (text, expected) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::10.1.2.3", "::a01:203 10.1.2.3"),
            ("::ffff:0:a01:203", "::ffff:0:a01:203 10.1.2.3"),
            ("64:ff9b::10.1.2.3", "64:ff9b::a01:203 10.1.2.3"),
            ("64:ff9b:1:7::10.1.2.3", "64:ff9b:1:7::a01:203 10.1.2.3"),
            (
                "64:ff9b:1:7:a:102:300:0",
                "64:ff9b:1:7:a:102:300:0 3.0.0.0 10.1.2.3",
            ),
            ("2002:a01:203::7", "2002:a01:203::7 10.1.2.3"),
            (
                "2001:0:a01:203:0:0:f5fe:fcfb",
                "2001:0:a01:203::f5fe:fcfb 10.1.2.3 10.1.3.4",
            ),
            ("::1", "::1"),
            ("::", "::"),
            ("2001:db8::1", "2001:db8::1"),
            ("fd00::10.1.2.3", "fd00::a01:203"),
        ] {
            let got: Vec<_> = readings(addr(text))
                .map(|reading| reading.to_string())
                .collect();
            assert_eq!(got.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn always_refused_addresses_are_found() {
        use AlwaysRefused::{Broadcast, LinkLocal, Metadata, Multicast, Reserved, Unspecified};
        for (text, why) in [
            ("169.254.169.254", Metadata),
            ("100.100.100.200", Metadata),
            ("168.63.129.16", Metadata),
            ("192.0.0.192", Metadata),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd20:ce::254", Metadata),
            ("fd00:c1::a9fe:a9fe", Metadata),
            ("fd00:42::42", Metadata),
            ("fd00:a9fe:a9fe::1", Metadata),
            ("fd00:100::100:200", Metadata),
            ("169.254.0.0", LinkLocal),
            ("169.254.255.255", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("0.0.0.0", Unspecified),
            ("0.255.255.255", Unspecified),
            ("::", Unspecified),
            ("::2", Unspecified),
            ("255.255.255.255", Broadcast),
            ("240.0.0.1", Reserved),
            ("255.255.255.254", Reserved),
            ("::ffff:169.254.169.254", Metadata),
            ("::169.254.169.254", Metadata),
            ("::ffff:0:a9fe:a9fe", Metadata),
            ("64:ff9b::a9fe:a9fe", Metadata),
            ("64:ff9b:1::6464:64c8", Metadata),
            ("64:ff9b:1:0:64:6464:c800:0", Metadata),
            ("64:ff9b:1:6464:64:c800::", Unspecified),
            ("2002:a9fe:a9fe::1", Metadata),
            ("2002:e000:1::", Multicast),
            ("2001:0:a9fe:a9fe::f5fe:fcfb", Metadata),
            ("2001:0:a01:203::5601:5601", Metadata),
        ] {
            assert_eq!(always_refused(addr(text)), Some(why), "{text}");
        }
    }

    #[test]
    fn private_and_public_addresses_may_be_allowed() {
        for text in [
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "192.168.1.1",
            "8.8.8.8",
            "fd12::1",
            "2606:4700::1111",
            "223.255.255.255",
            "64:ff9b::a00:1",
            "::ffff:10.0.0.1",
            "fec0::1",
            "fd00:ec2::1",
            "168.63.129.17",
            "169.253.255.255",
        ] {
            assert_eq!(always_refused(addr(text)), None, "{text}");
        }
    }

    #[test]
    fn carried_loopback_is_found() {
        for text in [
            "127.0.0.1",
            "127.255.0.9",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(is_loopback(addr(text)), "{text}");
        }
        for text in [
            "128.0.0.1",
            "10.0.0.1",
            "fd00::1",
            "2002:a00:1::",
            "::10.0.0.1",
        ] {
            assert!(!is_loopback(addr(text)), "{text}");
        }
    }
}
