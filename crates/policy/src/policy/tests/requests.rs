//! Requests other than a plain URL: endpoints, raw streams, public targets only.

use super::*;

#[test]
fn endpoint_allows_paths_below_its_base() {
    let alm = endpoint("alm", "https://alm.corp.example:8443/qcbin/", &["GET"]);
    let policy = Policy::new(vec![], vec![alm]).unwrap();
    let candidate = policy
        .decide_endpoint("alm", "GET", "/rest/x%2Fy?q=")
        .unwrap();
    assert_eq!(
        candidate.target().to_string(),
        "https://alm.corp.example:8443/qcbin/rest/x%2Fy?q="
    );
    assert_eq!(candidate.rule(), &RuleRef::Endpoint("alm".into()));
    assert!(candidate.approve(addr("10.0.0.1")).is_ok());

    for path in [
        "/../admin",
        "/%2e%2e/admin",
        "/..;/admin",
        "/a%5c..",
        "/..%2fadmin",
        "/%252e%252e/admin",
        "/./x",
    ] {
        assert_eq!(
            kind(policy.decide_endpoint("alm", "GET", path)),
            RefusalKind::Path,
            "{path}"
        );
    }
    for path in [
        "x",
        "@evil.example/",
        "/a b",
        "/a\r\n",
        "/a#b",
        "/a\\b",
        ":80/",
    ] {
        assert_eq!(
            kind(policy.decide_endpoint("alm", "GET", path)),
            RefusalKind::InvalidUrl,
            "{path}"
        );
    }
    let refusal = policy.decide_endpoint("alm", "DELETE", "/").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "endpoint alm does not allow method DELETE: add \"DELETE\" to its methods"
    );
    assert_eq!(
        kind(policy.decide_endpoint("Alm", "GET", "/")),
        RefusalKind::UnknownEndpoint
    );
    assert_eq!(
        kind(policy.decide_endpoint("alm", "G T", "/")),
        RefusalKind::Method
    );
}

#[test]
fn root_endpoint_keeps_bytes_unchanged() {
    let policy = Policy::new(vec![], vec![endpoint("a", "https://alm", &["*"])]).unwrap();
    let candidate = policy
        .decide_endpoint("a", "GET", "//evil.example/../%2e%2e/%5c?x")
        .unwrap();
    assert_eq!(
        candidate.target().to_string(),
        "https://alm//evil.example/../%2e%2e/%5c?x"
    );
    assert_eq!(
        kind(policy.decide_endpoint("a", "CONNECT", "/")),
        RefusalKind::Connect
    );
}

#[test]
fn endpoint_names_its_address() {
    let endpoints = vec![
        endpoint("local", "http://127.0.0.1:8080", &["*"]),
        endpoint("own", "http://10.0.0.5", &["*"]),
        endpoint("name", "http://me.corp.example", &["*"]),
        endpoint("metadata", "http://169.254.169.254", &["*"]),
    ];
    let policy = Policy::new(vec![], endpoints)
        .unwrap()
        .with_own_addresses(vec![addr("10.0.0.5")]);
    let approve = |name: &str, text: &str| {
        policy
            .decide_endpoint(name, "GET", "/")?
            .approve(addr(text))
    };
    assert!(approve("local", "127.0.0.1").is_ok());
    assert!(approve("own", "10.0.0.5").is_ok());
    assert!(approve("name", "10.0.0.6").is_ok());
    assert_eq!(
        kind(approve("local", "127.0.0.2")),
        RefusalKind::AddressNotAllowed
    );
    assert_eq!(
        kind(approve("metadata", "169.254.169.254")),
        RefusalKind::AlwaysRefused
    );
    let refusal = approve("name", "10.0.0.5").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "10.0.0.5 (resolved from me.corp.example) is this machine's own, which must be named: set this_host = \
         true in the entry of endpoint name, or use the address in its url"
    );
    assert_eq!(policy.warnings().len(), 1);
}

#[test]
fn raw_stream_requires_a_connect_rule() {
    let mut raw = rule("*.db.example");
    raw.connect = true;
    raw.ports = Ports::Only(vec![5432]);
    let policy = policy(vec![rule("ci"), raw, rule("fd00::/16")]);
    let candidate = policy.decide_connect("A.db.example.", 5432).unwrap();
    assert_eq!(candidate.method(), "CONNECT");
    assert!(!candidate.target().scheme().is_tls());
    let approved = candidate.approve(addr("10.0.0.1")).unwrap();
    assert_eq!(approved.socket_addr().to_string(), "10.0.0.1:5432");
    assert_eq!(
        kind(policy.decide_connect("a.db.example", 22)),
        RefusalKind::Port
    );
    assert_eq!(kind(policy.decide_connect("ci", 443)), RefusalKind::Connect);
    assert_eq!(
        kind(policy.decide_connect("fd00::1", 443)),
        RefusalKind::Connect
    );
    assert_eq!(
        kind(policy.decide_connect("[fd00::1]", 443)),
        RefusalKind::Connect
    );
    assert_eq!(
        kind(policy.decide_connect("a.db.example", 0)),
        RefusalKind::InvalidUrl
    );
    assert_eq!(
        kind(policy.decide_connect("0x7f.1", 443)),
        RefusalKind::InvalidUrl
    );
    assert_eq!(
        kind(policy.decide_connect("fe80::1%eth0", 443)),
        RefusalKind::InvalidUrl
    );
    assert_eq!(
        kind(policy.decide_connect("169.254.169.254", 443)),
        RefusalKind::AlwaysRefused
    );
}

#[test]
fn public_only_refuses_every_other_address() {
    let mut rules = vec![rule("hook.example"), rule("127.0.0.1"), rule("10.0.0.0/8")];
    rules[2].resolved = true;
    let policy = policy(rules).with_public_only();
    let candidate = policy.decide_url("POST", "https://hook.example/").unwrap();
    assert!(candidate.approve(addr("8.8.8.8")).is_ok());
    assert_eq!(
        kind(candidate.approve(addr("10.0.0.1"))),
        RefusalKind::AddressNotAllowed
    );
    assert_eq!(
        kind(policy.decide_url("GET", "http://127.0.0.1/")),
        RefusalKind::AddressNotAllowed
    );
}

#[test]
fn options_without_path_is_about_the_server() {
    let rule = |paths: Option<&str>| {
        let mut rule = Rule::new(HostPattern::parse("ci.corp.example").unwrap(), Methods::Any);
        rule.paths = paths.map(|path| vec![PathPattern::parse(path).unwrap()]);
        Policy::new(vec![rule], vec![]).unwrap()
    };
    for paths in [None, Some("/*")] {
        let policy = rule(paths);
        for url in ["http://ci.corp.example", "HTTP://CI.corp.example:80"] {
            let candidate = policy.decide_url("OPTIONS", url).unwrap();
            assert_eq!(candidate.target().path_and_query(), "*");
            assert_eq!(candidate.target().to_string(), "http://ci.corp.example");
        }
        for (method, url, path) in [
            ("OPTIONS", "http://ci.corp.example/", "/"),
            ("OPTIONS", "http://ci.corp.example?a", "/?a"),
            ("GET", "http://ci.corp.example", "/"),
        ] {
            let candidate = policy.decide_url(method, url).unwrap();
            assert_eq!(candidate.target().path_and_query(), path);
        }
    }
    for paths in ["/", "/hooks/*"] {
        let decided = rule(Some(paths)).decide_url("OPTIONS", "http://ci.corp.example");
        assert_eq!(kind(decided), RefusalKind::Path);
    }
}
