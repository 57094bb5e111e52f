//! Generators: small vocabularies, so that requests often match rules, and every form in which an IPv6
//! address can carry an IPv4 address.

use policy::{HostPattern, Methods, PathPattern, Ports, Rule, Scheme};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hosts of URLs.
pub(crate) const HOSTS: &[&str] = &[
    "ci.corp",
    "corp",
    "a.b.corp",
    "CI.Corp.",
    "localhost",
    "other",
    "10.0.0.1",
    "10.0.0.5",
    "127.0.0.1",
    "127.9.9.9",
    "192.168.1.1",
    "[::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[fd00::1]",
    "[64:ff9b::a00:1]",
];

/// Hosts of rules.
const PATTERNS: &[&str] = &[
    "ci.corp",
    "*.corp",
    "corp",
    "localhost",
    "*.localhost",
    "10.0.0.0/8",
    "10.0.0.1",
    "10.0.0.5",
    "127.0.0.1",
    "127.0.0.0/8",
    "::1",
    "0.0.0.0/0",
    "::/0",
    "::ffff:10.0.0.1",
    "fd00::/8",
    "192.168.0.0/16",
];

/// Methods of requests.
pub(crate) const METHODS: &[&str] = &["GET", "POST", "get", "CONNECT", "PURGE"];

/// Paths of URLs, with and without dots.
const PATHS: &[&str] = &[
    "",
    "/",
    "/hooks",
    "/hooks/",
    "/hooks/a",
    "/hooksx",
    "/hooks/../x",
    "/hooks/%2e%2e/x",
    "/x?../hooks/",
    "/x",
    "?q",
    "/hooks/%252e%252e/x",
    "/hooks/..;/x",
];

/// Valid URLs.
pub(crate) fn urls() -> impl Strategy<Value = String> {
    let port = select(&["", "", ":80", ":443", ":8443"][..]);
    (
        select(&["http", "https", "HTTPS"][..]),
        select(HOSTS),
        port,
        select(PATHS),
    )
        .prop_map(|(scheme, host, port, path)| format!("{scheme}://{host}{port}{path}"))
}

/// Valid rules, none twice.
pub(crate) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    vec(rule(), 0..6).prop_map(|mut rules| {
        let mut seen = Vec::new();
        rules.retain(|rule| {
            let new = !seen.contains(rule);
            seen.push(rule.clone());
            new
        });
        rules
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let schemes = subsequence(&[Scheme::Http, Scheme::Https][..], 1..=2);
    let ports = prop_oneof![
        2 => Just(Ports::Default),
        1 => subsequence(&[80, 443, 8443][..], 1..=3).prop_map(Ports::Only)
    ];
    let methods = prop_oneof![
        1 => Just(Methods::Any),
        1 => subsequence(&["GET", "POST", "PURGE"][..], 1..=3)
            .prop_map(|names| Methods::parse(&names).expect("methods"))
    ];
    let paths = subsequence(&["/hooks", "/hooks/*", "/x", "/*", "/"][..], 1..=5);
    let flags = (any::<bool>(), any::<bool>());
    (
        select(PATTERNS),
        option::weighted(0.3, schemes),
        ports,
        methods,
        option::weighted(0.4, paths),
        flags,
    )
        .prop_map(
            |(host, schemes, ports, methods, paths, (resolved, connect))| {
                let path = |path| PathPattern::parse(path).expect("a path");
                Rule {
                    host: HostPattern::parse(host).expect("a pattern"),
                    schemes,
                    ports,
                    methods,
                    paths: paths.map(|paths| paths.into_iter().map(path).collect()),
                    resolved,
                    connect,
                    pass_overrides: false,
                }
            },
        )
}

/// Addresses that names could resolve to.
pub(crate) fn addresses() -> impl Strategy<Value = IpAddr> {
    let usual = [
        "10.0.0.1",
        "10.0.0.5",
        "127.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.1",
    ];
    let usual = usual.map(|addr| addr.parse().expect("an address"));
    prop_oneof![4 => select(usual.to_vec()), 1 => any::<IpAddr>(), 1 => always_refused_address()]
}

/// An address that is always refused, bare or in any form that carries it.
pub(crate) fn always_refused_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        2 => refused_v6().prop_map(IpAddr::V6),
        1 => refused_v4().prop_map(IpAddr::V4),
        5 => (refused_v4(), any::<[u8; 16]>(), 0..WRAPS).prop_map(|(addr, noise, form)| wrap(addr, noise, form).into())
    ]
}

