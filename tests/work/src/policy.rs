//! One decision, and the approval of the address that its host resolved to. The rule or endpoint
//! that allows it is the last one, so all of them are evaluated.

use crate::{Round, Work};
use policy::{ENDPOINTS_MAX, Endpoint, HostPattern, Methods, PathPattern, Policy, Ports, Rule};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

pub(crate) fn works() -> Vec<Work> {
    let work = |name, rounds, start| Work {
        name,
        unit: "decision",
        units: 1,
        rounds,
        start,
    };
    vec![
        work("policy/endpoint, 1 rule", 4_000, || endpoint(1)),
        work("policy/endpoint, 50 rules", 4_000, || endpoint(50)),
        work("policy/endpoint, 500 rules", 3_000, || endpoint(500)),
        work("policy/URL, 1 rule", 4_000, || url(1)),
        work("policy/URL, 50 rules", 3_000, || url(50)),
        work("policy/URL, 500 rules", 400, || url(500)),
    ]
}

fn endpoint(rules: usize) -> Round {
    let policy = policy(rules);
    let endpoints = policy.endpoints();
    let name = endpoints[endpoints.len() - 1].name.clone();
    Box::new(move || {
        let path = "/api/v2/projects/7/defects?limit=50&fields=id,name";
        let candidate = policy
            .decide_endpoint(black_box(&name), "POST", path)
            .expect("the endpoint allows it");
        black_box(candidate.approve(ADDRESS).expect("a private address"));
    })
}

fn url(rules: usize) -> Round {
    let policy = policy(rules);
    let url = format!("https://ci-{}.corp.example:8443/hooks/7?x=y", rules - 1);
    Box::new(move || {
        let candidate = policy
            .decide_url("POST", black_box(&url))
            .expect("the last rule allows it");
        black_box(candidate.approve(ADDRESS).expect("a private address"));
    })
}

/// So many rules, and as many endpoints as there may be.
fn policy(rules: usize) -> Policy {
    let rule = |number: usize| {
        let host = format!("ci-{number}.corp.example");
        Rule {
            ports: Ports::Only(vec![443, 8443]),
            paths: Some(vec![PathPattern::parse("/hooks/*").expect("a pattern")]),
            ..Rule::new(HostPattern::parse(&host).expect("a host"), methods())
        }
    };
    let endpoint = |number: usize| {
        let url = format!("https://alm-{number}.corp.example/base/");
        Endpoint::new(&format!("alm-{number}"), &url, methods()).expect("an endpoint")
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    let endpoints = (0..rules.len().min(ENDPOINTS_MAX)).map(endpoint).collect();
    let own = vec![IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9))];
    let policy = Policy::new(rules, endpoints).expect("within its limits");
    policy.with_own_addresses(own)
}

fn methods() -> Methods {
    Methods::parse(&["GET", "POST"]).expect("methods")
}
