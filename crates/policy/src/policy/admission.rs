//! Which addresses a matching rule admits.
//!
//! ```text
//! address --> always refused? --> public, if required? --> within the rule? --> loopback or the
//! machine's own: named? --> admitted
//! ```
//!
//! A rule by name admits every address that the name resolves to, private networks included: this is
//! the bridge's purpose. Loopback and the machine's own addresses are different. Services there trust
//! local clients, and the server of a DNS zone could point a name at them. So a rule must name them as
//! addresses. An endpoint may name them by `this_host`: its URL is the operator's, and HTTPS needs the name.

use super::candidate::RuleRef;
use super::refusal::{Refusal, RefusalKind, part};
use crate::address::{always_refused, is_loopback, is_metadata_name, is_public, readings};
use crate::rule::host_pattern::HostPattern;
use crate::rule::overrides::Overrides;
use crate::target::host::Host;
use std::net::IpAddr;

/// The limits of every rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// The machine's own addresses, canonical and without loopback.
    pub(crate) own: Vec<IpAddr>,
    /// Whether addresses must be on the public internet.
    pub(crate) public_only: bool,
    /// Whether the host is one that the operator wrote into the program's own config, so that no rule applies.
    pub(crate) is_configured: bool,
}

/// A rule or endpoint that allows the request, if it admits its address.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) rule: RuleRef,
    pub(crate) overrides: Overrides,
    pattern: HostPattern,
    /// Whether the host may be this machine, see [`Endpoint::this_host`](crate::Endpoint::this_host).
    this_host: bool,
}

impl Grant {
    pub(crate) fn allow(rule: RuleRef, pattern: HostPattern) -> Self {
        Self {
            rule,
            overrides: Overrides::default(),
            pattern,
            this_host: false,
        }
    }

    /// Sets which fields are dropped from the requests that it allows.
    pub(crate) fn dropping(self, overrides: Overrides) -> Self {
        Self { overrides, ..self }
    }

    /// Creates the grant of an endpoint: it admits the same addresses as a rule with the host of its URL, and this
    /// machine's with `this_host`.
    pub(crate) fn endpoint(rule: RuleRef, host: &Host, this_host: bool) -> Self {
        let pattern = match host {
            Host::Name(name) => HostPattern::Name(name.clone()),
            Host::Addr(addr) => HostPattern::Addr(*addr),
        };
        Self {
            this_host,
            ..Self::allow(rule, pattern)
        }
    }

    /// Whether the rule names this address, as an address or as a network of one address.
    fn names(&self, addr: IpAddr) -> bool {
        let single = self
            .pattern
            .network()
            .is_some_and(|net| net.prefix_len() == net.max_prefix_len());
        single && self.pattern.contains(addr)
    }

    /// Returns the change that would admit an address of this machine.
    fn how_to_name(&self, canonical: IpAddr) -> String {
        match &self.rule {
            RuleRef::Endpoint(name) => format!(
                "set this_host = true in the entry of endpoint {}, or use the address in its url",
                part(name)
            ),
            RuleRef::Allow(..) => format!(
                "call it by address, with host = \"{canonical}\" in an allow rule, or declare an endpoint with \
                 this_host = true"
            ),
        }
    }

    /// Whether the rule names loopback: by an address, a network within it, or `localhost` and exact
    /// names below it (RFC 6761 section 6.3). All but the first are for loopback itself, not for IPv6
    /// addresses that carry it.
    fn names_loopback(&self, addr: IpAddr) -> bool {
        let within = match &self.pattern {
            HostPattern::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            // A wildcard names no single host, so it cannot name loopback.
            HostPattern::Wildcard(_) => false,
            HostPattern::Addr(_) | HostPattern::Net(_) => {
                let ends = self
                    .pattern
                    .network()
                    .map(|net| [net.network(), net.broadcast()]);
                ends.is_some_and(|ends| ends.iter().all(IpAddr::is_loopback))
            }
        };
        self.names(addr) || ((within || self.this_host) && addr.to_canonical().is_loopback())
    }
}

impl Limits {
    /// Refuses hosts that no rule can allow, before a name is resolved.
    pub(crate) fn refuse_host(&self, host: &Host) -> Result<(), Refusal> {
        match host {
            Host::Name(name) if is_metadata_name(name) => {
                let detail = format!("{name} is a cloud metadata service, which no rule can allow");
                Err(Refusal::new(RefusalKind::AlwaysRefused, detail))
            }
            Host::Name(_) => Ok(()),
            Host::Addr(addr) => refuse_always(host, *addr),
        }
    }

