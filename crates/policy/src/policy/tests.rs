//! Decisions of a whole policy, and their texts.

mod requests;

use super::*;
use crate::rule::Ports;
use crate::rule::host_pattern::HostPattern;
use crate::rule::methods::Methods;
use crate::rule::path_pattern::PathPattern;
use crate::target::Scheme;

fn rule(host: &str) -> Rule {
    Rule::new(HostPattern::parse(host).unwrap(), Methods::Any)
}

fn endpoint(name: &str, url: &str, methods: &[&str]) -> Endpoint {
    Endpoint::new(name, url, Methods::parse(methods).unwrap()).unwrap()
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy::new(rules, vec![]).unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Refusal>) -> RefusalKind {
    result.unwrap_err().kind()
}

fn hooks() -> Rule {
    Rule {
        ports: Ports::Only(vec![443, 8443]),
        schemes: Some(vec![Scheme::Https]),
        paths: Some(vec![PathPattern::parse("/hooks/*").unwrap()]),
        ..Rule::new(
            HostPattern::parse("ci.corp.example").unwrap(),
            Methods::parse(&["POST"]).unwrap(),
        )
    }
}

#[test]
fn empty_policy_refuses_everything() {
    let policy = Policy::default();
    let refusal = policy
        .decide_url("GET", "https://ci.corp.example/")
        .unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::NoRule);
    assert_eq!(
        refusal.to_string(),
        "no allow rule matches host ci.corp.example: add an [[allow]] entry with host = \"ci.corp.example\""
    );
    assert_eq!(
        kind(policy.decide_endpoint("alm", "GET", "/")),
        RefusalKind::UnknownEndpoint
    );
    assert_eq!(
        kind(policy.decide_connect("ci.corp.example", 443)),
        RefusalKind::NoRule
    );
}

#[test]
fn matching_request_is_approved() {
    let policy = policy(vec![hooks()]);
    let candidate = policy
        .decide_url("POST", "HTTPS://CI.corp.example.:8443/hooks/a%2Fb?c=d")
        .unwrap();
    let approved = candidate.approve(addr("::ffff:10.1.2.3")).unwrap();
    assert_eq!(approved.socket_addr().to_string(), "10.1.2.3:8443");
    assert_eq!(approved.target().path_and_query(), "/hooks/a%2Fb?c=d");
    assert_eq!(approved.target().authority(), "ci.corp.example:8443");
    assert_eq!(approved.method(), "POST");
    assert_eq!(
        approved.rule().to_string(),
        "allow rule 1 (host ci.corp.example)"
    );
}

#[test]
fn refusal_names_the_nearest_rule_and_the_fix() {
    let policy = policy(vec![rule("*.other.example"), hooks()]);
    let prefix = "allow rule 2 (host ci.corp.example) ";
    for (method, url, kind, words) in [
        (
            "POST",
            "http://ci.corp.example:8443/hooks/",
            RefusalKind::Scheme,
            "does not allow http: add \"http\" to its schemes",
        ),
        (
            "POST",
            "https://ci.corp.example:9/hooks/",
            RefusalKind::Port,
            "does not allow port 9: add 9 to its ports",
        ),
        (
            "PUT",
            "https://ci.corp.example/hooks/",
            RefusalKind::Method,
            "does not allow method PUT: add \"PUT\" to its methods",
        ),
        (
            "POST",
            "https://ci.corp.example/admin?token=x",
            RefusalKind::Path,
            "does not allow path /admin: add it to its paths",
        ),
        (
            "POST",
            "https://ci.corp.example/hooks/%2e%2e/admin",
            RefusalKind::Path,
            "allows some paths only, and this path holds a dot segment (. or .., raw or encoded), so that it could be \
             read as another one",
        ),
        (
            "CONNECT",
            "https://ci.corp.example/hooks/",
            RefusalKind::Connect,
            "does not allow raw streams (CONNECT): set connect = true in it",
        ),
    ] {
        let refusal = policy.decide_url(method, url).unwrap_err();
        assert_eq!(refusal.kind(), kind, "{method} {url}");
        assert_eq!(refusal.to_string(), format!("{prefix}{words}"));
    }
}

#[test]
fn rule_that_names_the_host_is_nearest() {
    let mut net = rule("10.0.0.0/8");
    net.resolved = true;
    net.paths = Some(vec![PathPattern::parse("/x").unwrap()]);
    let mut named = rule("ci");
    named.ports = Ports::Only(vec![9]);
    let policy = policy(vec![net, named]);
    assert_eq!(
        kind(policy.decide_url("GET", "http://ci/y")),
        RefusalKind::Port
    );
    assert_eq!(
        kind(policy.decide_url("GET", "http://cj/y")),
        RefusalKind::Path
    );
}

