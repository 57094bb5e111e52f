//! Rules: checks, texts, warnings.

use super::*;

fn rule(host: &str) -> Rule {
    Rule::new(HostPattern::parse(host).unwrap(), Methods::Any)
}

#[test]
fn default_port_is_that_of_the_scheme() {
    assert!(Ports::Default.allows(Scheme::Http, 80));
    assert!(Ports::Default.allows(Scheme::Https, 443));
    assert!(!Ports::Default.allows(Scheme::Https, 80));
    let only = Ports::parse(&[8443, 80]).unwrap();
    assert!(only.allows(Scheme::Https, 80));
    assert!(!only.allows(Scheme::Https, 443));
}

#[test]
fn port_lists_are_checked() {
    assert_eq!(
        Ports::parse(&[]),
        Err(PatternError::Empty { what: "ports" })
    );
    assert_eq!(Ports::parse(&[443, 0]), Err(PatternError::PortZero));
    assert_eq!(
        Ports::parse(&[443, 443]),
        Err(PatternError::Twice { what: "ports" })
    );
    let many: Vec<u16> = (1..=257).collect();
    assert_eq!(
        Ports::parse(&many),
        Err(PatternError::TooMany {
            what: "ports",
            entries: 257
        })
    );
}

#[test]
fn rule_display_describes_all_parts() {
    let mut rule = rule("*.corp.example");
    assert_eq!(
        rule.to_string(),
        "host *.corp.example, http or https, ports: the scheme's default, methods: any, paths: all, \
         raw streams: refused"
    );
    rule.host = HostPattern::parse("10.0.0.0/8").unwrap();
    rule.schemes = Some(vec![Scheme::Https]);
    rule.ports = Ports::Only(vec![443, 8443]);
    rule.methods = Methods::parse(&["GET", "POST"]).unwrap();
    rule.paths = Some(vec![PathPattern::parse("/hooks/*").unwrap()]);
    rule.resolved = true;
    rule.connect = true;
    assert_eq!(
        rule.to_string(),
        "host 10.0.0.0/8 (also names that resolve into it), https, ports: 443, 8443, methods: GET, POST, \
         paths: /hooks/*, raw streams: allowed"
    );
    assert_eq!(rule.validate(), Ok(()));
}

#[test]
fn rule_that_was_not_parsed_is_checked() {
    let broken: [fn(&mut Rule); 8] = [
        |rule| rule.host = HostPattern::Name("Upper.Example".into()),
        |rule| rule.host = HostPattern::Name("2130706433".into()),
        |rule| rule.host = HostPattern::Wildcard(String::new()),
        |rule| rule.host = HostPattern::Net("10.1.2.3/8".parse().unwrap()),
        |rule| rule.schemes = Some(vec![]),
        |rule| rule.ports = Ports::Only(vec![]),
        |rule| rule.methods = Methods::Only(vec!["get".into()]),
        |rule| rule.paths = Some(vec![PathPattern::Under("/hooks".into())]),
    ];
    for (at, break_it) in broken.into_iter().enumerate() {
        let mut rule = rule("a");
        assert_eq!(rule.validate(), Ok(()));
        break_it(&mut rule);
        assert!(rule.validate().is_err(), "{at}: {rule:?}");
    }
}

#[test]
fn unlikely_settings_cause_warnings() {
    for (host, expected) in [
        ("metadata.google.internal", "metadata"),
        ("169.254.169.254", "refused all the same"),
        ("fe80::/10", "link-local"),
        ("0.0.0.0/0", "very large"),
        ("::/0", "very large"),
        ("*.com", "every host under com"),
    ] {
        let warnings = rule(host).warnings();
        assert!(
            warnings.iter().any(|warning| warning.contains(expected)),
            "{host}: {warnings:?}"
        );
    }
    for host in [
        "ci.corp.example",
        "*.corp.example",
        "10.0.0.0/8",
        "127.0.0.1",
        "fd00::/16",
        "localhost",
    ] {
        assert_eq!(rule(host).warnings(), Vec::<String>::new(), "{host}");
    }
    let mut raw = rule("a");
    raw.connect = true;
    assert!(raw.warnings().is_empty());
    raw.methods = Methods::parse(&["GET"]).unwrap();
    raw.resolved = true;
    assert_eq!(raw.warnings().len(), 2);
}
