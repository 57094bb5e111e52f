//! Hosts that are reached without the proxy: the value of `NO_PROXY`.
//!
//! ```text
//! *                   every host               10.0.0.0/8  fd00::/8   networks
//! corp.example        it and all below it      10.1.2.3  [::1]        addresses
//! .corp.example       the same                 ci.corp:8443           one port of any of them
//! *.corp.example      all below it             10.0.0.0/255.0.0.0     a network by its mask
//! a, b c              separated by commas, blanks, tabs or line breaks
//! ```
//!
//! [`super::system_proxy`] has the other forms, those of Windows. These are curl's rules, with ports, masks and `*.name` as other programs have them. All spellings of an
//! address are equal. An entry that is none of these matches nothing, and causes a warning.
//!
//! `hyper_util::client::proxy::matcher` supports no ports, brackets, `*.name`, trailing dots or spaces, and needs one more
//! package (`tower-service`).

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

/// The parsed list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoProxy(pub(super) Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hosts: Hosts,
    /// `None` for every port.
    pub(super) port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hosts {
    Any,
    /// Names without a dot.
    Local,
    /// This name alone.
    Name(String),
    /// This name and all below it.
    Domain(String),
    /// All names below this one.
    Subdomains(String),
    Address(IpAddr),
    Network(IpNet),
}

impl NoProxy {
    /// Parses a list, and logs a warning about entries that match nothing. It never fails: programs differ in
    /// the forms that they know, and one unknown entry must not keep a bridge from starting.
    pub(super) fn parse(list: &str) -> Self {
        let (entries, unknown) = Self::read(list);
        if !unknown.is_empty() {
            let entries = shown(&unknown);
            tracing::warn!(
                entries,
                "NO_PROXY has entries without effect: write names, *.names, addresses or networks, each with or \
                 without a port"
            );
        }
        entries
    }

    /// Returns the list, and the entries that are in no known form.
    fn read(list: &str) -> (Self, Vec<&str>) {
        let items = list.split(|c: char| c == ',' || c.is_whitespace());
        let mut unknown = Vec::new();
        let mut entries = Vec::new();
        for item in items.filter(|item| !item.is_empty()) {
            match Entry::parse(&item.to_ascii_lowercase()) {
                Some(entry) => entries.push(entry),
                None => unknown.push(item),
            }
        }
        (Self(entries), unknown)
    }

    /// Whether `host` (a name, or an address with or without brackets) is reached without the proxy.
    pub(super) fn matches(&self, host: &str, port: u16) -> bool {
        let host = bare(host).to_ascii_lowercase();
        let address = parse_address(&host);
        self.0.iter().any(|entry| {
            entry.port.is_none_or(|only| only == port) && entry.hosts.match_host(&host, address)
        })
    }
}

/// Unknown entries that a warning shows, and the length of each.
const SHOWN_MAX: usize = 8;
const SHOWN_CHARS_MAX: usize = 64;

/// Returns unknown entries for the log. One with user information may hold a password.
pub(super) fn shown(unknown: &[&str]) -> String {
    let texts = unknown.iter().take(SHOWN_MAX).map(|item| {
        let text: String = item.chars().take(SHOWN_CHARS_MAX).collect();
        match text.rsplit_once('@') {
            Some((_, host)) => format!("...@{host}"),
            None => text,
        }
    });
    let mut text = texts.collect::<Vec<_>>().join(", ");
    if unknown.len() > SHOWN_MAX {
        text.push_str(", ...");
    }
    text
}

impl Entry {
    /// Returns `None` for a form that is not known.
    fn parse(item: &str) -> Option<Self> {
        // An address or a network comes first: the colons of IPv6 do not begin a port.
        if let Some(hosts) = Hosts::parse_address(item) {
            return Some(Self { hosts, port: None });
        }
        let (hosts, port) = match item.rsplit_once(':') {
            Some((hosts, port)) => (hosts, Some(port.parse().ok()?)),
            None => (item, None),
        };
        let hosts = Hosts::parse_address(hosts).or_else(|| Hosts::parse_name(hosts))?;
        Some(Self { hosts, port })
    }
}