#[test]
fn first_rule_that_admits_the_address_applies() {
    let mut net = rule("10.0.0.0/8");
    net.resolved = true;
    let mut single = rule("192.168.0.7");
    single.resolved = true;
    let policy = policy(vec![net, single, rule("*.corp.example")]);

    let candidate = policy.decide_url("GET", "http://ci.corp.example/").unwrap();
    let number = |text: &str| candidate.approve(addr(text)).unwrap().rule().clone();
    assert!(matches!(number("10.1.1.1"), RuleRef::Allow(0, _)));
    assert!(matches!(number("192.168.0.7"), RuleRef::Allow(1, _)));
    assert!(matches!(number("8.8.8.8"), RuleRef::Allow(2, _)));

    let elsewhere = policy
        .decide_url("GET", "http://elsewhere.example/")
        .unwrap();
    assert!(elsewhere.approve(addr("10.1.1.1")).is_ok());
    assert!(elsewhere.approve(addr("192.168.0.7")).is_ok());
    let refusal = elsewhere.approve(addr("8.8.8.8")).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::AddressNotAllowed);
    assert_eq!(
        refusal.to_string(),
        "8.8.8.8 (resolved from elsewhere.example) is outside what allow rule 1 (host 10.0.0.0/8) allows"
    );
}

#[test]
fn allowed_addresses_keep_their_order() {
    let policy = policy(vec![rule("ci")]);
    let candidate = policy.decide_url("GET", "http://ci/").unwrap();
    let approved = candidate
        .approve_any(["127.0.0.1", "10.0.0.2", "fe80::1", "10.0.0.1"].map(addr))
        .unwrap();
    let addrs: Vec<_> = approved
        .iter()
        .map(|one| one.socket_addr().to_string())
        .collect();
    assert_eq!(addrs, ["10.0.0.2:80", "10.0.0.1:80"]);

    let refusal = candidate
        .approve_any(["127.0.0.1", "fe80::1"].map(addr))
        .unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::AddressNotAllowed);
    assert!(
        refusal.detail().contains("host = \"127.0.0.1\""),
        "{refusal}"
    );
    assert_eq!(kind(candidate.approve_any([])), RefusalKind::NoAddress);

    let many = std::iter::repeat_n(addr("10.0.0.1"), 1000);
    assert_eq!(
        candidate.approve_any(many).unwrap().len(),
        candidate::RESOLVED_MAX
    );
}

#[test]
fn address_in_the_url_is_checked_at_once() {
    let policy =
        policy(vec![rule("0.0.0.0/0"), rule("::/0")]).with_own_addresses(vec![addr("10.0.0.5")]);
    assert!(policy.decide_url("GET", "http://10.0.0.6/").is_ok());
    assert_eq!(
        kind(policy.decide_url("GET", "http://127.0.0.1/")),
        RefusalKind::AddressNotAllowed
    );
    assert_eq!(
        kind(policy.decide_url("GET", "http://10.0.0.5/")),
        RefusalKind::AddressNotAllowed
    );
    assert_eq!(
        kind(policy.decide_url("GET", "http://169.254.1.1/")),
        RefusalKind::AlwaysRefused
    );
    assert_eq!(
        kind(policy.decide_url("GET", "http://[::1]/")),
        RefusalKind::AddressNotAllowed
    );
}

#[test]
fn own_loopback_addresses_keep_localhost() {
    let policy =
        policy(vec![rule("localhost")]).with_own_addresses(vec![addr("127.0.0.1"), addr("::1")]);
    let candidate = policy.decide_url("GET", "http://localhost/").unwrap();
    assert!(candidate.approve(addr("127.0.0.1")).is_ok());
    assert!(candidate.approve(addr("::1")).is_ok());
}

#[test]
fn explanation_has_a_line_for_every_rule() {
    let mut net = rule("10.0.0.0/8");
    net.resolved = true;
    let rules = vec![
        rule("other"),
        rule("192.168.0.0/16"),
        hooks(),
        net,
        rule("*.ci.corp.example"),
    ];
    let explanation = policy(rules).explain("GET", "https://ci.corp.example/hooks/?secret");
    assert_eq!(
        explanation.to_string(),
        "allow rule 1 (host other) is for other hosts\n\
         allow rule 2 (host 192.168.0.0/16) is for addresses in URLs: set resolved = true in it for names that resolve into it\n\
         allow rule 3 (host ci.corp.example) does not allow method GET: add \"GET\" to its methods\n\
         allow rule 4 (host 10.0.0.0/8) allows it where the name resolves into 10.0.0.0/8\n\
         allow rule 5 (host *.ci.corp.example) is for hosts below ci.corp.example, not for itself\n\
         allowed by allow rule 4 (host 10.0.0.0/8): GET https://ci.corp.example/hooks/?secret"
    );
    let allows: Vec<_> = explanation
        .rules
        .iter()
        .map(|verdict| verdict.allows)
        .collect();
    assert_eq!(allows, [false, false, false, true, false]);
}

