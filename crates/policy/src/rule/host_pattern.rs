//! The hosts that a rule applies to.
//!
//! ```text
//! ci.corp.example     that name
//! *.corp.example      every name below it, at any depth; not corp.example itself
//! 10.1.2.3, fd12::7   that address, written as an address in the URL
//! 10.0.0.0/8          every address in it, written as an address in the URL
//! ```

use super::PatternError;
use crate::target::host::{Host, HostError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The bits before the IPv4 address in an IPv4-mapped one.
const MAPPED_PREFIX: u8 = 96;

/// A pattern for hosts. Its `Display` parses to an equal one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this canonical name.
    Name(String),
    /// `Wildcard("corp.example")` is `*.corp.example`: one or more labels before it, not itself.
    Wildcard(String),
    /// Exactly this address; an IPv4-mapped address equals its IPv4 address.
    Addr(IpAddr),
    /// Every address in this network.
    Net(IpNet),
}

impl HostPattern {
    /// Parses `host` of the config. IPv6 addresses may have brackets.
    ///
    /// A wildcard below a single label (`*.internal`) is allowed, with a warning in
    /// [`Rule::warnings`](crate::Rule::warnings): private networks have such names.
    ///
    /// # Errors
    /// [`PatternError`], with what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Err(PatternError::AnyHost);
        }
        if text.contains("://") {
            return Err(PatternError::HostUrl);
        }
        if let Some((addr, prefix)) = text.split_once('/') {
            return parse_net(addr, prefix);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return match Host::parse(suffix) {
                Ok(Host::Name(suffix)) => Ok(Self::Wildcard(suffix)),
                Ok(Host::Addr(_)) => Err(PatternError::HostStar),
                Err(_) if suffix.contains('*') => Err(PatternError::HostStar),
                Err(error) => Err(error.into()),
            };
        }
        if is_range(text) {
            return Err(PatternError::HostRange);
        }
        if text.contains('*') {
            return Err(PatternError::HostStar);
        }
        // Without brackets as well: a config is not a URL, and both forms are common.
        if let Ok(addr) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Addr(addr.into()));
        }
        match Host::parse(text) {
            Ok(Host::Name(name)) => Ok(Self::Name(name)),
            Ok(Host::Addr(addr)) => Ok(Self::Addr(addr)),
            // A colon outside of an IPv6 address is most likely a port: the hint states where ports go.
            Err(HostError::Brackets) => Err(PatternError::HostPort),
            Err(HostError::Ipv6) if text.contains("]:") => Err(PatternError::HostPort),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the pattern matches this host. Names are not resolved here.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Name(pattern), Host::Name(name)) => pattern == name,
            (Self::Wildcard(suffix), Host::Name(name)) => name
                .strip_suffix(suffix.as_str())
                // Without the dot `notcorp.example` would match `*.corp.example`.
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
            (Self::Addr(_) | Self::Net(_), Host::Addr(addr)) => self.contains(*addr),
            (Self::Name(_) | Self::Wildcard(_), Host::Addr(_))
            | (Self::Addr(_) | Self::Net(_), Host::Name(_)) => false,
        }
    }

    /// Whether every host that `other` matches is one that this pattern matches. Two patterns that
    /// list the same addresses in different ways cover each other.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(own), Self::Name(other)) => own == other,
            (Self::Wildcard(_), Self::Name(name)) => self.matches(&Host::Name(name.clone())),
            (Self::Wildcard(own), Self::Wildcard(suffix)) => {
                own == suffix || self.matches(&Host::Name(suffix.clone()))
            }
            (Self::Addr(_) | Self::Net(_), Self::Addr(_) | Self::Net(_)) => {
                match (self.network(), other.network()) {
                    (Some(own), Some(other)) => own.contains(&other),
                    (None, _) | (_, None) => false,
                }
            }
            (Self::Name(_), Self::Wildcard(_) | Self::Addr(_) | Self::Net(_))
            | (Self::Wildcard(_), Self::Addr(_) | Self::Net(_))
            | (Self::Addr(_) | Self::Net(_), Self::Name(_) | Self::Wildcard(_)) => false,
        }
    }

    /// Returns the addresses of the pattern as a network, IPv4-mapped ones as IPv4; `None` for names.
    pub(crate) fn network(&self) -> Option<IpNet> {
        match self {
            Self::Name(_) | Self::Wildcard(_) => None,
            Self::Addr(addr) => Some(IpNet::from(addr.to_canonical())),
            Self::Net(IpNet::V4(net)) => Some(IpNet::V4(*net)),
            Self::Net(IpNet::V6(net)) => Some(unmapped(*net)),
        }
    }

    /// Whether the address, as IPv4 if it is IPv4-mapped, is among those of the pattern.
    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        self.network()
            .is_some_and(|net| net.contains(&addr.to_canonical()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Addr(addr) => addr.fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Whether a text is a range of IPv4 addresses, as other programs write it: `10.0.0.*`, `10.0.0.1-10.0.0.9`.
fn is_range(text: &str) -> bool {
    let is_address = |text: &str| {
        let mut parts = text.split('.');
        let is_part = |part: &str| {
            part == "*" || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        parts.clone().count() == 4 && parts.all(is_part)
    };
    match text.split_once('-') {
        Some((first, last)) => {
            let last = last.trim();
            let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
            is_address(first.trim()) && (is_address(last) || is_number)
        }
        None => text.contains('*') && is_address(text),
    }
}

fn parse_net(addr: &str, prefix: &str) -> Result<HostPattern, PatternError> {
    let addr: IpAddr = addr.parse().map_err(|_| PatternError::HostUrl)?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    // No sign and no leading zero: parsers disagree about `08`.
    let canonical = digits && (prefix == "0" || !prefix.starts_with('0'));
    let prefix = prefix
        .parse()
        .ok()
        .filter(|_| canonical)
        .ok_or(PatternError::Prefix)?;
    let net = IpNet::new(addr, prefix).map_err(|_| PatternError::Prefix)?;
    // Not corrected silently: `10.1.2.3/8` may be a typo for one address, and would allow 16 million.
    if net.network() != addr {
        return Err(PatternError::HostBits {
            network: net.trunc(),
        });
    }
    Ok(HostPattern::Net(net))
}

/// Converts `::ffff:10.0.0.0/104` to `10.0.0.0/8`, and returns other networks unchanged.
fn unmapped(net: Ipv6Net) -> IpNet {
    let v4 = net.network().to_ipv4_mapped();
    let prefix = net.prefix_len().checked_sub(MAPPED_PREFIX);
    match v4
        .zip(prefix)
        .map(|(addr, prefix)| Ipv4Net::new(addr, prefix))
    {
        Some(Ok(net)) => IpNet::V4(net),
        Some(Err(_)) | None => IpNet::V6(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    fn matches(pattern: &str, host: &str) -> bool {
        parse(pattern).matches(&Host::parse(host).unwrap())
    }

    #[test]
    fn host_pattern_round_trips() {
        for (text, printed) in [
            ("CI.Corp.Example.", "ci.corp.example"),
            ("*.Corp.Example", "*.corp.example"),
            ("*.internal", "*.internal"),
            ("10.1.2.3", "10.1.2.3"),
            ("[FD12::7]", "fd12::7"),
            ("fd12::7", "fd12::7"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("127.0.0.1/32", "127.0.0.1/32"),
        ] {
            assert_eq!(parse(text).to_string(), printed, "{text}");
            assert_eq!(parse(printed), parse(text), "{text}");
        }
    }

    #[test]
    fn wildcard_host_matches_subdomains_only() {
        assert!(matches("*.corp.example", "ci.corp.example"));
        assert!(matches("*.corp.example", "a.b.corp.example."));
        assert!(matches("*.corp.example", "CI.CORP.EXAMPLE"));
        assert!(!matches("*.corp.example", "corp.example"));
        assert!(!matches("*.corp.example", "evilcorp.example"));
        assert!(!matches("*.corp.example", "corp.example.evil"));
        assert!(!matches("*.corp.example", "10.0.0.1"));
    }

    #[test]
    fn name_matches_only_itself() {
        assert!(matches("ci.corp.example", "CI.corp.example."));
        assert!(!matches("ci.corp.example", "x.ci.corp.example"));
        assert!(!matches("ci.corp.example", "ci.corp.example.evil"));
        assert!(!matches("10.0.0.1", "10.0.0.1.example"));
    }

    #[test]
    fn mapped_and_plain_addresses_match() {
        for pattern in [
            "10.1.2.3",
            "::ffff:10.1.2.3",
            "10.1.2.3/32",
            "10.0.0.0/8",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(matches(pattern, "10.1.2.3"), "{pattern}");
            assert!(matches(pattern, "[::ffff:10.1.2.3]"), "{pattern}");
            assert!(!matches(pattern, "11.1.2.3"), "{pattern}");
            assert!(!matches(pattern, "[64:ff9b::10.1.2.3]"), "{pattern}");
            assert!(!matches(pattern, "name"), "{pattern}");
        }
        assert!(matches("fd00::/8", "[fd12::1]"));
        assert!(!matches("::/0", "10.1.2.3"));
        assert!(!matches("::/0", "[::ffff:10.1.2.3]"));
    }

    #[test]
    fn pattern_covers_only_full_matches() {
        let covers = |own: &str, other: &str| parse(own).covers(&parse(other));
        for (own, other) in [
            ("ci.corp.example", "CI.corp.example."),
            ("*.corp.example", "ci.corp.example"),
            ("*.corp.example", "*.corp.example"),
            ("*.corp.example", "*.a.corp.example"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.0.0.0/8", "10.1.0.0/16"),
            ("10.0.0.0/8", "::ffff:10.1.2.3"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd00::/8", "fd12::/16"),
        ] {
            assert!(covers(own, other), "{own} {other}");
        }
        for (own, other) in [
            ("ci.corp.example", "*.corp.example"),
            ("ci.corp.example", "x.ci.corp.example"),
            ("*.corp.example", "corp.example"),
            ("*.corp.example", "*.example"),
            ("*.corp.example", "*.evilcorp.example"),
            ("10.1.0.0/16", "10.0.0.0/8"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("::/0", "10.1.2.3"),
            ("0.0.0.0/0", "ci.corp.example"),
            ("*.corp.example", "10.0.0.1"),
        ] {
            assert!(!covers(own, other), "{own} {other}");
        }
    }

    #[test]
    fn invalid_host_pattern_is_rejected_with_a_hint() {
        for (text, error) in [
            ("*", PatternError::AnyHost),
            ("*.", PatternError::Host(HostError::Empty)),
            ("*.*.example", PatternError::HostStar),
            ("a.*.example", PatternError::HostStar),
            ("ci*.example", PatternError::HostStar),
            ("*example", PatternError::HostStar),
            ("10.0.0.*", PatternError::HostRange),
            ("10.0.0.1-10.0.0.9", PatternError::HostRange),
            ("10.0.0.1-9", PatternError::HostRange),
            ("10.0.0.1 - 10.0.0.9", PatternError::HostRange),
            ("*.10.0.0.1", PatternError::HostStar),
            ("https://ci.example", PatternError::HostUrl),
            ("ci.example/hooks", PatternError::HostUrl),
            ("ci.example:443", PatternError::HostPort),
            ("[::1]:443", PatternError::HostPort),
            ("10.0.0.0/33", PatternError::Prefix),
            ("10.0.0.0/08", PatternError::Prefix),
            ("10.0.0.0/+8", PatternError::Prefix),
            ("10.0.0.0/", PatternError::Prefix),
            ("10.0.0.0/255.0.0.0", PatternError::Prefix),
            ("10.0.0.0/8/8", PatternError::Prefix),
            (
                "10.1.2.3/8",
                PatternError::HostBits {
                    network: "10.0.0.0/8".parse().unwrap(),
                },
            ),
            ("010.0.0.0/8", PatternError::HostUrl),
            ("10.1", PatternError::Host(HostError::Number)),
            ("0x0a000001", PatternError::Host(HostError::Number)),
            ("fe80::1%eth0", PatternError::Host(HostError::Percent)),
            ("", PatternError::Host(HostError::Empty)),
            (" ci.example", PatternError::Host(HostError::Character)),
        ] {
            assert_eq!(HostPattern::parse(text), Err(error), "{text}");
        }
    }
}
