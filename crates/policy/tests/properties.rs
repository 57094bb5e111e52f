//! Properties of every text, rule set and address.

mod support;

use policy::{
    Approved, Endpoint, Host, HostPattern, Methods, PathPattern, Policy, Ports, REFUSAL_MAX_BYTES,
    Refusal, Rule, RuleRef, Target,
};
use proptest::prelude::*;
use std::net::IpAddr;
use support::{HOSTS, METHODS, addresses, always_refused_address, rules, urls};

/// The rules most likely to admit a refused address: names, and the address itself.
fn widest(addr: IpAddr) -> Vec<Rule> {
    let literal = Host::Addr(addr).to_string();
    let hosts = [
        "0.0.0.0/0",
        "::/0",
        "localhost",
        "app.localhost",
        "ci.corp",
        "*.corp",
        literal.as_str(),
    ];
    let rule = |host: &str| Rule {
        resolved: true,
        connect: true,
        ..Rule::new(HostPattern::parse(host).expect("a literal"), Methods::Any)
    };
    hosts.into_iter().map(rule).collect()
}

fn with_refusal_checked<T>(result: Result<T, Refusal>) -> Option<T> {
    if let Err(refusal) = &result {
        let text = refusal.to_string();
        assert!(text.len() <= REFUSAL_MAX_BYTES, "{text}");
        assert!(
            text.bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
            "{text:?}"
        );
    }
    result.ok()
}

/// Checks every part of the rule, independently of the implementation.
fn satisfies(policy: &Policy, approved: &Approved, raw: bool) -> bool {
    let RuleRef::Allow(index, host) = approved.rule() else {
        return false;
    };
    let rule = &policy.rules()[*index];
    let target = approved.target();
    let addr = approved.socket_addr().ip();
    let host_fits = match (&rule.host, target.host()) {
        (HostPattern::Name(pattern), Host::Name(name)) => pattern == name,
        (HostPattern::Wildcard(suffix), Host::Name(name)) => name.ends_with(&format!(".{suffix}")),
        (HostPattern::Addr(pattern), Host::Addr(literal)) => {
            pattern.to_canonical() == addr && literal.to_canonical() == addr
        }
        (HostPattern::Net(net), Host::Addr(literal)) => {
            net.contains(&addr) && literal.to_canonical() == addr
        }
        (HostPattern::Addr(pattern), Host::Name(_)) => {
            rule.resolved && pattern.to_canonical() == addr
        }
        (HostPattern::Net(net), Host::Name(_)) => rule.resolved && net.contains(&addr),
        (HostPattern::Name(_) | HostPattern::Wildcard(_), Host::Addr(_)) => false,
    };
    let schemes = rule
        .schemes
        .clone()
        .unwrap_or(vec![policy::Scheme::Http, policy::Scheme::Https]);
    let port_fits = |scheme: policy::Scheme| match &rule.ports {
        Ports::Default => target.port() == scheme.default_port(),
        Ports::Only(ports) => ports.contains(&target.port()),
    };
    let request_fits = if raw {
        rule.connect && schemes.into_iter().any(port_fits)
    } else {
        let method_fits = if approved.method() == "CONNECT" {
            rule.connect
        } else {
            match &rule.methods {
                Methods::Any => true,
                Methods::Only(names) => names.iter().any(|name| name == approved.method()),
            }
        };
        let path_fits = rule.paths.as_ref().is_none_or(|paths| {
            let inside = paths.iter().any(|path| match path {
                PathPattern::Exact(exact) => target.path() == exact,
                PathPattern::Under(folder) => target.path().starts_with(folder),
            });
            inside
                && !target.path().contains("..")
                && !target.path().to_ascii_lowercase().contains("%2e")
        });
        schemes.contains(&target.scheme()) && port_fits(target.scheme()) && method_fits && path_fits
    };
    let named = match &rule.host {
        HostPattern::Addr(_) => true,
        HostPattern::Net(net) => net.addr().is_loopback() && net.prefix_len() >= 8,
        HostPattern::Name(name) => name == "localhost",
        HostPattern::Wildcard(_) => false,
    };
    *host == rule.host
        && host_fits
        && request_fits
        && (named || !addr.is_loopback())
        && approved.socket_addr().port() == target.port()
}

