//! Hosts that are reached without the proxy: the value of `NO_PROXY`.
//!
//! ```text
//! *                   every host               10.0.0.0/8  fd00::/8   networks
//! corp.example        it and all below it      10.1.2.3  [::1]        addresses
//! .corp.example       the same                 ci.corp:8443           one port of any of them
//! *.corp.example      all below it             a, b c                 separated by commas or spaces
//! ```
//!
//! These are curl's rules, with ports and `*.name` as other programs have them. An entry that is none of these
//! matches nothing. `hyper_util::client::proxy::matcher` knows no ports, brackets, `*.name`, trailing dots or
//! spaces, and needs one more package (`tower-service`). The networks that it does know are `ipnet`'s, as here.

use ipnet::IpNet;
use std::net::IpAddr;

/// The parsed list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoProxy(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    /// `None` for every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Any,
    /// This name and all below it.
    Domain(String),
    /// All names below this one.
    Subdomains(String),
    Address(IpAddr),
    Network(IpNet),
}

impl NoProxy {
    /// Parses a list. It never fails: programs differ in the forms that they know, and one unknown entry must
    /// not keep a bridge from starting.
    pub(super) fn parse(list: &str) -> Self {
        let items = list.split(|c: char| c == ',' || c.is_whitespace());
        let items = items.filter(|item| !item.is_empty());
        Self(
            items
                .map(|item| Entry::parse(&item.to_ascii_lowercase()))
                .collect(),
        )
    }

    /// Whether `host` (a name, or an address with or without brackets) is reached without the proxy.
    pub(super) fn matches(&self, host: &str, port: u16) -> bool {
        let host = bare(host).to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|addr| addr.to_canonical());
        self.0.iter().any(|entry| {
            entry.port.is_none_or(|only| only == port) && entry.hosts.match_host(&host, address)
        })
    }
}

impl Entry {
    fn parse(item: &str) -> Self {
        // An address or a network comes first: the colons of IPv6 do not begin a port.
        if let Some(hosts) = Hosts::parse_address(item) {
            return Self { hosts, port: None };
        }
        let (hosts, port) = match item.rsplit_once(':') {
            Some((hosts, port)) => match port.parse() {
                Ok(port) => (hosts, Some(port)),
                Err(_) => (item, None),
            },
            None => (item, None),
        };
        let hosts = Hosts::parse_address(hosts).unwrap_or_else(|| Hosts::parse_name(hosts));
        Self { hosts, port }
    }
}

impl Hosts {
    fn parse_address(text: &str) -> Option<Self> {
        if let Ok(network) = text.parse() {
            return Some(Self::Network(network));
        }
        let address: IpAddr = bare(text).parse().ok()?;
        Some(Self::Address(address.to_canonical()))
    }

    fn parse_name(text: &str) -> Self {
        if text == "*" {
            return Self::Any;
        }
        match text.strip_prefix("*.") {
            Some(below) => Self::Subdomains(bare(below).to_owned()),
            None => Self::Domain(bare(text.trim_start_matches('.')).to_owned()),
        }
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
            (Self::Domain(name), None) => host == name || is_below(name),
            (Self::Subdomains(name), None) => is_below(name),
            (Self::Address(only), Some(address)) => *only == address,
            (Self::Network(network), Some(address)) => network.contains(&address),
            // A name is never resolved for this: the proxy may be the only one that can.
            (Self::Address(_) | Self::Network(_), None) => false,
            (Self::Domain(_) | Self::Subdomains(_), Some(_)) => false,
        }
    }
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
}