    /// Checks whether `addr`, which `host` is or was resolved to, may be connected to under this grant.
    pub(crate) fn admit(&self, grant: &Grant, host: &Host, addr: IpAddr) -> Result<(), Refusal> {
        if self.is_configured {
            return Ok(());
        }
        self.refuse_host(host)?;
        // First, so that no rule and no setting can lift it.
        refuse_always(host, addr)?;
        let refuse = |why: String| {
            let detail = format!("{} {why}", describe(host, addr));
            Err(Refusal::new(RefusalKind::AddressNotAllowed, detail))
        };
        if self.public_only && !is_public(addr) {
            return refuse(
                "is not on the public internet, and nothing else is called from here".into(),
            );
        }
        // A caller of `approve` that mixes up addresses must not widen what the URL states.
        if let Host::Addr(literal) = host
            && literal.to_canonical() != addr.to_canonical()
        {
            return refuse(format!("is not the address in the URL, {literal}"));
        }
        let admits = match &grant.pattern {
            // Whether the name matches was decided with the URL.
            HostPattern::Name(_) | HostPattern::Wildcard(_) => true,
            HostPattern::Addr(_) | HostPattern::Net(_) => grant.pattern.contains(addr),
        };
        let canonical = addr.to_canonical();
        if !admits {
            return refuse(format!("is outside what {} allows", grant.rule));
        }
        if is_loopback(addr) && !grant.names_loopback(addr) {
            return refuse(format!(
                "is loopback, which must be named: {}",
                grant.how_to_name(canonical)
            ));
        }
        // All readings: an IPv6 address that carries one of this machine's reaches the same services.
        // `this_host` is for the address itself, not for one that carries it to another gateway.
        let is_this_host = grant.this_host && self.own.contains(&canonical);
        if readings(addr).any(|reading| self.own.contains(&reading))
            && !grant.names(addr)
            && !is_this_host
        {
            return refuse(format!(
                "is this machine's own, which must be named: {}",
                grant.how_to_name(canonical)
            ));
        }
        Ok(())
    }
}

fn refuse_always(host: &Host, addr: IpAddr) -> Result<(), Refusal> {
    match always_refused(addr) {
        None => Ok(()),
        Some(why) => {
            let detail = format!(
                "{} is or carries a {why} address, which no rule can allow",
                describe(host, addr)
            );
            Err(Refusal::new(RefusalKind::AlwaysRefused, detail))
        }
    }
}