/// Returns what a target gets of a path and query: every byte, and those encoded that no URL may have.
fn encoded(rest: &str) -> String {
    let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    let path = path.replace('<', "%3C").replace('>', "%3E");
    let query = query.replace('<', "%3C").replace('>', "%3E");
    path.replace('`', "%60") + &query.replace('"', "%22")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>(), rules in rules()) {
        let _ = Target::parse(&text);
        let _ = Target::parse(&format!("http://{text}"));
        let _ = Host::parse(&text);
        let _ = HostPattern::parse(&text);
        let _ = HostPattern::parse(&format!("*.{text}"));
        let _ = PathPattern::parse(&format!("/{text}"));
        let _ = Methods::parse(&[&text]);
        let _ = Endpoint::new(&text, &text, Methods::Any);
        let alm = Endpoint::new("alm", "http://alm/qcbin/", Methods::Any).expect("a literal");
        let policy = Policy::new(rules, vec![alm]).expect("valid rules");
        with_refusal_checked(policy.decide_url(&text, &text));
        with_refusal_checked(policy.decide_url("GET", &format!("http://ci.corp/{text}")));
        with_refusal_checked(policy.decide_connect(&text, 443));
        with_refusal_checked(policy.decide_endpoint(&text, "GET", &text));
        let below = with_refusal_checked(policy.decide_endpoint("alm", "GET", &format!("/{text}")));
        if let Some(candidate) = below {
            candidate.approve([10, 0, 0, 1].into()).expect("an endpoint by name");
        }
        let _ = policy.explain("GET", &text).to_string();
    }

    #[test]
    fn url_like_text_does_not_panic(text in "(http|https|HTTP)://[a-z0-9.:@/?#%\\[\\]\\\\*;_-]{0,40}") {
        if let Ok(target) = Target::parse(&text) {
            prop_assert!(target.path().starts_with('/'));
            prop_assert!(!target.origin().contains('@'));
            prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
        }
    }

    #[test]
    fn target_display_round_trips(url in urls()) {
        let target = Target::parse(&url).expect("a valid URL");
        let printed = format!("{}{}", target.origin(), target.path_and_query());
        prop_assert_eq!(target.to_string(), printed.as_str());
        prop_assert_eq!(Target::parse(&printed), Ok(target));
    }

    #[test]
    fn rule_display_round_trips(rules in rules()) {
        for rule in rules {
            let host = HostPattern::parse(&rule.host.to_string());
            prop_assert_eq!(host.as_ref(), Ok(&rule.host));
            for path in rule.paths.into_iter().flatten() {
                prop_assert_eq!(PathPattern::parse(&path.to_string()), Ok(path));
            }
        }
    }

    #[test]
    fn join_keeps_every_byte_below_the_base(
        base in "/([a-z][a-z0-9.]{0,5}/){0,3}[a-z]{0,4}",
        rest in "([/?][!-~]{0,30})?",
    ) {
        let url = format!("http://ci{base}");
        let endpoint = Endpoint::new("a", &url, Methods::Any).expect("no dot segments");
        let policy = Policy::new(vec![], vec![endpoint]).expect("one endpoint");
        if let Ok(candidate) = policy.decide_endpoint("a", "GET", &rest) {
            let got = candidate.target().path_and_query();
            prop_assert!(got.starts_with(base.strip_suffix('/').unwrap_or(&base)), "{}", got);
            prop_assert!(got.ends_with(&encoded(&rest)), "{}", got);
            prop_assert_eq!(candidate.target().host(), &Host::Name("ci".into()));
        }
    }

    #[test]
    fn always_refused_address_is_never_approved(
        bad in always_refused_address(),
        extra in rules(),
        own in any::<bool>(),
        host in prop::sample::select(HOSTS),
    ) {
        let literal = Host::Addr(bad).to_string();
        let mut rules = widest(bad);
        // A policy rejects duplicates, and a generated rule may be one of the widest.
        rules.extend(extra.into_iter().filter(|rule| !widest(bad).contains(rule)));
        let endpoint = Endpoint::new("bad", &format!("http://{literal}"), Methods::Any).expect("an address");
        let named = Endpoint::new("named", "http://ci.corp/", Methods::Any).expect("a literal");
        let policy = Policy::new(rules, vec![endpoint, named]).expect("valid rules");
        let policy = if own { policy.with_own_addresses(vec![bad]) } else { policy };

        let url = format!("http://{literal}/");
        prop_assert!(policy.decide_url("GET", &url).is_err());
        prop_assert!(policy.decide_connect(&literal, 443).is_err());
        prop_assert!(policy.decide_endpoint("bad", "GET", "/").is_err());
        let candidates = [
            policy.decide_url("GET", &format!("http://{host}/")),
            policy.decide_url("GET", "http://elsewhere/"),
            policy.decide_connect("ci.corp", 443),
            policy.decide_endpoint("named", "GET", "/"),
        ];
        for candidate in candidates.into_iter().filter_map(with_refusal_checked) {
            prop_assert!(with_refusal_checked(candidate.approve(bad)).is_none());
            prop_assert!(candidate.approve_any([bad]).is_err());
        }
    }

    #[test]
    fn approved_request_satisfies_its_rule(
        rules in rules(),
        url in urls(),
        method in prop::sample::select(METHODS),
        addrs in prop::collection::vec(addresses(), 1..6),
        port in prop::sample::select(&[80u16, 443, 8443, 22][..]),
    ) {
        let own: IpAddr = [10, 0, 0, 5].into();
        let policy = Policy::new(rules, vec![]).expect("valid rules").with_own_addresses(vec![own]);
        let target = Target::parse(&url).expect("a valid URL");
        let mut addrs = addrs;
        if let Host::Addr(literal) = target.host() {
            addrs.push(*literal);
        }
        let requests = [(policy.decide_url(method, &url), false), (policy.decide_connect(&target.host().to_string(), port), true)];
        for (candidate, raw) in requests {
            let Some(candidate) = with_refusal_checked(candidate) else { continue };
            for approved in candidate.approve_any(addrs.iter().copied()).into_iter().flatten() {
                prop_assert!(satisfies(&policy, &approved, raw), "{approved:?}");
                prop_assert!(addrs.iter().any(|addr| addr.to_canonical() == approved.socket_addr().ip()));
                prop_assert!(approved.socket_addr().ip() != own || matches!(approved.rule(), RuleRef::Allow(_, HostPattern::Addr(_))));
                if !raw {
                    prop_assert_eq!(approved.target(), &target);
                    prop_assert_eq!(approved.method(), method);
                }
            }
        }
    }

    #[test]
    fn explanation_agrees_with_the_decision(rules in rules(), url in urls(), method in prop::sample::select(METHODS)) {
        let policy = Policy::new(rules, vec![]).expect("valid rules");
        let explanation = policy.explain(method, &url);
        prop_assert_eq!(explanation.decision.is_ok(), policy.decide_url(method, &url).is_ok());
        prop_assert_eq!(explanation.rules.len(), policy.rules().len());
        prop_assert_eq!(explanation.decision.is_ok(), explanation.rules.iter().any(|verdict| verdict.allows));
        let first = explanation.rules.iter().find(|verdict| verdict.allows).map(|verdict| verdict.rule.clone());
        prop_assert_eq!(explanation.decision.ok().map(|candidate| candidate.rule().clone()), first);
    }
}

/// The generators must reach both decisions, or the properties above prove nothing.
#[test]
fn generators_reach_both_decisions() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut approved = 0;
    let cases = 3000;
    for _ in 0..cases {
        let mut draw = || {
            (rules(), urls(), addresses())
                .new_tree(&mut runner)
                .expect("a value")
                .current()
        };
        let (rules, url, addr) = draw();
        let policy = Policy::new(rules, vec![]).expect("valid rules");
        let hit = policy.decide_url("GET", &url).is_ok_and(|candidate| {
            candidate.approve(addr).is_ok() || matches!(candidate.target().host(), Host::Addr(_))
        });
        approved += usize::from(hit);
    }
    assert!(
        (cases / 20..cases * 19 / 20).contains(&approved),
        "{approved} of {cases}"
    );
}