impl Hosts {
    pub(super) fn parse_address(text: &str) -> Option<Self> {
        let Some((address, prefix)) = text.split_once('/') else {
            return Some(Self::Address(parse_address(text)?));
        };
        // Both `[fd00::]/8` and `[fd00::/8]` are in use.
        let (address, prefix) = match (address.strip_prefix('['), prefix.strip_suffix(']')) {
            (Some(address), Some(prefix)) => (address, prefix),
            _ => (bare(address), prefix),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = match prefix.parse::<Ipv4Addr>() {
            // A mask is ones, and then zeros.
            Ok(mask) if address.is_ipv4() => {
                let ones = mask.to_bits().leading_ones();
                let is_mask = mask.to_bits().count_ones() == ones;
                is_mask.then(|| u8::try_from(ones).ok()).flatten()?
            }
            _ => prefix.parse().ok()?,
        };
        // A network of IPv4-mapped addresses is an IPv4 network, as such an address is an IPv4 address.
        let (address, bits) = match (address.to_canonical(), bits.checked_sub(96)) {
            (mapped @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() => (mapped, bits),
            _ => (address, bits),
        };
        IpNet::new(address, bits).ok().map(Self::Network)
    }

    pub(super) fn parse_name(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (below, is_below) = match text.strip_prefix("*.") {
            Some(below) => (below, true),
            None => (text.strip_prefix('.').unwrap_or(text), false),
        };
        let name = below.strip_suffix('.').unwrap_or(below);
        let is_label = |label: &str| {
            let mut bytes = label.bytes();
            !label.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        // A name whose last label is a number would be an address (as `10.1` is for some programs), which
        // matches no name.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|b| b.is_ascii_digit());
        if !name.split('.').all(is_label) || is_number {
            return None;
        }
        Some(match is_below {
            true => Self::Subdomains(name.to_owned()),
            false => Self::Domain(name.to_owned()),
        })
    }

    fn match_host(&self, host: &str, address: Option<IpAddr>) -> bool {
        let is_below = |name: &str| {
            !name.is_empty()
                && host
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.'))
        };
        match (self, address) {
            (Self::Any, _) => true,
            (Self::Local, None) => !host.contains('.'),
            (Self::Name(name), None) => host == name,
            (Self::Domain(name), None) => host == name || is_below(name),
            (Self::Subdomains(name), None) => is_below(name),
            (Self::Address(only), Some(address)) => *only == address,
            (Self::Network(network), Some(address)) => network.contains(&address),
            // A name is never resolved for this: the proxy may be the only one that can.
            (Self::Address(_) | Self::Network(_), None) => false,
            (Self::Local | Self::Name(_) | Self::Domain(_) | Self::Subdomains(_), Some(_)) => false,
        }
    }
}

/// Parses an address, with or without brackets, in any spelling that names one.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = bare(text).parse().ok()?;
    Some(address.to_canonical())
}

/// Removes the brackets of an IPv6 address and the trailing dot of a fully qualified name.
fn bare(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_forms_match_as_documented() {
        for (list, host, is_matched) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.2", "127.0.0.1", false),
            ("localhost", "localhost", true),
            ("LOCALHOST", "localhost", true),
            ("*", "127.0.0.1", true),
            ("*", "any.example", true),
            ("10.0.0.0/8,127.0.0.0/8", "127.0.0.1", true),
            ("10.0.0.0/8", "127.0.0.1", false),
            ("foo.example 127.0.0.1", "127.0.0.1", true),
            ("foo.example, 127.0.0.1 ,bar", "127.0.0.1", true),
            ("127.0.0.1:8443", "127.0.0.1", true),
            ("127.0.0.1:1", "127.0.0.1", false),
            ("::1", "[::1]", true),
            ("[::1]", "::1", true),
            ("[::1]:8443", "[::1]", true),
            ("[::1]:1", "[::1]", false),
            ("0:0:0:0:0:0:0:1", "[::1]", true),
            ("::/64", "[::1]", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "[::ffff:a00:1]", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.0/104", "11.9.9.9", false),
            ("::/0", "10.9.9.9", false),
            ("[::]/64", "[::1]", true),
            ("[::/64]:8443", "[::1]", true),
            ("[::/64]:1", "[::1]", false),
            ("2001:DB8::1", "[2001:db8:0:0::1]", true),
            ("10.9.9.9/8", "10.0.0.1", true),
            ("10.0.0.0/255.0.0.0", "10.0.0.1", true),
            ("10.0.0.0/255.0.0.0", "11.0.0.1", false),
            ("10.0.0.0/8:8443", "10.0.0.1", true),
            ("10.0.0.0/8:1", "10.0.0.1", false),
            ("a.example\tb.example\n10.0.0.1", "b.example", true),
            ("a.example;10.0.0.1", "10.0.0.1", false),
            (".localhost", "localhost", true),
            ("localhost.", "localhost", true),
            ("corp.example", "ci.corp.example.", true),
            ("corp.example", "notcorp.example", false),
            ("*.corp.example", "ci.corp.example", true),
            ("*.corp.example", "corp.example", false),
            ("corp.example:8443", "ci.corp.example", true),
            ("corp.example:443", "ci.corp.example", false),
            ("10.0.0.1", "10.0.0.1.example", false),
            ("0.0.1", "10.0.0.1", false),
            ("*.", "any.example", false),
            ("", "any.example", false),
            (",. ,", "any.example", false),
        ] {
            let matched = NoProxy::parse(list).matches(host, 8443);
            assert_eq!(matched, is_matched, "NO_PROXY={list:?}, host {host}");
        }
    }

    #[test]
    fn unknown_no_proxy_entries_are_reported() {
        let list = "ok.example, <local>, 10.*, 127.1, ci*.example, http://me:secret@x.example, 10.0.0.0/33, \
                    10.0.0.0/0.255.0.0, a.example:port, .";
        let (entries, unknown) = NoProxy::read(list);
        assert_eq!(entries.0.len(), 1);
        let expected = [
            "<local>",
            "10.*",
            "127.1",
            "ci*.example",
            "http://me:secret@x.example",
            "10.0.0.0/33",
            "10.0.0.0/0.255.0.0",
            "a.example:port",
            ".",
        ];
        assert_eq!(unknown, expected);
        let text = shown(&unknown);
        assert!(
            !text.contains("secret") && text.ends_with(", ..."),
            "{text}"
        );
    }
}