fn refused_v4() -> impl Strategy<Value = Ipv4Addr> {
    let metadata = [
        [169, 254, 169, 254],
        [100, 100, 100, 200],
        [168, 63, 129, 16],
        [192, 0, 0, 192],
    ];
    let block = select(
        &[
            (0u32, 8u32),
            (0xa9fe_0000, 16),
            (0xe000_0000, 4),
            (0xf000_0000, 4),
            (u32::MAX, 32),
        ][..],
    );
    prop_oneof![
        select(metadata.to_vec()).prop_map(Ipv4Addr::from),
        (block, any::<u32>()).prop_map(|((base, prefix), noise)| {
            let host_bits = u32::MAX.checked_shr(prefix).unwrap_or(0);
            Ipv4Addr::from_bits(base | (noise & host_bits))
        })
    ]
}

fn refused_v6() -> impl Strategy<Value = Ipv6Addr> {
    let metadata = [
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "::",
    ];
    let metadata = metadata.map(|addr| addr.parse().expect("an address"));
    prop_oneof![
        select(metadata.to_vec()),
        any::<u128>().prop_map(|noise| Ipv6Addr::from_bits((0xfe80 << 112) | (noise >> 10))),
        any::<u128>().prop_map(|noise| Ipv6Addr::from_bits((0xff00 << 112) | (noise >> 8))),
    ]
}

/// Forms that [`wrap`] knows.
const WRAPS: u8 = 11;

/// `addr` inside an IPv6 address; what the form leaves open is noise.
fn wrap(addr: Ipv4Addr, noise: [u8; 16], form: u8) -> Ipv6Addr {
    let v4 = addr.octets();
    let mut bytes = [0; 16];
    match form {
        // IPv4-mapped, IPv4-translated, NAT64.
        0 => bytes[10..12].fill(0xff),
        1 => bytes[8..10].fill(0xff),
        2 => bytes[..4].copy_from_slice(&[0, 0x64, 0xff, 0x9b]),
        // Local NAT64, in the layouts of RFC 6052 for /96, /64, /56 and /48.
        3..=6 => {
            bytes = noise;
            bytes[..6].copy_from_slice(&[0, 0x64, 0xff, 0x9b, 0, 1]);
        }
        // 6to4.
        7 => {
            bytes = noise;
            bytes[..2].copy_from_slice(&[0x20, 2]);
        }
        // Teredo, as the server and as the client.
        8 | 9 => {
            bytes = noise;
            bytes[..4].copy_from_slice(&[0x20, 1, 0, 0]);
        }
        // IPv4-compatible.
        _ => {}
    }
    let places: [usize; 4] = match form {
        4 => [9, 10, 11, 12],
        5 => [7, 9, 10, 11],
        6 => [6, 7, 9, 10],
        7 => [2, 3, 4, 5],
        8 => [4, 5, 6, 7],
        _ => [12, 13, 14, 15],
    };
    if (4..=6).contains(&form) {
        bytes[8] = 0;
        bytes[places[3] + 1..].fill(0);
    }
    for (place, byte) in places.into_iter().zip(v4) {
        bytes[place] = if form == 9 { !byte } else { byte };
    }
    // ::1 is loopback, and no form of 0.0.0.1.
    if form == 10 && addr.to_bits() == 1 {
        Ipv6Addr::UNSPECIFIED
    } else {
        Ipv6Addr::from(bytes)
    }
}