fn describe(host: &Host, addr: IpAddr) -> String {
    match host {
        Host::Name(name) => format!("{addr} (resolved from {})", part(name)),
        Host::Addr(_) => addr.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks whether a rule for `pattern` admits `addr` for `host`. The machine itself is 10.0.0.5 and
    /// fd00::5.
    fn admit(pattern: &str, host: &str, addr: &str) -> Result<(), RefusalKind> {
        let limits = Limits {
            own: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            public_only: false,
            ..Limits::default()
        };
        let pattern = HostPattern::parse(pattern).unwrap();
        let grant = Grant::allow(RuleRef::Allow(0, pattern.clone()), pattern);
        let host = Host::parse(host).unwrap();
        limits
            .admit(&grant, &host, addr.parse().unwrap())
            .map_err(|refusal| {
                assert!(refusal.detail().len() < 300);
                refusal.kind()
            })
    }

    const NOT_ALLOWED: Result<(), RefusalKind> = Err(RefusalKind::AddressNotAllowed);

    #[test]
    fn name_rule_admits_private_and_public_addresses() {
        for addr in [
            "10.1.2.3",
            "192.168.0.1",
            "8.8.8.8",
            "fd12::7",
            "::ffff:10.1.2.3",
            "64:ff9b::a01:203",
        ] {
            assert_eq!(admit("ci.corp", "ci.corp", addr), Ok(()), "{addr}");
            assert_eq!(admit("*.corp", "ci.corp", addr), Ok(()), "{addr}");
        }
    }

    #[test]
    fn loopback_is_admitted_only_when_named() {
        for (pattern, host, addr) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]", "::1"),
            ("127.0.0.0/8", "127.9.9.9", "127.9.9.9"),
            ("127.0.0.0/8", "name", "127.0.0.1"),
            ("::ffff:127.0.0.0/104", "127.9.9.9", "127.9.9.9"),
            ("::1/128", "[::1]", "::1"),
            ("localhost", "localhost", "127.0.0.1"),
            ("localhost", "localhost", "::1"),
            ("app.localhost", "app.localhost", "::ffff:127.0.0.1"),
            ("64:ff9b::7f00:1", "[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
        ] {
            assert_eq!(
                admit(pattern, host, addr),
                Ok(()),
                "{pattern} {host} {addr}"
            );
        }
        for (pattern, host, addr) in [
            ("ci.corp", "ci.corp", "127.0.0.1"),
            ("ci.corp", "ci.corp", "::1"),
            ("ci.corp", "ci.corp", "::ffff:127.0.0.1"),
            ("ci.corp", "ci.corp", "64:ff9b::7f00:1"),
            ("ci.corp", "ci.corp", "2002:7f00:1::"),
            ("*.corp", "ci.corp", "127.0.0.1"),
            ("*.localhost", "app.localhost", "127.0.0.1"),
            ("0.0.0.0/0", "127.0.0.1", "127.0.0.1"),
            ("0.0.0.0/0", "name", "127.0.0.1"),
            ("126.0.0.0/7", "127.0.0.1", "127.0.0.1"),
            ("::/0", "[::1]", "::1"),
            ("::/0", "[::7f00:1]", "::7f00:1"),
            ("64:ff9b::/96", "[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
            ("localhost", "localhost", "64:ff9b::7f00:1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ] {
            assert_eq!(
                admit(pattern, host, addr),
                NOT_ALLOWED,
                "{pattern} {host} {addr}"
            );
        }
    }

    #[test]
    fn own_addresses_are_admitted_only_when_named() {
        for (pattern, host, addr) in [
            ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
            ("10.0.0.5/32", "10.0.0.5", "10.0.0.5"),
            ("10.0.0.5/32", "name", "10.0.0.5"),
            ("fd00::5", "[fd00::5]", "fd00::5"),
            ("fd00::5/128", "[fd00::5]", "fd00::5"),
            ("::ffff:10.0.0.5", "10.0.0.5", "10.0.0.5"),
            ("64:ff9b::a00:5", "[64:ff9b::a00:5]", "64:ff9b::a00:5"),
        ] {
            assert_eq!(
                admit(pattern, host, addr),
                Ok(()),
                "{pattern} {host} {addr}"
            );
        }
        for (pattern, host, addr) in [
            ("ci.corp", "ci.corp", "10.0.0.5"),
            ("ci.corp", "ci.corp", "::ffff:10.0.0.5"),
            ("ci.corp", "ci.corp", "fd00::5"),
            ("ci.corp", "ci.corp", "64:ff9b::a00:5"),
            ("ci.corp", "ci.corp", "2002:a00:5::1"),
            ("*.corp", "ci.corp", "10.0.0.5"),
            ("10.0.0.4/31", "10.0.0.5", "10.0.0.5"),
            ("10.0.0.0/8", "10.0.0.5", "10.0.0.5"),
            ("localhost", "localhost", "10.0.0.5"),
        ] {
            assert_eq!(
                admit(pattern, host, addr),
                NOT_ALLOWED,
                "{pattern} {host} {addr}"
            );
        }
    }

    #[test]
    fn endpoint_of_this_host_admits_this_machine_alone() {
        let limits = Limits {
            own: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            ..Limits::default()
        };
        let host = Host::parse("wiki.corp").unwrap();
        let admit = |this_host: bool, addr: &str| {
            let grant = Grant::endpoint(RuleRef::Endpoint("wiki".into()), &host, this_host);
            limits.admit(&grant, &host, addr.parse().unwrap())
        };
        for addr in [
            "127.0.0.1",
            "127.0.1.1",
            "::1",
            "10.0.0.5",
            "fd00::5",
            "::ffff:10.0.0.5",
        ] {
            assert!(admit(true, addr).is_ok(), "{addr}");
            let refusal = admit(false, addr).unwrap_err();
            assert_eq!(refusal.kind(), RefusalKind::AddressNotAllowed, "{addr}");
            let way = "set this_host = true in the entry of endpoint wiki";
            assert!(refusal.detail().contains(way), "{refusal}");
        }
        for addr in [
            "169.254.169.254",
            "0.0.0.0",
            "64:ff9b::7f00:1",
            "2002:a00:5::1",
        ] {
            assert!(admit(true, addr).is_err(), "{addr}");
        }
        // Other machines, as without the setting.
        assert!(admit(true, "10.0.0.6").is_ok());
    }

    #[test]
    fn address_in_the_url_is_the_only_one_admitted() {
        assert_eq!(admit("10.0.0.0/8", "10.1.2.3", "10.1.2.3"), Ok(()));
        assert_eq!(admit("10.0.0.0/8", "10.1.2.3", "::ffff:10.1.2.3"), Ok(()));
        assert_eq!(admit("10.0.0.0/8", "10.1.2.3", "10.1.2.4"), NOT_ALLOWED);
        assert_eq!(admit("10.0.0.0/8", "name", "11.1.2.3"), NOT_ALLOWED);
        assert_eq!(admit("10.0.0.0/8", "name", "64:ff9b::a01:203"), NOT_ALLOWED);
    }

    #[test]
    fn public_only_outranks_named_addresses() {
        let limits = Limits {
            own: vec![],
            public_only: true,
            ..Limits::default()
        };
        for (text, admitted) in [("8.8.8.8", true), ("10.0.0.1", false), ("127.0.0.1", false)] {
            let host = Host::parse(text).unwrap();
            let grant = Grant::endpoint(RuleRef::Endpoint("a".into()), &host, true);
            assert_eq!(
                limits.admit(&grant, &host, text.parse().unwrap()).is_ok(),
                admitted,
                "{text}"
            );
        }
    }
}
