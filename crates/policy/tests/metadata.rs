//! A cloud's metadata service in every spelling that is known to have worked somewhere, against the
//! widest possible allow list.

use policy::{Endpoint, HostPattern, Methods, Policy, RefusalKind, Rule};

/// A policy that allows everything that rules can allow.
fn widest() -> Policy {
    let hosts = [
        "0.0.0.0/0",
        "::/0",
        "169.254.169.254",
        "169.254.169.254/32",
        "fd00:ec2::254",
        "*.internal",
        "*.google.internal",
        "metadata",
        "metadata.goog",
        "instance-data",
        "*.ec2.internal",
        "*.nip.io",
        "*.example",
        "localhost",
    ];
    let rule = |host: &str| Rule {
        resolved: true,
        connect: true,
        ..Rule::new(HostPattern::parse(host).expect("a pattern"), Methods::Any)
    };
    Policy::new(hosts.into_iter().map(rule).collect(), vec![]).expect("a policy")
}

const BY_ADDRESS: &[&str] = &[
    "169.254.169.254",
    "169.254.169.254.",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[::FFFF:A9FE:A9FE]",
    "[::169.254.169.254]",
    "[::a9fe:a9fe]",
    "[::ffff:0:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[64:ff9b:1:fffe::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:a9fe:a9fe::1]",
    "[2001::5601:5601]",
    "[fd00:ec2::254]",
    "[fd00:0ec2:0000:0000:0000:0000:0000:0254]",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:42::42]",
    "[fe80::a9fe:a9fe]",
    "100.100.100.200",
    "[::ffff:100.100.100.200]",
    "168.63.129.16",
    "192.0.0.192",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.0.23",
    "169.254.42.42",
];

const BY_NUMBER: &[&str] = &[
    "2852039166",
    "2852039166.",
    "0xa9fea9fe",
    "0XA9FEA9FE",
    "0x00000000a9fea9fe",
    "025177524776",
    "0251.0376.0251.0376",
    "0251.254.169.254",
    "00000251.0000376.000251.0000376",
    "0xa9.0xfe.0xa9.0xfe",
    "0xa9.254.169.254",
    "169.0xfe.43518",
    "169.254.43518",
    "169.16689662",
    "169.254.169.0xfe",
    "169.254.169.254.0",
    "169.254.169.0254",
    "425.510.425.510",
    "7147006462",
    "1684301000",
    "0x646464c8",
    "2822732048",
];

const UNPARSABLE: &[&str] = &[
    "169.254.169.254@other.example",
    "other.example@169.254.169.254",
    "other.example:80@169.254.169.254",
    "other.example\\@169.254.169.254",
    "169.254.169.254\\.other.example",
    "169%2e254%2e169%2e254",
    "%31%36%39.254.169.254",
    "169.254.169.254%00.other.example",
    "169.254.169.254%23.other.example",
    "169\u{3002}254\u{3002}169\u{3002}254",
    "\u{2460}\u{2465}\u{2468}.254.169.254",
    "\u{ff11}\u{ff16}\u{ff19}.254.169.254",
    "[fe80::a9fe:a9fe%eth0]",
    "[fe80::a9fe:a9fe%25eth0]",
    "[169.254.169.254]",
    "[::ffff:169.254.169.254",
    "::ffff:169.254.169.254",
    "169.254.169.254 ",
    "169.254.169.254\t",
    "169.254.169.254#",
    "169.254.169.254..",
];

const BY_NAME: &[&str] = &[
    "metadata.google.internal",
    "Metadata.Google.Internal",
    "metadata.google.internal.",
    "METADATA.GOOGLE.INTERNAL:80",
    "metadata",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

fn kinds(host: &str) -> [RefusalKind; 2] {
    let policy = widest();
    let kind = |url: String| policy.decide_url("GET", &url).expect_err(host).kind();
    [
        kind(format!("http://{host}/latest/meta-data/")),
        kind(format!("https://{host}")),
    ]
}

#[test]
fn metadata_by_address_is_always_refused() {
    for host in BY_ADDRESS {
        assert_eq!(kinds(host), [RefusalKind::AlwaysRefused; 2], "{host}");
        let connect = widest().decide_connect(host, 80).expect_err(host);
        assert_eq!(connect.kind(), RefusalKind::AlwaysRefused, "{host}");
    }
}

#[test]
fn metadata_by_number_is_no_url() {
    for host in BY_NUMBER {
        assert_eq!(kinds(host), [RefusalKind::InvalidUrl; 2], "{host}");
        let connect = widest().decide_connect(host, 80).expect_err(host);
        assert_eq!(connect.kind(), RefusalKind::InvalidUrl, "{host}");
        assert!(HostPattern::parse(host).is_err(), "{host}");
    }
}

#[test]
fn ambiguous_metadata_host_is_no_url() {
    for host in UNPARSABLE {
        assert_eq!(kinds(host), [RefusalKind::InvalidUrl; 2], "{host}");
    }
}

#[test]
fn metadata_by_name_is_always_refused() {
    for host in BY_NAME {
        assert_eq!(kinds(host), [RefusalKind::AlwaysRefused; 2], "{host}");
    }
}

#[test]
fn name_that_resolves_to_metadata_is_refused() {
    let policy = widest();
    for host in [
        "169.254.169.254.nip.io",
        "rebind.example",
        "localhost",
        "elsewhere",
    ] {
        let candidate = policy
            .decide_url("GET", &format!("http://{host}/"))
            .expect("a rule allows the name");
        for addr in BY_ADDRESS {
            let addr = addr
                .trim_end_matches('.')
                .trim_matches(['[', ']'])
                .parse()
                .expect("an address");
            let refusal = candidate.approve(addr).expect_err(host);
            assert_eq!(refusal.kind(), RefusalKind::AlwaysRefused, "{host} {addr}");
        }
    }
}

#[test]
fn endpoint_cannot_reach_a_metadata_service() {
    for host in BY_ADDRESS.iter().chain(BY_NAME) {
        let endpoint = Endpoint::new("m", &format!("http://{host}"), Methods::Any).expect(host);
        assert_eq!(endpoint.warnings().len(), 1, "{host}");
        let policy = Policy::new(vec![], vec![endpoint]).expect("a policy");
        let refusal = policy.decide_endpoint("m", "GET", "/").expect_err(host);
        assert_eq!(refusal.kind(), RefusalKind::AlwaysRefused, "{host}");
    }
}
