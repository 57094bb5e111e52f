//! Settings of proxies: what is read, and what is refused.

use super::*;

fn env(pairs: &[(&str, &str)]) -> Proxy {
    let get = |name: &str| {
        let found = pairs.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Proxy::from_env(get).unwrap()
}

fn value(server: &ProxyServer) -> Option<&str> {
    server.authorization.as_ref().map(Secret::expose)
}

#[test]
fn environment_sets_proxy_and_exceptions() {
    let proxy = env(&[
        ("https_proxy", "http://u%40x:p%3A@proxy:8080"),
        ("NO_PROXY", ".corp.example, 10.0.0.1"),
    ]);
    let server = proxy.server_for("relay.example.com", 443).unwrap();
    assert_eq!((server.host(), server.port()), ("proxy", 8080));
    assert_eq!(value(server), Some("Basic dUB4OnA6"));
    let (user, password) = proxy.user_and_password().unwrap();
    assert_eq!((&*user, password.expose()), ("u@x", "p:"));
    assert!(proxy.server_for("ci.corp.example", 443).is_none());
    assert!(proxy.server_for("corp.example", 443).is_none());
    assert!(proxy.server_for("10.0.0.1", 443).is_none());
    assert!(proxy.server_for("notcorp.example", 443).is_some());
    assert_eq!(env(&[]), Proxy::Direct);
    assert_eq!(env(&[("HTTPS_PROXY", " ")]), Proxy::Direct);
}

#[test]
fn port_of_proxy_is_default_or_checked() {
    for (url, shown) in [
        ("http://proxy", "proxy:3128"),
        ("proxy:", "proxy:3128"),
        ("me:pw@proxy", "proxy:3128"),
        ("http://me:pw@proxy:8080/", "proxy:8080"),
        ("http://[fd00::1]", "[fd00::1]:3128"),
        ("http://[fd00::1]:65535", "[fd00::1]:65535"),
    ] {
        let Ok(Proxy::Via { server, .. }) = Proxy::from_url("relay.proxy", url) else {
            panic!("{url} is refused");
        };
        assert_eq!(server.to_string(), shown);
    }
    for url in [
        "http://proxy:31280000",
        "proxy:99999",
        "http://proxy:0",
        "http://me:pw@127.0.0.1:65536",
        "http://[fd00::1]:65536/",
    ] {
        let error = Proxy::from_url("HTTPS_PROXY", url).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("from 1 to 65535"), "{url}: {error}");
        assert!(!error.contains("pw"), "{error}");
    }
}

#[test]
fn password_is_in_neither_debug_nor_error() {
    let proxy = env(&[("HTTPS_PROXY", "http://me:secret@proxy")]);
    assert!(!format!("{proxy:?}").contains("secret"));
    let error = Proxy::from_url("relay.proxy", "ftp://me:secret@proxy").unwrap_err();
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn unencoded_password_is_refused_in_words() {
    for password in [
        "sec/ret", "sec#ret", "sec?ret", "sec@ret", "sec ret", "sec%ret",
    ] {
        let url = format!("http://me:{password}@proxy:3128");
        let error = Proxy::from_url("HTTPS_PROXY", &url)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && error.contains("write %2"),
            "{error}"
        );
        assert!(!error.contains("sec") && !error.contains("ret@"), "{error}");
    }
    let proxy = env(&[("HTTPS_PROXY", "http://me:a:b%2F@proxy")]);
    let server = proxy.server_for("relay.example.com", 443).unwrap();
    assert_eq!(server.host(), "proxy");
    assert_eq!(value(server), Some("Basic bWU6YTpiLw=="));
}
