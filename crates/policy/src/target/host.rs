//! The host of a URL: a name in canonical form, or an address that has exactly one spelling.
//!
//! A resolver reads `2852039166`, `0x7f.1` and `0177.0.0.1` as addresses. None of these reaches a
//! resolver: a host that ends in a number is a dotted quad or an error. (This is the ends-in-a-number
//! checker of the WHATWG URL standard, which then converts such hosts; this crate does not.)

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// Bytes of a name (RFC 1035 section 2.3.4, less the length bytes of its ends).
const NAME_MAX_BYTES: usize = 253;

/// Bytes between two dots of a name (RFC 1035 section 2.3.4).
const LABEL_MAX_BYTES: usize = 63;

/// Why a text is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HostError {
    /// The host is empty.
    #[error("the host is empty")]
    Empty,
    /// Percent-encoding in the host.
    #[error("the host has a %: hosts are not percent-encoded, and zone ids are refused")]
    Percent,
    /// A character other than letters, digits, `-`, `_` and `.`.
    #[error("the host may hold letters, digits, '-', '_' and '.' only; write others in xn-- form")]
    Character,
    /// Two dots in a row, or one at the beginning.
    #[error("the host has an empty label (two dots in a row, or one at its beginning)")]
    EmptyLabel,
    /// More than 63 bytes between two dots.
    #[error("the host has a label of more than {LABEL_MAX_BYTES} bytes")]
    LongLabel,
    /// More than 253 bytes.
    #[error("the host has more than {NAME_MAX_BYTES} bytes")]
    LongName,
    /// It ends in a number, but is not a dotted quad.
    #[error(
        "the host ends in a number: write an IPv4 address as four decimal parts without leading zeros"
    )]
    Number,
    /// Brackets around text that is not an IPv6 address.
    #[error("the host in brackets is no IPv6 address; zone ids are refused")]
    Ipv6,
    /// An IPv6 address without brackets.
    #[error("the host has a colon: write an IPv6 address in brackets")]
    Brackets,
}

/// The host of a target: a name to resolve, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Lower-case ASCII without a trailing dot; labels of 1 to 63 bytes, 253 in total; never a text
    /// that a resolver would read as an address.
    Name(String),
    /// An address as it was written. An IPv4-mapped one stays IPv6 here; checks convert it
    /// ([`crate::address`]).
    Addr(IpAddr),
}

impl Host {
    /// Parses the host of a URL: IPv6 addresses in brackets, one trailing dot allowed.
    ///
    /// # Errors
    /// [`HostError`] for the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::Ipv6)?;
            // A zone id (`%eth0`) selects an interface of this machine, which no caller may choose.
            return match inner.parse::<Ipv6Addr>() {
                Ok(addr) => Ok(Self::Addr(addr.into())),
                Err(_) => Err(HostError::Ipv6),
            };
        }
        // One trailing dot marks a fully qualified name. Without it two spellings of one name would differ.
        let name = text.strip_suffix('.').unwrap_or(text);
        check_name(name)?;
        if !ends_in_a_number(name) {
            return Ok(Self::Name(name.to_ascii_lowercase()));
        }
        // The parser of the standard library accepts only four decimal parts without leading zeros.
        match name.parse::<Ipv4Addr>() {
            Ok(addr) => Ok(Self::Addr(addr.into())),
            Err(_) => Err(HostError::Number),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Addr(IpAddr::V4(addr)) => addr.fmt(f),
            Self::Addr(IpAddr::V6(addr)) => write!(f, "[{addr}]"),
        }
    }
}

/// Checks a name. Hyphens are allowed anywhere, and underscores as well: real networks have both.
fn check_name(name: &str) -> Result<(), HostError> {
    if name.contains('%') {
        return Err(HostError::Percent);
    }
    if name.contains(':') {
        return Err(HostError::Brackets);
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        return Err(HostError::Character);
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(HostError::LongName);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostError::EmptyLabel);
        }
        if label.len() > LABEL_MAX_BYTES {
            return Err(HostError::LongLabel);
        }
    }
    Ok(())
}

/// Whether the last label is decimal, octal or hexadecimal, as `inet_aton` reads numbers.
fn ends_in_a_number(name: &str) -> bool {
    // Only the last label counts: `inet_aton` reads `1.2.3` as an address, and `1.2.3.example` not.
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_lower_case_without_trailing_dot() {
        for (text, name) in [
            ("Corp.Example.", "corp.example"),
            ("build_01", "build_01"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("3com.example", "3com.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("0xcafe.example", "0xcafe.example"),
            ("0xzz", "0xzz"),
            ("1a", "1a"),
        ] {
            assert_eq!(Host::parse(text), Ok(Host::Name(name.into())), "{text}");
        }
    }

    #[test]
    fn address_has_one_spelling() {
        let quad = Host::Addr([127, 0, 0, 1].into());
        assert_eq!(Host::parse("127.0.0.1"), Ok(quad.clone()));
        assert_eq!(Host::parse("127.0.0.1."), Ok(quad));
        for text in [
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "017700000001",
            "127.1",
            "127.0.1",
            "0x7f.1",
            "0177.0.0.1",
            "127.0.0.01",
            "127.0.0.0x1",
            "127.0.0.1.1",
            "256.0.0.1",
            "1.2.3",
            "0x",
            "a.0x",
            "foo.1",
            "00.0.0.1",
            "127.00.0.1",
            "4294967296",
        ] {
            assert_eq!(Host::parse(text), Err(HostError::Number), "{text}");
        }
    }

    #[test]
    fn ipv6_host_requires_brackets() {
        let mapped = Host::parse("[::FFFF:7f00:1]").unwrap();
        assert_eq!(mapped, Host::Addr("::ffff:127.0.0.1".parse().unwrap()));
        assert_eq!(mapped.to_string(), "[::ffff:127.0.0.1]");
        assert_eq!(Host::parse("::1"), Err(HostError::Brackets));
        for text in [
            "[]",
            "[::1",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[[::1]]",
            "[::1].",
        ] {
            assert_eq!(Host::parse(text), Err(HostError::Ipv6), "{text}");
        }
    }

    #[test]
    fn invalid_host_is_rejected() {
        let label = "a".repeat(63);
        let name = [label.as_str(); 4].join(".");
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::EmptyLabel),
            ("a..b", HostError::EmptyLabel),
            (".a", HostError::EmptyLabel),
            ("a..", HostError::EmptyLabel),
            ("%31%32%37.0.0.1", HostError::Percent),
            ("a%2eb", HostError::Percent),
            ("a%00", HostError::Percent),
            ("a*b", HostError::Character),
            ("*", HostError::Character),
            ("a,b", HostError::Character),
            ("a]", HostError::Character),
            ("b\u{fc}cher", HostError::Character),
            (&format!("{label}a.b"), HostError::LongLabel),
            (&name, HostError::LongName),
        ] {
            assert_eq!(Host::parse(text), Err(error), "{text}");
        }
        assert!(Host::parse(&name[..253]).is_ok());
    }
}
