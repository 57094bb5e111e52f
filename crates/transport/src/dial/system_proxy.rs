//! The proxy settings of Windows: what the texts mean that the system keeps.
//!
//! ```text
//! servers   proxy.corp.example:8080                 for everything
//!           http=a.example:80;https=b.example:443   by the scheme of the target
//! bypass    <local>        names without a dot      10.*   192.168.1.*   networks
//!           ci.example     this host alone          *.corp.example       all below it
//! ```
//!
//! Other than in `NO_PROXY`, a name means this host alone. A script (PAC) is not run.

use super::no_proxy::{Entry, Hosts, NoProxy, shown};
use super::proxy::{Proxy, ProxyError, ProxyServer};
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;

/// The port of a proxy without one, as the system has it.
const DEFAULT_PORT: &str = "80";

impl Proxy {
    /// Returns the proxy that the system's settings name for connections to HTTPS servers. `origin` names the settings in
    /// messages.
    ///
    /// # Errors
    /// [`ProxyError::Setting`] when they name no proxy in a known form.
    pub fn from_system(origin: &str, servers: &str, bypass: &str) -> Result<Self, ProxyError> {
        // Only with a proxy for other schemes do connections to HTTPS servers not use one.
        let Some(server) = server(servers) else {
            return Ok(Self::Direct);
        };
        Ok(Self::Via {
            server: ProxyServer::parse(origin, &server)?,
            no_proxy: exceptions(origin, bypass),
        })
    }
}

/// Returns the entry for HTTPS servers, with a port.
fn server(servers: &str) -> Option<String> {
    let entries = || items(servers);
    let of_https = entries().find_map(|entry| {
        let (scheme, server) = entry.split_once('=')?;
        scheme.eq_ignore_ascii_case("https").then_some(server)
    });
    let server = of_https.or_else(|| entries().find(|entry| !entry.contains('=')))?;
    let authority = server.rsplit_once("://").map_or(server, |(_, rest)| rest);
    let authority = authority.trim_end_matches('/');
    let has_port = match authority.rsplit_once(']') {
        Some((_, port)) => !port.is_empty(),
        None => authority.contains(':'),
    };
    Some(match has_port {
        true => format!("http://{authority}"),
        false => format!("http://{authority}:{DEFAULT_PORT}"),
    })
}

/// Returns the hosts that are reached directly, and logs a warning about entries that match nothing.
fn exceptions(origin: &str, bypass: &str) -> NoProxy {
    let mut unknown = Vec::new();
    let mut entries = Vec::new();
    for item in items(bypass) {
        match exception(&item.to_ascii_lowercase()) {
            Some(entry) => entries.push(entry),
            None => unknown.push(item),
        }
    }
    if !unknown.is_empty() {
        let entries = shown(&unknown);
        tracing::warn!(
            origin,
            entries,
            "the system's list of hosts without a proxy has entries without effect: set relay.proxy and NO_PROXY, or \
             write names, *.names or addresses with * at their end"
        );
    }
    NoProxy(entries)
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    let items = list.split(|c: char| matches!(c, ';' | ',') || c.is_whitespace());
    items.filter(|item| !item.is_empty())
}

fn exception(item: &str) -> Option<Entry> {
    let item = item.rsplit_once("://").map_or(item, |(_, rest)| rest);
    let whole = |hosts| Some(Entry { hosts, port: None });
    if item == "<local>" {
        return whole(Hosts::Local);
    }
    // An address or a network comes first: the colons of IPv6 do not begin a port.
    if let Some(hosts) = Hosts::parse_address(item).or_else(|| network(item)) {
        return whole(hosts);
    }
    let (host, port) = match item.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (item, None),
    };
    // `*corp.example` is the host and all below it; other names that only end so are not looked for.
    let is_suffix = host.len() > 1 && host.starts_with('*') && !host.starts_with("*.");
    let host = if is_suffix { &host[1..] } else { host };
    let hosts = Hosts::parse_address(host)
        .or_else(|| network(host))
        .or_else(|| Hosts::parse_name(host))?;
    let hosts = match hosts {
        Hosts::Domain(name) if !is_suffix => Hosts::Name(name),
        hosts => hosts,
    };
    Some(Entry { hosts, port })
}

/// Returns the network of an address whose last parts are `*`.
fn network(text: &str) -> Option<Hosts> {
    let known = text.trim_end_matches(".*");
    // All four parts, or `*` for what is left out.
    if known == text {
        return None;
    }
    let mut octets = [0; 4];
    let mut count = 0;
    for part in known.split('.') {
        *octets.get_mut(count)? = part.parse().ok()?;
        count += 1;
    }
    let bits = u8::try_from(count * 8).ok()?;
    let network = Ipv4Net::new(Ipv4Addr::from(octets), bits).ok()?;
    Some(Hosts::Network(IpNet::V4(network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_for(servers: &str) -> Option<String> {
        let proxy = Proxy::from_system("a test", servers, "").unwrap();
        proxy
            .server_for("any.example", 443)
            .map(ToString::to_string)
    }

    #[test]
    fn server_for_https_is_chosen() {
        for (servers, expected) in [
            ("proxy.corp.example:8080", Some("proxy.corp.example:8080")),
            ("proxy.corp.example", Some("proxy.corp.example:80")),
            (
                "http://proxy.corp.example:8080/",
                Some("proxy.corp.example:8080"),
            ),
            (
                "http=a.example:80;https=b.example:443",
                Some("b.example:443"),
            ),
            (
                "HTTPS=b.example:443 http=a.example:80",
                Some("b.example:443"),
            ),
            ("[fd00::1]", Some("[fd00::1]:80")),
            ("[fd00::1]:8080", Some("[fd00::1]:8080")),
            ("http=a.example:80", None),
            ("", None),
        ] {
            assert_eq!(shown_for(servers).as_deref(), expected, "{servers}");
        }
        let wrong = Proxy::from_system("a test", "proxy:0", "").unwrap_err();
        assert!(wrong.to_string().contains("a test"), "{wrong}");
    }

    #[test]
    fn system_exceptions_match_as_documented() {
        for (bypass, host, is_matched) in [
            ("<local>", "relay", true),
            ("<local>", "relay.corp.example", false),
            ("<local>", "10.0.0.1", false),
            ("ci.example", "ci.example", true),
            ("ci.example", "a.ci.example", false),
            ("*.corp.example", "ci.corp.example", true),
            ("*.corp.example", "corp.example", false),
            ("*corp.example", "corp.example", true),
            ("10.*", "10.9.9.9", true),
            ("10.*", "11.9.9.9", false),
            ("192.168.1.*", "192.168.1.7", true),
            ("192.168.*.*", "192.168.9.7", true),
            ("https://ci.example", "ci.example", true),
            ("CI.example:8443", "ci.example", false),
            ("CI.example:443", "ci.example", true),
            ("*", "any.example", true),
            ("a.example; 10.0.0.1", "10.0.0.1", true),
            ("fd00::1", "[fd00::1]", true),
            ("corp*;<-loopback>", "corp.example", false),
        ] {
            let proxy = Proxy::from_system("a test", "proxy:3128", bypass).unwrap();
            let found = proxy.server_for(host, 443).is_none();
            assert_eq!(found, is_matched, "{bypass:?}, host {host}");
        }
    }
}