#[test]
fn explanation_states_each_refusal_once() {
    let text = |rules, url| policy(rules).explain("GET", url).to_string();
    let url = "https://ci.corp.example/hooks/";
    let refused = "allow rule 1 (host ci.corp.example) does not allow method GET: add \"GET\" to its methods\n";
    assert_eq!(text(vec![hooks()], url), format!("{refused}refused"));
    assert_eq!(
        text(vec![hooks(), rule("other")], url),
        format!(
            "{refused}allow rule 2 (host other) is for other hosts\n\
             refused; the nearest rule is allow rule 1 (host ci.corp.example)"
        )
    );
    assert!(text(vec![rule("other")], url).contains("refused: no allow rule matches"));
}

#[test]
fn explanation_names_always_refused_hosts() {
    let policy = policy(vec![rule("*.google.internal"), rule("0.0.0.0/0")]);
    for url in [
        "http://metadata.google.internal/",
        "http://169.254.169.254/",
        "http://127.0.0.1/",
    ] {
        let explanation = policy.explain("GET", url);
        assert!(explanation.decision.is_err());
        assert!(
            explanation.rules.iter().all(|verdict| !verdict.allows),
            "{explanation}"
        );
    }
    let explanation = policy.explain("GET", "not a url");
    assert!(explanation.rules.is_empty());
    assert!(
        explanation.to_string().starts_with("refused: "),
        "{explanation}"
    );
}

#[test]
fn invalid_policy_is_rejected() {
    let alm = || endpoint("alm", "https://alm/", &["*"]);
    assert_eq!(
        Policy::new(vec![rule("a"), rule("b"), rule("a")], vec![]).unwrap_err(),
        PolicyError::SameRule {
            first: 1,
            second: 3
        }
    );
    assert_eq!(
        Policy::new(vec![], vec![alm(), alm()]).unwrap_err(),
        PolicyError::SameEndpoint { name: "alm".into() }
    );
    let mut broken = alm();
    broken.name = "ALM".into();
    assert!(matches!(
        Policy::new(vec![], vec![broken]).unwrap_err(),
        PolicyError::Endpoint { number: 1, .. }
    ));
    let mut broken = rule("a");
    broken.methods = Methods::Only(vec![]);
    assert!(matches!(
        Policy::new(vec![broken], vec![]).unwrap_err(),
        PolicyError::Rule { number: 1, .. }
    ));
    let rules = (0..=RULES_MAX)
        .map(|number| rule(&format!("h{number}")))
        .collect::<Vec<_>>();
    assert_eq!(
        Policy::new(rules, vec![]).unwrap_err(),
        PolicyError::TooManyRules {
            rules: RULES_MAX + 1
        }
    );
    let endpoints = vec![alm(); ENDPOINTS_MAX + 1];
    let error = PolicyError::TooManyEndpoints {
        endpoints: ENDPOINTS_MAX + 1,
    };
    assert_eq!(Policy::new(vec![], endpoints).unwrap_err(), error);
}

#[test]
fn longest_inputs_keep_texts_within_bounds() {
    let host = ["a".repeat(63).as_str(); 4].join(".")[..253].to_owned();
    let mut named = rule(&host);
    named.paths = Some(vec![PathPattern::parse("/x").unwrap()]);
    let policy = policy(vec![named]);
    let refusals = [
        policy
            .decide_url("GET", &format!("http://{host}/{}", "y".repeat(7000)))
            .unwrap_err(),
        policy
            .decide_url("GET", &format!("http://{}/", &host[1..]))
            .unwrap_err(),
        policy
            .decide_url("GET", &format!("http://{host}/x"))
            .unwrap()
            .approve(addr("::ffff:127.0.0.1"))
            .unwrap_err(),
        policy.decide_url(&"M".repeat(33), "http://a/").unwrap_err(),
        policy
            .decide_endpoint(&"a".repeat(5000), "GET", "/")
            .unwrap_err(),
    ];
    for refusal in refusals {
        assert!(
            refusal.to_string().len() < refusal::REFUSAL_MAX_BYTES,
            "{refusal}"
        );
        assert!(
            !refusal.detail().ends_with("..."),
            "the words at the end are the ones that help: {refusal}"
        );
    }
}
