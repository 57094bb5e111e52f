//! URL patterns of a tenant that the relay may call itself: `https://hooks.example.com/*`.

use policy::{HostPattern, Methods, PathPattern, Policy, Ports, Rule, Scheme};

/// Bytes of a pattern.
const PATTERN_MAX_BYTES: usize = 512;

/// Checks that every pattern is valid.
///
/// # Errors
/// The wrong pattern, why, and an example.
pub(crate) fn check_all(patterns: &[String]) -> Result<(), String> {
    policy(patterns).map(drop)
}

/// Returns the policy that allows these patterns, on public addresses only. No pattern allows nothing.
///
/// # Errors
/// As [`check_all`].
pub(crate) fn policy(patterns: &[String]) -> Result<Policy, String> {
    let rules: Result<Vec<Rule>, String> = patterns.iter().map(|text| rule(text)).collect();
    let policy = Policy::new(rules?, Vec::new()).map_err(|error| error.to_string())?;
    // Whatever the patterns name: an administrator's mistake must not open the relay's own network.
    Ok(policy.with_public_only())
}

fn rule(text: &str) -> Result<Rule, String> {
    let wrong = |why: &str| {
        let shown: String = text.escape_debug().take(100).collect();
        format!(
            "`{shown}` is not a pattern: {why}; write a scheme, a host, and optionally a port and a path, \
             as in \"https://hooks.example.com/*\" or \"https://*.example.com:8443/in/*\""
        )
    };
    if text.len() > PATTERN_MAX_BYTES {
        return Err(wrong("it is too long"));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        _ => return Err(wrong("it begins with neither https:// nor http://")),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/*"),
    };
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside the brackets of an IPv6 address does not begin a port.
        Some((host, port)) if !port.contains(']') => {
            let port: u16 = port
                .parse()
                .map_err(|_| wrong("its port is not a number"))?;
            (host, Some(port))
        }
        _ => (authority, None),
    };
    if host.is_empty() || host.contains('@') {
        return Err(wrong("it has no host"));
    }
    let host = HostPattern::parse(host).map_err(|error| wrong(&error.to_string()))?;
    let path = PathPattern::parse(path).map_err(|error| wrong(&error.to_string()))?;
    let methods = Methods::parse(&["*"]).map_err(|error| wrong(&error.to_string()))?;
    let ports = match port {
        Some(port) => Ports::parse(&[port]).map_err(|error| wrong(&error.to_string()))?,
        None => Ports::Default,
    };
    Ok(Rule {
        schemes: Some(vec![scheme]),
        ports,
        paths: Some(vec![path]),
        ..Rule::new(host, methods)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, url: &str) -> bool {
        policy(&[pattern.to_owned()])
            .unwrap()
            .decide_url("POST", url)
            .is_ok()
    }

    #[test]
    fn pattern_allows_its_scheme_host_port_and_path() {
        let pattern = "https://hooks.example.com/in/*";
        assert!(allows(pattern, "https://hooks.example.com/in/1?x=y"));
        for url in [
            "http://hooks.example.com/in/1",
            "https://hooks.example.com/out",
            "https://hooks.example.com:8443/in/1",
            "https://other.example.com/in/1",
            "https://hooks.example.com.evil.example/in/1",
        ] {
            assert!(!allows(pattern, url), "{url}");
        }
        assert!(allows(
            "https://*.example.com:8443",
            "https://a.example.com:8443/x"
        ));
        assert!(allows(
            "http://hooks.example.com",
            "http://hooks.example.com/"
        ));
    }

    #[test]
    fn invalid_pattern_is_rejected_with_an_example() {
        for text in [
            "hooks.example.com",
            "ftp://hooks.example.com",
            "https://",
            "https://user@host/",
            "https://host:port/",
            "https://host/a*b",
            "https://*",
        ] {
            let error = check_all(&[text.to_owned()]).unwrap_err();
            assert!(error.contains("hooks.example.com/*"), "{text}: {error}");
        }
    }

    #[test]
    fn public_name_reaches_public_addresses_only() {
        let policy = policy(&["https://hooks.example.com/*".to_owned()]).unwrap();
        let candidate = policy
            .decide_url("POST", "https://hooks.example.com/1")
            .unwrap();
        assert!(candidate.approve("8.8.8.8".parse().unwrap()).is_ok());
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert!(
                candidate.approve(address.parse().unwrap()).is_err(),
                "{address}"
            );
        }
    }
}
